"""What a run will take: the memory of each phase at its peak, the time of a step, and hours. Arithmetic alone.

Symbols: P all weights, L those of the layers' products (LoRA adapts them), E those of the embedding or the output
head, A those of an adapter; h hidden size, i intermediate size, q heads times their size, n layers, V vocabulary. c
bytes of a number in matrix products (2 bfloat16, 4 float32), s of a weight in the model's files, w of a weight in
memory: c with LoRA, else 4. p tokens of a prompt, a of an answer, k answers to each, b batch_size; g GPUs, among
which the batch is divided. r rows of a micro-batch.

Memory is the highest of some stages, each of them the process itself, the weights, what learns, and what the stage
adds:

- what learns: LoRA 16 A (float32 weight, gradient, two of Adam); all weights 12 P beside the weights, which are
  float32.
- training: the activations that wait for the backward pass, for every token of a micro-batch and every layer
      LoRA, c = 2: 18 h + 8 i + 8.5 q, on a CPU 12 h + 8 i + 4 q + 4 v     LoRA, c = 4: 16 h + 16 i + 16.5 q
      all weights: 11 h more, and with c = 2 once 2 L (autocast's copy of the weights)
  (counted on torch's saved tensors; v is key heads times their size), and for attention that is not fused (bfloat16 on
  a CPU) 2 heads S, otherwise c S for the mask, S being the row's tokens. With activation checkpointing (on GPUs): c h
  for every layer, and one layer's activations. A row is p + 2 (a + 1) tokens in phase 1 and p + k a in phase 2, where a
  CPU has two at a time with LoRA (see `lanes`). Twice one layer's activations are at work beside them. The output head
  works on a piece of the positions (256 on a CPU) and of the vocabulary (32,768) at a time. Where a GPU has more room, more
  rows go through it at a time and no layer is computed twice (`trainer_settings.passes`): it takes more memory then, and
  less time, than is said here.
- rollout: with LoRA a merged copy of the weights, c L (on a CPU c (L + E), for their layout); the buffer of keys and
  values, 2 n c times their size times (p + a) for each answer decoded together (64 on a CPU; 1,024 on a GPU, or
  what four fifths of its free memory hold); the prompts' pass; logits.
- scoring: 16 answers, each with its prompt.
- saving: with LoRA the base alone, as its files have it, s P, for the adapter to be merged into.
- centring (phase 1): the base once more, for sampling: c P, and on a CPU c (L + E).
- on a CPU, files that are being read count too, s P when a model is loaded.

The policy, its reference and a reward model on the same base with LoRA share one copy of the weights. Full
fine-tuning holds a reference of its own (4 P, where KL is measured: kl_coeff or max_kl is above 0); reward models that
cannot share hold theirs.

Time is the products' operations over FLOP/s, plus bytes moved over bandwidth (where no product is, over the speed of an
exponential, which on a CPU is lower), plus a cost for every layer called:

- a token's forward pass: 2 L + 4 S q n operations (attention over the whole row), 2 A for an adapter; its backward
  pass as much again, twice where weights learn; once more forward with checkpointing. Bytes moved: `_MOVES` times its
  activations.
- the output head at a token of an answer: 2 E operations, three times that with a backward pass.
- a sampled token: 2 (L + E) operations for each answer, while all weights and the keys and values so far are read
  once, and the logits some times; the prompts' forward pass before; the merging of an adapter, 20 L bytes.
- phase 1: b packed pairs forward and backward; four times an epoch, for the validation, a tenth of all, up to 250, forward.
  Phase 2: b k answers sampled; scored, packed; the reference's forward pass, packed, where KL is measured; the policy's
  forward and backward pass, packed.
- more GPUs: the batch is divided, and so is what is measured and evaluated. The layers of a model that takes more than
  `MOST_WEIGHTS` of a GPU (c P with LoRA; 16 P where all weights learn, 20 P with a reference) are sharded: each GPU holds
  an L / g of all that is counted for L, and two layers whole in c (see `sharding`), makes no copy for sampling, and each
  pass over the model, every sampled token included, moves c L (g - 1) / g bytes to each GPU. Where all weights learn, a
  layer's gradients are there whole once, and each backward pass moves 4 L (g - 1) / g bytes of them.

Times of data sheets are peaks; of these a share is assumed to be reached (`TRAINING_SHARE`, `BANDWIDTH_SHARE`).
`benchmarks/scale.py` measures how far all this is from what happens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rlhf_tuning.accelerators import GPUS, LEARNING, MOST_WEIGHTS, Gpu, machine_name
from rlhf_tuning.data.held_out import held_out_rows, validation_rows
from rlhf_tuning.data.importer import MAX_EVAL_PREFERENCES
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models.architecture import Architecture

GB = 10**9

#: Assumed, not measured: what share of a data sheet's peak training reaches, and of its bandwidth.
TRAINING_SHARE, BANDWIDTH_SHARE = 0.4, 0.6
#: Measured by `benchmarks/scale.py`: the forecast's error in the median case, and in nine cases of ten at most.
MEMORY_ERROR, TIME_ERROR = (0.05, 0.09), (0.10, 0.30)
#: By what factor hours may be off where nothing was measured on the machine.
UNMEASURED = 2.0
#: Bytes of a process with its libraries loaded; on a GPU its context, libraries and what allocation wastes, assumed.
_PROCESS = {True: 0.6 * GB, False: 1.5 * GB}
#: Seconds for each layer in a pass: of a sampled token, of a forward, of a forward and backward pass.
_LAYER_SECONDS = {True: (0.4e-3, 0.8e-3, 2.5e-3), False: (0.7e-3, 0.7e-3, 2.5e-3)}
#: Seconds for each layer at an optimizer step.
_UPDATE_SECONDS = {True: 4e-3, False: 1e-3}
#: How often a pass moves its activations; on a GPU assumed.
_MOVES = {True: 5.0, False: 3.4}
#: Of the output head, by CPU and c: how much slower its products are than the layers', and bytes moved for each logit.
_HEAD = {(True, 2): (6.0, 20), (True, 4): (2.0, 43), (False, 2): (1.0, 12), (False, 4): (1.0, 20)}
#: Bytes moved for each logit that is sampled from.
_SAMPLED = {True: 40, False: 24}
#: Answers decoded together, which may take a share of a GPU's free memory, and tokens of their prompts computed together, as
#: `rollout` has it; answers beside training, as `generate` has it; positions of the output head, as `log_probabilities` has
#: it.
ROWS_TOGETHER = {True: 64, False: 1024}
SAMPLING_SHARE, PREFILL_TOKENS = 0.8, 16_384
ANSWERED_TOGETHER = {True: 64, False: 32}
HEAD_POSITIONS, HEAD_TOKENS = 256, 32_768
SCORED_TOGETHER = 16
#: Examples of a pass in supervised tuning, as `supervised` has it.
SUPERVISED_TOGETHER = 8
#: Held-out demonstrations that its loss is measured on: half as many as are learnt from between, within these.
FEWEST, MOST = 100, 500
#: Of a CPU, as `lanes` has it; and how fast its products are without them, where all weights learn.
LANES, _ALONE = 2, 0.8
_CENTRING_ANSWERS = 128
#: Prompts of a regression suite: of ours, since no data is read.
_SUITE = 100
_LOOKS = 10
#: How often an epoch the reward model is validated, and of how many preferences a tenth is, which is the largest share.
VALIDATIONS, _TENTH_VALIDATED = 4, 2_000
_READ_BYTES_PER_SECOND = GB
#: Steps of the pipeline on the machine and beside it, and the seconds that one takes to start. Those on GPUs are assumed;
#: those of a CPU are of `rlhf run`, which imports torch once for all steps.
_STARTS = {True: (6, 6, 4.0, 1.0), False: (6, 6, 300.0, 60.0)}


#: Of the phases that a run may have.
_STEPS = (
    "supervised_train_steps",
    "reward_model_train_steps",
    "reinforcement_learning_train_steps",
    "on_policy_train_steps",
)
#: Looks of preference tuning in an epoch, as `preference` has it.
_PREFERENCE_LOOKS = 4
#: Held-out prompts that a student answers at each look, as `distillation` has it.
_ANSWERED_AT_A_LOOK = 100


def learnt_from(preferences: int, held_out_share: float) -> int:
    """Return of how many preferences one learns: without the held-out ones, and those of the held-out reward model."""
    others = preferences - held_out_rows(preferences, MAX_EVAL_PREFERENCES)
    return max(1, round(others * (1 - held_out_share)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that cost depends on, named as the pipeline's parameters are.

    Steps are 0 of a phase that the run does not have. `prompt_tokens` and `answer_tokens` are what prompts and answers have
    on average, for the time; 0 for all that their limits allow, which is what memory is always forecast for. `preferences`
    are all that the dataset has, whatever is held out of them and left to the held-out reward model; by them it is known how
    many the reward model is validated on, the largest share that may be where they are 0.
    With `preference_train_steps` the run is preference tuning: `lora_dim` is its `adapter_size`, and of the reward models it
    has the held-out one alone. With `on_policy_train_steps` a student learns on its own answers, with its teacher beside it.
    With `on_feedback` each of the `preferences` is one answer.
    """

    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    reward_model_train_steps: int = 1000
    reinforcement_learning_train_steps: int = 1000
    supervised_train_steps: int = 0
    on_policy_train_steps: int = 0
    evaluation_interval: int = 20
    kl_coeff: float = 0.1
    max_kl: float = 200.0
    lora_dim: int = 16
    reward_lora_dim: int = 16
    batch_size: int = 64
    num_generations: int = 4
    dynamic_sampling: int = 0
    eval_prompts: int = 200
    held_out_reward_model_share: float = 0.25
    watch_interval: int = 0
    watch_prompts: int = 64
    prompt_tokens: int = 0
    answer_tokens: int = 0
    preferences: int = 0
    preference_train_steps: int = 0
    on_feedback: bool = False
    regression_prompts: int = 0

    def __post_init__(self) -> None:
        absent = {name for name in _STEPS if vars(self)[name] == 0}
        given = {
            name: value for name, value in vars(self).items() if not name.endswith("_tokens") and name not in absent
        }
        check_limits(**given)
        for name, limit in (
            ("prompt_tokens", self.prompt_sequence_length),
            ("answer_tokens", self.target_sequence_length),
        ):
            if not 0 <= getattr(self, name) <= limit:
                raise ParameterError(f"{name} is {getattr(self, name)}; it must be between 1 and the limit, {limit}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Plan":
        """Return the settings among a run's parameters."""
        known = _known(values)
        if values.get("dataset_uri"):  # supervised tuning, and what may follow of a student
            steps = dict.fromkeys(_STEPS, 0) | {"supervised_train_steps": values["train_steps"]}
            if values.get("on_policy"):
                steps["on_policy_train_steps"] = values["on_policy_train_steps"]
            return cls(**known | steps | {"held_out_reward_model_share": 0.0, "watch_prompts": 0})
        preferences = ("preference_dataset", "feedback_dataset", "preference_prompt_dataset")
        if values.get("rewards") and not any(values.get(name) for name in preferences):
            # They are all that is learnt from.
            known |= {"reward_model_train_steps": 0, "held_out_reward_model_share": 0.0}
        return cls(**known | {"supervised_train_steps": _steps_before(values)})

    @classmethod
    def of_preference_tuning(cls, values: Mapping[str, Any], preferences: int) -> "Plan":
        """Return the settings of preference tuning on so many preferences.

        Raises:
            ParameterError: If there are none.
        """
        if preferences < 1:
            raise ParameterError(f"--preferences is {preferences}; it must be at least 1.")
        known = _known(values)
        share, epochs = values["held_out_reward_model_share"], values["reward_model_max_epochs"]
        an_epoch = learnt_from(preferences, share) / values["batch_size"]
        reward_steps = values["reward_model_train_steps"]
        return cls(
            **known
            | dict.fromkeys(_STEPS, 0)
            | {
                "supervised_train_steps": _steps_before(values),
                "lora_dim": values["adapter_size"],
                "preferences": preferences,
                "on_feedback": values["loss_type"] == "kto",
                "preference_train_steps": math.ceil(values["epoch_count"] * an_epoch),
                "reward_model_train_steps": min(reward_steps, math.ceil(epochs * an_epoch)) if epochs else reward_steps,
            }
        )

    @property
    def tunes_policy(self) -> bool:
        """Say whether there is reinforcement learning."""
        return self.reinforcement_learning_train_steps > 0

    @property
    def measures_kl(self) -> bool:
        """Whether each step of reinforcement learning measures KL."""
        return self.kl_coeff > 0 or self.max_kl > 0

    @property
    def held_out_steps(self) -> int:
        """Optimizer steps of the held-out reward model."""
        share = self.held_out_reward_model_share
        return max(1, round(self.reward_model_train_steps * share / (1 - share))) if share else 0

    @property
    def validated(self) -> float:
        """Preferences that the reward model is validated on for each that it learns from."""
        rows = round(self.preferences * (1 - self.held_out_reward_model_share)) or _TENTH_VALIDATED
        validated = validation_rows(rows)
        return VALIDATIONS * validated / (rows - validated)

    @property
    def looks(self) -> int:
        """How often the watch looks."""
        if not self.watch_prompts or not self.tunes_policy:
            return 0
        steps = self.reinforcement_learning_train_steps
        return 1 + math.ceil(steps / (self.watch_interval or math.ceil(steps / _LOOKS)))


def _steps_before(values: Mapping[str, Any]) -> int:
    """Return the steps of a supervised phase before others; 0 where a run's parameters ask for none."""
    asked = values.get("supervised_dataset") or values.get("supervise_on_preferred")
    return int(values["supervised_train_steps"]) if asked else 0


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plan that are parameters of a run."""
    known = {field.name: values[field.name] for field in fields(Plan) if field.name in values}
    return known | {"regression_prompts": _SUITE if values.get("regression_suite") else 0, "on_policy_train_steps": 0}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run has.

    Args:
        name: What to call it.
        devices: How many GPUs, or 1 for a CPU.
        memory: Bytes of each.
        flops: Operations a second that products reach on each.
        bandwidth: Bytes a second that its memory moves.
        elementwise: Bytes a second that go through what is no product, such as an exponential; on a GPU the bandwidth.
        link: Bytes a second from one GPU to another; 0 where there is one.
        number_bytes: c.
        cpu: Whether it is one.
        processor: In words, where it is this machine: what time depends on.
        measured: Whether flops and bandwidth were measured on it.
    """

    name: str
    devices: int = 1
    memory: float
    flops: float
    bandwidth: float
    elementwise: float
    link: float = 0.0
    number_bytes: int = 2
    cpu: bool = False
    processor: str = ""
    measured: bool = False

    @property
    def numbers(self) -> str:
        """What matrix products are of."""
        return "bfloat16" if self.number_bytes == 2 else "float32"


@dataclass(frozen=True)
class Phase:
    """The forecast of one phase. `seconds` are those of a step, by part; `memory` the bytes of each stage on one device."""

    name: str
    steps: int
    seconds: dict[str, float]
    memory: dict[str, float]

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def sampled_seconds(self) -> float:
        """Of these, what answers and their scores take: dynamic sampling may do both anew."""
        return self.seconds.get("sampling", 0.0) + self.seconds.get("reward", 0.0)

    @property
    def hours(self) -> float:
        """Hours of all steps."""
        return self.steps * self.step_seconds / 3600

    @property
    def peak(self) -> tuple[str, float]:
        """The stage that takes most memory, and its bytes."""
        return max(self.memory.items(), key=lambda item: item[1])


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast of a run. `hours` are those outside the steps, by what they go to; `start_hours` a step's start."""

    phases: tuple[Phase, ...]
    hours: dict[str, float]
    start_hours: float
    sharded: bool
    hardware: Hardware

    @property
    def all_hours(self) -> float:
        """Hours in all."""
        return sum(phase.hours for phase in self.phases) + sum(self.hours.values())

    @property
    def least_hours(self) -> float:
        """The lower end of what it may take in all."""
        return self.all_hours * (1 - TIME_ERROR[1] if self.hardware.measured else 1 / UNMEASURED)

    @property
    def peak(self) -> float:
        """The most bytes on one device."""
        return max(phase.peak[1] for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.peak <= self.hardware.memory


def gpu_hardware(kind: str, gpu: Gpu, count: int, *, dtype: str = "auto") -> Hardware:
    """Return what so many of a GPU are assumed to reach."""
    peak = gpu.float32_tflops if dtype == "float32" else gpu.bfloat16_tflops
    return Hardware(
        name=machine_name(kind, count),
        devices=count,
        memory=gpu.gpu_memory * GB,
        flops=TRAINING_SHARE * peak * 1e12,
        bandwidth=BANDWIDTH_SHARE * gpu.bandwidth * GB,
        elementwise=BANDWIDTH_SHARE * gpu.bandwidth * GB,
        link=BANDWIDTH_SHARE * gpu.link * GB,
        number_bytes=4 if dtype == "float32" else 2,
    )


def forecast(
    plan: Plan, model: Architecture, hardware: Hardware, *, reward_base: Architecture | None = None
) -> Forecast:
    """Return what a run takes.

    Args:
        plan: The run's settings.
        model: The base model.
        hardware: What the run has.
        reward_base: Base of the reward model, where it is another.
    """
    return _Forecaster(plan, model, hardware, reward_base or model).run()


def alternatives(
    plan: Plan, model: Architecture, hardware: Hardware, *, reward_base: Architecture | None = None
) -> list[str]:
    """Return single changes that make a run fit which does not: of each kind the smallest."""
    found = []
    changes = [{"lora_dim": 16, "reward_lora_dim": 16}] if not (plan.lora_dim and plan.reward_lora_dim) else []
    for change in changes:
        kept: dict[str, Any] = {name: value for name, value in change.items() if not vars(plan)[name]}
        if forecast(replace(plan, **kept), model, hardware, reward_base=reward_base).fits:
            names = {"lora_dim": "adapter_size" if plan.preference_train_steps else "lora_dim"}
            found.append(
                " ".join(f"--{names.get(name, name).replace('_', '-')} {value}" for name, value in kept.items())
            )
    for name, least in (
        ("batch_size", hardware.devices),
        ("prompt_sequence_length", 64),
        ("target_sequence_length", 16),
    ):
        value = vars(plan)[name] // 2
        while value >= least:
            smaller = replace(plan, **{name: value}, prompt_tokens=0, answer_tokens=0)
            if forecast(smaller, model, hardware, reward_base=reward_base).fits:
                found.append(f"--{name.replace('_', '-')} {value}")
                break
            value //= 2
    machines = [
        gpu_hardware(kind, gpu, count, dtype="float32" if hardware.number_bytes == 4 else "bfloat16")
        for kind, gpu in GPUS.items()
        for count in sorted({1, *gpu.machine_types})
        if gpu.gpu_memory
    ]
    machines = [machine for machine in machines if forecast(plan, model, machine, reward_base=reward_base).fits]
    if machines:
        smallest = min(machines, key=lambda machine: (machine.devices * machine.memory, machine.flops))
        found.append(f"--machine {smallest.name}")
    return found


def activation_bytes(
    model: Architecture, rows: int, tokens: int, *, c: int, lora: bool, cpu: bool, checkpointing: bool
) -> float:
    """Return the bytes that wait for the backward pass and those at work beside them, for rows of so many tokens.

    Args:
        model: Whose layers they pass.
        rows: In one pass.
        tokens: Of a row.
        c: Bytes of a number in matrix products.
        lora: Whether an adapter learns, and not all weights.
        cpu: Whether it is one.
        checkpointing: Whether a layer keeps what goes into it alone.
    """
    layer = rows * tokens * layer_bytes(model, tokens, c=c, lora=lora, cpu=cpu)
    if checkpointing:
        return model.layers * rows * tokens * model.hidden * c + 3 * layer
    return (model.layers + 2) * layer


def layer_bytes(model: Architecture, tokens: int, *, c: int, lora: bool, cpu: bool) -> float:
    """Return the bytes that a token leaves in a layer for the backward pass, in a row of so many tokens."""
    h, i, q = model.hidden, model.intermediate, model.query
    if cpu and c == 2:
        products: float = 12 * h + 8 * i + 4 * q + 4 * model.key_value
        attention = 2 * model.heads * tokens
    else:
        products = 18 * h + 8 * i + 8.5 * q if c == 2 else 16 * h + 16 * i + 16.5 * q
        attention = c * tokens
    return products + (0 if lora else 11 * h) + attention


def micro_batch(batch_size: int, most: int) -> int:
    """Return the largest divisor of `batch_size` that is at most `most`, as `training_log.micro_batch` does."""
    return max(size for size in range(1, min(batch_size, most) + 1) if batch_size % size == 0)


class _Forecaster:
    """The formulas, for one run on one piece of hardware. All of it is for one device."""

    def __init__(self, plan: Plan, model: Architecture, hardware: Hardware, reward_base: Architecture) -> None:
        self.plan, self.model, self.reward_base, self.on = plan, model, reward_base, hardware
        self.c = hardware.number_bytes
        self.prompts = math.ceil(plan.batch_size / hardware.devices)
        self.k = plan.num_generations
        self.decode, self.forward_call, self.train_call = _LAYER_SECONDS[hardware.cpu]
        #: Further copies of the policy's weights.
        self.copies = 0 if plan.lora_dim or not plan.measures_kl or not plan.tunes_policy else 1
        beside = 0 if plan.lora_dim else LEARNING + 4 * self.copies
        self.policy_divided = self.is_divided(model, self.c if plan.lora_dim else 4, beside)
        frozen_bytes = self.c if plan.reward_lora_dim else 4
        self.reward_divided = self.is_divided(reward_base, frozen_bytes, 0 if plan.reward_lora_dim else LEARNING)
        self.scoring_divided = self.is_divided(reward_base, frozen_bytes, beside)

    def run(self) -> Forecast:
        plan = self.plan
        reward, reward_memory = self.reward_seconds(), self.reward_memory()
        phases = (
            Phase("supervised tuning", plan.supervised_train_steps, self.answers_seconds(1), self.answers_memory(1)),
            Phase(
                "reward model",
                0 if plan.preference_train_steps else plan.reward_model_train_steps,
                reward,
                reward_memory,
            ),
            Phase("held-out reward model", plan.held_out_steps, reward, reward_memory),
            Phase(
                "preference tuning",
                plan.preference_train_steps,
                self.feedback_seconds() if plan.on_feedback else self.answers_seconds(2),
                self.answers_memory(1 if plan.on_feedback else 2),
            ),
            Phase(
                "reinforcement learning",
                plan.reinforcement_learning_train_steps,
                self.policy_seconds(),
                self.policy_memory(),
            ),
            Phase("on-policy distillation", plan.on_policy_train_steps, self.student_seconds(), self.student_memory()),
        )
        return Forecast(
            phases=tuple(phase for phase in phases if phase.steps),
            hours={name: hours for name, hours in self.other_hours().items() if hours},
            start_hours=self.start_seconds() / 3600,
            sharded=self.policy_divided,
            hardware=self.on,
        )

    def is_divided(self, model: Architecture, number_bytes: int, beside: int = 0) -> bool:
        """Say whether the layers of a model are divided over the GPUs, as `base_model.is_too_large` does."""
        return self.on.devices > 1 and model.parameters * (number_bytes + beside) > MOST_WEIGHTS * self.on.memory

    # Memory.

    def weights(self, model: Architecture, rank: int, *, divided: bool, head: bool = True) -> float:
        """Return the bytes of a model's weights; without its output head it is a reward model."""
        beside = model.parameters - model.linear if head else model.embedding
        number_bytes = self.c if rank else 4
        if not divided:
            return (float(model.linear) + beside) * number_bytes
        # A part of every layer, and whole the one at work and the next.
        return (model.linear / self.on.devices + beside) * number_bytes + 2 * model.linear / model.layers * self.c

    def reward_memory(self) -> dict[str, float]:
        plan, model, c, cpu = self.plan, self.reward_base, self.c, self.on.cpu
        lora = plan.reward_lora_dim > 0
        held = self.process()
        held += self.weights(model, plan.reward_lora_dim, divided=self.reward_divided, head=False)
        held += self.learning(model, plan.reward_lora_dim, divided=self.reward_divided)
        tokens = plan.prompt_sequence_length + 2 * (plan.target_sequence_length + 1)
        base = self.weights(model, 1, divided=self.is_divided(model, c))
        stored = model.parameters * model.stored_bytes
        return {
            "training": held
            + self.activations(model, micro_batch(self.prompts, 8), tokens, lora=lora, divided=self.reward_divided),
            "centring": held
            + base
            + ((model.linear + model.embedding) * c if cpu else 0)
            + max(self.sampling(model, ANSWERED_TOGETHER[cpu], ANSWERED_TOGETHER[cpu]), stored if cpu else 0),
        }

    def answers_memory(self, answers: int) -> dict[str, float]:
        """Return the memory of learning from so many answers to each prompt, which are given."""
        plan, model, cpu = self.plan, self.model, self.on.cpu
        lora, rows = plan.lora_dim > 0, micro_batch(self.prompts, SUPERVISED_TOGETHER)
        divided = self.is_divided(model, self.c if lora else 4, 0 if lora else LEARNING)
        held = self.process() + self.weights(model, plan.lora_dim, divided=divided)
        held += self.learning(model, plan.lora_dim, divided=divided)
        lanes = min(LANES, rows) if cpu and lora else 1
        answer = answers * (plan.target_sequence_length + 1)
        stored = model.parameters * model.stored_bytes
        merged = stored if lora and not divided else 0
        return {
            "training": held
            + self.activations(model, rows, plan.prompt_sequence_length + answer, lora=lora, divided=divided)
            + lanes * self.head(model, rows * answer // lanes, lora=lora),
            "saving": (self.process() if lora else held) + merged + (stored if cpu and lora else 0),
        }

    def policy_memory(self) -> dict[str, float]:
        plan, model, cpu = self.plan, self.model, self.on.cpu
        lora = plan.lora_dim > 0
        held = self.process() + (1 + self.copies) * self.weights(model, plan.lora_dim, divided=self.policy_divided)
        held += self.learning(model, plan.lora_dim, divided=self.policy_divided) + self.reward_models()
        lanes = micro_batch(self.prompts, LANES) if cpu and lora else 1
        rows = lanes if cpu else micro_batch(self.prompts, max(1, 16 // self.k))
        tokens = plan.prompt_sequence_length + self.k * plan.target_sequence_length
        length = plan.prompt_sequence_length + plan.target_sequence_length + 1
        answers = self.prompts * self.k
        stored = model.parameters * model.stored_bytes
        # Merged on the GPU, or in the machine's memory where it does not fit there.
        merged = stored if lora and not self.policy_divided else 0
        return {
            "rollout": self.rollout_memory(held, answers),
            "scoring": held + self.passing(self.reward_base, min(SCORED_TOGETHER, answers), length),
            "training": held
            + self.activations(model, rows, tokens, lora=lora, divided=self.policy_divided)
            + lanes * self.head(model, rows // lanes * self.k * plan.target_sequence_length, lora=lora),
            "saving": (self.process() if lora else held) + merged + (stored if cpu and lora else 0),
        }

    def rollout_memory(self, held: float, answers: int) -> float:
        """Return the memory of sampling so many answers to a step's prompts, beside what is held."""
        model, c, cpu, lora = self.model, self.c, self.on.cpu, self.plan.lora_dim > 0
        copied = (model.linear if lora or not cpu else 0) + (model.embedding if cpu else 0)
        if not lora:
            copied = (model.linear + model.embedding) if cpu or c == 2 else 0
        if self.policy_divided:
            copied = 0 if lora or c == 4 else model.embedding
        rollout = held + copied * c
        sampled = self.sampling(model, answers, self.prompts)
        if not cpu:
            room = SAMPLING_SHARE * (self.on.memory - rollout)
            sampled = max(self.sampling(model, 1, 1), min(sampled, room))
        return rollout + sampled

    def student_memory(self) -> dict[str, float]:
        """Return the memory of a student that learns on its own answers, with its teacher beside it."""
        plan, model, teacher = self.plan, self.model, self.reward_base
        learning = self.answers_memory(1)
        beside = self.weights(teacher, 1, divided=self.is_divided(teacher, self.c))
        held = self.process() + self.weights(model, plan.lora_dim, divided=self.policy_divided) + beside
        held += self.learning(model, plan.lora_dim, divided=self.policy_divided)
        rows, length = (
            micro_batch(self.prompts, SUPERVISED_TOGETHER),
            plan.prompt_sequence_length + plan.target_sequence_length,
        )
        # The teacher's logits are worked out beside the student's.
        theirs = self.passing(teacher, rows, length) + self.head(teacher, rows * plan.target_sequence_length, lora=True)
        return {
            "rollout": self.rollout_memory(held, self.prompts),
            "training": learning["training"] + beside + theirs,
            "saving": learning["saving"],
        }

    def process(self) -> float:
        return _PROCESS[self.on.cpu]

    def learning(self, model: Architecture, rank: int, *, divided: bool) -> float:
        if rank:
            return 16 * model.adapter(rank)
        if not divided:
            return LEARNING * model.parameters
        held = model.parameters - model.linear + model.linear / self.on.devices
        # And the gradients of a layer, whole, as they are worked out and as they are summed up.
        return LEARNING * held + (self.c + 4) * model.linear / model.layers

    def reward_models(self) -> float:
        plan, model = self.plan, self.reward_base
        count = 2 if plan.held_out_reward_model_share and plan.watch_prompts else 1
        if model is self.model and plan.lora_dim and plan.reward_lora_dim:
            return count * 4 * model.adapter(plan.reward_lora_dim)
        return count * self.weights(model, plan.reward_lora_dim, divided=self.scoring_divided, head=False)

    def activations(self, model: Architecture, rows: int, tokens: int, *, lora: bool, divided: bool) -> float:
        cast = 0.0 if lora or self.c == 4 or divided else 2.0 * model.linear
        cpu = self.on.cpu
        return cast + activation_bytes(model, rows, tokens, c=self.c, lora=lora, cpu=cpu, checkpointing=not cpu)

    def head(self, model: Architecture, positions: int, *, lora: bool) -> float:
        tile = min(positions, HEAD_POSITIONS if self.on.cpu else positions) * min(model.vocabulary, HEAD_TOKENS)
        # A CPU makes float32 copies of the tile, and of the weights that it is multiplied by; a GPU's kernels do not.
        copies = 20 * tile + 4 * min(model.vocabulary, HEAD_TOKENS) * model.hidden if self.on.cpu else 0
        return tile * self.c + copies + (0 if lora else 4 * model.embedding)

    def sampling(self, model: Architecture, answers: int, prompts: int) -> float:
        together = min(answers, ROWS_TOGETHER[self.on.cpu])
        together_prompts = max(1, prompts * together // answers)
        length = self.plan.prompt_sequence_length
        buffer = together * (length + self.plan.target_sequence_length) * self.key_value_bytes(model)
        logits = 16 * together * model.vocabulary
        at_once = min(together_prompts * length, max(PREFILL_TOKENS, length))
        prefill = at_once * (6 * model.hidden + 3 * model.intermediate) * self.c
        return buffer + max(prefill, logits)

    def key_value_bytes(self, model: Architecture) -> float:
        return 2 * model.layers * model.key_value * self.c

    def passing(self, model: Architecture, rows: int, tokens: int) -> float:
        """Return the bytes at work in a forward pass that nothing follows."""
        attention = 4 * model.heads * tokens if self.on.cpu and self.c == 2 else 4 * tokens
        return rows * tokens * ((6 * model.hidden + 3 * model.intermediate) * self.c + attention)

    # Time.

    def pass_seconds(
        self,
        model: Architecture,
        rows: int,
        tokens: float,
        *,
        at_a_time: int,
        rank: int,
        learns: bool,
        divided: bool,
        trained: bool = True,
    ) -> float:
        """Return the seconds of a pass over rows: forward, and backward where something learns.

        Args:
            model: Whose layers.
            rows: How many.
            tokens: Of each.
            at_a_time: Rows in one pass.
            rank: Of the adapter; 0 for none.
            learns: Whether there is a backward pass.
            divided: Whether the layers are.
            trained: Whether what there is no adapter for learns, in a backward pass.
        """
        if not rows:
            return 0.0
        frozen = 2 * model.linear + 4 * tokens * model.query * model.layers
        adapter = 2 * model.adapter(rank) if rank else 0
        operations, moves = float(frozen + adapter), 1.0
        if learns:
            again = 0 if self.on.cpu else 1  # checkpointing
            operations = (2 + again) * frozen + (3 + again) * adapter + (0 if rank else frozen)
            moves = 2.5 + again
        whole = learns and trained and not rank
        flops = self.on.flops * (_ALONE if self.on.cpu and whole else 1)
        passes = math.ceil(rows / at_a_time)
        bytes_moved = _MOVES[self.on.cpu] * moves * model.layers
        bytes_moved *= layer_bytes(model, round(tokens), c=self.c, lora=True, cpu=self.on.cpu)
        calls = passes * model.layers * (self.train_call if learns else self.forward_call)
        on_the_way = passes * (3 if learns else 1) * self.transfer(model, divided=divided)
        if whole:  # and the gradients back, in float32
            on_the_way += passes * 4 / self.c * self.transfer(model, divided=divided)
        return rows * tokens * (operations / flops + bytes_moved / self.on.elementwise) + calls + on_the_way

    def head_seconds(self, model: Architecture, positions: float, *, learns: bool) -> float:
        slower, moved = _HEAD[self.on.cpu, self.c]
        operations = slower * (2 + 4 * learns) * model.embedding
        bytes_moved = moved * (1 + 1.5 * learns) * model.vocabulary
        return positions * (operations / self.on.flops + bytes_moved / self.on.elementwise)

    def sampling_seconds(
        self,
        model: Architecture,
        answers: int,
        prompts: int,
        lengths: tuple[float, float],
        *,
        merges: bool,
        divided: bool,
    ) -> float:
        prompt, answer = lengths
        on, c = self.on, self.c
        groups = math.ceil(answers / ROWS_TOGETHER[on.cpu])
        together = answers / groups
        prefill = prompts * prompt * (2 * model.linear + 4 * prompt * model.query * model.layers) / on.flops
        weights = (model.linear + model.embedding) * c
        key_values = together * (prompt + answer / 2) * self.key_value_bytes(model)
        logits = _SAMPLED[on.cpu] * together * model.vocabulary
        operations = together * 2 * (model.linear + model.embedding)
        token = operations / on.flops + (weights + key_values) / on.bandwidth + logits / on.elementwise
        token += model.layers * self.decode
        token += self.transfer(model, divided=divided)
        return prefill + groups * answer * token + merges * 20 * model.linear / on.bandwidth

    def transfer(self, model: Architecture, *, divided: bool) -> float:
        """Return the seconds in which divided weights reach a GPU."""
        if not divided:
            return 0.0
        return model.linear * self.c * (1 - 1 / self.on.devices) / self.on.link

    @property
    def lengths(self) -> tuple[float, float]:
        plan = self.plan
        return plan.prompt_tokens or plan.prompt_sequence_length, plan.answer_tokens or plan.target_sequence_length

    def optimizer_seconds(self, model: Architecture, rank: int, *, divided: bool) -> float:
        weights: float = model.adapter(rank) if rank else model.parameters
        summed = 8 * weights / self.on.link if self.on.devices > 1 else 0.0
        if divided and not rank:
            whole = model.parameters - model.linear
            weights, summed = whole + model.linear / self.on.devices, 8 * whole / self.on.link
        return 28 * weights / self.on.bandwidth + model.layers * _UPDATE_SECONDS[self.on.cpu] + summed

    def reward_seconds(self) -> dict[str, float]:
        plan, model = self.plan, self.reward_base
        prompt, answer = self.lengths
        at_a_time = micro_batch(self.prompts, 8)
        divided = self.reward_divided
        learning = self.pass_seconds(
            model,
            self.prompts,
            prompt + 2 * (answer + 1),
            at_a_time=at_a_time,
            rank=plan.reward_lora_dim,
            learns=True,
            divided=divided,
        )
        return {"update": learning + self.optimizer_seconds(model, plan.reward_lora_dim, divided=divided)}

    def answers_seconds(self, answers: int) -> dict[str, float]:
        """Return the seconds of a step of learning from so many answers to each prompt, which are given."""
        plan, model = self.plan, self.model
        lora = plan.lora_dim > 0
        divided = self.is_divided(model, self.c if lora else 4, 0 if lora else LEARNING)
        update = self.demonstrated_seconds(self.prompts, answers=answers, learns=True, divided=divided)
        return {"update": update + self.optimizer_seconds(model, plan.lora_dim, divided=divided)}

    def feedback_seconds(self) -> dict[str, float]:
        """Return the seconds of a step of learning from one answer to each prompt, beside which another is asked about."""
        beside = 0 if self.plan.lora_dim else LEARNING
        divided = self.is_divided(self.model, self.c if self.plan.lora_dim else 4, beside)
        point = self.demonstrated_seconds(self.prompts, learns=False, divided=divided)
        return {**self.answers_seconds(1), "reference point": point}

    def demonstrated_seconds(self, rows: int, *, answers: int = 1, learns: bool, divided: bool) -> float:
        """Return the seconds of a pass over so many prompts, each with its given answers."""
        prompt, answer = self.lengths
        return self.pass_seconds(
            self.model,
            rows,
            prompt + answers * (answer + 1),
            at_a_time=SUPERVISED_TOGETHER,
            rank=self.plan.lora_dim,
            learns=learns,
            divided=divided,
        ) + self.head_seconds(self.model, rows * answers * (answer + 1), learns=learns)

    def policy_seconds(self) -> dict[str, float]:
        plan, model, k = self.plan, self.model, self.k
        prompt, answer = self.lengths
        answers = self.prompts * k
        at_a_time = micro_batch(self.prompts, 1 if self.on.cpu else max(1, 16 // k))
        packed = prompt + k * answer
        positions = answers * answer
        reference, divided = 0.0, self.policy_divided
        if plan.measures_kl:
            reference = self.pass_seconds(
                model, self.prompts, packed, at_a_time=at_a_time, rank=0, learns=False, divided=divided
            )
            reference += self.head_seconds(model, positions, learns=False)
        update = self.pass_seconds(
            model, self.prompts, packed, at_a_time=at_a_time, rank=plan.lora_dim, learns=True, divided=divided
        ) + self.head_seconds(model, positions, learns=True)
        return {
            "sampling": self.sampling_seconds(
                model, answers, self.prompts, (prompt, answer), merges=plan.lora_dim > 0, divided=divided
            ),
            "reward": self.scoring_seconds(self.prompts, k),
            "reference": reference,
            "update": update + self.optimizer_seconds(model, plan.lora_dim, divided=divided),
        }

    def student_seconds(self) -> dict[str, float]:
        """Return the seconds of a step of a student that learns on its own answers."""
        plan, model, divided = self.plan, self.model, self.policy_divided
        return {
            "sampling": self.sampling_seconds(
                model, self.prompts, self.prompts, self.lengths, merges=plan.lora_dim > 0, divided=divided
            ),
            # Its head is passed through in the backward pass as well.
            "teacher": self.teacher_seconds(self.prompts, heads=2),
            **self.answers_seconds(1),
        }

    def teacher_seconds(self, prompts: int, *, heads: int = 1) -> float:
        """Return the seconds in which a teacher passes over an answer to each of so many prompts."""
        prompt, answer = self.lengths
        teacher = self.reward_base
        return self.pass_seconds(
            teacher,
            prompts,
            prompt + answer,
            at_a_time=SUPERVISED_TOGETHER,
            rank=0,
            learns=False,
            divided=self.is_divided(teacher, self.c),
        ) + heads * self.head_seconds(teacher, prompts * answer, learns=False)

    def scoring_seconds(self, prompts: int, answers: int = 1) -> float:
        """Return the seconds in which a reward model scores so many answers to each prompt."""
        prompt, answer = self.lengths
        return self.pass_seconds(
            self.reward_base,
            prompts,
            prompt + answers * (answer + 1),
            at_a_time=max(1, SCORED_TOGETHER // answers),
            rank=self.plan.reward_lora_dim,
            learns=False,
            divided=self.scoring_divided,
        )

    def answering_seconds(self, answers: int, together: int, *, divided: bool) -> float:
        """Return the seconds of answers to as many prompts, outside training."""
        if not answers:
            return 0.0
        batches, together = math.ceil(answers / together), min(answers, together)
        return batches * self.sampling_seconds(
            self.model, together, together, self.lengths, merges=True, divided=divided
        )

    def kl_seconds(self, answers: int, *, divided: bool) -> float:
        prompt, answer = self.lengths
        once = self.pass_seconds(
            self.model, answers, prompt + answer, at_a_time=8, rank=0, learns=False, divided=divided
        )
        return 2 * (once + self.head_seconds(self.model, answers * answer, learns=False))

    def other_hours(self) -> dict[str, float]:
        """Return the hours outside the steps, for each device's share."""
        plan = self.plan
        watched, evaluated, centred, general = (
            math.ceil(answers / self.on.devices)
            for answers in (plan.watch_prompts, plan.eval_prompts, _CENTRING_ANSWERS, plan.regression_prompts)
        )
        learns_preferences = plan.preference_train_steps > 0
        judges = (2 if plan.held_out_steps else 1) if plan.reward_model_train_steps else 0
        if learns_preferences:
            judges = 1 if plan.held_out_steps else 0
        supervised = plan.supervised_train_steps > 0
        measured = math.ceil(min(max(plan.evaluation_interval * plan.batch_size // 2, FEWEST), MOST) / self.on.devices)
        measurements = 1 + math.ceil(plan.supervised_train_steps / plan.evaluation_interval) if supervised else 0
        frozen = self.is_divided(self.model, self.c)
        together = ANSWERED_TOGETHER[self.on.cpu]
        look = (
            self.answering_seconds(watched, together, divided=self.policy_divided)
            + judges * self.scoring_seconds(watched)
            + self.kl_seconds(watched, divided=self.policy_divided)
        )
        rewarded = plan.held_out_steps + (0 if learns_preferences else plan.reward_model_train_steps)
        validation = rewarded * plan.validated * self.scoring_seconds(self.prompts, 2)
        centring = self.answering_seconds(centred, together, divided=frozen) + self.scoring_seconds(centred)
        measuring = self.demonstrated_seconds(measured, learns=False, divided=self.policy_divided)
        # Base or champion, tuned model, and where others start from a supervised model that one too.
        between = 1 if supervised and (plan.tunes_policy or learns_preferences or plan.on_policy_train_steps) else 0
        # Both answers of held-out preferences, which is all where there is but a reward model.
        evaluation = judges * self.scoring_seconds(evaluated, 2)
        if plan.tunes_policy or learns_preferences or supervised:
            evaluation += (
                (2 + between) * self.answering_seconds(evaluated, ROWS_TOGETHER[True], divided=frozen)
                + (1 + between) * judges * self.scoring_seconds(evaluated, 2)
                + (1 + between) * self.kl_seconds(evaluated, divided=frozen)
                + 2 * self.answering_seconds(general, ROWS_TOGETHER[True], divided=frozen)
            )
        heavy, light, _, light_start = _STARTS[self.on.cpu]
        heavy += between - (0 if plan.tunes_policy else 1 if learns_preferences else 2)
        seconds = {
            "held-out loss": measurements * measuring,
            **(self.preference_seconds_beside(watched) if learns_preferences else {}),
            "held-out answers": self.student_seconds_beside(),
            "validation of reward models": validation,
            "centring of scores": 0.0 if learns_preferences else judges * centring,
            "watch": plan.looks * look,
            "evaluation": evaluation,
            "start-up": heavy * self.start_seconds() + light * light_start,
        }
        return {name: value / 3600 for name, value in seconds.items()}

    def student_seconds_beside(self) -> float:
        """Return the seconds in which a student that learns on its own answers is measured on held-out prompts."""
        plan, divided = self.plan, self.policy_divided
        if not plan.on_policy_train_steps:
            return 0.0
        share = math.ceil(_ANSWERED_AT_A_LOOK / self.on.devices)
        look = (
            self.answering_seconds(share, ANSWERED_TOGETHER[self.on.cpu], divided=divided)
            + self.demonstrated_seconds(share, learns=False, divided=divided)
            + self.teacher_seconds(share)
        )
        return (1 + math.ceil(plan.on_policy_train_steps / plan.evaluation_interval)) * look

    def start_seconds(self) -> float:
        """Return the seconds until a step has loaded the model."""
        loading = self.model.parameters * self.model.stored_bytes / _READ_BYTES_PER_SECOND
        return _STARTS[self.on.cpu][2] + loading

    def preference_seconds_beside(self, watched: int) -> dict[str, float]:
        """Return the seconds that preference tuning takes beside its steps, on `watched` prompts at each look."""
        plan = self.plan
        an_epoch = max(1, learnt_from(plan.preferences, plan.held_out_reward_model_share) / plan.batch_size)
        looks = 1 + math.ceil(_PREFERENCE_LOOKS * plan.preference_train_steps / an_epoch)
        measured = min(max(an_epoch / _PREFERENCE_LOOKS * plan.batch_size / 2, FEWEST), MOST)
        rows = min(plan.preference_train_steps, an_epoch) * plan.batch_size

        def asked(pairs: float) -> float:
            share = math.ceil(pairs / self.on.devices)
            # Of feedback the second answer is that of another prompt.
            times, answers = (2, 1) if plan.on_feedback else (1, 2)
            return times * self.demonstrated_seconds(share, answers=answers, learns=False, divided=self.policy_divided)

        own = self.answering_seconds(watched, ANSWERED_TOGETHER[self.on.cpu], divided=self.policy_divided)
        if plan.lora_dim:
            own += self.kl_seconds(watched, divided=self.policy_divided)
        return {"reference": asked(rows), "held-out preferences": looks * (asked(measured) + own)}
