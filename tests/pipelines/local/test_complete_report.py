"""`rlhf report` and `rlhf compare` on what runs leave behind."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.unit.reports.test_report import full_report, one_pair

from rlhf_pipelines.cli import run_command
from rlhf_pipelines.cli.rlhf import main
from rlhf_pipelines.local.complete_report import write_complete_report, write_run_file
from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.evaluate import EvaluationConfig, write_evaluation
from rlhf_tuning.reports.report import StepTime
from rlhf_tuning.reports.saved_report import add_report, read_report


def write_run(folder, report):
    (folder / "evaluate").mkdir(parents=True)
    path = folder / "evaluate" / "evaluation"
    config = EvaluationConfig(large_model_reference="base", scorer="house_style")
    write_evaluation(config, report.pairs, str(path), judges=report.judges)
    add_report(report, str(path))
    return path


def test_a_report_comes_back_as_it_was(tmp_path):
    report = replace(full_report(), steps=(), reproduce="")
    again = read_report(write_run(tmp_path / "run", report))
    assert json.loads(json.dumps(again.watch)) == report.watch
    assert again.decision == report.decision
    assert again.reward_model.accuracy == report.reward_model.accuracy
    assert [pair.tuned for pair in again.pairs] == [pair.tuned for pair in report.pairs]
    assert again.opponent == "palms@2"


def test_a_run_s_report_has_its_times_and_the_command_that_runs_it_again(tmp_path, capsys):
    report = replace(full_report(), data_warnings=["The longer answer wins."], base_model="palms/tiny@abc")
    write_run(tmp_path / "run", report)
    arguments = {
        "large_model_reference": "palms/tiny",
        "prompt_dataset": "my prompts.jsonl",
        "kl_coeff": 0.05,
        "batch_size": 64,
        "deploy_model": False,
    }
    write_run_file(
        tmp_path / "run",
        pipeline="rlhf_pipeline",
        arguments=arguments,
        steps=[StepTime(name="Reinforcer", seconds=61)],
        model="models/palms@3",
        call="rlhf predict --model palms@3 --prompt x",
        ended="2027-01-31 06:00",
    )
    assert main(["report", "run", "--pipeline-root", str(tmp_path)]) == 0
    page = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out == f"Report: {page}\n"
    text = page.read_text()
    assert "--large-model-reference palms/tiny@abc" in text
    assert "--prompt-dataset &#x27;my prompts.jsonl&#x27; --kl-coeff 0.05" in text
    assert "rlhf report RUN --price-per-hour 3.67" in text
    assert "--deploy-model false" in text
    assert "--batch-size" not in text
    assert "61 s" in text
    assert "palms@3" in text
    assert "<li>The longer answer wins.</li>" in text


def test_the_times_of_the_whole_run_take_the_place_of_those_that_the_evaluation_knew(tmp_path):
    early = replace(full_report(), steps=[StepTime(name="Reinforcer", seconds=59)], steps_note="So far.")
    write_run(tmp_path / "run", early)
    page = tmp_path / "page.html"

    def times():
        assert main(["report", str(tmp_path / "run"), "--output", str(page)]) == 0
        return page.read_text().split('id="time"')[1].split("</section>")[0]

    assert all(words in times() for words in ("Time by step", "So far.", "59 s", "These steps"))
    steps = [StepTime(name="Reinforcer", seconds=61), StepTime(name="Upload", seconds=2)]
    told = {"pipeline": "rlhf_pipeline", "arguments": {}, "model": "", "call": "", "ended": ""}
    write_run_file(tmp_path / "run", steps=steps, **told)
    assert all(words in times() for words in ("Time and cost by step", "61 s", "All steps", "--price-per-hour"))
    assert not any(words in times() for words in ("So far.", "59 s", "These steps"))


def test_a_price_puts_the_cost_of_each_step_beside_its_time(tmp_path, capsys):
    write_run(tmp_path / "run", full_report())
    steps = [StepTime(name="Reinforcer", seconds=5400), StepTime(name="Infer", seconds=0, cached=True)]
    told = {"pipeline": "rlhf_pipeline", "arguments": {}, "steps": steps, "model": "", "call": "", "ended": ""}
    write_run_file(tmp_path / "run", price_per_hour=2.0, **told)
    page = tmp_path / "page.html"

    def costs(*flags):
        assert main(["report", str(tmp_path / "run"), "--output", str(page), *flags]) == 0
        return re.findall(r">([\d,]+\.\d\d)<", page.read_text().split('id="time"')[1].split("</section>")[0])

    assert costs() == ["3.00", "0.00", "3.00"]
    assert costs("--price-per-hour", "1000") == ["1,500.00", "0.00", "1,500.00"]
    for wrong in ("-1", "nan", "cheap"):
        with pytest.raises(SystemExit):
            main(["report", "run", "--price-per-hour", wrong])
        assert f"{wrong!r} is no price" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"report": {"x": 1}, "answers": [], "judges": []}'])
def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys, broken):
    folder = tmp_path / "run"
    assert main(["report", str(folder)]) == 2
    assert "evaluate/evaluation is missing" in capsys.readouterr().err
    (folder / "evaluate").mkdir(parents=True)
    (folder / "evaluate" / "evaluation").write_text(broken)
    assert main(["report", str(folder)]) == 2
    assert "is damaged, or not by this version" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["", "[]", "{}", "[" * 100_000, b"\xff", {"steps": [{"name": "R", "seconds": "x"}]}])
def test_a_damaged_file_of_a_run_is_named(tmp_path, capsys, broken):
    write_run(tmp_path, full_report())
    write_run_file(tmp_path, pipeline="rlhf_pipeline", arguments={}, steps=[], model="", call="", ended="")
    path = tmp_path / "run.json"
    if isinstance(broken, dict):
        broken = json.dumps({**json.loads(path.read_text()), **broken})
    path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    assert main(["report", str(tmp_path)]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err
    with pytest.raises(DataError, match="is damaged"):  # where a run takes that evaluation from the cache
        run_command._complete_report(tmp_path, tmp_path / "page.html", SimpleNamespace(price_per_hour=None), [], "", "")
    path.unlink()
    assert main(["report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept["answers"][0]["tuned"].update(text=1e308),
        lambda kept: kept["report"].update(files=-1),
        lambda kept: kept["report"]["watch"].update(best_step=None),
        lambda kept: kept["report"].update(supervised={"history": [], "held_out": {"looks": []}}),
    ],
)
def test_a_value_of_another_kind_is_damage_and_no_crash(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path / "run", full_report())
    kept = json.loads(path.read_text())
    damage(kept)
    path.write_text(json.dumps(kept))
    for words in (["report", "run"], ["compare", "run", "run"]):
        assert main(words) == 2
        assert "run/evaluate/evaluation is damaged" in capsys.readouterr().err


def test_a_run_that_ends_takes_no_mistake_of_ours_for_damage(tmp_path, monkeypatch):
    def mistaken(report):
        raise TypeError("ours")

    write_run(tmp_path, full_report())
    monkeypatch.setattr("rlhf_tuning.reports.report.render_report", mistaken)
    with pytest.raises(TypeError, match="ours"):
        write_complete_report(tmp_path, tmp_path / "page.html")


def test_two_runs_are_compared_by_the_answers_that_they_left(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = full_report()
    first = replace(base, pairs=[one_pair(prompt=f"Ask {number}") for number in range(20)])
    better = [replace(pair, tuned=replace(pair.tuned, true_score=2.0, text="Better.")) for pair in first.pairs]
    write_run(tmp_path / "first", first)
    write_run(tmp_path / "second", replace(base, pairs=better[:15]))
    assert main(["compare", "first", "second"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("The tuned model is better than first.")
    assert "15 prompts" in output
    assert "reward" not in output.split("1. Ask")[0].lower().replace("no reward", "")
    assert "second against first" in (tmp_path / "compare.html").read_text()
    write_run(tmp_path / "other", replace(base, pairs=[one_pair(prompt="Something else")]))
    assert main(["compare", "first", "other"]) == 2
    assert "different prompts" in capsys.readouterr().err
    assert main(["compare", "first", "palms@1"]) == 2
    assert "--prompts FILE" in capsys.readouterr().err
