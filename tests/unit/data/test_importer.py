import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_tuning.data import importer
from rlhf_tuning.data.importer import (
    ImportSummary,
    Part,
    import_judgements,
    import_preferences,
    import_prompts,
    import_supervised,
    read_canonical,
    sample_canonical,
)
from rlhf_tuning.data.known_rows import NewRows, count_new
from rlhf_tuning.errors import DataError, ParameterError

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]


def prompts(count: int, prefix: str = "Describe place") -> list[dict[str, object]]:
    return [{"input_text": f"{prefix} {number}."} for number in range(count)]


def preferences(count: int, prefix: str = "Describe place", each: int = 1) -> list[dict[str, object]]:
    return [
        {
            "input_text": f"{prefix} {number // each}.",
            "candidate_0": f"Long answer {number}.",
            "candidate_1": f"Short {number}.",
            "choice": number % 2,
        }
        for number in range(count)
    ]


def run_prompts(tmp_path: Path, prompt_dataset: str, **more: Any) -> tuple[ImportSummary, list[str], list[str]]:
    out, eval_out = tmp_path / "out" / "prompts.jsonl", tmp_path / "out" / "eval.jsonl"
    settings: dict[str, Any] = {"eval_dataset": "", "instruction": "", **more}
    summary = import_prompts(
        prompt_dataset=prompt_dataset, prompts_path=str(out), eval_prompts_path=str(eval_out), **settings
    )
    return summary, contents(out), contents(eval_out)


def run_preferences(tmp_path: Path, preference_dataset: str, **more: Any) -> tuple[ImportSummary, Path, Path]:
    out, eval_out = tmp_path / "out" / "preferences.jsonl", tmp_path / "out" / "eval.jsonl"
    settings: dict[str, Any] = {"eval_dataset": "", "instruction": "", **more}
    summary = import_preferences(
        preference_dataset=preference_dataset,
        preferences_path=str(out),
        eval_preferences_path=str(eval_out),
        **settings,
    )
    return summary, out, eval_out


def contents(path: Path) -> list[str]:
    return [row["prompt"][-1]["content"] for row in read_canonical(path)]


def test_holds_out_a_tenth_of_the_prompts_and_keeps_the_rest_in_order(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = prompts(100)
    summary, training, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", rows))
    assert (summary.rows, summary.eval_rows, summary.files) == (90, 10, 1) == (len(training), len(evaluation), 1)
    assert set(training) | set(evaluation) == {row["input_text"] for row in rows}
    assert training == [row["input_text"] for row in rows if row["input_text"] not in evaluation]


def test_holds_out_at_most_the_prompts_asked_for(tmp_path: Path, write_rows: WriteRows) -> None:
    summary, _, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", prompts(100)), eval_prompts=3)
    assert summary.eval_rows == len(evaluation) == 3


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_stay_in_training_unless_held_out_and_evaluation_has_each_once(
    tmp_path: Path, write_rows: WriteRows, seed: int
) -> None:
    rows = prompts(40) * 3
    random.Random(seed).shuffle(rows)
    summary, training, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", rows), seed=seed)
    assert summary.eval_rows == len(evaluation) == len(set(evaluation)) == 4
    assert summary.rows == len(training) == 108
    assert not set(training) & set(evaluation)


def test_the_held_out_prompts_and_the_fingerprint_do_not_depend_on_order_and_files(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    rows = prompts(60)
    one_summary, _, one = run_prompts(tmp_path, write_rows("one.jsonl", rows))
    random.Random(1).shuffle(rows)
    write_rows("many/z.jsonl", rows[:25])
    write_rows("many/a.jsonl", rows[25:])
    many_summary, _, many = run_prompts(tmp_path, str(tmp_path / "many"))
    assert sorted(one) == sorted(many)
    assert one_summary.fingerprint == many_summary.fingerprint
    assert many_summary.files == 2
    _, _, other = run_prompts(tmp_path, str(tmp_path / "many"), seed=1)
    assert sorted(other) != sorted(one)


def test_writes_canonical_rows_byte_for_byte(tmp_path: Path, write_rows: WriteRows) -> None:
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress('{"input_text": "Où ?\\u2028"}\r\n'.encode()))
    run_prompts(
        tmp_path,
        str(tmp_path / "p.jsonl.gz"),
        eval_dataset=write_rows("e.jsonl", [{"messages": [{"author": "user", "content": "b"}]}]),
        instruction="Sois bref.",
    )
    assert (tmp_path / "out" / "prompts.jsonl").read_bytes().decode() == (
        '{"prompt": [{"role": "user", "content": "Sois bref.\\n\\nOù ?\u2028"}]}\n'
    )
    assert json.loads((tmp_path / "out" / "eval.jsonl").read_bytes()) == {
        "prompt": [{"role": "system", "content": "Sois bref."}, {"role": "user", "content": "b"}]
    }


def test_an_evaluation_dataset_replaces_the_held_out_prompts(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", [*prompts(3, "Other"), *prompts(1, "Other")])
    summary, training, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", prompts(1)), eval_dataset=eval_dataset)
    assert (summary.rows, summary.eval_rows) == (1, 4)
    assert training == ["Describe place 0."]
    assert evaluation == ["Other 0.", "Other 1.", "Other 2.", "Other 0."]


def test_evaluation_preferences_give_each_of_their_prompts_once(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", preferences(6, "Other", each=2))
    summary, _, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", prompts(5)), eval_dataset=eval_dataset)
    assert evaluation == ["Other 0.", "Other 1.", "Other 2."]
    assert summary.eval_rows == 3


def test_refuses_evaluation_prompts_that_are_also_prompts(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", [*prompts(1, "Other"), *prompts(2)])
    with pytest.raises(DataError, match="eval_prompt_in_training") as caught:
        run_prompts(tmp_path, write_rows("p.jsonl", prompts(5)), eval_dataset=eval_dataset)
    assert "e.jsonl:2: found the prompt of" in str(caught.value)
    assert "e.jsonl:3: found the prompt of" in str(caught.value)


def test_nothing_like_a_held_out_prompt_stays_among_the_others(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = [*prompts(100), *({"input_text": f" describe  PLACE {number}.\n"} for number in range(100))]
    summary, training, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", rows))
    held_out = {" ".join(text.lower().split()) for text in evaluation}
    assert len(evaluation) == 20
    assert not held_out & {" ".join(text.lower().split()) for text in training}
    assert summary.left_out == 200 - summary.rows - 20
    assert 0 < summary.left_out <= 20


def dialogue(opening: str, number: int) -> dict[str, object]:
    turns = [opening, f"Answer {number}.", f"And then {number}?"]
    return {
        "messages": [{"author": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)],
        "candidate_0": "a",
        "candidate_1": "b",
        "choice": 0,
    }


def test_dialogues_that_begin_alike_stay_on_one_side(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = [dialogue(f"Ask {number // 4}", number) for number in range(200)]
    summary, out, eval_out = run_preferences(tmp_path, write_rows("p.jsonl", rows))
    training, evaluation = ({row["prompt"][0]["content"] for row in read_canonical(path)} for path in (out, eval_out))
    assert (len(training & evaluation), summary.eval_rows) == (0, 20)
    assert summary.rows + summary.eval_rows + summary.left_out == 200
    assert summary.left_out > 0


def test_two_reward_models_learn_from_no_dialogues_that_begin_alike(tmp_path: Path, write_rows: WriteRows) -> None:
    _, out, _ = run_preferences(
        tmp_path, write_rows("p.jsonl", [dialogue(f"Ask {number // 4}", number) for number in range(200)])
    )
    parts = [
        sample_canonical(out, most=999, seed=0, part=Part(share=0.5, seed=0, held_out=way)) for way in (True, False)
    ]
    one, two = ({row["prompt"][0]["content"] for row in part} for part in parts)
    assert len(parts[0]) + len(parts[1]) == len(list(read_canonical(out)))
    assert min(len(one), len(two)) > 10
    assert not one & two


def test_a_greeting_does_not_keep_dialogues_from_training(tmp_path: Path, write_rows: WriteRows) -> None:
    summary, _, _ = run_preferences(tmp_path, write_rows("p.jsonl", [dialogue("Hello", n) for n in range(200)]))
    assert (summary.rows, summary.eval_rows, summary.left_out) == (180, 20, 0)


def test_no_reward_model_learns_from_prompts_that_are_held_out_of_the_prompt_dataset(
    tmp_path: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "MAX_EVAL_PREFERENCES", 4)  # as where preferences outnumber prompts
    prompt_dataset = write_rows("p.jsonl", prompts(200))
    preference_dataset = write_rows("r.jsonl", preferences(150))
    for more in ({}, {"eval_dataset": write_rows("e.jsonl", prompts(5))}):
        folder = tmp_path / f"{len(more)}"
        if not more:
            _, _, evaluated = run_prompts(folder, prompt_dataset, seed=3)
        else:
            evaluated = [f"Describe place {number}." for number in range(5)]
        summary, out, _ = run_preferences(folder, preference_dataset, prompt_dataset=prompt_dataset, seed=3, **more)
        assert not set(evaluated) & set(contents(out))
        assert summary.left_out > 0
    _, out, _ = run_preferences(tmp_path, preference_dataset, seed=3)
    assert set(evaluated) & set(contents(out))  # what this test is here to catch


def test_preferences_that_are_trained_on_cannot_be_evaluation(tmp_path: Path, write_rows: WriteRows) -> None:
    dataset = write_rows("p.jsonl", preferences(20))
    spaced = [row | {"input_text": f"{row['input_text']} "} for row in preferences(2)]
    for eval_dataset in (dataset, write_rows("e.jsonl", [*preferences(3, "Other"), *spaced])):
        with pytest.raises(DataError, match=r"eval_preference_in_training"):
            run_preferences(tmp_path, dataset, eval_dataset=eval_dataset)


def test_evaluation_dialogues_are_kept_from_training_by_how_they_begin(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", [dialogue("Ask 3", 1000)])
    rows = [dialogue(f"Ask {number // 4}", number) for number in range(40)]
    summary, out, _ = run_preferences(tmp_path, write_rows("p.jsonl", rows), eval_dataset=eval_dataset)
    assert (summary.rows, summary.eval_rows, summary.left_out) == (36, 1, 4)
    assert "Ask 3" not in {row["prompt"][0]["content"] for row in read_canonical(out)}


def test_a_dataset_of_evaluation_prompts_alone_leaves_nothing_to_train_on(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    with pytest.raises(DataError, match="No row of preference_dataset is left to train on"):
        run_preferences(tmp_path, write_rows("p.jsonl", preferences(9)), eval_dataset=write_rows("e.jsonl", prompts(9)))


@pytest.mark.parametrize("count", [1, 5])
def test_one_distinct_prompt_cannot_be_split(tmp_path: Path, write_rows: WriteRows, count: int) -> None:
    with pytest.raises(DataError, match=r"too_few_rows.*\n.*at least two different prompts, or an eval_dataset"):
        run_prompts(tmp_path, write_rows("p.jsonl", prompts(1) * count))


def test_two_prompts_are_enough_to_split(tmp_path: Path, write_rows: WriteRows) -> None:
    summary, _, _ = run_prompts(tmp_path, write_rows("p.jsonl", prompts(2)))
    assert (summary.rows, summary.eval_rows) == (1, 1)


def test_bad_rows_write_nothing_and_leave_earlier_outputs(tmp_path: Path, write_rows: WriteRows) -> None:
    run_prompts(tmp_path, write_rows("p.jsonl", prompts(10)))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match="wrong_type"):
        run_prompts(tmp_path, write_rows("bad.jsonl", [*prompts(20), {"input_text": 1}]))
    with pytest.raises(DataError, match="unknown_format"):
        run_preferences(tmp_path, write_rows("bad.jsonl", [*preferences(20), {}]))
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_holds_out_nothing_when_no_evaluation_prompts_are_asked_for(tmp_path, write_rows):
    summary, rows, evaluation = run_prompts(tmp_path, write_rows("p.jsonl", prompts(100)), eval_prompts=0)
    assert (summary.rows, summary.eval_rows) == (100, 0)
    assert (len(rows), len(evaluation)) == (100, 0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"eval_prompts": -1}, "eval_prompts"), ({"seed": -1}, "seed"), ({"instruction": "\0"}, "instr")],
)
def test_refuses_settings_out_of_range(
    tmp_path: Path, write_rows: WriteRows, settings: dict[str, Any], name: str
) -> None:
    with pytest.raises(ParameterError, match=name):
        run_prompts(tmp_path, write_rows("p.jsonl", prompts(10)), **settings)


def test_refuses_a_seed_out_of_range_for_preferences(tmp_path: Path, write_rows: WriteRows) -> None:
    with pytest.raises(ParameterError, match="seed"):
        run_preferences(tmp_path, write_rows("p.jsonl", preferences(10)), seed=2**32)


def test_holds_out_a_tenth_of_the_preferences_and_splits_no_prompt(tmp_path: Path, write_rows: WriteRows) -> None:
    summary, out, eval_out = run_preferences(tmp_path, write_rows("p.jsonl", preferences(200, each=2)))
    training, evaluation = contents(out), contents(eval_out)
    assert (summary.rows, summary.eval_rows) == (180, 20) == (len(training), len(evaluation))
    assert not set(training) & set(evaluation)


def test_holds_out_no_more_preferences_than_the_maximum(
    tmp_path: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "MAX_EVAL_PREFERENCES", 4)
    summary, _, _ = run_preferences(tmp_path, write_rows("p.jsonl", preferences(100)))
    assert summary.eval_rows == 4


def test_the_chosen_answer_is_the_one_that_choice_points_at(tmp_path: Path, write_rows: WriteRows) -> None:
    _, out, eval_out = run_preferences(tmp_path, write_rows("p.jsonl", preferences(50)))
    for row in [*read_canonical(out), *read_canonical(eval_out)]:
        assert list(row) == ["prompt", "chosen", "rejected"]
        number = int(row["chosen"].rstrip(".").split()[-1])
        assert row["chosen"].startswith("Short" if number % 2 else "Long")
        assert row["rejected"].startswith("Long" if number % 2 else "Short")


def test_evaluation_preferences_are_used_as_they_are(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", preferences(3, "Other"))
    dataset = write_rows("p.jsonl", preferences(20))
    summary, out, eval_out = run_preferences(tmp_path, dataset, eval_dataset=eval_dataset)
    assert (summary.rows, summary.eval_rows, summary.is_split) == (20, 3, False)
    assert contents(out) == [row["input_text"] for row in preferences(20)]
    assert contents(eval_out) == ["Other 0.", "Other 1.", "Other 2."]


def test_evaluation_prompts_without_preferences_leave_the_split_as_it_is(tmp_path: Path, write_rows: WriteRows) -> None:
    dataset = write_rows("p.jsonl", preferences(20))
    with_prompts, _, _ = run_preferences(tmp_path, dataset, eval_dataset=write_rows("e.jsonl", prompts(3, "Other")))
    assert (with_prompts.rows, with_prompts.eval_rows, with_prompts.is_split) == (18, 2, True)


@pytest.mark.parametrize(
    ("evaluated", "expected"),
    [
        ([], 5),  # of the ten that are held out
        ([{"input_text": f"Ask {number}."} for number in range(20)], 20),
        (preferences(8, prefix="Other", each=2), 4),
    ],
    ids=["held out", "prompts", "preferences"],
)
def test_where_there_is_no_prompt_dataset_the_preferences_say_which_prompts_are_compared(
    tmp_path: Path, write_rows: WriteRows, evaluated: list[dict[str, Any]], expected: int
) -> None:
    asked = tmp_path / "out" / "prompts.jsonl"
    settings = {"eval_dataset": write_rows("e.jsonl", evaluated)} if evaluated else {}
    summary, learnt, held_out = run_preferences(
        tmp_path, write_rows("p.jsonl", preferences(100)), eval_prompts_path=str(asked), eval_prompts=5, **settings
    )
    found = contents(asked)
    assert len(found) == len(set(found)) == summary.eval_prompts == expected
    assert not set(found) & set(contents(learnt))
    if evaluated and "choice" not in evaluated[0]:
        assert found == [row["input_text"] for row in evaluated]
    else:
        assert set(found) <= set(contents(held_out))


def test_one_prompt_with_many_preferences_cannot_be_split(tmp_path: Path, write_rows: WriteRows) -> None:
    with pytest.raises(DataError, match=r"too_few_rows.*\n.*an eval_dataset with preference fields"):
        run_preferences(tmp_path, write_rows("p.jsonl", preferences(5, each=5)))


def test_mixed_evaluation_rows_are_refused(tmp_path: Path, write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", [*preferences(2, "Other"), *prompts(1, "Other")])
    with pytest.raises(DataError, match=r"eval_dataset cannot be used(.*\n)*mixed_rows"):
        run_preferences(tmp_path, write_rows("p.jsonl", preferences(20)), eval_dataset=eval_dataset)


def test_the_instruction_changes_the_fingerprint(tmp_path: Path, write_rows: WriteRows) -> None:
    dataset = write_rows("p.jsonl", preferences(20))
    plain, _, _ = run_preferences(tmp_path, dataset)
    instructed, _, _ = run_preferences(tmp_path, dataset, instruction="Be kind.")
    blank, _, _ = run_preferences(tmp_path, dataset, instruction=" ")
    assert plain.fingerprint != instructed.fingerprint
    assert plain.fingerprint == blank.fingerprint


def test_reading_what_no_import_wrote_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": []}\n{"input_text": "a"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2 is no imported row"):
        list(read_canonical(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text('{"prompt": []\n' * 3)
    for most in (1, 3):
        with pytest.raises(DataError, match=r"b\.jsonl:\d is no imported row"):
            sample_canonical(tmp_path / "b.jsonl", most=most, seed=0)
    with pytest.raises(DataError, match="does not exist"):
        list(read_canonical(str(tmp_path / "missing.jsonl")))


def test_a_sample_of_imported_rows_is_drawn_by_the_seed_and_is_all_of_them_where_they_are_few(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": [{"role": "user", "content": str(n)}]}) + "\n" for n in range(100)))
    assert sample_canonical(path, most=100, seed=0) == list(read_canonical(path))
    drawn = sample_canonical(path, most=10, seed=0)
    numbers = [int(row["prompt"][0]["content"]) for row in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert drawn == sample_canonical(path, most=10, seed=0)
    assert drawn != sample_canonical(path, most=10, seed=1)
    with pytest.raises(DataError, match="does not exist"):
        sample_canonical(tmp_path / "missing", most=1, seed=0)


def run_supervised(tmp_path: Path, **more: Any) -> tuple[ImportSummary, list[dict[str, Any]], list[dict[str, Any]]]:
    out, eval_out = tmp_path / "out" / "learnt.jsonl", tmp_path / "out" / "measured.jsonl"
    settings: dict[str, Any] = {"supervised_dataset": "", "eval_dataset": "", "instruction": "", **more}
    summary = import_supervised(demonstrations_path=str(out), eval_demonstrations_path=str(eval_out), **settings)
    return summary, list(read_canonical(out)), list(read_canonical(eval_out))


def asked(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {" ".join(row["prompt"][-1]["content"].lower().split()) for row in rows}


@pytest.mark.parametrize("preferred", [True, False])
def test_a_supervised_phase_learns_from_no_prompt_on_which_answers_will_be_compared(
    tmp_path: Path, write_rows: WriteRows, preferred: bool
) -> None:
    prompt_dataset = write_rows("prompts.jsonl", prompts(100))
    rows = [*prompts(50), *prompts(50, "sing  OF")]
    demonstrations = [{**row, "output_text": "Gulls call."} for row in rows]
    datasets = {
        "prompt_dataset": prompt_dataset,
        "preference_dataset": write_rows("preferences.jsonl", preferences(100, "Sing of")),
        "supervised_dataset": "" if preferred else write_rows("demonstrations.jsonl", demonstrations),
    }
    _, _, evaluated = run_prompts(tmp_path / "prompts", prompt_dataset)
    summary, learnt, measured = run_supervised(tmp_path, **datasets)
    assert len(evaluated) == 10
    assert not asked(learnt) & {prompt.lower() for prompt in evaluated}
    assert not asked(learnt) & asked(measured)
    # Nor on what the reward model is measured.
    _, _, held_out = run_preferences(tmp_path, datasets["preference_dataset"], prompt_dataset=prompt_dataset)
    assert not asked(learnt) & asked(list(read_canonical(held_out)))
    assert (summary.rows, summary.eval_rows) == (len(learnt), len(measured))
    assert len(learnt) + len(measured) + summary.left_out == 100
    # Where there are no prompts but the preferences' own, it is on those which measure that answers are compared.
    alone = datasets | {"prompt_dataset": ""}
    _, learnt, _ = run_supervised(tmp_path / "alone", **alone)
    _, _, held_out = run_preferences(tmp_path / "alone", datasets["preference_dataset"])
    assert asked(learnt)
    assert not asked(learnt) & asked(list(read_canonical(held_out)))
    # Nor where the prompts of the evaluation are given.
    now = write_rows("now.jsonl", [*prompts(3, "describe  PLACE"), *prompts(3, "sing  OF")])
    if preferred:
        _, learnt, _ = run_supervised(tmp_path / "now", **datasets, eval_dataset=now)
        assert not asked(learnt) & {f"sing of {number}." for number in range(3)}
    else:
        with pytest.raises(DataError, match="eval_demonstration_in_training"):
            run_supervised(tmp_path / "now", **datasets, eval_dataset=now)


def test_preferred_answers_are_learnt_once_each_and_measured_where_the_reward_model_is(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    rows = preferences(40, each=2)
    for row in rows[::4]:
        row["choice"] = 0
    twice = [{**row, "candidate_1": "Another."} for row in rows[::4]]
    datasets = {
        "preference_dataset": write_rows("preferences.jsonl", [*rows, *twice]),
        "prompt_dataset": write_rows("prompts.jsonl", prompts(20, "Sing of")),
    }
    _, _, held_out = run_preferences(
        tmp_path, datasets["preference_dataset"], prompt_dataset=datasets["prompt_dataset"]
    )
    summary, learnt, measured = run_supervised(tmp_path, **datasets)
    chosen = {(row["input_text"], row[f"candidate_{row['choice']}"]) for row in rows}
    assert {(row["prompt"][-1]["content"], row["answer"]) for row in [*learnt, *measured]} == chosen
    assert summary.rows + summary.eval_rows == len(chosen)
    assert asked(measured) == asked(list(read_canonical(held_out)))


def test_the_preferred_answers_of_the_held_out_reward_model_are_not_learnt(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    datasets = {
        "preference_dataset": write_rows("preferences.jsonl", preferences(40)),
        "prompt_dataset": write_rows("prompts.jsonl", prompts(20, "Sing of")),
        "seed": 7,
    }
    _, path, _ = run_preferences(tmp_path, **datasets)
    theirs = asked(sample_canonical(path, most=40, seed=0, part=Part(share=0.25, seed=7, held_out=True)))
    everything, measured = (asked(rows) for rows in run_supervised(tmp_path, **datasets)[1:])
    summary, learnt, measured_too = run_supervised(tmp_path, **datasets, held_out_reward_model_share=0.25)
    assert set() < theirs < everything
    assert asked(learnt) == everything - theirs
    assert summary.rows == len(learnt)
    assert asked(measured_too) == measured
    with pytest.raises(DataError, match="Every preference fell to the held-out reward model"):
        run_supervised(tmp_path, **datasets, held_out_reward_model_share=1.0)


def thumbs(count: int, prefix: str = "Describe place") -> list[dict[str, object]]:
    return [
        {"prompt": f"{prefix} {number // 2}.", "completion": f"Answer {number}.", "label": number % 3 > 0}
        for number in range(count)
    ]


def run_judgements(tmp_path: Path, **more: Any) -> Any:
    paths = {name: tmp_path / "out" / name for name in ("preferences", "eval_preferences", "eval_prompts")}
    summary = import_judgements(
        preference_rows_path=str(tmp_path / "rows.bin"),
        **{"preference_dataset": "", "feedback_dataset": "", "eval_dataset": "", "instruction": "", **more},
        **{f"{name}_path": str(path) for name, path in paths.items()},
    )
    return summary, *(list(read_canonical(path)) for path in paths.values())


def prompts_of(rows: list[dict[str, Any]]) -> set[str]:
    return {str(row["prompt"]) for row in rows}


def test_feedback_is_held_out_by_prompt_and_its_prompts_are_answered(tmp_path: Path, write_rows: WriteRows) -> None:
    summary, learnt, held_out, asked = run_judgements(tmp_path, feedback_dataset=write_rows("f.jsonl", thumbs(200)))
    assert (summary.rows, summary.eval_rows, summary.eval_prompts) == (180, 20, 10)
    assert (summary.fingerprint, bool(summary.feedback_fingerprint)) == ("", True)
    assert {*learnt[0]} == {"prompt", "answer", "label"}
    assert not prompts_of(learnt) & prompts_of(held_out)
    assert prompts_of(held_out) == prompts_of(asked)


def test_of_an_evaluation_dataset_preferences_stand_beside_the_held_out_feedback(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    data = {"feedback_dataset": write_rows("f.jsonl", thumbs(100)), "eval_dataset": write_rows("e", preferences(6))}
    _, learnt, held_out, asked = run_judgements(tmp_path, **data)
    assert [("chosen" in row, "label" in row) for row in held_out] == [(True, False)] * 6 + [(False, True)] * 10
    assert not prompts_of(learnt) & prompts_of(held_out)
    assert len(asked) == len(prompts_of(held_out))
    path = tmp_path / "out" / "eval_preferences"
    assert sample_canonical(path, most=99, seed=0, having="chosen") == held_out[:6]
    assert len(sample_canonical(path, most=3, seed=0, having="label")) == 3


def test_no_feedback_to_a_prompt_on_which_answers_are_compared_is_learnt_from(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    feedback = {"feedback_dataset": write_rows("f.jsonl", thumbs(100))}
    evaluation = write_rows("e.jsonl", [{"input_text": f" describe PLACE {number}."} for number in range(5)])
    summary, learnt, _, asked = run_judgements(tmp_path, **feedback, eval_dataset=evaluation)
    assert len(asked) == summary.eval_prompts == 5
    assert not {f"Describe place {number}." for number in range(5)} & {row["prompt"][0]["content"] for row in learnt}
    # Nor of those that are held out of the prompts of reinforcement learning.
    prompt_dataset = write_rows("p.jsonl", prompts(50))
    _, _, held_out_prompts = run_prompts(tmp_path, prompt_dataset)
    _, learnt, *_ = run_judgements(tmp_path, **feedback, prompt_dataset=prompt_dataset)
    assert held_out_prompts
    assert not set(held_out_prompts) & {row["prompt"][0]["content"] for row in learnt}


def test_preferences_and_feedback_come_together_and_share_no_prompt_across_the_sides(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    data = {
        "preference_dataset": write_rows("r.jsonl", preferences(120)),
        "feedback_dataset": write_rows("f.jsonl", thumbs(300)),
    }
    summary, learnt, held_out, asked = run_judgements(tmp_path, **data)
    assert {"chosen" in row for row in learnt} == {"chosen" in row for row in held_out} == {True, False}
    assert (summary.rows, summary.eval_rows) == (len(learnt), len(held_out))
    assert not prompts_of(learnt) & prompts_of(held_out)
    assert prompts_of(asked) == prompts_of([row for row in held_out if "chosen" in row])
    assert summary.fingerprint != summary.feedback_fingerprint
    known = count_new(data, instruction="", known_path=tmp_path / "rows.bin")
    assert known == {"preference_dataset": NewRows(rows=120), "feedback_dataset": NewRows(rows=300)}
