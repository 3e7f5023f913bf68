"""The parameters of every pipeline: names, types, defaults, descriptions and the values they may have.

Each is described here once: the pipelines' signatures, the command's flags and `--help`, and the checks before a run and in
every step are made from this table. To add one: its line here, the field of the config it belongs to, and the component that
builds this config. Which pipelines take it is in `rlhf_pipelines.parameters`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_tuning.accelerators import GPUS, machine_name

Value = str | int | float | bool


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


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline.

    Args:
        name: From the pipeline's signature to the field of the config.
        type: Of its values.
        default: Its value when absent or null; None makes it required.
        description: For people, a sentence.
        limit: What numbers are allowed.
        choices: What names are allowed.
    """

    name: str
    type: type[Value]
    default: Value | None
    description: str
    limit: Limit | None = None
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Say whether a run cannot start without it."""
        return self.default is None


#: What an endpoint can run on; empty for the cheapest that the model fits on. `serving.vllm.MACHINES` has more of them.
SERVING_MACHINES: tuple[str, ...] = (
    "",
    *(machine_name(kind, count) for kind, gpu in GPUS.items() for count in gpu.machine_types),
)

PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        # The contract of the Vertex job. The upper limits of the sequence lengths are that job's.
        Parameter("prompt_dataset", str, None, "JSONL of prompts without labels: a path, a gs:// path, or a glob."),
        Parameter("preference_dataset", str, None, "JSONL of human preferences: a path, a gs:// path, or a glob."),
        Parameter("large_model_reference", str, None, "Base model: a hub id, a folder, a gs:// folder, or an alias."),
        Parameter("model_display_name", str, "", "Name in the model registry; generated when empty."),
        Parameter("prompt_sequence_length", int, 512, "Most tokens of a prompt, up to 8192.", Limit(1, 8192)),
        Parameter("target_sequence_length", int, 64, "Most tokens of an answer, up to 1024.", Limit(1, 1024)),
        Parameter(
            "reward_model_learning_rate_multiplier",
            float,
            1.0,
            "Times the base learning rate of the reward model.",
            Limit(0, open_low=True),
        ),
        Parameter(
            "reinforcement_learning_rate_multiplier",
            float,
            1.0,
            "Times the base learning rate of reinforcement learning.",
            Limit(0, open_low=True),
        ),
        Parameter("reward_model_train_steps", int, 1000, "Most optimizer steps of the reward model.", Limit(1)),
        Parameter(
            "reinforcement_learning_train_steps", int, 1000, "Optimizer steps of reinforcement learning.", Limit(1)
        ),
        Parameter(
            "kl_coeff",
            float,
            0.1,
            "Reward given up for each nat of KL to the base model over an answer; 0 with max_kl 0 saves measuring it.",
            Limit(0),
        ),
        Parameter("instruction", str, "", "Put before every prompt; the default context of chat rows."),
        Parameter(
            "deploy_model",
            bool,
            True,
            "Deploy to an endpoint after the upload, where the target has endpoints; a local run rehearses it with vLLM.",
        ),
        Parameter(
            "eval_dataset",
            str,
            "",
            "JSONL of prompts or preferences for evaluation; a part of the data is held out when empty.",
        ),
        Parameter("project", str, "", "Google Cloud project; the run's own when empty."),
        Parameter("location", str, "", "Google Cloud region; the run's own when empty."),
        Parameter("accelerator_type", str, "GPU", "Kind of accelerator; only GPU is supported.", choices=("GPU",)),
        Parameter("encryption_spec_key_name", str, "", "Customer-managed encryption key on Google Cloud."),
        Parameter("tensorboard_resource_id", str, "", "Vertex TensorBoard to write to."),
        # Ours. Constants hidden inside the Vertex job, and what it could not do.
        Parameter(
            "rl_algorithm", str, "rloo", "Reinforcement learning algorithm: rloo or grpo.", choices=("rloo", "grpo")
        ),
        Parameter("lora_dim", int, 16, "LoRA rank of the policy; 0 trains all weights.", Limit(0)),
        Parameter("reward_lora_dim", int, 16, "LoRA rank of the reward model; 0 trains all weights.", Limit(0)),
        Parameter(
            "batch_size",
            int,
            64,
            "Preferences (phase 1) or prompts (phase 2) in one optimizer step, on all GPUs together.",
            Limit(1),
        ),
        Parameter("num_generations", int, 4, "Answers sampled to each prompt in reinforcement learning.", Limit(2)),
        Parameter("temperature", float, 1.0, "Sampling temperature, in training and evaluation.", Limit(0)),
        Parameter("seed", int, 0, "Of every random choice.", Limit(0, 2**32 - 1)),
        Parameter("reward_model_reference", str, "", "Base of the reward model; the policy's own when empty."),
        Parameter(
            "eval_prompts",
            int,
            200,
            "Most prompts to hold out, a tenth at the most, when there is no evaluation dataset.",
            Limit(1),
        ),
        Parameter(
            "scorer",
            str,
            "",
            "Program that knows the true quality of an answer, such as house_style for the sample.",
            choices=("", "house_style"),
        ),
        Parameter(
            "judge",
            str,
            "",
            "Language model that compares answers: language_model, gemini or local_model; none when empty.",
            choices=("", "language_model", "gemini", "local_model"),
        ),
        Parameter(
            "judge_model",
            str,
            "",
            "Name of that model, as its server knows it; for local_model a base model reference.",
        ),
        Parameter(
            "judge_endpoint", str, "", "Base URL of an OpenAI-compatible server, such as https://api.example.com/v1."
        ),
        Parameter(
            "judge_key_secret",
            str,
            "",
            "Secret that holds the judge's key: projects/P/secrets/S/versions/V of Secret Manager.",
        ),
        Parameter(
            "judge_rubric",
            str,
            "",
            "What a better answer is, in words, or a text file, also on gs://; a general one when empty.",
        ),
        Parameter(
            "judge_max_calls",
            int,
            1000,
            "Most requests to the server; pairs not judged by then count as lost.",
            Limit(1),
        ),
        Parameter(
            "judge_max_cost",
            float,
            0.0,
            "Most that the server may cost in one step, by judge_price; then as after judge_max_calls; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "judge_price",
            float,
            0.0,
            "What a million tokens cost there, of questions and answers; the higher price where these have two.",
            Limit(0),
        ),
        Parameter(
            "dtype",
            str,
            "auto",
            "auto, float32 or bfloat16, for frozen weights and matrix products.",
            choices=("auto", "float32", "bfloat16"),
        ),
        Parameter(
            "max_bad_rows",
            int,
            0,
            "Bad rows of each dataset that are set aside; one more and the data is refused.",
            Limit(0),
        ),
        Parameter("registry_dir", str, "", "Folder of the local model registry; its usual place when empty."),
        Parameter(
            "serving_machine",
            str,
            "",
            "What the model is served on, such as l4 or a100-80gb-x2; the cheapest it fits on when empty.",
            choices=SERVING_MACHINES,
        ),
        Parameter(
            "serving_image", str, "", "Image that an endpoint on Vertex serves with; Model Garden's vLLM when empty."
        ),
        Parameter(
            "serving_endpoint",
            str,
            "dedicated",
            "A new endpoint on Vertex: dedicated, or shared, as VPC Service Controls need it.",
            choices=("dedicated", "shared"),
        ),
        Parameter(
            "warm_start_adapter",
            str,
            "",
            "LoRA adapter that the training starts from: a registered model, such as my-model@champion, or a folder.",
        ),
        Parameter(
            "rollout_engine",
            str,
            "auto",
            "What samples answers in training: lean (our decode loop), transformers, or auto: the first that is exact.",
            choices=("auto", "lean", "transformers"),
        ),
        Parameter(
            "inference_engine",
            str,
            "auto",
            "What samples answers in bulk, for the evaluation too: own (our loop), vllm, or auto: vLLM where it pays.",
            choices=("auto", "own", "vllm"),
        ),
        Parameter(
            "held_out_reward_model_share",
            float,
            0.25,
            "Share of the prompts from which a held-out reward model learns, which only judges; 0 for none.",
            Limit(0, 0.5),
        ),
        Parameter(
            "watch_interval",
            int,
            0,
            "Steps between looks of the watch over over-optimisation; 0 for a tenth of all steps.",
            Limit(0),
        ),
        Parameter(
            "watch_prompts", int, 64, "Prompts set aside for that watch, and not learnt from; 0 for no watch.", Limit(0)
        ),
        Parameter(
            "reward_model_max_epochs",
            float,
            2.0,
            "Most times that the reward model sees each preference; 0 for no limit but reward_model_train_steps.",
            Limit(0),
        ),
        Parameter(
            "min_reward_model_accuracy",
            float,
            0.5,
            "What the reward model's held-out accuracy must be shown to exceed before reinforcement learning; 0 for no "
            "check.",
            Limit(0, 0.99),
        ),
        Parameter(
            "dynamic_sampling",
            int,
            0,
            "Most times that a step's prompts whose answers all score the same are replaced by others; 0 for never.",
            Limit(0, 20),
        ),
        Parameter(
            "max_kl",
            float,
            200.0,
            "Nats of KL to the base model over an answer, on average, past which reinforcement learning fails; 0 for no "
            "limit.",
            Limit(0),
        ),
        Parameter(
            "num_iterations",
            int,
            1,
            "Steps that learn from each batch of samples, from the second on with a clipped ratio to the policy that "
            "sampled.",
            Limit(1),
        ),
        Parameter(
            "target_kl",
            float,
            0.0,
            "Nats of KL over an answer to which kl_coeff adapts after each batch; 0 keeps kl_coeff as it is.",
            Limit(0),
        ),
        Parameter(
            "rewards",
            str,
            "",
            "Rewards of your own beside the reward model: a JSON list of them, or the name of a .json file with one.",
        ),
        Parameter(
            "reward_clip_range",
            float,
            0.0,
            "The sum of the rewards is held between minus this and this in reinforcement learning; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "missing_eos_penalty",
            float,
            0.0,
            "Taken off the reward of an answer that target_sequence_length cut off.",
            Limit(0),
        ),
        Parameter(
            "normalize_advantages",
            bool,
            False,
            "Give the advantages of each batch of samples mean 0 and standard deviation 1.",
        ),
        Parameter(
            "checkpoint_interval",
            float,
            10.0,
            "Minutes between checkpoints of a training step, by which a run that was stopped goes on; 0 for none.",
            Limit(0),
        ),
        Parameter(
            "max_hours",
            float,
            0.0,
            "Hours that the steps of a run may take together: training ends in time for evaluation and gate; 0: no limit.",
            Limit(0),
        ),
        Parameter(
            "max_cost",
            float,
            0.0,
            "What those hours may cost at price_per_hour, in its currency; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "price_per_hour",
            float,
            0.0,
            "What the machine that trains costs an hour, in any currency; with 0 rlhf submit takes its list price.",
            Limit(0),
        ),
        Parameter(
            "train_until_budget",
            bool,
            False,
            "Begin though the forecast exceeds max_hours or max_cost, and train for as long as they last.",
        ),
        Parameter(
            "gate_win_rate_margin",
            float,
            0.0,
            "Win rate against the champion, beyond one half, that must be shown for a promotion.",
            Limit(0, 0.49),
        ),
        Parameter(
            "gate_reward_model_margin",
            float,
            0.1,
            "The same where only the held-out reward model judges; the larger of the two counts.",
            Limit(0, 0.49),
        ),
        Parameter(
            "gate_min_prompts",
            int,
            50,
            "Fewest evaluation prompts with a verdict for a promotion.",
            Limit(1),
        ),
        Parameter(
            "gate_min_judged_share",
            float,
            0.8,
            "Least share of the pairs of answers that a judge must have judged for a promotion.",
            Limit(0, 1),
        ),
        Parameter(
            "gate_max_kl",
            float,
            50.0,
            "Most nats of KL to the base model over an answer, on average, for a promotion; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "gate_max_length_ratio",
            float,
            3.0,
            "Most that the mean length of answers may grow or shrink for a promotion, as a factor, beside those of the "
            "supervised model where there is one, else of the champion; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "gate_max_equal_length_loss",
            float,
            0.1,
            "Win rate below one half that must be ruled out, had all answers been equally long; 0 for no limit.",
            Limit(0, 0.5),
        ),
        Parameter(
            "gate_max_judge_loss",
            float,
            0.1,
            "Win rate below one half that must be ruled out by every other judge people agree with; 0 for no limit.",
            Limit(0, 0.5),
        ),
        Parameter(
            "gate_max_unfinished_rise",
            float,
            0.15,
            "Rise of the share of answers cut at the length limit that must be ruled out; 0 for no limit.",
            Limit(0, 1),
        ),
        Parameter(
            "gate_max_empty_rise",
            float,
            0.1,
            "Rise of the share of empty answers that must be ruled out; 0 for no limit.",
            Limit(0, 1),
        ),
        Parameter(
            "gate_max_repetitive_rise",
            float,
            0.1,
            "Rise of the share of answers that repeat themselves that must be ruled out; 0 for no limit.",
            Limit(0, 1),
        ),
        Parameter(
            "gate_max_refusal_rise",
            float,
            0.1,
            "Rise of the share of refusals that must be ruled out, unless people prefer them; 0 for no limit.",
            Limit(0, 1),
        ),
        Parameter(
            "gate_max_regression",
            float,
            0.1,
            "Fall of the share of the regression suite that passes that must be ruled out; 0 for no limit.",
            Limit(0, 1),
        ),
        Parameter(
            "regression_suite",
            str,
            "",
            "Prompts on which the tuned model may not be worse than the base: general for ours, or a file; empty for none.",
        ),
        Parameter(
            "require_approval",
            bool,
            False,
            "Let what the gate promotes wait for a person, who approves it (rlhf approve) or rejects it.",
        ),
        # Of a tune that recurs.
        Parameter(
            "min_new_preferences",
            int,
            100,
            "Distinct preferences that the champion was not trained on, without which the run ends.",
            Limit(0),
        ),
        Parameter(
            "warm_start",
            bool,
            False,
            "Start the policy from the champion's adapter; KL is still measured to the base model.",
        ),
        Parameter(
            "feedback_dataset",
            str,
            "",
            "JSONL of answers with a label or a rating each, from which reward models learn beside preferences.",
        ),
        # Of supervised tuning, by the names of Vertex's old job; some of these say here how little they mean.
        Parameter(
            "dataset_uri", str, None, "JSONL of prompts with the answers to learn: a path, a gs:// path, or a glob."
        ),
        Parameter("train_steps", int, 300, "Optimizer steps of supervised tuning.", Limit(1)),
        Parameter(
            "learning_rate_multiplier",
            float,
            1.0,
            "Times the base learning rate of supervised tuning.",
            Limit(0, open_low=True),
        ),
        Parameter(
            "evaluation_data_uri",
            str,
            "",
            "JSONL of prompts with answers to measure on; a part of the data is held out when empty.",
        ),
        Parameter(
            "evaluation_interval", int, 20, "Steps between measurements of the loss on what is held out.", Limit(1)
        ),
        Parameter(
            "enable_early_stopping",
            bool,
            True,
            "Stop when that loss was no lower than before in three measurements in a row.",
        ),
        Parameter(
            "enable_checkpoint_selection",
            str,
            "default",
            "Return the checkpoint with the lowest such loss (true, default), or the last one (false).",
            choices=("default", "true", "false"),
        ),
        Parameter(
            "default_context",
            str,
            "",
            "System turn of chat rows that bring none; put before the prompt of text rows, which the old job did not.",
        ),
        Parameter(
            "max_context_length",
            str,
            "",
            "Has no meaning here and stays empty: prompt_sequence_length and target_sequence_length say what is kept.",
        ),
        Parameter(
            "tuning_method",
            str,
            "tune_v2",
            "Only tune_v2, what the old job did: supervised tuning; lora_dim says whether by an adapter.",
            choices=("tune_v2",),
        ),
        # Of distillation, by the names of Vertex's old job; then ours.
        Parameter(
            "teacher_model_reference",
            str,
            None,
            "Model that answers the prompts: a hub id, a folder, a registered model such as my-model@champion, a gs:// "
            "folder; behind a server its name there.",
        ),
        Parameter(
            "student_model_reference",
            str,
            None,
            "Model that learns its answers: a hub id, a folder, a gs:// folder, or an alias.",
        ),
        Parameter(
            "teacher",
            str,
            "local_model",
            "Where the teacher is: local_model (the step loads it), language_model (an OpenAI-compatible server) or gemini.",
            choices=("local_model", "language_model", "gemini"),
        ),
        Parameter(
            "teacher_endpoint", str, "", "Base URL of an OpenAI-compatible server, such as https://api.example.com/v1."
        ),
        Parameter(
            "teacher_key_secret",
            str,
            "",
            "Secret that holds the teacher's key: projects/P/secrets/S/versions/V of Secret Manager.",
        ),
        Parameter(
            "teacher_max_calls",
            int,
            10_000,
            "Most requests to the teacher's server; more prompts than that are refused before one is asked.",
            Limit(1),
        ),
        Parameter(
            "teacher_max_cost",
            float,
            0.0,
            "Most that the teacher's server may cost, by teacher_price; further prompts are left out; 0 for no limit.",
            Limit(0),
        ),
        Parameter(
            "teacher_price",
            float,
            0.0,
            "What a million tokens cost there, of questions and answers; the higher price where these have two.",
            Limit(0),
        ),
        Parameter(
            "keep_answers",
            bool,
            True,
            "Keep the answers that rows bring; otherwise the teacher answers their prompts too.",
        ),
        Parameter(
            "on_policy",
            bool,
            False,
            "After supervised tuning on the teacher's answers, learn on the student's own what the teacher, a local_model, "
            "would have said there.",
        ),
        Parameter(
            "on_policy_train_steps", int, 100, "Most optimizer steps of the student on its own answers.", Limit(1)
        ),
        # Of RLAIF, by the names of the old job; then ours.
        Parameter(
            "preference_prompt_dataset",
            str,
            None,
            "JSONL of prompts that two models answer, for a judge to prefer: a path, a gs:// path, or a glob.",
        ),
        Parameter(
            "task_type",
            str,
            None,
            "What the prompts ask for, by which the judge prefers without a judge_rubric: summarization or "
            "question_answering; a version may follow, as in summarization@001.",
        ),
        Parameter(
            "large_model_a_reference",
            str,
            "",
            "First model that answers: a base model reference or a registered model; large_model_reference when empty.",
        ),
        Parameter(
            "large_model_b_reference", str, "", "Second model that answers, likewise; it samples by another seed."
        ),
        Parameter(
            "sampling_strategy",
            str,
            "temperature_sampling",
            "How both answer: temperature_sampling, or greedy for the likeliest token each time.",
            choices=("temperature_sampling", "greedy"),
        ),
        Parameter(
            "human_preference_dataset",
            str,
            "",
            "JSONL of human preferences, of which some say how often the judge agrees with people; none is learnt from.",
        ),
        # Of the supervised phase that may come before all others.
        Parameter(
            "supervised_dataset",
            str,
            "",
            "JSONL of prompts with answers that a supervised phase learns first; all that follows starts from its model.",
        ),
        Parameter(
            "supervise_on_preferred",
            bool,
            False,
            "Let such a phase learn the preferred answers of preference_dataset, in place of a supervised_dataset.",
        ),
        Parameter("supervised_train_steps", int, 300, "Most optimizer steps of the supervised phase.", Limit(1)),
        Parameter(
            "supervised_learning_rate_multiplier",
            float,
            1.0,
            "Times the base learning rate of the supervised phase.",
            Limit(0, open_low=True),
        ),
        # Of preference tuning, by the names of Google's, then by TRL's.
        Parameter(
            "beta",
            float,
            0.1,
            "How strongly preference tuning holds the model to the base model; Google's runs from 0.01 to 0.5.",
            Limit(0, open_low=True),
        ),
        Parameter(
            "epoch_count",
            float,
            1.0,
            "Times that preference tuning sees each preference, unless it learns nothing more.",
            Limit(0, open_low=True),
        ),
        Parameter("adapter_size", int, 16, "LoRA rank in preference tuning; 0 trains all weights.", Limit(0)),
        Parameter(
            "loss_type",
            str,
            "sigmoid",
            "Loss of preference tuning: sigmoid (DPO), sigmoid_norm (the same by the token), hinge, ipo or robust; kto of "
            "feedback.",
            choices=("sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "kto"),
        ),
        Parameter(
            "label_smoothing",
            float,
            0.0,
            "Share of preferences that are taken to be the wrong way round, for loss_type robust.",
            Limit(0, 0.49),
        ),
        Parameter(
            "rpo_alpha",
            float,
            0.0,
            "Weight of a supervised term on the chosen answers beside that loss; 0 for none.",
            Limit(0),
        ),
        Parameter(
            "desirable_weight",
            float,
            1.0,
            "Weight of an answer that was liked, for loss_type kto.",
            Limit(0, open_low=True),
        ),
        Parameter(
            "undesirable_weight",
            float,
            1.0,
            "Weight of an answer that was not liked, for loss_type kto.",
            Limit(0, open_low=True),
        ),
        # Of a comparison of methods.
        Parameter(
            "best_of",
            int,
            8,
            "Answers of the base model from which best of n takes that with the highest reward.",
            Limit(2),
        ),
        # Of the smoke test.
        Parameter("probe_object", str, "", "A gs:// object that the smoke test reads, such as a file of your data."),
    )
}
