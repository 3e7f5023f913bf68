"""The values that parameters may have, in one table, for the command, the pipelines and the library alike."""

import math
from typing import NamedTuple

from rlhf_tuning.accelerators import GPUS, machine_name
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.secret_manager import problem_with_secret


class Limit(NamedTuple):
    """Lowest and highest value allowed; `open_low` excludes the lowest itself."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def __str__(self) -> str:
        low = f"greater than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return low if math.isinf(self.high) else f"{low} and at most {self.high:.10g}"

    def allows(self, value: float) -> bool:
        """Say whether `value` lies within the limit; NaN and infinities never do."""
        if not math.isfinite(value):
            return False
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high


#: Numbers. The upper limits of the sequence lengths are those of the Vertex job.
LIMITS: dict[str, Limit] = {
    "prompt_sequence_length": Limit(1, 8192),
    "target_sequence_length": Limit(1, 1024),
    "reward_model_learning_rate_multiplier": Limit(0, open_low=True),
    "reinforcement_learning_rate_multiplier": Limit(0, open_low=True),
    "reward_model_train_steps": Limit(1),
    "reinforcement_learning_train_steps": Limit(1),
    "kl_coeff": Limit(0),
    "lora_dim": Limit(0),
    "reward_lora_dim": Limit(0),
    "batch_size": Limit(1),
    "num_generations": Limit(2),
    "temperature": Limit(0),
    "seed": Limit(0, 2**32 - 1),
    "eval_prompts": Limit(1),
    "max_bad_rows": Limit(0),
    "min_new_preferences": Limit(0),
    "judge_max_calls": Limit(1),
    "held_out_reward_model_share": Limit(0, 0.5),
    "gate_win_rate_margin": Limit(0, 0.49),
    "gate_max_kl": Limit(0),
    "gate_max_length_ratio": Limit(0),
    "watch_interval": Limit(0),
    "watch_prompts": Limit(0),
}

#: Of a machine, in any currency.
PRICE_PER_HOUR = Limit(0)

#: What an endpoint can run on; empty for the cheapest that the model fits on. `serving.MACHINES` says what they are.
SERVING_MACHINES: tuple[str, ...] = (
    "",
    *(machine_name(kind, count) for kind, gpu in GPUS.items() for count in gpu.machine_types),
)

#: Names.
CHOICES: dict[str, tuple[str, ...]] = {
    "rl_algorithm": ("rloo", "grpo"),
    "dtype": ("auto", "float32", "bfloat16"),
    "rollout_engine": ("auto", "lean", "transformers"),
    "scorer": ("", "house_style"),
    "judge": ("", "language_model", "gemini", "local_model"),
    "accelerator_type": ("GPU",),
    "serving_machine": SERVING_MACHINES,
}


NO_EXPLORATION = (
    "temperature is 0; it must be greater than 0: reinforcement learning compares different answers to a prompt, and at 0 "
    "all are the same. Only infer_pipeline takes 0."
)


def problem_with(name: str, value: object) -> str:
    """Return what is wrong with a parameter's value, or an empty string."""
    if name == "accelerator_type" and value == "TPU":
        return (
            "accelerator_type is 'TPU', which is not supported yet. Use 'GPU', or leave it out; which GPU, and how many, is "
            "chosen when the pipeline is compiled, as in 'rlhf compile --target vertex --machine a100-80gb'."
        )
    if name == "judge_key_secret":
        return problem_with_secret(str(value), parameter=name)
    if name in CHOICES and value not in CHOICES[name]:
        accepted = ", ".join(repr(choice) for choice in CHOICES[name])
        return f"{name} is {value!r}; it must be {'one of ' if len(CHOICES[name]) > 1 else ''}{accepted}."
    if name in LIMITS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{name} is {value!r}; it must be a number {LIMITS[name]}."
        if not LIMITS[name].allows(value):
            return f"{name} is {value}; it must be {LIMITS[name]}."
        if name == "gate_max_length_ratio" and 0 < value < 1:
            return f"{name} is {value}; it must be at least 1, or 0 for no limit."
    return ""


def check_exploration(temperature: float) -> None:
    """Check the temperature of a run that learns from samples.

    Raises:
        ParameterError: If it is 0.
    """
    if temperature == 0:
        raise ParameterError(NO_EXPLORATION)


def check_context(
    positions: int, *, prompt_sequence_length: int, target_sequence_length: int, model: str = "the base model"
) -> None:
    """Refuse sequences that are longer than the positions a model was made for.

    Args:
        positions: How many; 0 where there is no limit.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        model: What to call the model.

    Raises:
        ParameterError: Naming both lengths and the model's limit.
    """
    # The end-of-sequence token comes on top.
    if positions and prompt_sequence_length + target_sequence_length + 1 > positions:
        raise ParameterError(
            f"prompt_sequence_length {prompt_sequence_length} and target_sequence_length {target_sequence_length} are more "
            f"than the {positions} positions of {model}. Lower them, or choose a model with a longer context."
        )


def check_limits(**values: object) -> None:
    """Check each named value.

    Raises:
        ParameterError: Naming every value that is not allowed, and what is.
    """
    problems = [problem for name, value in values.items() if (problem := problem_with(name, value))]
    if problems:
        raise ParameterError("\n".join(problems))
