"""What methods that are compared answer to the same prompts, and what the same judges say of it."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.data.output import written_together
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.comparison import SCORE_OF, JudgeRecord, ScoredAnswer
from rlhf_tuning.evaluation.evaluate import EvaluationConfig, human_choices, judges_of, kl_per_answer
from rlhf_tuning.evaluation.judges import Judge, JudgeSettings, load_judge
from rlhf_tuning.evaluation.judges.reward_model import score_answers
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict, agreement
from rlhf_tuning.evaluation.method_comparison import Contestant, MethodComparison, compare_each, pairs_of
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.models import base_model

#: A method's answers to all prompts, as `write_predictions` wrote them, by seed.
Rows = Mapping[int, Sequence[Mapping[str, Any]]]


def answer(config: InferenceConfig, *, prompts_path: str, path: Path, label: str) -> None:
    """Have a model answer every prompt, unless the file of its answers is there."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    processes.run(
        write_predictions,
        config,
        trains=False,
        prompts_path=prompts_path,
        predictions_path=str(partial),
        label=label,
        work_dir=str(path.parent / ".answers"),
    )
    base_model.release_memory()
    partial.replace(path)


def answer_with_best(
    config: InferenceConfig, *, samples: int, reward_model_dir: str, prompts_path: str, path: Path, label: str
) -> None:
    """Have a model answer every prompt several times, and write the answer that has the highest reward.

    Args:
        config: The model and how to sample.
        samples: How many answers to choose from.
        reward_model_dir: What scores them.
        prompts_path: Canonical prompt rows.
        path: The file to write, unless it is there.
        label: What the progress line calls this.
    """
    if path.exists():
        return
    repeated, sampled = path.with_suffix(".prompts"), path.with_suffix(".samples")
    with repeated.open("w", encoding="utf-8") as stream:
        for row in read_canonical(prompts_path):
            stream.write((json.dumps(row) + "\n") * samples)
    answer(config, prompts_path=str(repeated), path=sampled, label=label)
    rows = list(read_predictions(str(sampled)))
    scores = processes.run(
        score_answers,
        [(row["prompt"], row["prediction"]) for row in rows],
        trains=False,
        directory=reward_model_dir,
        dtype=config.dtype,
        label=f"scoring {label}",
    )
    base_model.release_memory()
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as stream:
        for start in range(0, len(rows), samples):
            best = max(range(start, start + samples), key=scores.__getitem__)
            stream.write(json.dumps(rows[best], ensure_ascii=False) + "\n")
    partial.replace(path)
    repeated.unlink()


def kl_to_base(config: EvaluationConfig, *, model_dir: str, answers: Path) -> list[float]:
    """Return the KL of each of a tuned model's answers to the base model; kept beside the answers."""
    kept = answers.with_suffix(".kl.json")
    if not kept.exists():
        found = processes.run(
            kl_per_answer, config, trains=False, tuned_model_dir=model_dir, predictions_path=str(answers)
        )
        base_model.release_memory()
        with written_together(str(kept)) as (stream,):
            stream.write(json.dumps(found).encode())
    values: list[float] = json.loads(kept.read_text(encoding="utf-8"))
    return values


def compare_answers(
    config: EvaluationConfig,
    methods: Sequence[Contestant],
    files: Mapping[str, Mapping[int, Path]],
    *,
    models: Mapping[str, Mapping[int, str]],
    reward_models: Mapping[int, str],
    judging_reward_model_dir: str,
    choices_path: str,
) -> MethodComparison:
    """Measure how far each tuned model has moved, and have all judges compare the answers.

    Args:
        config: Names the base model, how answers were sampled, and the judges.
        methods: Without their answers.
        files: Of answers as `answer` wrote them, by the method's name and the seed.
        models: Folders of the tuned models, likewise.
        reward_models: Those that were optimised, by seed.
        judging_reward_model_dir: One that learnt from preferences of its own; empty for none.
        choices_path: Canonical preferences that nothing was trained on, to hold the judges against.
    """
    return judge_methods(
        methods,
        {
            name: {seed: list(read_predictions(str(file))) for seed, file in by_seed.items()}
            for name, by_seed in files.items()
        },
        judges=judges_of(config, reward_model_dir="", held_out_reward_model_dir=judging_reward_model_dir),
        reward_judges={
            seed: load_judge("reward_model", JudgeSettings(reward_model_dir=folder, dtype=config.dtype))
            for seed, folder in reward_models.items()
        },
        choices_path=choices_path,
        kl={
            name: {
                seed: kl_to_base(config, model_dir=folder, answers=files[name][seed])
                for seed, folder in by_seed.items()
            }
            for name, by_seed in models.items()
        },
    )


def judge_methods(
    methods: Sequence[Contestant],
    answers: Mapping[str, Rows],
    *,
    judges: Sequence[Judge],
    reward_judges: Mapping[int, Judge],
    choices_path: str,
    kl: Mapping[str, Mapping[int, Sequence[float]]],
) -> MethodComparison:
    """Have every judge compare each method's answers with each other's, and return what comes of it.

    Args:
        methods: Without their answers.
        answers: By the method's name, the same prompts in the same order.
        judges: The same for all seeds, the most trusted first. Where one has a cap on its calls, the first prompts of a
            random order get its verdicts on every pair.
        reward_judges: The reward model that was optimised, which differs by seed; empty where there was none.
        choices_path: Canonical preferences that nothing was trained on, to hold the judges against.
        kl: To the base model, of each answer, by the method's name and the seed.

    Raises:
        DataError: If answers are to other prompts than the first method's.
    """
    seeds = list(next(iter(answers.values())))
    prompts = [row["prompt"] for row in next(iter(answers.values()))[seeds[0]]]
    for name, by_seed in answers.items():
        for seed, rows in by_seed.items():
            if [row["prompt"] for row in rows] != prompts:
                raise DataError(
                    f"The answers of {name}, seed {seed}, are not to the prompts that {next(iter(answers))} answered. "
                    "Remove the folder comparison/answers in the pipeline root, and run the command again."
                )
    order = random.Random(0).sample(range(len(prompts)), len(prompts))
    places = [(index, seed, pair) for index in order for seed in seeds for pair in pairs_of(list(answers))]
    comparisons = [
        Comparison(
            prompts[index], answers[second][seed][index]["prediction"], answers[first][seed][index]["prediction"]
        )
        for index, seed, (first, second) in places
    ]
    scores: dict[tuple[str, str, int, int], float] = {}  # of a score's name, a method, a seed, a prompt
    verdicts: dict[str, dict[tuple[str, str], dict[int, list[Verdict | None]]]] = {}
    records: dict[str, JudgeRecord] = {}
    for judge, of_seed in [
        *((judge, None) for judge in judges),
        *((judge, seed) for seed, judge in reward_judges.items()),
    ]:
        asked = [number for number, (_, seed, _) in enumerate(places) if of_seed in (None, seed)]
        choices = human_choices(choices_path, judge.most_human_choices)
        found = judge.compare(choices + [comparisons[number] for number in asked])
        base_model.release_memory()
        said = verdicts.setdefault(judge.name, {})
        for number, verdict in zip(asked, found[len(choices) :], strict=True):
            index, seed, (first, second) = places[number]
            if verdict and verdict.scores:
                scores[SCORE_OF[judge.name], second, seed, index] = verdict.scores[0]
                scores[SCORE_OF[judge.name], first, seed, index] = verdict.scores[1]
            said.setdefault((first, second), {}).setdefault(seed, [None] * len(prompts))[index] = verdict
        # Of several reward models the first one's agreement stands for all: they learnt from the same preferences.
        records.setdefault(
            judge.name,
            JudgeRecord(
                name=judge.name,
                label=judge.label,
                agreement=agreement(choices, found[: len(choices)]),
                notes=tuple(judge.notes),
            ),
        )

    def scored(name: str, seed: int, index: int) -> ScoredAnswer:
        row = answers[name][seed][index]
        return ScoredAnswer(
            text=row["prediction"],
            tokens=row["tokens"],
            ended=row["ended"],
            kl=kl[name][seed][index] if name in kl else None,
            **{score: scores.get((score, name, seed, index)) for score in SCORE_OF.values()},
        )

    return compare_each(
        prompts,
        [
            replace(
                method,
                answers={seed: [scored(method.name, seed, index) for index in range(len(prompts))] for seed in seeds},
            )
            for method in methods
        ],
        judges=list(records.values()),
        verdicts=verdicts,
    )
