"""How long a run will take on the machine at hand: the forecast for its own data, as `rlhf run` says it."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from statistics import mean
from typing import Any

from rlhf_tuning.data.held_out import validation_rows
from rlhf_tuning.data.problems import Problems
from rlhf_tuning.data.reader import DEMONSTRATIONS, FEEDBACK, PREFERENCES, PROMPTS, TO_LABEL, FileReader
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.sources import resolve
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.limits import check_context
from rlhf_tuning.models.architecture import Architecture, read_architecture
from rlhf_tuning.models.registered import folder_if_registered
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.forecast import Hardware, Plan, forecast, learnt_from, micro_batch

#: So many rows of a dataset, its first, say how long its texts are.
_ROWS = 200


def expected_time(values: Mapping[str, Value]) -> str:
    """Return words such as `About 12 minutes on this machine (2 cores, AVX2, float32)`. Takes some seconds.

    Args:
        values: A run's parameters; its data and its model's tokenizer are there.

    Raises:
        RlhfError: If there is no forecast for the model, or data or tokenizer cannot be read.
    """
    plan, model, reward_base, hardware = plan_here(values)
    found = forecast(plan, model, hardware, reward_base=reward_base)
    return f"About {_rounded(found.all_hours)} on this machine ({hardware.processor}, {hardware.numbers})"


def plan_here(values: Mapping[str, Value]) -> tuple[Plan, Architecture, Architecture, Hardware]:
    """Return what a forecast for this machine is made from: the plan with the data's own lengths, both bases, the machine.

    Args:
        values: A run's parameters; its data and its model's tokenizer are there.

    Raises:
        RlhfError: If there is no forecast for the model, or data or tokenizer cannot be read.
    """
    plan, model, reward_base = plan_of_data(values)
    return plan, model, reward_base, measure_here(plan, model, str(values["dtype"]))


def plan_of_data(
    values: Mapping[str, Value], *, tunes_on_preferences: bool = False
) -> tuple[Plan, Architecture, Architecture]:
    """Return the plan of a run with the data's own lengths, and both bases.

    Args:
        values: The run's parameters; its data and its model's tokenizer are there.
        tunes_on_preferences: Whether it is preference tuning, where its parameters leave that open.

    Raises:
        RlhfError: If there is no forecast for the model, or data or tokenizer cannot be read.
    """
    if student := values.get("student_model_reference"):
        values = {**values, "large_model_reference": student}
    model, reward_base = read_bases(values)
    plan = _plan(values, tunes_on_preferences=tunes_on_preferences)
    prompt, answer = _mean_lengths(values, plan)
    return replace(plan, prompt_tokens=prompt, answer_tokens=answer), model, reward_base


def read_bases(values: Mapping[str, Value]) -> tuple[Architecture, Architecture]:
    """Return the shapes of the policy's base model and of the reward model's, or of a teacher that is loaded beside it.

    Raises:
        ModelError: If a shape cannot be known.
        ParameterError: If a model takes no texts that long.
    """
    reference = str(values["large_model_reference"])
    parameter = "teacher_model_reference" if values.get("on_policy") else "reward_model_reference"
    other = str(values.get(parameter, "")) or reference
    if values.get("on_policy"):
        if values.get(parameter, "") in ("", "-"):
            raise ParameterError(
                "teacher_model_reference is missing: with on_policy the teacher is loaded beside the student, so its shape "
                "has to be known."
            )
        other = folder_if_registered(other, str(values.get("registry_dir", "")))
    model = read_architecture(reference)
    reward_base = model if other == reference else read_architecture(other, parameter=parameter)
    for base in (model, reward_base):
        check_context(
            base.positions,
            prompt_sequence_length=int(values["prompt_sequence_length"]),
            target_sequence_length=int(values["target_sequence_length"]),
            model=base.name,
        )
    return model, reward_base


def measure_here(plan: Plan, model: Architecture, dtype: str) -> Hardware:
    """Return what this machine has for a run, measured for two seconds.

    Args:
        plan: Says how large a product is.
        model: Likewise.
        dtype: As the pipeline's parameter.
    """
    from rlhf_tuning.planning.calibration import this_machine

    return this_machine(model, tokens=micro_batch(plan.batch_size, 8) * plan.prompt_sequence_length, dtype=dtype)


def _mean_lengths(values: Mapping[str, Value], plan: Plan) -> tuple[int, int]:
    """Return the mean tokens of a prompt and of an answer, by the first rows of the data."""
    text_format = TextFormat(
        load_tokenizer(str(values["large_model_reference"])),
        prompt_sequence_length=plan.prompt_sequence_length,
        target_sequence_length=plan.target_sequence_length,
    )
    demonstrations = TO_LABEL if values.get("teacher_model_reference") else DEMONSTRATIONS
    learnt_from = (
        ("preference_dataset", PREFERENCES),
        ("feedback_dataset", FEEDBACK),
        ("prompt_dataset", PROMPTS),
        ("dataset_uri", demonstrations),
    )
    rows = [row for parameter, accepts in learnt_from for row in _first_rows(values, parameter, accepts)]
    answers = [row[part] for row in rows for part in ("chosen", "rejected", "answer") if row.get(part)]
    # All that is allowed, where they are still to be written, as by a teacher; without the token that ends an answer.
    prompts = [len(text_format.prompt_ids(row["prompt"])) for row in rows] or [plan.prompt_sequence_length]
    lengths = [len(text_format.answer_ids(answer)) - 1 for answer in answers] or [plan.target_sequence_length]
    return max(1, round(mean(prompts))), max(1, round(mean(lengths)))


def _plan(values: Mapping[str, Value], *, tunes_on_preferences: bool = False) -> Plan:
    """Return a run's plan that knows about how many preferences there are, and so the most steps that are taken on them."""
    preferences = _count(values, "preference_dataset", PREFERENCES) + _count(values, "feedback_dataset", FEEDBACK)
    # A comparison of methods has the parameters of all of them.
    if tunes_on_preferences or ("epoch_count" in values and "reinforcement_learning_train_steps" not in values):
        return Plan.of_preference_tuning(values, preferences)
    plan = Plan.of(values)
    if not preferences or not plan.reward_model_train_steps:
        return plan
    steps, epochs = plan.reward_model_train_steps, float(values["reward_model_max_epochs"])
    if epochs:
        rows = learnt_from(preferences, plan.held_out_reward_model_share)
        steps = min(steps, math.ceil(epochs * (rows - validation_rows(rows)) / plan.batch_size))
    return replace(plan, reward_model_train_steps=steps, preferences=preferences)


def _count(values: Mapping[str, Value], parameter: str, accepts: Collection[Kind]) -> int:
    """Return how many rows a dataset has, about so many where it is large; 0 where there is none, or nobody knows."""
    if not values.get(parameter):
        return 0
    sizes = [source.size for source in resolve(str(values[parameter]), parameter=parameter)]
    rows = list(_first_rows(values, parameter, accepts))
    if len(sizes) == 1 and len(rows) < _ROWS:
        return len(rows)
    if None in sizes:
        return 0
    # As an import writes them; a file's own rows are about as long.
    row_bytes = mean(len(json.dumps(row)) for row in rows)
    return max(1, round(sum(size for size in sizes if size) / row_bytes))


def _first_rows(values: Mapping[str, Value], parameter: str, accepts: Collection[Kind]) -> Iterator[dict[str, Any]]:
    if not values.get(parameter):
        return iter(())
    source = resolve(str(values[parameter]), parameter=parameter)[0]
    instruction = str(values.get("instruction") or values.get("default_context", ""))
    reader = FileReader(source, parameter=parameter, accepts=accepts, instruction=instruction, problems=Problems())
    lines = (batch.line(index) for batch in reader.batches() for index in range(len(batch)))
    return map(json.loads, islice(lines, _ROWS))


def _rounded(hours: float) -> str:
    minutes = max(1, round(60 * hours))
    if minutes == 1:
        return "a minute"
    return f"{minutes} minutes" if minutes < 100 else f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
