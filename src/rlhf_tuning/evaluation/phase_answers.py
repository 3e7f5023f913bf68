"""What each phase brought is asked where a supervised one came first: three models answer the same prompts.

The supervised model is held against the base model, and the tuned one against both, by the judges of the evaluation. What is
asked of a judge goes into the question that the evaluation asks it anyway, at its end: whatever it loads is loaded once, and
its limit holds for all of it. The gate knows nothing of this.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rlhf_tuning.distributed import processes
from rlhf_tuning.evaluation.comparison import WORTH, AnswerPair
from rlhf_tuning.evaluation.evaluate import EvaluationConfig, kl_per_answer
from rlhf_tuning.evaluation.judges import Judge
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.phase_gains import Gain
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.models.text_format import conversation_key
from rlhf_tuning.statistics import WinRate, clustered_win_rate, mean_interval

BASE, SUPERVISED, TUNED = "the base model", "the supervised model", "the tuned model"
#: Each with the one that it is held against.
_HELD = ((SUPERVISED, BASE), (TUNED, SUPERVISED), (TUNED, BASE))


@dataclass(frozen=True, kw_only=True)
class PhaseAnswers:
    """The answers of all three models to the same prompts, and what the judges that were asked said of them.

    Args:
        rows: Predictions by the model, in the order of the prompts.
        kl: The supervised model's KL to the base model on each of its answers.
        said: Filled by the judges: their verdicts on `comparisons`, by how people read the judge.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    kl: Sequence[float]
    said: dict[str, Sequence[Verdict | None]] = field(default_factory=dict)

    @property
    def comparisons(self) -> list[Comparison]:
        """Return what judges are asked: for each pair of models all prompts."""
        return [
            Comparison(later["prompt"], earlier["prediction"], later["prediction"])
            for model, against in _HELD
            for earlier, later in zip(self.rows[against], self.rows[model], strict=True)
        ]

    def asked_of(self, judges: Sequence[Judge]) -> list[Judge]:
        """Return the judges, who are asked about these answers too whenever they compare others."""
        return [Listened(judge, self) for judge in judges]

    def gains(self, pairs: Sequence[AnswerPair]) -> list[Gain]:
        """Return what each phase brought.

        Args:
            pairs: What the evaluation measured on the tuned model's answers: its KL to the supervised model.
        """
        tuned_kl = [pair.tuned.kl for pair in pairs if pair.tuned.kl is not None]
        kl = {(SUPERVISED, BASE): self.kl, (TUNED, SUPERVISED): tuned_kl}
        n = len(self.rows[TUNED])
        return [
            Gain(
                model=held[0],
                against=held[1],
                wins={
                    label: rate
                    for label, verdicts in self.said.items()
                    if (rate := self._win_rate(held, verdicts[place * n : (place + 1) * n]))
                },
                kl=mean_interval(list(kl[held])) if kl.get(held) else None,
            )
            for place, held in enumerate(_HELD)
        ]

    def _win_rate(self, held: tuple[str, str], verdicts: Sequence[Verdict | None]) -> WinRate | None:
        scores, prompts = [], []
        for later, earlier, verdict in zip(*(self.rows[model] for model in held), verdicts, strict=True):
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
    config: EvaluationConfig, champion_predictions_path: str, tuned_predictions_path: str
) -> PhaseAnswers:
    """Let the models before the tuned one answer its prompts, and measure how far the supervised one has moved.

    Args:
        config: Of an evaluation after a supervised phase.
        champion_predictions_path: The answers of the model to beat, which is the base model where there is no champion.
        tuned_predictions_path: The tuned model's answers.

    Raises:
        ModelError: If a model cannot be loaded.
    """
    paths = {TUNED: tuned_predictions_path, BASE: champion_predictions_path}
    missing = {SUPERVISED: config.large_model_reference}
    if config.champion:
        missing[BASE] = config.base_model_reference
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
        kl = processes.run(
            kl_per_answer,
            replace(config, large_model_reference=config.base_model_reference),
            trains=False,
            tuned_model_dir=config.large_model_reference,
            predictions_path=paths[SUPERVISED],
        )
        return PhaseAnswers(rows={name: list(read_predictions(path)) for name, path in paths.items()}, kl=kl)


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
