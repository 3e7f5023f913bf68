"""Is the tuned model better than the base model? Answers to held-out prompts, compared pair by pair.

Each prompt is answered once by either model. Judges compare the answers: the reward model of phase 1; one that was never
optimised against, where there is one; where a `scorer` is named, a program that knows the true quality; where a `judge` is
named, a language model. Each is first scored against held-out human choices; what they say is summed up in `comparison`.
Where a method learnt from demonstrations, either model is also asked how probable it finds answers that were held out; that
says which of them has learnt the task, not whose own answers are better. KL is estimated on the tuned model's own answers:
the sum over an answer's tokens of log policy - log reference, at the temperature they were sampled at.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from rlhf_tuning import registry, step
from rlhf_tuning.data.importer import read_canonical, sample_canonical
from rlhf_tuning.distributed import memory, processes, sharding
from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.comparison import (
    BASE_MODEL,
    SCORE_OF,
    AnswerPair,
    JudgeRecord,
    ScoredAnswer,
    Summary,
    lengths_beside,
    summarize,
    summary_text,
)
from rlhf_tuning.evaluation.degeneration import tastes
from rlhf_tuning.evaluation.gate import (
    Condition,
    Decision,
    GateConfig,
    decide,
    decision_text,
    regression_conditions,
)
from rlhf_tuning.evaluation.judges import Judge, JudgeSettings, check_judge, load_judge
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict, agreement
from rlhf_tuning.evaluation.regression_suite import Regression
from rlhf_tuning.evaluation.reward_model_accuracy import MOST_EVAL_ROWS
from rlhf_tuning.generation.inference import read_predictions
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.start_model import made_from, supervised_settings
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import lanes
from rlhf_tuning.ops.beginning import beginning_of
from rlhf_tuning.ops.log_probabilities import log_probabilities, pack

#: How people read rewards of one's own where they judge.
REWARDS_LABEL = "the rewards"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of the evaluation, named as the pipeline's parameters are.

    `true_rewards` are rewards that judge as a `scorer` does, where none is named. `champion` is the resource name of the
    model that the tuned one is compared with; empty for the base model. Where
    `base_model_reference` is another than `large_model_reference`, the latter is what a supervised phase made of it.
    """

    large_model_reference: str
    base_model_reference: str = ""
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    seed: int = 0
    inference_engine: str = "auto"
    scorer: str = ""
    true_rewards: str = ""
    judge: str = ""
    judge_model: str = ""
    judge_endpoint: str = ""
    judge_key_secret: str = ""
    judge_rubric: str = ""
    judge_max_calls: int = 1000
    judge_max_cost: float = 0.0
    judge_price: float = 0.0
    dtype: str = "auto"
    champion: str = ""
    gate_win_rate_margin: float = GateConfig.gate_win_rate_margin
    gate_reward_model_margin: float = GateConfig.gate_reward_model_margin
    gate_min_prompts: int = GateConfig.gate_min_prompts
    gate_min_judged_share: float = GateConfig.gate_min_judged_share
    gate_max_kl: float = GateConfig.gate_max_kl
    gate_max_length_ratio: float = GateConfig.gate_max_length_ratio
    gate_max_equal_length_loss: float = GateConfig.gate_max_equal_length_loss
    gate_max_judge_loss: float = GateConfig.gate_max_judge_loss
    gate_max_unfinished_rise: float = GateConfig.gate_max_unfinished_rise
    gate_max_empty_rise: float = GateConfig.gate_max_empty_rise
    gate_max_repetitive_rise: float = GateConfig.gate_max_repetitive_rise
    gate_max_refusal_rise: float = GateConfig.gate_max_refusal_rise
    gate_max_regression: float = GateConfig.gate_max_regression
    regression_suite: str = ""
    require_approval: bool = False

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        check_judge(
            judge=self.judge,
            judge_model=self.judge_model,
            judge_endpoint=self.judge_endpoint,
            judge_key_secret=self.judge_key_secret,
            judge_rubric=self.judge_rubric,
            judge_max_calls=self.judge_max_calls,
            judge_max_cost=self.judge_max_cost,
            judge_price=self.judge_price,
        )

    @property
    def opponent(self) -> str:
        """Return how people call the model that the tuned one must beat."""
        return self.champion.removeprefix("models/") or BASE_MODEL

    @property
    def scorer_name(self) -> str:
        """Return how people read what gives the true score."""
        if self.true_rewards and not self.scorer:
            return REWARDS_LABEL
        return self.scorer.replace("_", " ") or "true score"

    @property
    def is_supervised(self) -> bool:
        """Say whether a supervised phase came before."""
        return self.base_model_reference not in ("", self.large_model_reference)

    @property
    def reference(self) -> str:
        """Return which model KL is measured to: base or supervised."""
        return "supervised" if self.is_supervised else "base"

    def summary(self, pairs: Sequence[AnswerPair], judges: Sequence[JudgeRecord]) -> Summary:
        """Return the measurements of answers."""
        return summarize(
            pairs,
            scorer_name=self.scorer_name,
            judges=judges,
            opponent=self.opponent,
            reference=self.reference,
        )


def judges_of(config: EvaluationConfig, *, reward_model_dir: str, held_out_reward_model_dir: str = "") -> list[Judge]:
    """Return the judges that `config` asks for, the most trusted first; nothing heavy is loaded yet.

    Args:
        config: The settings.
        reward_model_dir: What phase 1 saved; empty for no reward model.
        held_out_reward_model_dir: What the training of the held-out reward model saved; empty for none.
    """
    settings = JudgeSettings(
        reward_model_dir=reward_model_dir,
        held_out_reward_model_dir=held_out_reward_model_dir,
        scorer=config.scorer,
        judge_model=config.judge_model,
        judge_endpoint=config.judge_endpoint,
        judge_key_secret=config.judge_key_secret,
        judge_rubric=config.judge_rubric,
        judge_max_calls=config.judge_max_calls,
        judge_max_cost=config.judge_max_cost,
        judge_price=config.judge_price,
        dtype=config.dtype,
    )
    named = (
        "scorer" if config.scorer else "",
        config.judge,
        "held_out_reward_model" if held_out_reward_model_dir else "",
        "reward_model" if reward_model_dir else "",
    )
    return [load_judge(name, settings) for name in named if name]


def evaluate_policy(
    config: EvaluationConfig,
    *,
    judges: Sequence[Judge],
    tuned_model_dir: str,
    base_predictions_path: str,
    tuned_predictions_path: str,
    eval_preferences_path: str = "",
    eval_demonstrations_path: str = "",
    champion_reference: str = "",
) -> tuple[list[AnswerPair], list[JudgeRecord]]:
    """Judge the answers of both models, and measure how far the tuned one has moved.

    One model is in memory at a time.

    Args:
        config: The base model and how the answers were sampled.
        judges: Who compares the answers.
        tuned_model_dir: The tuned model, merged; empty when KL is not to be measured.
        base_predictions_path: The base model's answers.
        tuned_predictions_path: The tuned model's answers to the same prompts, in the same order.
        eval_preferences_path: Canonical preference rows that nothing was trained on, to score the judges by.
        eval_demonstrations_path: Canonical demonstrations that nothing was trained on; empty where there are none.
        champion_reference: The model that answered as `base`, by which these are measured as well.

    Returns:
        Every pair of answers with what was measured on it, and what is known of each judge.

    Raises:
        DataError: If the two files answer different prompts.
        ModelError: If a model cannot be loaded.
    """
    base_rows = list(read_predictions(base_predictions_path))
    tuned_rows = list(read_predictions(tuned_predictions_path))
    if [row["prompt"] for row in base_rows] != [row["prompt"] for row in tuned_rows]:
        raise DataError(
            f"{base_predictions_path} and {tuned_predictions_path} answer different prompts, so they cannot be compared."
        )
    conversations = [row["prompt"] for row in base_rows]
    answers = [
        Comparison(base["prompt"], base["prediction"], tuned["prediction"])
        for base, tuned in zip(base_rows, tuned_rows, strict=True)
    ]
    said: dict[str, list[Verdict | None]] = {}
    records = []
    for judge in judges:
        choices = human_choices(eval_preferences_path, judge.most_human_choices)
        # Together, so that what the judge loads is loaded once. The choices come first: without them a cap would leave a
        # win rate that nobody can judge.
        verdicts = judge.compare(choices + answers)
        base_model.release_memory()
        said[judge.name] = verdicts[len(choices) :]
        records.append(
            JudgeRecord(
                name=judge.name,
                label=judge.label,
                agreement=agreement(choices, verdicts[: len(choices)]),
                notes=tuple(judge.notes),
            )
        )
    kl: list[float | None] = [None] * len(tuned_rows)
    if tuned_model_dir:
        kl = processes.run(
            kl_per_answer,
            config,
            trains=False,
            tuned_model_dir=tuned_model_dir,
            predictions_path=tuned_predictions_path,
        )
    expected: list[dict[str, float]] = [{}, {}]
    if eval_demonstrations_path:
        expected = [
            processes.run(
                demonstrated_log_probabilities,
                config,
                trains=False,
                model_reference=reference,
                demonstrations_path=eval_demonstrations_path,
                predictions_path=tuned_predictions_path,
                label=f"demonstrated answers under {name}",
            )
            for name, reference in ((config.opponent, champion_reference), ("the tuned model", tuned_model_dir))
        ]
    pairs = []
    for index, conversation in enumerate(conversations):
        verdicts_here = {name: verdicts[index] for name, verdicts in said.items()}
        scores = {field: _scores(verdicts_here, judge) for judge, field in SCORE_OF.items()}
        asked = json.dumps(conversation)
        scores["demonstrated"] = (expected[0].get(asked), expected[1].get(asked))
        pairs.append(
            AnswerPair(
                prompt=conversation,
                base=_answer(base_rows[index], {field: both[0] for field, both in scores.items()}),
                tuned=_answer(tuned_rows[index], {field: both[1] for field, both in scores.items()}, kl=kl[index]),
                verdicts={name: verdict for name, verdict in verdicts_here.items() if verdict and not verdict.scores},
            )
        )
    return pairs, records


def human_choices(path: str, most: int) -> list[Comparison]:
    """Return held-out human choices as comparisons in which people preferred the second answer."""
    if not path or not most:
        return []
    # Always the same ones, so that a repeated run finds its judge's replies again.
    rows = sample_canonical(path, most=most, seed=0, having="chosen")
    return [Comparison(row["prompt"], row["rejected"], row["chosen"]) for row in rows]


def _scores(verdicts: dict[str, Verdict | None], judge: str) -> tuple[float | None, float | None]:
    verdict = verdicts.get(judge)
    return verdict.scores if verdict and verdict.scores else (None, None)


def _answer(row: dict[str, Any], scores: dict[str, float | None], kl: float | None = None) -> ScoredAnswer:
    return ScoredAnswer(text=row["prediction"], tokens=row["tokens"], ended=row["ended"], kl=kl, **scores)


def decide_promotion(
    config: EvaluationConfig,
    pairs: Sequence[AnswerPair],
    path: str,
    *,
    judges: Sequence[JudgeRecord] = (),
    also: Sequence[Condition] = (),
    eval_preferences_path: str = "",
    adapter_dir: str = "",
    earlier_tries: int = 0,
    start_answers: Sequence[Mapping[str, Any]] = (),
    regression: Regression | None = None,
) -> Decision:
    """Ask the gate whether the tuned model takes the champion's place; write the decision as JSON, and return it.

    Args:
        config: The settings.
        pairs: The answers, judged.
        path: Where to write the decision.
        judges: What is known of the judges.
        also: Conditions that were looked at elsewhere.
        eval_preferences_path: Human choices that nothing was trained on: what they prefer is no harm.
        adapter_dir: What the training left, to tell its method and who chose the checkpoint; empty where that is not known.
        earlier_tries: How many challengers this champion has already been held against, and stayed.
        start_answers: Predictions of the supervised model for the same prompts, where the training started from one: it is
            its lengths that are to be kept.
        regression: What a regression suite says; None without one.
    """
    summary = config.summary(pairs, judges)
    if start_answers:
        started = [(row["tokens"], row["ended"]) for row in start_answers]
        lengths = lengths_beside(f"the {config.reference} model", started, [pair.tuned.tokens for pair in pairs])
        summary = replace(summary, lengths=lengths)
    limits = GateConfig(**{limit.name: getattr(config, limit.name) for limit in fields(GateConfig)})
    decision = decide(
        summary,
        limits,
        champion=config.opponent,
        also=[*(regression_conditions(regression, limits) if regression else []), *also],
        tastes=tastes(human_choices(eval_preferences_path, MOST_EVAL_ROWS)),
        earlier_tries=earlier_tries,
        chose_checkpoint=_was_chosen(adapter_dir),
        needs_approval=config.require_approval,
        chosen_among=_chosen_among(adapter_dir),
        **({"method": registry.method_of(adapter_dir)} if adapter_dir else {}),
    )
    text = json.dumps(decision.as_json(), ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")
    return decision


def _was_chosen(adapter_dir: str) -> bool:
    """Say whether a held-out reward model chose the checkpoint, as what the training left tells."""
    watch = Path(adapter_dir) / registry.WATCH
    if not adapter_dir or not watch.is_file():
        return False
    looks = json.loads(watch.read_text(encoding="utf-8"))["looks"]
    return any(look["held_out_reward"] for look in looks)


def _chosen_among(adapter_dir: str) -> int:
    """Return among how many checkpoints the prompts of the evaluation chose, as what the training left tells."""
    curve = Path(adapter_dir) / registry.HELD_OUT_LOSS
    if not adapter_dir or not curve.is_file():
        return 1
    return int(json.loads(curve.read_text(encoding="utf-8"))["chosen_among"])


def write_evaluation(
    config: EvaluationConfig,
    pairs: Sequence[AnswerPair],
    path: str,
    *,
    judges: Sequence[JudgeRecord] = (),
    regression: Regression | None = None,
    teacher: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write the headline numbers, the judges, and every answer with its scores as JSON, and return the numbers.

    Args:
        config: The settings.
        pairs: The answers, judged.
        path: Where to write it.
        judges: What is known of the judges.
        regression: What a regression suite says; None without one.
        teacher: What a manifest is to say of a student's teacher; None where there was none.
    """
    metrics = config.summary(pairs, judges).metrics() | (regression.metrics() if regression else {})
    known = [asdict(judge) | {"agreement": judge.agreement._asdict() if judge.agreement else None} for judge in judges]
    content: dict[str, Any] = {"metrics": metrics, "judges": known, "answers": [asdict(pair) for pair in pairs]}
    if config.is_supervised:
        content["supervised"] = supervised_settings(config.large_model_reference) | made_from(
            config.large_model_reference
        )
    if teacher:
        content["teacher"] = dict(teacher)
    text = json.dumps(content, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")
    return metrics


def write_summary(
    config: EvaluationConfig,
    pairs: Sequence[AnswerPair],
    path: str,
    *,
    decision: Decision,
    judges: Sequence[JudgeRecord] = (),
    gains: str = "",
    sizes: str = "",
    budget: Sequence[str] = (),
) -> None:
    """Write what a person reads at the end of a run: the verdict, a table, three pairs of answers, the gate's decision.

    Args:
        config: The settings.
        pairs: The answers, judged.
        path: Where to write it.
        decision: The gate's.
        judges: What is known of the judges.
        gains: What each phase brought, in words.
        sizes: How large the models are and how fast, in words.
        budget: What the run's budget ended, a sentence each.
    """
    text = summary_text(
        pairs,
        scorer_name=config.scorer_name,
        width=110,
        judges=judges,
        opponent=config.opponent,
        reference=config.reference,
    )
    parts = (text, gains, sizes, *budget, decision_text(decision))
    Path(path).write_text("\n".join(part for part in parts if part), encoding="utf-8")


def kl_per_answer(
    config: EvaluationConfig, *, tuned_model_dir: str, predictions_path: str, other: str = "", called: str = ""
) -> list[float]:
    """Return how much likelier a tuned model makes each of its answers than another model does, in nats.

    Args:
        config: How the answers were sampled, and the model that the tuned one started from.
        tuned_model_dir: The tuned model.
        predictions_path: Its answers.
        other: The other, which has the same tokens; the one that it started from when empty.
        called: How people call it.
    """
    processes.join()
    text_format = TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    rows = list(read_predictions(predictions_path))
    sums = []
    for number, reference in enumerate((tuned_model_dir, other or config.large_model_reference), start=1):
        label = f"KL to {called or f'the {config.reference} model'}, pass {number} of 2"
        sums.append(_log_probabilities_by(reference, config, text_format, rows, label))
        base_model.release_memory()
    return [policy - base for policy, base in zip(*sums, strict=True)]


def demonstrated_log_probabilities(
    config: EvaluationConfig, *, model_reference: str, demonstrations_path: str, predictions_path: str, label: str
) -> dict[str, float]:
    """Return how probable a model finds a token of the answers that were demonstrated to each prompt, on average, in nats.

    Args:
        config: The base model, whose tokenizer all have, and the sequence lengths.
        model_reference: The model.
        demonstrations_path: Canonical demonstrations.
        predictions_path: Answers to those of the prompts that count.
        label: What to call the work.

    Returns:
        By the prompt, as JSON.
    """
    processes.join()
    text_format = TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    asked = {json.dumps(row["prompt"]) for row in read_predictions(predictions_path)}
    rows = [
        {"prompt": row["prompt"], "token_ids": text_format.learnt_ids(row["answer"])}
        for row in read_canonical(demonstrations_path)
        if json.dumps(row["prompt"]) in asked
    ]
    # As the model was trained on them.
    found = _log_probabilities_by(model_reference, replace(config, temperature=1.0), text_format, rows, label)
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    for row, value in zip(rows, found, strict=True):
        prompt = json.dumps(row["prompt"])
        nats[prompt] += value
        tokens[prompt] += len(row["token_ids"])
    return {prompt: nats[prompt] / tokens[prompt] for prompt in nats}


def _log_probabilities_by(
    reference: str, config: EvaluationConfig, text_format: TextFormat, rows: Sequence[dict[str, Any]], label: str
) -> list[float]:
    model = base_model.load_causal_lm(reference, dtype=base_model.choose_dtype(config.dtype), shard=True).eval()

    def sum_up(rows: Sequence[dict[str, Any]]) -> list[float]:
        progress = step.Progress(label, len(rows), "answer")
        return answer_log_probabilities(
            model,
            [text_format.prompt_ids(row["prompt"]) for row in rows],
            [row["token_ids"] for row in rows],
            temperature=config.temperature,
            on_progress=progress.update,
        )

    return processes.spread(sum_up, rows)


@torch.no_grad()
def answer_log_probabilities(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    batch_size: int = 8,
    share: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Return log p(answer | prompt) in nats for each pair of token sequences, summed over the answer's tokens.

    Args:
        model: A causal language model; with the adapter that is on, if it has one.
        prompts: One for each answer, as tokens.
        answers: As tokens.
        temperature: Divides the logits.
        batch_size: Answers at a time.
        share: Whether answers of a batch with the same prompt, beside each other, share it: see `packing.is_exact`.
        on_progress: Told how many are done.
    """
    model = base_model.causal_lm(model)
    device = next(model.parameters()).device
    batch_size = memory.at_a_time(batch_size)
    order = list(range(len(prompts)))
    if not share:  # else those of a prompt would no longer be beside each other
        order.sort(key=lambda row: -len(prompts[row]) - len(answers[row]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    totals: dict[int, float] = {}

    def sum_up(batch: Sequence[int]) -> list[float]:
        packed = pack(
            [prompts[row][begins:] for row in batch], [answers[row] for row in batch], device=device, share=share
        )
        found = log_probabilities(model, packed, temperature=temperature, begun=begun)[0]
        sums: list[float] = found.sum(dim=1).tolist()
        return sums

    with sharding.in_step(model):
        longest = max((len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)), default=0)
        begun = beginning_of(model.base_model, prompts, longest=longest)
        begins = begun.length if begun else 0
        for batch, sums in zip(batches, lanes.each(model, sum_up, batches), strict=True):
            totals.update(zip(batch, sums, strict=True))
            on_progress(len(totals))
    return [totals[row] for row in range(len(prompts))]
