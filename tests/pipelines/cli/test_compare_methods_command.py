"""What `rlhf compare-methods` refuses before anything is trained, and what it says to each run. The rest is slow."""

import json
from pathlib import Path

import pytest

from rlhf_pipelines.cli import compare_methods_command
from rlhf_pipelines.cli.rlhf import main
from rlhf_pipelines.methods import METHODS
from rlhf_pipelines.parameters import COMPARED, PIPELINES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"input_text": f"Create {n}.", "candidate_0": "Salt.", "candidate_1": "Gulls.", "choice": 0} for n in range(60)
    ]
    Path("preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("prompts.jsonl").write_text("".join(json.dumps({"input_text": f"Describe {n}."}) + "\n" for n in range(60)))
    return tmp_path


@pytest.fixture
def compare(folder, tiny_model, capsys):
    data = ("--preference-dataset", "preferences.jsonl", "--prompt-dataset", "prompts.jsonl")

    def run(*flags):
        status = main(["compare-methods", *data, "--large-model-reference", str(tiny_model), *map(str, flags)])
        return status, "".join(capsys.readouterr())

    return run


@pytest.fixture
def started(monkeypatch):
    """The runs that it would start; each fails, so that nothing follows but what is asked for."""
    runs = []

    def run_locally(run, display):
        runs.append(run)
        artifacts = {name: {"path": str(run.pipeline_root)} for name in ("model", "adapter", "reward_model")}
        run.outputs.write_text(json.dumps({"artifacts": artifacts, "parameters": {}}))
        return 0 if len(runs) < run_locally.fails_at else 7

    run_locally.fails_at = 100
    monkeypatch.setattr(compare_methods_command, "run_locally", run_locally)
    return runs, run_locally


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--methods", "dop"), "--methods has 'dop'; there are supervised, "),
        (("--methods", "supervised", "best_of_n"), "which takes the reward model of rlhf"),
        (("--seeds", 1, 1), "--seeds has 1 twice"),
        (("--seeds", -1), "seed is -1"),
        (("--best-of", 1), "--best-of is 1"),
        (("--minutes", 0), "budget is 0 minutes"),
        (("--cost", 2), "--cost needs --price-per-hour"),
        (("--set", "supervised:lora_dim=3"), "give METHOD.PARAMETER=VALUE"),
        (("--set", "supervised.lora=3"), "there is no parameter 'lora'"),
        (("--set", "supervised.lora_dim=many"), "lora_dim must be a whole number"),
        (("--set", "supervised.kl_coeff=1"), "kl_coeff is no parameter of supervised_tuning_pipeline"),
        (("--methods", "supervised", "--set", "rlhf.lora_dim=3"), "rlhf, which is not among the methods"),
        (("--set", "rlhf.prompt_dataset=p.jsonl"), "all methods have the same base model, data and judges"),
        (("--set", "dpo.instruction=Be brief."), "gives dpo its own instruction; all methods have the same"),
        (
            ("--set", "dpo.large_model_reference=other"),
            "gives dpo its own large_model_reference; all methods have the same",
        ),
        (("--set", "supervised.eval_prompts=7"), "gives supervised its own eval_prompts; all methods"),
        (("--set", "rlhf.scorer=house_style"), "gives rlhf its own scorer; all methods"),
        (("--prompt-dataset", ""), "prompt_dataset is missing: rlhf learns from it"),
        (("--minutes", 3, "--set", "supervised.train_steps=3"), "and so does the budget"),
        (("--output", "page.txt"), "ends in .html"),
        (("--output", "nowhere/page.html"), "there is no folder"),
        (("--judge", "language_model"), "judge_model is empty"),
        (("--temperature", 0), "temperature is 0"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(compare, started, flags, words):
    status, said = compare(*flags)
    assert status == 2, said
    assert words in said
    assert started[0] == []
    assert "Dividing the data" not in said


def test_prompts_are_asked_for_only_where_a_method_learns_from_them(compare, started):
    runs, run_locally = started
    run_locally.fails_at = 3
    assert compare("--prompt-dataset", "", "--methods", "supervised", "dpo")[0] == 7
    assert [run.name for run in runs] == [
        "reward_model_pipeline",
        "supervised_tuning_pipeline",
        "preference_tuning_pipeline",
    ]
    data = Path("runs/comparison/data")
    asked, held_out = ((data / f"{name}.jsonl").read_text() for name in ("eval_prompts", "choices"))
    assert asked
    assert {json.dumps(json.loads(row)["prompt"]) for row in asked.splitlines()} == {
        json.dumps(json.loads(row)["prompt"]) for row in held_out.splitlines()
    }


def test_every_run_has_the_data_that_is_its_method_s_and_nothing_that_judges(compare, started, monkeypatch):
    runs, run_locally = started
    run_locally.fails_at = 1 + 2 * len(METHODS)
    status, _ = compare("--seeds", 3, 4, "--set", "supervised.lora_dim=4", "--judge-max-calls", 9)
    assert status == 7
    judge, *others = runs
    assert judge.name == "reward_model_pipeline"
    assert Path(judge.arguments["preference_dataset"]).name == "judge_preferences.jsonl"
    assert [(run.name, run.arguments["seed"]) for run in others] == [
        (METHODS[name].pipeline, seed) for seed in (3, 4) for name in METHODS
    ][: len(others)]
    for run in runs:
        assert set(run.arguments) == {parameter.name for parameter in PIPELINES[run.name]}
        assert not run.arguments.get("judge")
        assert not run.arguments.get("deploy_model")
        assert run.arguments.get("registry_dir", "registry").endswith("registry")
    for run, name in zip(others, [*METHODS] * 2, strict=False):
        for parameter, file in METHODS[name].data.items():
            assert Path(run.arguments[parameter]).name == f"{file}.jsonl"
    ranks = [
        run.arguments["lora_dim"]
        for run in others
        if run.name in (METHODS["supervised"].pipeline, METHODS["rlhf"].pipeline)
    ]
    assert ranks[:2] == [4, 16]


def test_what_was_trained_is_not_trained_again_unless_it_has_gone_or_is_asked_for_otherwise(compare, started):
    runs, run_locally = started
    run_locally.fails_at = 2
    assert compare("--methods", "supervised")[0] == 7
    assert len(runs) == 2
    run_locally.fails_at = 3  # its outputs are there
    _, said = compare("--methods", "supervised", "--seeds", 0, 1)
    assert "The judging reward model: trained before" in said
    assert "Supervised tuning, seed 0: trained before" in said
    assert [run.arguments["seed"] for run in runs[2:]] == [1]
    run_locally.fails_at = 4
    compare("--methods", "supervised", "--train-steps", 7)
    assert runs[-1].arguments["train_steps"] == 7
    (outputs,) = Path("runs/comparison/made").glob("judge-*.json")
    outputs.write_text(outputs.read_text().replace("runs", "gone"))
    run_locally.fails_at = 5
    compare("--methods", "supervised")
    assert runs[-1].name == "reward_model_pipeline"


def test_one_budget_gives_each_method_its_own_steps_and_a_stopped_comparison_keeps_them(compare, started, monkeypatch):
    runs, run_locally = started
    asked = []

    def forecast_here(values):
        asked.append(values)
        each = {"supervised": 2.0, "preference": 5.0, "reinforcement": 9.0}
        return lambda training, own: lambda steps: each[training] * steps * own.get("batch_size", 64) / 64

    def stopped(partial, final):
        if final.name.startswith("steps-"):
            raise OSError("No space left on device")
        return replace(partial, final)

    monkeypatch.setattr("rlhf_tuning.planning.budget.forecast_here", forecast_here)
    run_locally.fails_at = 2 + len(METHODS)
    flags = ("--cost", 1, "--price-per-hour", 20, "--seeds", 0, 1, "--set", "rlhf.batch_size=32")  # three minutes
    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        assert "No space left" in compare(*flags)[1]
    assert list(Path("runs/comparison").glob("*steps-*")) == []
    _, said = compare(*flags)
    assert "Steps that fit into 3 minutes each: supervised tuning 90" in said
    by_name = {run.name: run.arguments for run in runs}
    assert by_name["supervised_tuning_pipeline"]["train_steps"] == 90
    preferences = len(Path("runs/comparison/data/preferences.jsonl").read_text().splitlines())
    learnt = preferences - preferences // 10
    # 36 steps of 64.
    assert by_name["preference_tuning_pipeline"]["epoch_count"] == pytest.approx(36 * 64 / learnt)
    assert by_name["rlhf_pipeline"]["reinforcement_learning_train_steps"] == 40
    run_locally.fails_at += 1
    compare(*flags)
    assert len(asked) == 2


def test_within_a_budget_a_method_or_a_judge_that_is_added_changes_no_other_s_training(compare, started, monkeypatch):
    runs, run_locally = started
    asked = []

    def forecast_here(values):
        def takes(training, own):
            asked.append(training)
            return lambda steps: len(asked) * steps  # the machine is never as fast as it was

        return takes

    monkeypatch.setattr("rlhf_tuning.planning.budget.forecast_here", forecast_here)
    run_locally.fails_at = 2
    compare("--methods", "supervised", "--minutes", 3)
    run_locally.fails_at = 3
    judges = ("--judge", "language_model", "--judge-model", "m", "--judge-endpoint", "http://localhost:1")
    monkeypatch.setattr(compare_methods_command, "check_server", lambda *_: None)
    added = ("--methods", "supervised", "dpo", *judges, "--judge-max-calls", 9, "--scorer", "house_style")
    _, said = compare(*added, "--minutes", 3)
    assert asked == ["supervised", "preference"]
    assert "supervised tuning 180, DPO 90" in said
    assert runs[1].arguments["train_steps"] == 180


def test_its_parameters_are_those_of_its_methods_but_for_what_it_sets_itself():
    names = {parameter.name for parameter in COMPARED}
    assert {"prompt_dataset", "preference_dataset", "dataset_uri", "judge", "train_steps", "kl_coeff"} <= names
    assert not names & {"seed", "registry_dir", "deploy_model", "gate_max_kl"}
    (demonstrations,) = [parameter for parameter in COMPARED if parameter.name == "dataset_uri"]
    assert not demonstrations.required
