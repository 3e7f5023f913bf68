"""What is suspicious in valid data: for each code a dataset that has it, and one as like it as can be that has not."""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fuzz_templates import make_case
from tests.conftest import make_tokenizer

from rlhf_tuning.data import findings, sources
from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.findings import Training
from rlhf_tuning.data.summary import Finding
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]
Rows = list[dict[str, Any]]
Check = Callable[..., DatasetCheck]


def preferences(count: int) -> Rows:
    """Return preferences of which nothing can be said."""
    return [
        {
            "input_text": f"Describe place {number}.",
            "candidate_0": f"A calm sea, number {number:04}.",
            "candidate_1": f"A wild sea, number {number:04}.",
            "choice": number % 2,
        }
        for number in range(count)
    ]


def prompts(count: int) -> Rows:
    return [{"input_text": f"Describe room {number}."} for number in range(count)]


@pytest.fixture
def check(tmp_path: Path, write_rows: WriteRows) -> Check:
    """Write rows as datasets, and check them."""

    def run(
        *, preferences: Rows | None = None, prompts: Rows | None = None, evaluation: Rows | None = None, **settings: Any
    ) -> DatasetCheck:
        given = {"preference_dataset": preferences, "prompt_dataset": prompts, "eval_dataset": evaluation}
        references = {
            name: write_rows(f"{name}.jsonl", rows) if rows is not None else "" for name, rows in given.items()
        }
        return check_datasets(**references, **{"instruction": "", **settings})

    return run


def found(result: DatasetCheck) -> dict[str, Finding]:
    """Return the findings by code, of which there is one of each in these tests."""
    assert result.problems == ""
    assert result.warnings == [finding.message for finding in result.summary.findings]
    by_code = {finding.code: finding for finding in result.summary.findings}
    assert len(by_code) == len(result.summary.findings)
    return by_code


def only(result: DatasetCheck) -> Finding:
    """Return the only finding."""
    [finding] = found(result).values()
    return finding


def places(finding: Finding) -> list[str]:
    """Return where the examples stand, without folders."""
    return [Path(example.location).name for example in finding.examples]


def test_nothing_is_said_of_data_of_which_nothing_can_be_said(check: Check) -> None:
    result = check(preferences=preferences(1000), prompts=prompts(100), evaluation=[{"input_text": "Describe it."}])
    assert found(result) == {}


def test_an_empty_file_among_others_is_found(check: Check, tmp_path: Path, write_rows: WriteRows) -> None:
    write_rows("many/a.jsonl", prompts(10))
    write_rows("many/b.jsonl", prompts(0))
    result = check_datasets(
        prompt_dataset=str(tmp_path / "many"), preference_dataset="", eval_dataset="", instruction=""
    )
    assert (only(result).code, only(result).parameter) == ("empty_files", "prompt_dataset")


# Rows set aside.


def test_rows_are_set_aside_up_to_the_limit_and_refused_past_it(check: Check) -> None:
    bad: Rows = [{"input_text": ""}, {"input_text": 1, "id": 2}, {"text": "a"}]
    rows = [*prompts(5), *bad, *prompts(10)[5:]]
    clean = check(prompts=prompts(10))
    assert "rows_set_aside" not in found(clean)

    result = check(prompts=rows, max_bad_rows=3)
    finding = only(result)
    assert finding.code == "rows_set_aside"
    assert finding.message == (
        "3 bad rows of prompt_dataset were set aside, as max_bad_rows allows "
        "(blank_text 1, extra_field 1, unknown_format 1)."
    )
    assert places(finding) == [f"prompt_dataset.jsonl:{line}" for line in (6, 7, 8)]
    assert result.counts == {"prompt_dataset": 10}
    assert result.summary.datasets[0].set_aside == 3
    assert result.prompt_fingerprint == clean.prompt_fingerprint
    result.raise_if_unusable()

    refused = check(prompts=rows, max_bad_rows=2)
    assert refused.problems.startswith("prompt_dataset cannot be used: 3 problems.")
    assert refused.summary.problem_counts == {"blank_text": 1, "extra_field": 1, "unknown_format": 1}
    assert refused.summary.datasets[0].set_aside == 0
    assert not refused.summary.usable


def test_the_limit_counts_rows_not_faults_and_blank_lines_and_each_dataset_by_itself(
    check: Check, tmp_path: Path
) -> None:
    for name, rows in (("p", prompts(10)), ("e", [{"input_text": "Describe it."}])):
        lines = [json.dumps(row) for row in [{"input_text": "\0\ud800"}, *rows]]
        (tmp_path / f"{name}.jsonl").write_text("\n\n".join(lines[:2]) + "\n" + "\n".join(lines[2:]))
    datasets = {"prompt_dataset": str(tmp_path / "p.jsonl"), "eval_dataset": str(tmp_path / "e.jsonl")}
    result = check_datasets(preference_dataset="", instruction="", max_bad_rows=2, **datasets)
    assert [finding.code for finding in result.summary.findings] == ["rows_set_aside"] * 2
    assert [dataset.set_aside for dataset in result.summary.datasets] == [2, 2]
    assert check_datasets(preference_dataset="", instruction="", max_bad_rows=1, **datasets).problems.startswith(
        "eval_dataset and prompt_dataset cannot be used: 6 problems."
    )


def test_bad_rows_and_all_problems_are_written_where_one_asks(check: Check, tmp_path: Path) -> None:
    bad: Rows = [{"input_text": ""}, {"text": "é"}, *({"input_text": number} for number in range(40))]
    paths = {"problems_path": str(tmp_path / "new" / "problems"), "bad_rows_path": str(tmp_path / "new" / "bad")}
    for max_bad_rows in (0, 42):
        check(prompts=[*prompts(5), *bad], max_bad_rows=max_bad_rows, **paths)
        written = [json.loads(line) for line in (tmp_path / "new" / "bad").read_text().splitlines()]
        assert written == bad
        problems = [json.loads(line) for line in (tmp_path / "new" / "problems").read_text().splitlines()]
        assert [problem["line"] for problem in problems] == list(range(6, 48))
        assert [problem["code"] for problem in problems] == ["blank_text", "unknown_format", *["wrong_type"] * 40]


def test_a_line_that_is_too_long_leaves_no_line_among_the_bad_rows(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LINE_BYTES", 200)
    rows: Rows = [{"input_text": ""}, {"input_text": "x" * 300}, {"input_text": 1}]
    result = check(prompts=[*prompts(5), *rows], max_bad_rows=3, bad_rows_path=str(tmp_path / "bad"))
    assert result.summary.datasets[0].set_aside == 3
    assert [json.loads(line) for line in (tmp_path / "bad").read_text().splitlines()] == [rows[0], rows[2]]


@pytest.mark.parametrize("parameter", ["bad_rows_path", "problems_path"])
@pytest.mark.parametrize("given", ["data", "data/bad_rows.jsonl", "data/*.jsonl", "linked.jsonl"])
def test_no_dataset_is_written_over_with_what_is_wrong_with_it(tmp_path: Path, parameter: str, given: str) -> None:
    (tmp_path / "data").mkdir()
    mended = tmp_path / "data" / "bad_rows.jsonl"
    mended.write_text('{"input_text": "a"}\n{"input_text": "b"}\n')
    (tmp_path / "linked.jsonl").symlink_to(mended)
    settings: dict[str, Any] = {"preference_dataset": "", "eval_dataset": "", "instruction": ""}
    settings |= {"prompt_dataset": str(tmp_path / given)}
    with pytest.raises(DataError, match=r"prompt_dataset holds .*\.jsonl, where .* would be written"):
        check_datasets(**settings, **{parameter: str(mended)})
    assert mended.read_text() == '{"input_text": "a"}\n{"input_text": "b"}\n'
    other = tmp_path / "data" / "other.txt"
    assert not check_datasets(**settings, **{parameter: str(other)}).problems


def test_nothing_is_left_when_every_row_is_bad(check: Check) -> None:
    result = check(prompts=[{"input_text": ""}] * 3, max_bad_rows=3)
    assert result.summary.problem_counts == {"empty_dataset": 1}
    assert "prompt_dataset.jsonl: found no good row" in result.problems


def test_what_concerns_a_whole_file_is_never_set_aside(check: Check) -> None:
    result = check(
        prompts=[{"input_text": ""}, *prompts(5)], evaluation=[{"input_text": ""}, *prompts(1)], max_bad_rows=5
    )
    assert result.summary.problem_counts == {"eval_prompt_in_training": 1}
    assert [finding.code for finding in result.summary.findings] == ["rows_set_aside"] * 2


def test_a_file_that_cannot_be_read_to_its_end_is_never_set_aside(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in [{"input_text": ""}, *prompts(2000)])
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-100])
    result = check_datasets(
        prompt_dataset=str(tmp_path / "p.jsonl.gz"),
        preference_dataset="",
        eval_dataset="",
        instruction="",
        max_bad_rows=2000,
    )
    assert result.summary.problem_counts == {"unreadable_file": 1}
    assert result.summary.datasets[0].set_aside == 1
    assert [finding.code for finding in result.summary.findings] == ["rows_set_aside"]


def test_the_limit_is_not_negative(check: Check) -> None:
    with pytest.raises(ParameterError, match="max_bad_rows"):
        check(prompts=prompts(5), max_bad_rows=-1)


# Rows that say the same or the opposite.


def test_pairs_preferred_both_ways_are_found(check: Check) -> None:
    rows = preferences(1000)
    row = rows[4]
    turned = {**row, "candidate_0": row["candidate_1"], "candidate_1": row["candidate_0"]}
    finding = only(check(preferences=[*rows, turned]))
    assert finding.code == "contradicting_preferences"
    assert finding.message.startswith("1 pairs of answers in preference_dataset are preferred one way")
    assert places(finding) == ["preference_dataset.jsonl:5"]
    assert finding.examples[0].text.endswith("preference_dataset.jsonl:1001")
    finding = only(check(preferences=[*rows, {**row, "choice": 1 - row["choice"]}]))
    assert finding.code == "contradicting_preferences"


def test_an_example_of_a_contradiction_names_two_rows_that_do_contradict_each_other(check: Check) -> None:
    rows = preferences(1000)
    rows[10:10] = [rows[4]] * 6
    rows.append({**rows[4], "choice": 1})
    by_code = found(check(preferences=rows))
    assert list(by_code) == ["contradicting_preferences", "repeated_preferences"]
    [example] = by_code["contradicting_preferences"].examples
    assert Path(example.location).name == "preference_dataset.jsonl:5"
    assert example.text.startswith("prefers otherwise than ")
    assert [Path(place).name for place in example.text.split()[3:]] == ["preference_dataset.jsonl:1007"]


def test_other_answers_or_another_prompt_do_not_contradict(check: Check) -> None:
    rows = preferences(1000)
    row = {**rows[4], "choice": 1}
    others = [{**row, "candidate_0": "A calm sea, number 1004."}, {**row, "input_text": "Describe place 1004."}]
    assert found(check(preferences=[*rows, *others])) == {}


def test_preferences_that_stand_twice_are_found(check: Check) -> None:
    rows = preferences(1000)
    row = rows[4]
    # The same in other words: the candidates and their choice are turned round, and the order of the fields.
    turned = {"choice": 1, "candidate_1": row["candidate_0"], "candidate_0": row["candidate_1"]}
    finding = only(check(preferences=[*rows, {**turned, "input_text": row["input_text"]}, row]))
    assert finding.code == "repeated_preferences"
    assert finding.message.startswith("2 of 1,002 rows of preference_dataset repeat an earlier row")
    assert places(finding) == ["preference_dataset.jsonl:5"]
    assert finding.examples[0].text.startswith("the same as ")
    assert [name.rpartition(":")[2] for name in finding.examples[0].text.split(", ")] == ["1001", "1002"]


def test_prompts_that_stand_twice_are_found_in_prompts_and_are_usual_in_preferences(check: Check) -> None:
    finding = only(check(prompts=[*prompts(10), prompts(1)[0]]))
    assert (finding.code, finding.parameter) == ("repeated_prompts", "prompt_dataset")
    assert places(finding) == ["prompt_dataset.jsonl:1"]
    two_prompts = [{**row, "input_text": f"Describe {number % 2}."} for number, row in enumerate(preferences(1000))]
    assert found(check(preferences=two_prompts)) == {}


def test_preferences_to_evaluation_prompts_are_found(check: Check) -> None:
    evaluation = [{"input_text": text} for text in ("Describe place 7.", "describe  place 9.", "Describe it.")]
    finding = only(check(preferences=preferences(1000), evaluation=evaluation))
    assert (finding.code, finding.parameter) == ("eval_prompt_in_preferences", "eval_dataset")
    assert finding.message.startswith("2 of 3 prompts of eval_dataset also stand in preference_dataset.")
    assert "reward model" not in finding.message  # nor does DPO learn from them
    assert places(finding) == ["preference_dataset.jsonl:8", "preference_dataset.jsonl:10"]
    assert found(check(preferences=preferences(1000), evaluation=evaluation[2:])) == {}


# Biases.


def chosen_first(count: int, first: int) -> Rows:
    """Return preferences of which so many choose the first candidate."""
    return [{**row, "choice": int(number >= first)} for number, row in enumerate(preferences(count))]


@pytest.mark.parametrize(("first", "biased"), [(600, True), (400, True), (560, True), (540, False), (460, False)])
def test_a_position_chosen_far_too_often_is_found(check: Check, first: int, biased: bool) -> None:
    by_code = found(check(preferences=chosen_first(1000, first)))
    assert list(by_code) == ["position_bias"] * biased
    if biased:
        message = by_code["position_bias"].message
        assert message.startswith(f"choice is 0 in {first / 10:.1f}% [")
        assert "of the 1,000 rows of preference_dataset" in message


def test_a_position_chosen_too_often_by_chance_is_not_found(check: Check) -> None:
    assert list(found(check(preferences=chosen_first(10, 7)))) == ["few_preferences"]
    assert list(found(check(preferences=chosen_first(100, 70)))) == ["position_bias", "few_preferences"]


def test_rows_without_an_order_have_no_position_bias(check: Check) -> None:
    rows = [
        {"prompt": row["input_text"], "chosen": row["candidate_0"], "rejected": row["candidate_1"]}
        for row in preferences(1000)
    ]
    result = check(preferences=rows)
    assert found(result) == {}
    assert result.summary.datasets[0].first_chosen is None


@pytest.mark.parametrize(
    ("longer", "shorter", "word"),
    [(650, 350, "longer"), (350, 650, "shorter"), (590, 410, ""), (410, 590, ""), (65, 35, "longer"), (7, 3, "")],
)
def test_length_that_decides_too_often_is_found(check: Check, longer: int, shorter: int, word: str) -> None:
    rows = preferences(1000)
    for number in range(longer + shorter):
        chosen = f"candidate_{rows[number]['choice'] if number < longer else 1 - rows[number]['choice']}"
        rows[number][chosen] += " And more."
    by_code = found(check(preferences=rows))
    assert list(by_code) == ["length_bias"] * bool(word)
    if word:
        share = max(longer, shorter) / (longer + shorter)
        message = by_code["length_bias"].message
        assert message.startswith(f"The {word} answer is preferred in {share:.1%} [")
        assert f"of {longer + shorter:,} rows of preference_dataset" in message
        low, high = (float(part.rstrip("%")) for part in message.partition("[")[2].partition("]")[0].split(", "))
        assert low < share * 100 < high
        assert "reward model" not in message


# Content.


def test_another_writing_system_is_found_from_a_share_on(check: Check) -> None:
    for count, expected in ((10, ["mixed_scripts"]), (9, [])):
        rows = [*prompts(1000 - count), *({"input_text": f"Опишите комнату {number}."} for number in range(count))]
        by_code = found(check(prompts=rows))
        assert list(by_code) == expected
        if expected:
            assert "Besides Latin, rows of prompt_dataset are written in Cyrillic 1.0%" in by_code[expected[0]].message
            assert len(by_code[expected[0]].examples) == 5
            assert all("Опишите" in example.text for example in by_code[expected[0]].examples)


def test_scripts_that_one_language_mixes_and_accents_are_no_other_script(check: Check) -> None:
    japanese = [
        {"input_text": text}
        for text in ("海を描写してください。", "東京都庁舎", "カタカナノブンショウ", "海のひらがな")
    ]
    assert found(check(prompts=japanese)) == {}
    assert (
        found(
            check(prompts=[*prompts(10), {"input_text": "Où est l’été naïf, à côté ?"}, {"input_text": "12 + 7 = ?"}])
        )
        == {}
    )


def test_few_preferences_are_found(check: Check) -> None:
    assert found(check(preferences=preferences(1000))) == {}
    finding = only(check(preferences=preferences(999)))
    assert (finding.code, finding.parameter) == ("few_preferences", "preference_dataset")
    assert finding.message.startswith("preference_dataset has 999 rows.")
    assert "reward model" not in finding.message
    assert found(check(prompts=prompts(5))) == {}
    evaluation = check(prompts=prompts(5), evaluation=preferences(4))
    assert found(evaluation) == {}


def test_control_characters_are_found(check: Check) -> None:
    rows = [*prompts(3), {"input_text": "\x1b[31mred"}, {"input_text": "\ttab\r\n"}, {"input_text": "a\x7f\x07"}]
    finding = only(check(prompts=rows))
    assert (finding.code, finding.parameter) == ("control_characters", "prompt_dataset")
    assert finding.message.startswith("2 rows of prompt_dataset")
    assert places(finding) == ["prompt_dataset.jsonl:4", "prompt_dataset.jsonl:6"]
    many = check(prompts=[{"input_text": f"\x1b{number}"} for number in range(300)])
    assert only(many).message.startswith("300 rows of prompt_dataset")
    assert len(only(many).examples) == 5
    assert found(check(prompts=[{"input_text": "\ttab\r\n"}, {"input_text": "é\u2028😀\\u0007"}])) == {}


MARKS = ("<|im_start|>", "<|eot_id|>", "<|end of text|>", "<start_of_turn>", "<end_of_turn>")
OLDER_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>")


@pytest.mark.parametrize("mark", [*MARKS, *OLDER_MARKS])
def test_marks_of_chat_templates_are_found_in_prompts_and_answers(check: Check, mark: str) -> None:
    finding = only(check(prompts=[*prompts(3), {"input_text": f"a{mark}b"}]))
    assert (finding.code, places(finding)) == ("chat_markers", ["prompt_dataset.jsonl:4"])
    assert finding.examples[0].text == mark
    rows = preferences(1000)
    rows[7]["candidate_0"] = f"{mark} {rows[7]['candidate_0'][len(mark) + 1 :]}"
    finding = only(check(preferences=rows))
    assert (finding.code, places(finding)) == ("chat_markers", ["preference_dataset.jsonl:8"])


@pytest.mark.parametrize("text", ["<b>bold</b>", "<strong>", "a <| b |> c", "[INSTALL]", "x <s", "<| |", "|im_start|"])
def test_other_brackets_are_no_marks(check: Check, text: str) -> None:
    assert found(check(prompts=[*prompts(3), {"input_text": text}])) == {}


def test_marks_that_a_template_writes_in_plain_characters_are_not_said_to_begin_no_turn(check: Check) -> None:
    rows = [*prompts(3), {"input_text": "a [/INST] b"}, {"input_text": "a <|eot_id|> b"}]
    by_code = found(check(prompts=rows, training=training(make_case("llama2").tokenizer)))
    assert places(by_code["turns_written"]) == ["prompt_dataset.jsonl:4"]
    assert places(by_code["chat_markers"]) == ["prompt_dataset.jsonl:5"]


# What training will make of the rows.


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Iterator[Any]:
    """Return the tiny model's tokenizer."""
    return load_tokenizer(str(tiny_model))


def training(tokenizer: Any = None, *, prompt: int = 200, target: int = 20, **settings: float) -> Training:
    def load() -> TextFormat | None:
        if tokenizer is None:
            return None
        return TextFormat(tokenizer, prompt_sequence_length=prompt, target_sequence_length=target)

    steps = {"reward_model_train_steps": 0, "reinforcement_learning_train_steps": 0}
    return Training(load_text_format=load, **{"batch_size": 10, **steps, **settings})


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        # Of 1,000 rows 100 are held out, and a tenth of the others validates.
        ({"reward_model_train_steps": 162}, 2.0),
        ({"reward_model_train_steps": 1000}, 12.35),
        ({"reward_model_train_steps": 1000, "held_out_reward_model_share": 0.25}, 16.45),
        ({"reward_model_train_steps": 1000, "reward_model_max_epochs": 2.0}, 2.0),
        ({"reward_model_train_steps": 1000, "reward_model_max_epochs": 5.0}, 5.0),
        ({"reward_model_train_steps": 0}, None),
    ],
)
def test_too_many_epochs_of_preferences_are_found(
    check: Check, settings: dict[str, float], epochs: float | None
) -> None:
    result = check(preferences=preferences(1000), training=training(**settings))
    assert result.summary.datasets[0].epochs == (epochs and pytest.approx(epochs, abs=0.01))
    by_code = found(result)
    if epochs is None or epochs <= 2:
        assert by_code == {}
        return
    finding = by_code["many_epochs"]
    assert finding.parameter == "preference_dataset"
    assert f"preferences that it learns from up to {epochs:.0f} times; past 2 times it mostly learns" in finding.message
    assert "Set reward_model_max_epochs to 2, or add rows." in finding.message


@pytest.mark.parametrize(("epochs", "told"), [(3.0, False), (4.0, True)])
def test_too_many_epochs_of_preference_tuning_are_found(check: Check, epochs: float, told: bool) -> None:
    result = check(preferences=preferences(1000), training=training(preference_epochs=epochs))
    assert result.summary.datasets[0].epochs == epochs
    messages = [finding.message for finding in result.summary.findings if finding.code == "many_epochs"]
    assert bool(messages) is told
    assert all("epoch_count shows each preference 4 times" in message for message in messages)


def test_too_many_epochs_of_prompts_are_found(check: Check) -> None:
    assert found(check(prompts=prompts(50), training=training(reinforcement_learning_train_steps=100))) == {}
    finding = only(check(prompts=prompts(50), training=training(reinforcement_learning_train_steps=105)))
    assert (finding.code, finding.parameter) == ("many_epochs", "prompt_dataset")
    assert "show each of the 50 rows of prompt_dataset 21 times" in finding.message


@pytest.mark.parametrize(("held_out", "left"), [(200, 61), (0, 68)])
def test_fewer_prompts_than_a_batch_are_found(check: Check, held_out: int, left: int) -> None:
    settings = {"reinforcement_learning_train_steps": 1, "eval_prompts": held_out, "watch_prompts": 64}
    assert found(check(prompts=prompts(90), training=training(batch_size=left, **settings))) == {}
    finding = only(check(prompts=prompts(90), training=training(batch_size=left + 1, **settings)))
    assert (finding.code, finding.parameter) == ("fewer_prompts_than_a_batch", "prompt_dataset")
    assert f"Of the 90 distinct prompts of prompt_dataset {left} are left to learn from" in finding.message


def test_prompts_and_answers_that_will_be_cut_are_found_with_how_much(check: Check, tokenizer: Any) -> None:
    text_format = training(tokenizer, prompt=40, target=12).load_text_format()
    assert text_format is not None
    whole = text_format.without_limits()
    rows = preferences(20)
    rows[3]["input_text"] = "Describe the harbour. " * 12
    rows[8]["candidate_0"] = "The harbour smells of salt. " * 5
    rows[9]["candidate_0"] = "The harbour smells of warm bread and of salt. " * 5
    sizes = [len(whole.prompt_ids([{"role": "user", "content": row["input_text"]}])) for row in rows]
    answers = [len(whole.answer_ids(row[f"candidate_{index}"])) - 1 for row in rows for index in (0, 1)]
    assert sorted(sizes)[-2] <= 40 < max(sizes)
    limit = sorted(answers)[-3]
    result = check(preferences=rows, training=training(tokenizer, prompt=sorted(sizes)[-2], target=limit))
    by_code = found(result)
    assert {"prompts_cut", "answers_cut"} <= set(by_code)
    over = max(sizes) - sorted(sizes)[-2]
    assert by_code["prompts_cut"].message == (
        f"1 of 20 prompts (5.0%) of preference_dataset are longer than prompt_sequence_length {sorted(sizes)[-2]} and lose "
        f"their oldest turns or their beginning: {over} tokens each on average, {over} at most. "
        f"prompt_sequence_length {max(sizes)} would keep every row whole."
    )
    overs = [size - limit for size in answers if size > limit]
    assert by_code["answers_cut"].message == (
        f"2 of 40 answers (5.0%) of preference_dataset are longer than target_sequence_length {limit} and lose their end: "
        f"{sum(overs) / 2:,.0f} tokens each on average, {max(overs)} at most. In 2 of 20 pairs (10%) only one of the two is "
        "cut, so that a part is compared with a whole, where people saw both whole. target_sequence_length "
        f"{sorted(answers)[-2]} would keep 95% of the rows whole."
    )
    lengths = {entry.part: entry for entry in result.summary.datasets[0].lengths}
    assert sorted(lengths["prompt"].values) == sorted(sizes)
    assert sorted(lengths["chosen"].values + lengths["rejected"].values) == sorted(answers)
    assert (lengths["prompt"].cut, lengths["chosen"].cut + lengths["rejected"].cut) == (1, 2)
    # At the limits nothing is cut.
    at_limits = check(preferences=rows, training=training(tokenizer, prompt=max(sizes), target=max(answers)))
    assert not {"prompts_cut", "answers_cut"} & set(found(at_limits))


def test_the_limit_that_keeps_nearly_all_rows_whole_is_named_as_far_as_it_is_allowed(
    check: Check, tokenizer: Any
) -> None:
    rows = prompts(100)
    for row in rows[:30]:
        row["input_text"] *= 2
    text_format = training(tokenizer, prompt=9_000).load_text_format()
    assert text_format is not None
    sizes = sorted(len(text_format.prompt_ids([{"role": "user", "content": row["input_text"]}])) for row in rows)
    result = check(prompts=rows, training=training(tokenizer, prompt=sizes[0] - 1))
    assert f"prompt_sequence_length {sizes[94]} would keep 95% of the rows whole." in only(result).message
    for row in rows[:30]:
        row["input_text"] = "Describe it. " * 4_000
    message = found(check(prompts=rows, training=training(tokenizer, prompt=200)))["prompts_cut"].message
    assert message.endswith("Even 8,192, the highest that is possible, would keep only 70% of the rows whole.")


DIALOGUE = "\n\nHuman: Where is the sea?\n\nAssistant: In the west.\n\nHuman: And the harbour?\n\nAssistant:"


def test_dialogues_that_were_written_into_one_turn_are_found(check: Check) -> None:
    rows = prompts(9)
    texts = [DIALOGUE, "user: Hi\nbot : Hello\nuser: Bye", "Human: Hi", "An assistant: who is it?\nHuman: x\nHuman: y"]
    for row, text in zip(rows, texts, strict=False):
        row["input_text"] = text
    finding = only(check(prompts=rows))
    assert finding.code == "flattened_turns"
    assert finding.message.startswith("2 of 9 rows of prompt_dataset hold a whole dialogue in one turn")
    assert places(finding) == ["prompt_dataset.jsonl:1", "prompt_dataset.jsonl:2"]


def test_answers_that_begin_with_their_prompt_are_found(check: Check) -> None:
    rows = preferences(20)
    for answer in ("candidate_0", "candidate_1"):
        rows[3][answer] = f"{rows[3]['input_text']} {rows[3][answer]}"
    rows[4]["candidate_0"] = f"{rows[4]['input_text']} {rows[4]['candidate_0']}"  # one alone may be meant
    for instruction in ("", "Be kind.\n\nBe brief."):
        finding = found(check(preferences=rows, instruction=instruction))["prompt_in_answers"]
        assert finding.message.startswith("In 1 of 20 rows of preference_dataset both answers begin with the prompt")
        assert places(finding) == ["preference_dataset.jsonl:4"]


def test_answers_that_are_the_same_once_they_are_cut_are_found(check: Check, tokenizer: Any) -> None:
    long = "The harbour smells of salt and warm bread, and gulls call all day. " * 2 + "The harbour."
    ids = len(tokenizer(long)["input_ids"])
    rows = preferences(20)
    rows[3] |= {"candidate_0": long, "candidate_1": f"{long} But one."}
    rows[5] |= {"candidate_0": long, "candidate_1": f"But one. {long}"}
    for target, expected in ((20, 1), (ids, 1), (ids + 10, 0)):
        result = check(preferences=rows, training=training(tokenizer, target=target))
        by_code = found(result)
        assert ("identical_when_cut" in by_code) == bool(expected)
        assert result.summary.datasets[0].same_when_cut == expected
        if expected:
            finding = by_code["identical_when_cut"]
            assert finding.message == (
                "In 1 of 20 rows of preference_dataset both answers are the same once they are cut to "
                "target_sequence_length: they no longer say which is better. Raise it."
            )
            assert places(finding) == ["preference_dataset.jsonl:4"]


def test_lengths_are_in_characters_and_nothing_is_called_cut_without_a_tokenizer(check: Check) -> None:
    rows = preferences(20)
    rows[3]["input_text"] = "é" * 10_000
    for settings in ({}, {"training": training(None)}):
        result = check(preferences=rows, **settings)
        assert list(found(result)) == ["few_preferences"]
        [prompt, chosen, rejected] = result.summary.datasets[0].lengths
        assert max(prompt.values) == 10_000
        assert {prompt.unit, chosen.unit, rejected.unit} == {"characters"}
        assert {prompt.limit, chosen.limit, rejected.limit} == {None}


def test_the_tokenizer_is_not_loaded_for_data_that_cannot_be_used(check: Check) -> None:
    def load() -> TextFormat | None:
        raise AssertionError

    asked = Training(
        load_text_format=load, batch_size=1, reward_model_train_steps=0, reinforcement_learning_train_steps=0
    )
    assert check(prompts=[{}], training=asked).problems


REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role\\nnot supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ message['content'] }}{% endfor %}"
)


def test_conversations_that_the_chat_template_refuses_stop_the_check_with_their_lines(
    check: Check, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(REFUSES)
    turns = [{"author": "user", "content": "Hello."}, {"author": "user", "content": "Describe the sea."}]
    rows: Rows = [*prompts(5), {"messages": turns}, {"messages": turns[:1], "context": "Be kind."}, *prompts(9)[5:]]
    path = tmp_path / "problems"
    settings = {"training": training(tokenizer), "problems_path": str(path)}
    result = check(prompts=rows, preferences=preferences(20), evaluation=[{"messages": turns[::-1]}], **settings)
    assert result.summary.problem_counts == {"refused_conversation": 3}
    assert not result.summary.usable
    assert [problem.line for problem in result.summary.problems] == [6, 7, 1]
    first, second, third = result.summary.problems
    assert "says 'Roles must alternate'" in first.found
    assert "says 'System role\\nnot supported'" in second.found
    assert third.parameter == "eval_dataset"
    assert "prompt_dataset.jsonl:6: found a conversation" in result.problems
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == [6, 7, 1]
    # The rows that are taken still have their lengths, and without such rows nothing is said.
    lengths = {summary.parameter: summary.lengths[0].values for summary in result.summary.datasets}
    assert {name: len(values) for name, values in lengths.items()} == {
        "preference_dataset": 20,
        "prompt_dataset": 9,
        "eval_dataset": 0,
    }
    assert not check(prompts=prompts(9), preferences=preferences(20), **settings).problems
    instructed = check(prompts=[{"messages": turns[:1]}] * 3, instruction="Be kind.", **settings)
    assert instructed.summary.problem_counts == {"refused_conversation": 3}


def test_a_dialogue_that_the_chat_template_refuses_is_one_problem_however_many_answers_it_has(tmp_path: Path) -> None:
    roles = ["system", "user", "assistant", "user", "assistant"]
    row = {"messages": [{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    result = check_datasets(
        dataset_uri=str(tmp_path / "a.jsonl"), instruction="", training=training(make_tokenizer(REFUSES))
    )
    assert result.summary.problem_counts["refused_conversation"] == 1


def test_rows_of_which_the_chat_template_loses_a_turn_stop_the_check_with_their_lines(check: Check) -> None:
    message = {"author": "user", "content": "Hello."}
    rows: Rows = [*prompts(5), {"messages": [message], "context": "Be kind."}, {"messages": [message]}]
    result = check(prompts=rows, training=training(make_case("phi3_old").tokenizer))
    [problem] = result.summary.problems
    assert (problem.code, problem.line) == ("refused_conversation", 6)
    assert "the model's chat template leaves out the system turn (from context," in problem.found
    assert "Write its text into the first message of the user instead" in problem.accepted


# All together.


def test_every_code_of_a_finding_has_a_test_here() -> None:
    codes = set(re.findall(r'code="(\w+)"', Path(findings.__file__).read_text()))
    codes |= {f"{part}s_cut" for part in ("prompt", "answer")} | {
        f"repeated_{kind}s" for kind in ("prompt", "preference", "demonstration")
    }
    pages = (f"test_{name}.py" for name in ("findings", "demonstrations", "feedback"))
    tested = "".join(Path(__file__).with_name(page).read_text() for page in pages)
    assert len(codes) >= 16
    assert {code for code in codes if f'"{code}"' not in tested} == set()
