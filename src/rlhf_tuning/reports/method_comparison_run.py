"""What ends a run of `method_comparison_pipeline`: its methods compared, as a page, as Markdown and as JSON."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf_tuning import registry
from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.evaluation.method_answers import answer_with_best, compare_answers
from rlhf_tuning.evaluation.method_comparison import BASE, BEST_OF_N, Contestant, MethodComparison
from rlhf_tuning.generation.inference import InferenceConfig
from rlhf_tuning.models.model_reference import split_revision
from rlhf_tuning.reports.methods_report import MethodsReport, write_methods_report
from rlhf_tuning.training.training_log import read_metrics


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a method made, and answered.

    Args:
        label: How people read the method.
        model_dir: The tuned model, merged.
        adapter_dir: What the training left.
        predictions_path: The model's answers.
        seconds: What led to the model took.
    """

    label: str
    model_dir: str
    adapter_dir: str
    predictions_path: str
    seconds: float

    @property
    def steps(self) -> int:
        """Return the optimizer steps that the training took."""
        return len(read_metrics(Path(self.adapter_dir) / "metrics.jsonl"))

    @property
    def settings(self) -> Mapping[str, object]:
        """Return the settings of the training."""
        found: dict[str, object] = json.loads((Path(self.adapter_dir) / registry.TUNING_SETTINGS).read_text("utf-8"))
        return found


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """The base model choosing among its own answers.

    Args:
        samples: How many answers there are to choose from.
        reward_model_dir: What chooses: the reward model that was optimised.
        seconds: What led to that took.
    """

    samples: int
    reward_model_dir: str
    seconds: float


def write_comparison(
    config: EvaluationConfig,
    tuned: Mapping[str, Tuned],
    best: BestOfN,
    *,
    base_predictions_path: str,
    prompts_path: str,
    choices_path: str,
    judging_reward_model_dir: str,
    data: Mapping[str, int],
    page: str,
    results: str,
    summary: str,
) -> MethodComparison:
    """Have the base model choose, all judges compare, and write what comes of it.

    Args:
        config: Names the base model, how answers were sampled, and the judges.
        tuned: What each method made, by its name.
        best: What is held against them.
        base_predictions_path: The base model's answers.
        prompts_path: The prompts that all answered.
        choices_path: Canonical preferences that nothing was trained on.
        judging_reward_model_dir: A reward model that learnt from preferences of its own.
        data: How many rows there were of what, for the page.
        page: Where to write the page.
        results: Where to write the numbers, as JSON.
        summary: Where to write the tables, as Markdown.

    Raises:
        ModelError: If a model cannot be loaded.
    """
    seed = config.seed
    methods = [
        Contestant(name=BASE, label="the base model", answers={}),
        *(
            Contestant(name=name, label=made.label, answers={}, seconds={seed: made.seconds}, steps=made.steps)
            for name, made in tuned.items()
        ),
        Contestant(
            name=BEST_OF_N,
            label=f"best of {best.samples}",
            answers={},
            seconds={seed: best.seconds},
            samples=best.samples,
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="rlhf-methods-") as scratch:
        files = {method.name: Path(scratch) / f"{method.name}.jsonl" for method in methods}
        for name, made in [
            (BASE, base_predictions_path),
            *((name, made.predictions_path) for name, made in tuned.items()),
        ]:
            shutil.copyfile(made, files[name])
        answer_with_best(
            InferenceConfig(
                large_model_reference=config.large_model_reference,
                prompt_sequence_length=config.prompt_sequence_length,
                target_sequence_length=config.target_sequence_length,
                temperature=config.temperature,
                seed=seed,
                dtype=config.dtype,
                inference_engine=config.inference_engine,
            ),
            samples=best.samples,
            reward_model_dir=best.reward_model_dir,
            prompts_path=prompts_path,
            path=files[BEST_OF_N],
            label=f"answers of best of {best.samples}",
        )
        found = compare_answers(
            config,
            methods,
            {name: {seed: file} for name, file in files.items()},
            models={name: {seed: made.model_dir} for name, made in tuned.items()},
            reward_models={seed: best.reward_model_dir},
            judging_reward_model_dir=judging_reward_model_dir,
            choices_path=choices_path,
        )
    settings = {f"{name}.{key}": value for name, made in tuned.items() for key, value in made.settings.items()}
    report = MethodsReport(
        found=found,
        base_model=split_revision(config.large_model_reference)[0],
        created=time.strftime("%Y-%m-%d %H:%M"),
        data=data,
        parameters={name: value for name, value in asdict(config).items() if not name.startswith("gate_")} | settings,
        models={},
    )
    write_methods_report(report, page=page, results=results, summary=summary)
    return found
