"""What each phase brought, and how a student fares beside its teacher: other models answer the same prompts.

Where a supervised phase came first, its model is held against the base model, and the tuned one against both. A student is
held against its teacher too, by the answers that this gave when it labelled the prompts that were held out: nobody asks it
again, nor pays it. Answers that such rows brought themselves count as its own.

What is asked of a judge goes into the question that the evaluation asks it anyway, at its end: whatever it loads is loaded
once, and its limit holds for all of it. The gate knows nothing of this.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.distributed import processes
from rlhf_tuning.evaluation.comparison import WORTH, AnswerPair
from rlhf_tuning.evaluation.evaluate import EvaluationConfig, kl_per_answer
from rlhf_tuning.evaluation.judges import Judge
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.phase_gains import BASE, SUPERVISED, TEACHER, TUNED, Gain
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.models.text_format import conversation_key
from rlhf_tuning.statistics import WinRate, clustered_win_rate, mean_interval

Held = tuple[str, str]
#: Each with the one that it is held against, as far as there are both.
_HELD: tuple[Held, ...] = ((SUPERVISED, BASE), (TUNED, SUPERVISED), (TUNED, BASE), (TUNED, TEACHER))


@dataclass(frozen=True, kw_only=True)
class PhaseAnswers:
    """The answers of all models to the same prompts, and what the judges that were asked said of them.

    Args:
        rows: Predictions by the model, in the order of the prompts; None where a teacher gave none.
        kl: By two of the models, the KL of the first to the other on each of its answers, where it is known.
        said: Filled by the judges: their verdicts on `comparisons`, by how people read the judge.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any] | None]]
    kl: Mapping[Held, Sequence[float]]
    said: dict[str, Sequence[Verdict | None]] = field(default_factory=dict)

    @property
    def comparisons(self) -> list[Comparison]:
        """Return what judges are asked: for each pair of models all prompts."""
        return [
            Comparison(later["prompt"], earlier["prediction"], later["prediction"])
            for held in self._held
            for later, earlier in self._both(held)
        ]

    def answers_of(self, model: str) -> list[Mapping[str, Any]]:
        """Return a model's answers; none of one that did not answer."""
        return [row for row in self.rows.get(model, ()) if row]

    @property
    def _held(self) -> list[Held]:
        return [held for held in _HELD if self.rows.keys() >= set(held)]

    def _both(self, held: Held) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Return both answers to each prompt that has two."""
        answers = zip(*(self.rows[model] for model in held), strict=True)
        return [(later, earlier) for later, earlier in answers if later and earlier]

    def asked_of(self, judges: Sequence[Judge]) -> list[Judge]:
        """Return the judges, who are asked about these answers too whenever they compare others."""
        return [Listened(judge, self) for judge in judges]

    def gains(self, pairs: Sequence[AnswerPair]) -> list[Gain]:
        """Return what each phase brought.

        Args:
            pairs: What the evaluation measured on the tuned model's answers: its KL to the supervised model.
        """
        tuned_kl = [pair.tuned.kl for pair in pairs if pair.tuned.kl is not None]
        kl = {**self.kl, (TUNED, SUPERVISED if SUPERVISED in self.rows else BASE): tuned_kl}
        gains, start = [], 0
        for held in self._held:
            end = start + len(self._both(held))
            wins = {
                label: rate
                for label, verdicts in self.said.items()
                if (rate := self._win_rate(held, verdicts[start:end]))
            }
            apart = mean_interval(list(kl[held])) if kl.get(held) else None
            gains.append(Gain(model=held[0], against=held[1], wins=wins, kl=apart))
            start = end
        return gains

    def _win_rate(self, held: Held, verdicts: Sequence[Verdict | None]) -> WinRate | None:
        scores, prompts = [], []
        for (later, earlier), verdict in zip(self._both(held), verdicts, strict=True):
            same = later["prediction"] == earlier["prediction"]
            if same or verdict:
                scores.append(0.5 if same or not verdict else WORTH[verdict.outcome])
                prompts.append(conversation_key(later["prompt"]))
        return clustered_win_rate(scores, prompts).rate if scores else None


class _Also(Protocol):
    """What a judge is asked besides, and where its verdicts go, by how people read it."""

    @property
    def said(self) -> dict[str, Sequence[Verdict | None]]: ...

    @property
    def comparisons(self) -> list[Comparison]: ...


class Listened:
    """A judge who, after what it is asked, is asked about other answers as well."""

    def __init__(self, judge: Judge, answers: _Also) -> None:
        self.name, self.label, self.most_human_choices = judge.name, judge.label, judge.most_human_choices
        self.notes: list[str] = []
        self._judge, self._answers = judge, answers

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison, and keep those on the others."""
        verdicts = self._judge.compare([*comparisons, *self._answers.comparisons])
        self.notes = self._judge.notes
        self._answers.said[self.label] = verdicts[len(comparisons) :]
        return verdicts[: len(comparisons)]


def answer_before(
    config: EvaluationConfig,
    champion_predictions_path: str,
    tuned_predictions_path: str,
    *,
    tuned_model_dir: str,
    taught_path: str = "",
    teacher_reference: str = "",
) -> PhaseAnswers:
    """Let the models before the tuned one answer its prompts, and measure how far apart they are.

    Args:
        config: Of an evaluation after a supervised phase, or of a student.
        champion_predictions_path: The answers of the model to beat, which is the base model where there is no champion.
        tuned_predictions_path: The tuned model's answers.
        tuned_model_dir: The tuned model, merged.
        taught_path: Canonical demonstrations with a teacher's answers, to some of the prompts; empty without a teacher.
        teacher_reference: The teacher, where it has the student's tokens, so that KL to it can be measured; empty otherwise.

    Raises:
        ModelError: If a model cannot be loaded.
    """
    paths = {TUNED: tuned_predictions_path, BASE: champion_predictions_path}
    base = config.base_model_reference or config.large_model_reference
    missing = {SUPERVISED: config.large_model_reference} if config.is_supervised else {}
    if config.champion:
        missing[BASE] = base
    kl: dict[Held, Sequence[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rlhf-phases-") as scratch:
        for place, (name, reference) in enumerate(missing.items()):
            paths[name] = str(Path(scratch) / f"answers-{place}")
            write_answers(
                config,
                reference,
                temperature=config.temperature,
                prompts_path=tuned_predictions_path,
                predictions_path=paths[name],
                label=f"answers of {name}",
            )
        apart = {(SUPERVISED, BASE): (config.large_model_reference, base)} if config.is_supervised else {}
        if teacher_reference:
            apart[TUNED, TEACHER] = (tuned_model_dir, teacher_reference)
        for (model, against), (reference, other) in apart.items():
            kl[model, against] = processes.run(
                kl_per_answer,
                config,
                trains=False,
                tuned_model_dir=reference,
                predictions_path=paths[model],
                other=other,
                called=against,
            )
        rows: dict[str, Sequence[Mapping[str, Any] | None]] = {
            name: list(read_predictions(path)) for name, path in paths.items()
        }
    if taught_path:
        rows[TEACHER] = _taught(taught_path, list(read_predictions(tuned_predictions_path)))
    return PhaseAnswers(rows=rows, kl=kl)


def _taught(path: str, asked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """Return a teacher's answer to each prompt that it answered."""
    said = {conversation_key(row["prompt"]): row["answer"] for row in read_canonical(path)}
    keys = [conversation_key(row["prompt"]) for row in asked]
    return [
        {"prompt": row["prompt"], "prediction": said[key]} if key in said else None
        for key, row in zip(keys, asked, strict=True)
    ]


def write_answers(
    config: EvaluationConfig,
    reference: str,
    *,
    temperature: float,
    prompts_path: str,
    predictions_path: str,
    label: str,
) -> None:
    """Let a model answer prompts as the evaluation's other answers were sampled, but for the temperature.

    Args:
        config: The settings.
        reference: The model.
        temperature: 0 for the likeliest answers.
        prompts_path: Canonical prompts.
        predictions_path: The file to write.
        label: What to call the work.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    sampling = InferenceConfig(
        large_model_reference=reference,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
        temperature=temperature,
        seed=config.seed,
        dtype=config.dtype,
        inference_engine=config.inference_engine,
    )
    processes.run(
        write_predictions,
        sampling,
        trains=False,
        prompts_path=prompts_path,
        predictions_path=predictions_path,
        label=label,
    )
