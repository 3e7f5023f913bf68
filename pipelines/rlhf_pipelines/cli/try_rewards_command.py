"""`rlhf try-rewards`: the answers, the table, and what a whole run of such rewards takes."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import msgspec

from rlhf_pipelines.cli.display import printable
from rlhf_pipelines.cli.text_table import text_table
from rlhf_tuning.data.importer import import_preferences, import_prompts, sample_canonical
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.models.model_reference import files_of, local_folder
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.forecast import Plan
from rlhf_tuning.rewards import Answer, Example, read_rewards
from rlhf_tuning.rewards.trial import Trial, Tried, known_answers, needs_tokens, try_rewards
from rlhf_tuning.step import counted, duration

_SHOWN = 60
_ANSWERS = (
    "Give the predictions that `rlhf run --pipeline infer_pipeline` leaves; a row is "
    '{"prompt": [{"role": "user", "content": "..."}], "prediction": "...", "tokens": 12, "ended": true}.'
)


class _Turn(msgspec.Struct):
    role: Literal["system", "user", "assistant"]
    content: str


class _Answered(msgspec.Struct):
    """What a row of answers has at least."""

    prompt: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    prediction: str
    tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    ended: bool
    references: dict[str, str] = {}

    def __post_init__(self) -> None:
        if any(turn.role == "system" for turn in self.prompt[1:]):
            raise ValueError("only the first turn may be the system's")


def try_here(values: Mapping[str, Value], *, predictions: Path | None, most: int, price_per_hour: float | None) -> int:
    """Score answers, print what the rewards say of them, and return the exit status.

    Args:
        values: Checked parameters, as `parameters.TRIED` lists them.
        predictions: Answers that a model gave; None for those that the data has.
        most: How many rows are tried at most.
        price_per_hour: Of the machine that waits for rewards; None for no cost.

    Raises:
        ParameterError: If there is nothing to score, or a reward cannot be used.
        DataError: If a dataset cannot be used.
    """
    if most < 1:
        raise ParameterError(f"--most is {most}; it must be at least 1.")
    rewards = read_rewards(str(values["rewards"]))
    asked: list[tuple[Example, Answer]]
    if predictions is not None:
        asked, choices = _predicted(predictions, most=most, seed=int(values["seed"])), 0
    else:
        asked, choices = known_answers(rewards, *_rows(values, most), _answer_of(values, rewards))
    if not asked and values["preference_dataset"]:
        raise ParameterError(
            "A reward needs references, which preferences do not have. Give a prompt_dataset whose rows bring them, or "
            "answers of a model with --predictions, as infer_pipeline writes them."
        )
    if not asked:
        raise ParameterError(
            "There is no answer to try the rewards on. Give a preference_dataset, prompts with references, or answers of a "
            "model with --predictions, as infer_pipeline writes them."
        )
    trial = try_rewards(rewards, asked, choices=choices, most_tokens=int(values["target_sequence_length"]))
    if trial is None:
        raise ParameterError(
            "rewards names the reward_model alone, which is not trained yet, so there is nothing to try."
        )
    print("\n".join(_as_text(trial, asked, values, price_per_hour)))
    return 0


def _predicted(file: Path, *, most: int, seed: int) -> list[tuple[Example, Answer]]:
    """Return the answers in a file, or so many of them, drawn by the seed.

    Raises:
        DataError: If the file cannot be read, or a row of it is no answer.
    """
    try:
        lines = [(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
    except OSError as error:
        raise DataError(f"--predictions: {file} cannot be read: {error.strerror}. {_ANSWERS}") from None
    if not lines:
        raise DataError(f"--predictions: {file} has no row. {_ANSWERS}")
    asked: list[tuple[Example, Answer]] = []
    for number, line in sorted(random.Random(seed).sample(lines, most)) if len(lines) > most else lines:
        try:
            row = msgspec.json.decode(line)
            answered = msgspec.convert(row, _Answered)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise DataError(f"{file}:{number} is no answer of a model ({error}). {_ANSWERS}") from None
        asked.append((row, Answer(answered.prediction, answered.tokens, answered.ended)))
    return asked


def _rows(values: Mapping[str, Value], most: int) -> tuple[list[Example], list[Example]]:
    """Return held-out preferences and prompts, as a run imports them."""
    common: dict[str, Any] = {
        "instruction": values["instruction"],
        "seed": values["seed"],
        "max_bad_rows": values["max_bad_rows"],
        "eval_dataset": "",
    }
    preferences: list[Example] = []
    prompts: list[Example] = []
    with TemporaryDirectory(prefix="rewards-") as scratch:
        learnt, measured = f"{scratch}/learnt", f"{scratch}/measured"
        if values["preference_dataset"]:
            import_preferences(
                preference_dataset=str(values["preference_dataset"]),
                preferences_path=learnt,
                eval_preferences_path=measured,
                **common,
            )
            preferences += sample_canonical(measured, most=most, seed=0)
        if values["prompt_dataset"]:
            import_prompts(
                prompt_dataset=str(values["prompt_dataset"]),
                prompts_path=learnt,
                eval_prompts_path=measured,
                eval_prompts=0,
                **common,
            )
            prompts += sample_canonical(learnt, most=most, seed=0)
    return preferences, prompts


def _answer_of(values: Mapping[str, Value], rewards: str) -> Callable[[str], Answer]:
    """Return what makes an answer of a text, with the tokens that a model would have needed for it."""
    reference, most_tokens = str(values["large_model_reference"]), int(values["target_sequence_length"])
    if not needs_tokens(rewards):
        return lambda text: Answer(text, 0, True)
    if not reference:
        raise ParameterError("A reward counts tokens: give large_model_reference, whose tokenizer does.")
    if (
        local_folder(reference, weights=False) is not None
    ):  # transformers would ask the hub for a folder that is not there
        files_of(reference, parameter="large_model_reference")
    text_format = TextFormat(load_tokenizer(reference), prompt_sequence_length=1, target_sequence_length=most_tokens)
    end = text_format.tokenizer.eos_token_id

    def answer_of(text: str) -> Answer:
        ids = text_format.learnt_ids(text)
        return Answer(text, len(ids), ids[-1] == end)

    return answer_of


def _as_text(
    trial: Trial, asked: Sequence[tuple[Example, Answer]], values: Mapping[str, Value], price: float | None
) -> list[str]:
    people = trial.total.agreement is not None
    heads = ("reward", "weight", "mean", "spread", "lowest", "highest", "ms each")
    rows = [(*heads, "agrees with people") if people else heads]
    for part in (*trial.parts, trial.total):
        rows.append(_row(part, people))  # type: ignore[arg-type]
    lines = [counted(len(asked), "answer"), "", text_table(rows), ""]
    ranked = sorted(zip(trial.total.scores, asked, strict=True), key=lambda scored: scored[0])
    for label, (score, (_, answer)) in (("Worth least", ranked[0]), ("Worth most", ranked[-1])):
        text = " ".join(printable(answer.text).split())
        lines.append(f"{label}, {score:.3g}: {text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}")
    plan = Plan.of({name: value for name, value in values.items() if name != "large_model_reference"})
    sampled = -(-plan.reinforcement_learning_train_steps // int(values["num_iterations"]))
    count = sampled * plan.batch_size * plan.num_generations + plan.looks * plan.watch_prompts
    seconds = trial.total.seconds / len(asked) * count
    cost = f", and {seconds / 3600 * price:,.2f} at {price:g} an hour" if price is not None else ""
    lines.append(f"A whole run scores up to {counted(count, 'answer')}: {duration(seconds)} at this speed{cost}.")
    if trial.total.cost_each:
        lines.append(
            f"What is asked of servers for them costs up to {trial.total.cost_each * count:,.2f}, by their price."
        )
    return lines + [f"Warning: {caution}" for caution in (*trial.cautions, *trial.beyond(count))]


def _row(part: Tried, people: bool) -> tuple[str, ...]:
    numbers = (part.weight, part.mean, part.spread, min(part.scores), max(part.scores))
    each = 1000 * part.seconds / len(part.scores)
    shown = (part.name, *(f"{number:.3g}" for number in numbers), f"{each:.2g}")
    if not people:
        return shown
    found = part.agreement
    return (*shown, f"{found.share:.0%} [{found.low:.0%}, {found.high:.0%}], n = {found.n}" if found else "")
