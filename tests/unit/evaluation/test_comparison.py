import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from rlhf_tuning.evaluation import comparison
from rlhf_tuning.evaluation.comparison import (
    AnswerPair,
    JudgeRecord,
    ScoredAnswer,
    Summary,
    number,
    pair_outcome,
    percent,
    verdict,
)
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.statistics import MeanEstimate, win_rate


def distinct(pairs: Sequence[AnswerPair]) -> list[AnswerPair]:
    """Return the pairs as answers to a prompt each."""
    return [
        replace(made, prompt=[{"role": "user", "content": f"{made.prompt[0]['content']} {number}"}])
        for number, made in enumerate(pairs)
    ]


def summarize(pairs: Sequence[AnswerPair], **settings: Any) -> Summary:
    return comparison.summarize(distinct(pairs), **settings)


def summary_text(pairs: Sequence[AnswerPair], **settings: Any) -> str:
    return comparison.summary_text(distinct(pairs), **settings)


def pair(
    base: float | None,
    tuned: float | None,
    *,
    texts: tuple[str, str] = ("Base.", "Tuned."),
    true: tuple[float | None, float | None] = (None, None),
    tokens: tuple[int, int] = (10, 10),
    ended: tuple[bool, bool] = (True, True),
    kl: float | None = None,
    prompt: str = "Ask",
) -> AnswerPair:
    answers = [
        ScoredAnswer(text=text, tokens=size, ended=end, reward=reward, true_score=score)
        for text, size, end, reward, score in zip(texts, tokens, ended, (base, tuned), true, strict=True)
    ]
    return AnswerPair(prompt=[{"role": "user", "content": prompt}], base=answers[0], tuned=replace(answers[1], kl=kl))


def row(summary: Summary, name: str) -> tuple[MeanEstimate | None, MeanEstimate | None, MeanEstimate | None]:
    (found,) = [row for row in summary.rows if row.name == name]
    return found.base, found.tuned, found.difference


@pytest.mark.parametrize(
    ("example", "outcome"),
    [
        (pair(0, 1), "win"),
        (pair(1, 0), "loss"),
        (pair(1, 1), "tie"),
        (pair(1, 1 + 1e-12), "tie"),
        (pair(0.5, 0.501, texts=("Same.", "Same.")), "tie"),
        (pair(None, 1), None),
        (pair(1, None), None),
        (replace(pair(0, 1), base=None), None),
    ],
)
def test_the_higher_reward_wins(example: AnswerPair, outcome: str | None) -> None:
    assert pair_outcome(example, "reward") == outcome


def test_win_rates_count_what_was_scored() -> None:
    pairs = [pair(0, 1, true=(1, 0)), pair(0, 1, true=(1, 1)), pair(1, 1, true=(None, 2)), pair(None, 3)]
    summary = summarize(pairs, scorer_name="house style")
    assert summary.reward
    assert summary.reward.rate == win_rate(2, 1, 0)
    assert summary.true_score
    assert summary.true_score.rate == win_rate(0, 1, 1)
    assert summary.true_score.measure == "house style"
    assert (summary.n, summary.compared) == (4, 4)


def test_differences_are_paired_and_leave_out_what_was_not_scored() -> None:
    base, tuned, difference = row(summarize([pair(0, 1), pair(10, 12), pair(20, 23), pair(None, 99)]), "reward")
    assert base
    assert tuned
    assert difference
    assert (base.mean, base.n) == (10, 3)
    assert (tuned.mean, tuned.n) == (pytest.approx(33.75), 4)
    assert (difference.mean, difference.n) == (2, 3)
    assert difference.low > -1


def test_kl_per_token_is_the_mean_over_answers() -> None:
    summary = summarize([pair(0, 1, kl=2.0, tokens=(5, 4)), pair(0, 1, kl=0.0), pair(0, 1, kl=3.0, tokens=(5, 0))])
    per_token, per_answer = row(summary, "kl_per_token")[1], row(summary, "kl_per_answer")[1]
    assert per_token
    assert per_answer
    assert (per_token.mean, per_token.n) == (0.25, 2)
    assert (per_answer.mean, per_answer.n) == (pytest.approx(5 / 3), 3)


def test_shares_of_ended_and_empty_answers() -> None:
    pairs = [
        pair(0, 1, ended=(False, True)),
        pair(0, 1, ended=(False, True), texts=("a", " \n")),
        pair(0, 1, ended=(True, False)),
        pair(0, 1, ended=(False, True)),
    ]
    base, tuned, difference = row(summarize(pairs), "ended")
    assert base
    assert tuned
    assert difference
    assert (base.mean, tuned.mean, difference.mean) == (0.25, 0.75, 0.5)
    assert difference.low < 0.5 < difference.high <= 1
    empty = row(summarize(pairs), "empty")[1]
    assert empty
    assert empty.mean == 0.25


def test_rows_without_values_are_left_out() -> None:
    names = [row.name for row in summarize([pair(None, None)]).rows]
    assert names == ["tokens", "ended", "empty", "repetitive", "refused"]


def test_a_win_beyond_chance_is_better() -> None:
    headline, sentences = verdict(summarize([pair(0, 1)] * 80 + [pair(1, 0)] * 20))
    assert headline == "The tuned model is better than the base model, by the reward that it was trained to raise."
    unchecked = "No human choices were there to check it against."
    assert sentences[0] == f"By reward it wins 80% [71%, 87%] of 100 held-out prompts. {unchecked}"
    assert "no independent judge" in sentences[1]


def test_an_interval_with_one_half_shows_no_difference() -> None:
    headline, sentences = verdict(summarize([pair(0, 1)] * 55 + [pair(1, 0)] * 45))
    assert headline == "No difference shown beyond chance, by the reward that it was trained to raise."
    assert "no difference is shown beyond chance" in sentences[0]


def test_a_loss_beyond_chance_is_worse() -> None:
    headline, sentences = verdict(summarize([pair(0, 1)] * 20 + [pair(1, 0)] * 80))
    assert headline.startswith("The tuned model is worse than the base model")
    assert "it loses more often than it wins" in sentences[0]


def test_the_true_score_decides_and_a_reward_without_it_is_named() -> None:
    headline, sentences = verdict(summarize([pair(0, 1, true=(1, 0))] * 50, scorer_name="house style"))
    assert headline == "The tuned model is worse than the base model."
    assert sentences[0].startswith("By house style (true score) it wins 0% [0%, 7%] of 50")
    assert sentences[1].startswith("By reward it wins 100% [93%, 100%] of 50 held-out prompts. ")
    assert "Reward rose but house style is not shown to have" in sentences[2]


def test_warns_of_answers_that_were_cut_or_empty() -> None:
    _, sentences = verdict(summarize([pair(0, 1, ended=(True, False), texts=("a", ""))] * 4))
    assert "Only 0% of its answers ended by themselves" in sentences[2]
    assert sentences[3] == "100% of its answers are empty."


def test_no_answers_give_no_verdict() -> None:
    assert verdict(summarize([]))[0] == "No answers were compared."
    assert verdict(summarize([replace(pair(0, 1), base=None)]))[1] == ["One model answered 1 prompt."]
    assert verdict(summarize([pair(None, None)]))[0] == "No verdict."


def judged(example: AnswerPair, *orders: float) -> AnswerPair:
    return replace(example, verdicts={"language_model": Verdict(orders=(orders[0], orders[1]))})


def known(share: float, low: float, high: float) -> list[JudgeRecord]:
    return [
        JudgeRecord(name="language_model", label="judge gpt", agreement=Agreement(share, low, high, 200)),
        JudgeRecord(name="reward_model", label="reward", agreement=Agreement(0.8, 0.7, 0.9, 500)),
    ]


def test_a_language_model_is_trusted_more_than_reward_and_less_than_the_true_score() -> None:
    lost = [judged(pair(0, 1), -1, -1)] * 50
    summary = summarize(lost, judges=known(0.7, 0.6, 0.8))
    assert [wins.measure for wins in summary.measured] == ["judge gpt", "reward"]
    assert summary.outcome == "worse"
    headline, sentences = verdict(summary)
    assert headline == "The tuned model is worse than the base model."
    assert sentences[0].endswith("It agrees with 70% [60%, 80%] of 200 human choices.")
    assert sentences[1].endswith("It agrees with 80% [70%, 90%] of 500 human choices.")
    assert "Reward rose but not by judge gpt" in sentences[2]
    true = [judged(pair(0, 1, true=(0, 1)), -1, -1)] * 50
    assert summarize(true, judges=known(0.7, 0.6, 0.8)).outcome == "better"


@pytest.mark.parametrize(
    ("agreement", "words"),
    [((0.52, 0.45, 0.59), "no better than chance, so do not rely on it"), ((0.3, 0.2, 0.4), "against people")],
)
def test_a_judge_that_does_not_agree_with_people_is_named(agreement: tuple[float, float, float], words: str) -> None:
    _, sentences = verdict(summarize([judged(pair(0, 1), 1, 1)] * 50, judges=known(*agreement)))
    assert words in sentences[0]


def test_pairs_without_a_verdict_are_counted_and_the_notes_are_told() -> None:
    pairs = [judged(pair(0, 1), 1, 1)] * 3 + [pair(0, 1)] * 2
    record = replace(known(0.7, 0.6, 0.8)[0], notes=("2 of 5 pairs have no verdict: the cap",))
    summary = summarize(pairs, judges=[record])
    assert (summary.judges[0].rate.n, summary.judges[0].unjudged) == (3, 2)
    _, sentences = verdict(summary)
    assert "of 3 held-out prompts (2 more have no verdict)" in sentences[0]
    assert "Judge gpt: 2 of 5 pairs have no verdict: the cap." in sentences


def test_the_table_has_a_judge_s_agreement_and_the_effect_of_the_order_beside_its_win_rate() -> None:
    pairs = [judged(pair(0, 1), 1, 1)] * 6 + [judged(pair(0, 1), -1, 1)] * 2
    lines = [
        " ".join(line.split()) for line in summary_text(pairs, judges=known(0.7, 0.6, 0.8), width=110).splitlines()
    ]
    at = lines.index("Win rate by judge gpt 88% [59%, 96%] 6 won, 2 tied, 0 lost")
    assert lines[at + 1] == "at equal length 88% [59%, 96%] if all answers were as long"
    assert lines[at + 2] == "agrees with people 70% [60%, 80%] of 200 choices"
    assert lines[at + 3].startswith("favours what is shown first 62% [42%, 80%] of 8 pairs; its verdict turned")
    assert "tuned: reward 1.00, preferred by judge gpt" in " ".join(lines)
    narrow = summary_text(pairs, judges=known(0.7, 0.6, 0.8), samples=1, width=60)
    assert max(map(len, narrow.rpartition("1. Ask")[2].splitlines())) <= 60


def test_metrics_are_finite_numbers() -> None:
    metrics = summarize([pair(0, 1, true=(0, 1), kl=1.0)]).metrics()
    assert metrics["reward_win_rate"] == metrics["true_win_rate"] == 1.0
    assert metrics["tuned_reward"] == 1.0
    assert metrics["eval_prompts"] == 1
    # One value has no interval, and infinity is not JSON.
    assert "tuned_reward_low" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_table_holds_what_a_person_asks_first() -> None:
    pairs = [
        pair(0.1 * n, 1 + 0.2 * n, true=(0, 1), kl=0.4 * n, tokens=(50, 30), ended=(False, True)) for n in range(20)
    ]
    text = summary_text(pairs, scorer_name="house style", width=100)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "The tuned model is better than the base model."
    assert "Win rate by house style 100% [84%, 100%] 20 won, 0 tied, 0 lost" in lines
    assert "Mean reward 0.95 2.90 +1.95 [+1.67, +2.23]" in lines
    assert "KL from base, nats per answer – 3.80 [2.69, 4.91]" in lines
    assert "Answer length, tokens 50.0 30.0 -20.0 [-20.0, -20.0]" in lines
    assert "Answers that ended 0% 100% +100 points [+68, +100]" in lines
    assert text.count("Ask") == 3
    assert max(map(len, text.splitlines())) <= 100


def test_answers_stand_side_by_side() -> None:
    text = summary_text([pair(0, 1, texts=("left " * 20, "right " * 20))], samples=1, width=80)
    assert any("left" in line and "│" in line and "right" in line for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 80


def test_wide_characters_keep_the_columns() -> None:
    text = summary_text([pair(0, 1, texts=("你好" * 30, "right"))], samples=1, width=80)
    assert {cell_len(line.partition("│")[0]) for line in text.splitlines() if "│" in line} == {3 + 37 + 1}
    assert text.count("你好" * 9) == 3


def test_answers_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\x07\u202egpj\x9b31m\r\nnext"
    text = summary_text([pair(0, 1, texts=(evil, evil + "!"), prompt=evil)], samples=1)
    assert not set("\x1b\x07\u202e\x9b\r") & set(text)
    assert "next" in text


def test_long_answers_are_cut_in_the_terminal() -> None:
    text = summary_text([pair(0, 1, texts=("word " * 3000, "x" * 9000))], samples=1, width=80)
    assert len(text.splitlines()) < 40
    assert "…" in text


def test_a_summary_of_nothing_is_one_sentence() -> None:
    assert "No answers were compared." in summary_text([])


def test_one_model_alone_has_one_column() -> None:
    text = summary_text([replace(pair(None, None), base=None)])
    assert "base" not in text
    assert "Tuned." in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (0.0626, "0.063"),
        (0.42, "0.42"),
        (-1.234, "-1.23"),
        (53.21, "53.2"),
        (12345, "12345"),
        (1e-5, "1e-05"),
    ],
)
def test_numbers_have_about_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_number_takes_the_decimals_of_its_neighbour() -> None:
    assert number(-19.65, like=25.1) == "-19.6"
    assert number(0.5, sign=True, like=3) == "+0.50"


@pytest.mark.parametrize(("share", "shown"), [(0, "0%"), (0.004, "0.4%"), (0.5, "50%"), (0.996, "99.6%"), (1, "100%")])
def test_shares_claim_all_or_nothing_only_when_it_is_so(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_answers_to_one_prompt_do_not_count_as_if_each_were_alone() -> None:
    won, lost = pair(0, 1, prompt="A"), pair(1, 0, prompt="B")
    four = [*[won] * 10, *[lost] * 4, *[pair(0, 1, prompt="C")] * 8, *[pair(0, 1, prompt="D")] * 8]
    together = comparison.summarize(four).reward
    alone = summarize(four).reward
    assert together is not None
    assert alone is not None
    assert together.rate.rate == alone.rate.rate
    assert together.rate.low < alone.rate.low - 0.1
    assert 0 <= together.rate.low < together.rate.high <= 1


def test_a_win_by_length_alone_is_told() -> None:
    # What is longer wins, whoever wrote it, and the tuned model writes longer.
    pairs = [pair(0, 1, tokens=(10, 30))] * 30 + [pair(1, 0, tokens=(20, 10))] * 10
    pairs += [pair(0, 1, tokens=(10, 11)), pair(1, 0, tokens=(11, 10))] * 5
    summary = summarize(pairs)
    wins = summary.reward
    assert wins is not None
    assert wins.outcome == "better"
    assert wins.at_equal_length is not None
    assert wins.at_equal_length.low < 0.5
    assert "so length may be what wins" in verdict(summary)[1][0]
    assert "at equal length" in summary_text(pairs)
    assert "reward_win_rate_at_equal_length" in summary.metrics()


def test_the_opponent_is_named() -> None:
    pairs = [pair(0, 1)] * 20
    text = summary_text(pairs, opponent="palms@3")
    assert text.startswith("The tuned model is better than palms@3, by the reward")
    assert "palms@3  tuned  difference" in text
    assert "palms@3: reward" in text


def test_held_out_answers_tell_which_model_expects_them_and_nothing_of_the_models_own():
    made = [pair(None, None, texts=("Same.", "Same."), tokens=(10, 90)) for _ in range(20)]
    made = [
        replace(one, base=replace(one.base, demonstrated=-2.0), tuned=replace(one.tuned, demonstrated=-1.5))
        for one in made
        if one.base
    ]
    summary = summarize(made)
    (wins,) = summary.measured
    # The same text twice is no tie here, and no length can be what wins.
    assert (wins.measure, wins.rate.wins, wins.at_equal_length) == ("held-out answers", 20, None)
    assert "how often it finds the demonstrated answer likelier" in " ".join(verdict(summary)[1])
    assert "agrees with people" not in summary_text(made)
    _, _, difference = row(summary, "demonstrated")
    assert difference is not None
    assert difference.mean == pytest.approx(0.5)
    judged = [replace(one, verdicts={"llm": Verdict(scores=(0.0, 1.0))}) for one in made]
    assert [wins.name for wins in summarize(judged).measured] == ["llm", "demonstrated"]
