"""Preferences by a judge (RLAIF): two models answer each prompt, and a judge says which answer is better.

A judge that is shown both answers is asked in both orders, and prefers what it prefers in both: the rest are ties, which are
left out and counted. What was answered and judged before a stop is kept.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlhf_tuning.data.importer import import_preferences, read_canonical
from rlhf_tuning.data.output import scratch_folder, written_together
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.evaluate import human_choices
from rlhf_tuning.evaluation.judges import JudgeSettings, load_judge
from rlhf_tuning.evaluation.judges.verdict import (
    Agreement,
    Comparison,
    OrderEffect,
    Verdict,
    agreement,
    order_effect,
)
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.labelling.answers import fault_of
from rlhf_tuning.labelling.tasks import check_labelling
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.model_reference import content_fingerprint, local_folder
from rlhf_tuning.models.text_format import Turn
from rlhf_tuning.step import counted

_REASONS = {
    "same": "both answers are the same",
    "empty": "an answer is empty",
    "no_text": "an answer holds characters that no dataset may have",
    "tie": "the judge preferred neither, or in each order another",
    "unjudged": "the judge gave no verdict",
}
#: The second model samples by another seed, so that it may be the first one once more.
_OTHER_SEED = 2**31


@dataclass(frozen=True, kw_only=True)
class PreferenceLabelConfig:
    """Settings of the labelling, named as the pipeline's parameters are.

    With `sampling_strategy` greedy both models take their likeliest token each time; otherwise they sample at `temperature`.
    `judge` prefers, or where there is none `scorer`.
    """

    large_model_a_reference: str
    large_model_b_reference: str
    sampling_strategy: str = "temperature_sampling"
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    batch_size: int = 64
    seed: int = 0
    dtype: str = "auto"
    inference_engine: str = "auto"
    scorer: str = ""
    judge: str = ""
    judge_model: str = ""
    judge_endpoint: str = ""
    judge_key_secret: str = ""
    judge_rubric: str = ""
    judge_max_calls: int = 1000
    judge_max_cost: float = 0.0
    judge_price: float = 0.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        check_labelling(
            judge=self.judge,
            scorer=self.scorer,
            sampling_strategy=self.sampling_strategy,
            temperature=self.temperature,
            same=self.large_model_a_reference == self.large_model_b_reference,
        )

    def inference(self, model: str, seed: int) -> InferenceConfig:
        """Return the settings of one model's answers."""
        return InferenceConfig(
            large_model_reference=model,
            prompt_sequence_length=self.prompt_sequence_length,
            target_sequence_length=self.target_sequence_length,
            temperature=0.0 if self.sampling_strategy == "greedy" else self.temperature,
            batch_size=self.batch_size,
            seed=seed,
            dtype=self.dtype,
            inference_engine=self.inference_engine,
        )

    def judge_settings(self) -> JudgeSettings:
        """Return what the judge is made from."""
        names = {field.name for field in fields(JudgeSettings)}
        return JudgeSettings(**{name: value for name, value in asdict(self).items() if name in names})


@dataclass(kw_only=True)
class PreferenceLabels:
    """What became of the prompts.

    Args:
        prompts: How many there are.
        second: Preferences for the second model's answer.
        first: Preferences for the first model's.
        left_out: Prompts without a preference, by the reason's name.
        judge: Who preferred, as people read it.
        human: How often it agrees with people; None where there is nothing to hold it against.
        order: What the order of two answers does to it; None for a judge that scores each by itself.
        notes: What else to know of the judge.
    """

    prompts: int = 0
    first: int = 0
    second: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    judge: str = ""
    human: Agreement | None = None
    order: OrderEffect | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Return how many preferences there are."""
        return self.first + self.second

    def lines(self) -> list[str]:
        """Say it to a person."""
        said = [
            f"{counted(self.rows, 'preference')} by {self.judge} of {counted(self.prompts, 'prompt')}: {self.first:,} for "
            f"model A, {self.second:,} for model B"
        ]
        said += [f"{count:,} left out: {_REASONS[reason]}" for reason, count in sorted(self.left_out.items())]
        if self.human:
            share, low, high, n = self.human
            said.append(f"It agrees with {share:.0%} [{low:.0%}, {high:.0%}] of {counted(n, 'human choice')}")
        if self.order:
            said.append(
                f"It favours the answer that is shown first in {self.order.first.rate:.0%} "
                f"[{self.order.first.low:.0%}, {self.order.first.high:.0%}]; 50% is no effect"
            )
        return said + self.notes

    def metrics(self) -> dict[str, float]:
        """Return the numbers by which labellings are compared."""
        found = {"preferences": self.rows, "preferred_b": self.second / self.rows, "left_out": self.left_out.total()}
        if self.human:
            found |= {f"agreement{end}": value for end, value in zip(("", "_low", "_high"), self.human, strict=False)}
        return found

    def warning(self) -> str:
        """Say in a sentence whose taste the preferences are, for a report in which they stand for people's."""
        held = "; nobody held it against people"
        if self.human:
            share, low, high, n = self.human
            held = f", which agrees with {share:.0%} [{low:.0%}, {high:.0%}] of {n:,} human choices"
        return f"The preferences are labels by {self.judge}{held}. What is said of people here is said of it."


def label_preferences(
    config: PreferenceLabelConfig,
    *,
    prompts_path: str,
    preferences_path: str,
    judgements_path: str,
    work_dir: str,
    human_preference_dataset: str = "",
    human_preference_fingerprint: str = "",
    instruction: str = "",
    max_bad_rows: int = 0,
) -> PreferenceLabels:
    """Let both models answer, ask the judge, and write its preferences.

    Args:
        config: The models and the judge.
        prompts_path: Canonical prompts.
        preferences_path: Where to write the preferences, as a dataset that a run reads: Vertex's chat rows. Their context
            is there even where it is empty, so that no instruction is put before them a second time.
        judgements_path: Where to write what was said to each prompt and what the judge said, ties too, as JSON lines.
        work_dir: Folder that keeps the answers.
        human_preference_dataset: Human preferences, of which some say what the judge is worth; empty for none.
        human_preference_fingerprint: What their content was when it was checked; empty where that is not known.
        instruction: Put before every prompt of those.
        max_bad_rows: So many bad rows of those are set aside.

    Raises:
        UserError: If a model or the judge cannot be used as it is set.
        DataError: If the human preferences cannot be used, or there is no preference in the end.
        RunError: If the judge's server is down.
    """
    judge = load_judge(config.judge or "scorer", config.judge_settings())
    choices: list[Comparison] = []
    if human_preference_dataset:
        choices = _human_choices(
            judge.most_human_choices,
            preference_dataset=human_preference_dataset,
            preference_fingerprint=human_preference_fingerprint,
            instruction=instruction,
            max_bad_rows=max_bad_rows,
        )
    answers = [
        _answers(config.inference(model, seed), prompts_path, Path(work_dir), label=f"answers of model {name}")
        for name, model, seed in (
            ("A", config.large_model_a_reference, config.seed),
            ("B", config.large_model_b_reference, (config.seed + _OTHER_SEED) % 2**32),
        )
    ]
    base_model.release_memory()
    pairs = [
        Comparison(row["prompt"], first, second)
        for row, first, second in zip(read_canonical(prompts_path), *answers, strict=True)
    ]
    faults = [_fault(pair) for pair in pairs]
    asked = [pair for pair, fault in zip(pairs, faults, strict=True) if not fault]
    # Together, so that what the judge loads is loaded once; the choices first, so that a cap leaves something to go by.
    verdicts = judge.compare(choices + asked)
    base_model.release_memory()
    said = iter(verdicts[len(choices) :])
    labels = PreferenceLabels(
        prompts=len(pairs),
        judge=judge.label,
        human=agreement(choices, verdicts[: len(choices)]),
        order=order_effect(verdicts),
        notes=list(judge.notes),
    )
    with written_together(preferences_path, judgements_path) as (preferences, judgements):
        for pair, fault in zip(pairs, faults, strict=True):
            verdict = None if fault else next(said)
            outcome = verdict.outcome if verdict else "unjudged"
            reason = fault or ("" if outcome in ("win", "loss") else outcome)
            if reason:
                labels.left_out[reason] += 1
            else:
                labels.second += outcome == "win"
                labels.first += outcome == "loss"
                preferences.write(_line(_preference(pair, int(outcome == "win"))))
            judgements.write(_line(_judgement(pair, verdict, reason or ("A" if outcome == "loss" else "B"))))
        if not labels.rows:
            raise DataError(f"The judge preferred no answer of {len(pairs):,} pairs: {'; '.join(labels.lines()[1:])}.")
    return labels


def _human_choices(most: int, **dataset: Any) -> list[Comparison]:
    """Return some of the choices of people; the dataset is told as to `import_preferences`."""
    with scratch_folder() as folder:
        parts = [folder / "first", folder / "second"]
        import_preferences(
            **dataset,
            eval_dataset="",
            preferences_path=str(parts[0]),
            eval_preferences_path=str(parts[1]),
            parameter="human_preference_dataset",
        )
        whole = folder / "all"
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))
        return human_choices(str(whole), most)


def _answers(config: InferenceConfig, prompts_path: str, work_dir: Path, *, label: str) -> list[str]:
    """Return a model's answers, which are kept: with two models the first one's are there when the second is stopped."""
    folder = local_folder(config.large_model_reference)
    model = content_fingerprint(folder) if folder else config.large_model_reference
    prompts = hashlib.sha256(Path(prompts_path).read_bytes()).hexdigest()
    identity = json.dumps([asdict(config) | {"large_model_reference": model}, prompts], sort_keys=True)
    path = work_dir / f"answers-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.jsonl"
    if not path.is_file():
        staging = path.with_suffix(".part")
        processes.run(
            write_predictions,
            config,
            trains=False,
            prompts_path=prompts_path,
            predictions_path=str(staging),
            label=label,
            work_dir=str(work_dir),
        )
        staging.replace(path)
    return [row["prediction"] for row in read_predictions(str(path))]


def _fault(pair: Comparison) -> str:
    """Return why a pair need not be judged, or an empty string."""
    same = "same" if pair.first.strip() == pair.second.strip() else ""
    return fault_of(pair.first) or fault_of(pair.second) or same


def _preference(pair: Comparison, preferred: int) -> dict[str, Any]:
    context, turns = _split(pair.prompt)
    messages = [{"author": turn["role"], "content": turn["content"]} for turn in turns]
    answers = {"candidate_0": pair.first, "candidate_1": pair.second}
    return {"messages": messages, "context": context, **answers, "choice": preferred}


def _judgement(pair: Comparison, verdict: Verdict | None, outcome: str) -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "response_a": pair.first,
        "response_b": pair.second,
        "choice": outcome,
        **({"scores": verdict.scores} if verdict and verdict.scores else {}),
        **({"orders": verdict.orders} if verdict and verdict.orders else {}),
    }


def _split(prompt: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
    system = [turn["content"] for turn in prompt[:1] if turn["role"] == "system"]
    return "".join(system), prompt[len(system) :]


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
