"""`rlhf compare`: two models side by side, outside of any run."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_pipelines.local.complete_report import EVALUATION
from rlhf_tuning import registry
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer, summary_text
from rlhf_tuning.limits import check_limits
from rlhf_tuning.reports.report import RunReport, write_report
from rlhf_tuning.reports.saved_report import read_drawable_report
from rlhf_tuning.step import counted


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare, and who judges; named as the command's flags are."""

    first: str
    second: str
    prompts: str = ""
    max_prompts: int = 200
    prompt_sequence_length: int = 512
    target_sequence_length: int = 128
    temperature: float = 1.0
    seed: int = 0
    scorer: str = ""
    judge: str = ""
    judge_model: str = ""
    judge_endpoint: str = ""
    judge_key_secret: str = ""
    judge_rubric: str = ""
    judge_max_calls: int = 1000
    judge_max_cost: float = 0.0
    judge_price: float = 0.0
    registry_dir: Path | None = None


def compare(asked: Comparison, path: Path, *, tell: Callable[[str], None]) -> str:
    """Write the report of a comparison, and return its summary for a terminal.

    Args:
        asked: What to compare.
        path: The HTML file to write.
        tell: Called with what a person should know meanwhile.

    Raises:
        ParameterError: If the two cannot be compared in this way.
        ModelError: If a model is not there.
        DataError: If a run left no answers, or the prompts cannot be used.
    """
    check_limits(
        prompt_sequence_length=asked.prompt_sequence_length,
        target_sequence_length=asked.target_sequence_length,
        temperature=asked.temperature,
        seed=asked.seed,
        eval_prompts=asked.max_prompts,
        scorer=asked.scorer,
    )
    if asked.prompts:
        pairs, judges = _answered_now(asked, tell)
        scorer_name = asked.scorer.replace("_", " ") or "true score"
    else:
        pairs, judges, scorer_name = _answered_before(asked)
    first, second = _short(asked.first), _short(asked.second)
    report = RunReport(
        title=f"{second} against {first}",
        tuned_model=second,
        pairs=pairs,
        judges=judges,
        scorer_name=scorer_name,
        opponent=first,
    )
    write_report(report, str(path))
    return summary_text(pairs, scorer_name=scorer_name, judges=judges, opponent=first)


def _answered_before(asked: Comparison) -> tuple[Sequence[AnswerPair], Sequence[JudgeRecord], str]:
    """Return what two runs answered. Their reward models differ, so only the true score is comparable."""
    for name in (asked.first, asked.second):
        if not (Path(name) / EVALUATION).is_file():
            raise ParameterError(
                f"{name} is no folder of a run with answers, so both models have to answer now. Give the prompts with "
                "--prompts FILE."
            )
    if asked.scorer or asked.judge:
        raise ParameterError("--scorer and --judge judge new answers: give --prompts FILE as well.")
    first, second = (read_drawable_report(Path(name) / EVALUATION) for name in (asked.first, asked.second))
    answers = {_key(pair): pair.tuned for pair in first.pairs}
    shared = [pair for pair in second.pairs if _key(pair) in answers]
    if not shared:
        raise ParameterError(
            "The two runs were evaluated on different prompts. Give --prompts FILE, for both to answer."
        )
    scored = first.scorer_name == second.scorer_name

    def comparable(answer: ScoredAnswer) -> ScoredAnswer:
        return replace(answer, reward=None, held_out_reward=None, true_score=answer.true_score if scored else None)

    pairs = [
        AnswerPair(prompt=pair.prompt, base=comparable(answers[_key(pair)]), tuned=comparable(pair.tuned))
        for pair in shared
    ]
    judges = [judge for judge in second.judges if judge.name == "scorer" and scored]
    return pairs, judges, second.scorer_name


def _key(pair: AnswerPair) -> str:
    return json.dumps([dict(turn) for turn in pair.prompt], sort_keys=True)


def _answered_now(asked: Comparison, tell: Callable[[str], None]) -> tuple[Sequence[AnswerPair], Sequence[JudgeRecord]]:
    from rlhf_tuning.data.importer import import_prompts, sample_canonical
    from rlhf_tuning.distributed import processes
    from rlhf_tuning.evaluation import evaluate
    from rlhf_tuning.generation.inference import InferenceConfig, write_predictions

    models = [_model_folder(name, asked.registry_dir) for name in (asked.first, asked.second)]
    config = evaluate.EvaluationConfig(
        large_model_reference=models[0],
        target_sequence_length=asked.target_sequence_length,
        temperature=asked.temperature,
        scorer=asked.scorer,
        judge=asked.judge,
        judge_model=asked.judge_model,
        judge_endpoint=asked.judge_endpoint,
        judge_key_secret=asked.judge_key_secret,
        judge_rubric=asked.judge_rubric,
        judge_max_calls=asked.judge_max_calls,
        judge_max_cost=asked.judge_max_cost,
        judge_price=asked.judge_price,
    )
    # First, as it reads the judge's key: a wrong one need not wait for the answers.
    judges = evaluate.judges_of(config, reward_model_dir="")
    with tempfile.TemporaryDirectory(prefix="rlhf-compare-") as scratch:
        folder = Path(scratch)
        import_prompts(
            prompt_dataset=asked.prompts,
            eval_dataset="",
            instruction="",
            prompts_path=str(folder / "all"),
            eval_prompts_path=str(folder / "none"),
            eval_prompts=0,
        )
        rows = sample_canonical(folder / "all", most=asked.max_prompts, seed=asked.seed)
        (folder / "prompts").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for place, (name, model) in enumerate(zip((asked.first, asked.second), models, strict=True)):
            tell(f"{_short(name)} answers {counted(len(rows), 'prompt')}")
            processes.run(
                write_predictions,
                InferenceConfig(
                    large_model_reference=model,
                    prompt_sequence_length=asked.prompt_sequence_length,
                    target_sequence_length=asked.target_sequence_length,
                    temperature=asked.temperature,
                    seed=asked.seed,
                ),
                trains=False,
                prompts_path=str(folder / "prompts"),
                predictions_path=str(folder / f"answers-{place}"),
                label=f"answers of {_short(name)}",
            )
        return evaluate.evaluate_policy(
            config,
            judges=judges,
            tuned_model_dir="",
            base_predictions_path=str(folder / "answers-0"),
            tuned_predictions_path=str(folder / "answers-1"),
        )


def _model_folder(name: str, registry_dir: Path | None) -> str:
    of_run = Path(name) / "train-policy" / "model"
    if of_run.is_dir():
        return str(of_run)
    return str(registry.resolve_model(name, registry_dir).path / "model")


def _short(name: str) -> str:
    return Path(name).name if Path(name).is_dir() else name.removeprefix("models/")
