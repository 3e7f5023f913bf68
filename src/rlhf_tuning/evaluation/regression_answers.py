"""The base model and the tuned model answer a regression suite, and the judge of the run is asked where there is no check.

The answers are the likeliest ones (temperature 0): chance then has a part in the choice of the prompts alone.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.evaluation.judges import Judge
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.phase_answers import Listened, write_answers
from rlhf_tuning.evaluation.regression_suite import Answered, Case, Regression, check_suite, read_suite
from rlhf_tuning.generation.inference import read_predictions


@dataclass(frozen=True, kw_only=True)
class SuiteAnswers:
    """The answers of both models to a suite.

    Args:
        cases: The suite.
        base: The base model's answers.
        tuned: The tuned model's.
        said: Filled by the judge: the verdicts on `comparisons`, by how people read the judge.
    """

    cases: Sequence[Case]
    base: Sequence[str]
    tuned: Sequence[str]
    said: dict[str, Sequence[Verdict | None]] = field(default_factory=dict)

    @property
    def comparisons(self) -> list[Comparison]:
        """Return what the judge is asked: the cases of which nothing is asserted."""
        return [
            Comparison(case.prompt, base, tuned)
            for case, base, tuned in zip(self.cases, self.base, self.tuned, strict=True)
            if not case.assertions
        ]

    def asked_of(self, judges: Sequence[Judge], name: str) -> list[Judge]:
        """Return the judges, of whom that with this name is asked about these answers too when it compares others."""
        asked = bool(self.comparisons)
        return [Listened(judge, self) if asked and judge.name == name else judge for judge in judges]

    def found(self) -> Regression:
        """Return what the suite says, once the judges were asked."""
        judge, verdicts = next(iter(self.said.items()), ("", ()))
        left = iter(verdicts)
        answered = [
            Answered(case=case, base=base, tuned=tuned, verdict=None if case.assertions else next(left, None))
            for case, base, tuned in zip(self.cases, self.base, self.tuned, strict=True)
        ]
        return Regression(answered=answered, judge=judge)


def answer_suite(config: EvaluationConfig, *, tuned_model_dir: str) -> SuiteAnswers | None:
    """Let both models answer the suite that a run names; None where it names none.

    Raises:
        ParameterError: If the suite cannot be used.
        ModelError: If a model cannot be loaded.
    """
    if not config.regression_suite:
        return None
    check_suite(
        config.regression_suite,
        judge=config.judge,
        gate_max_regression=config.gate_max_regression,
        gate_max_judge_loss=config.gate_max_judge_loss,
    )
    cases = read_suite(config.regression_suite)
    models = {
        "the base model": config.base_model_reference or config.large_model_reference,
        "the tuned model": tuned_model_dir,
    }
    answers = []
    with tempfile.TemporaryDirectory(prefix="rlhf-suite-") as scratch:
        prompts = Path(scratch) / "prompts"
        prompts.write_text("".join(json.dumps({"prompt": case.prompt}) + "\n" for case in cases), encoding="utf-8")
        for place, (name, reference) in enumerate(models.items()):
            path = str(Path(scratch) / f"answers-{place}")
            write_answers(
                config,
                reference,
                temperature=0.0,
                prompts_path=str(prompts),
                predictions_path=path,
                label=f"answers of {name} to the regression suite",
            )
            answers.append([row["prediction"] for row in read_predictions(path)])
    return SuiteAnswers(cases=cases, base=answers[0], tuned=answers[1])
