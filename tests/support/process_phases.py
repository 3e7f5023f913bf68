"""Phases for several processes: small ones that fail or answer at once, and both real ones on a tiny model.

`accelerate launch tests/support/process_phases.py MODEL FOLDER RANK` trains with answers that are given, so that every
number of processes learns from the same ones.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning import environment, step
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import ModelError

#: More prompts than one step takes.
PROMPTS = [[{"role": "user", "content": f"Create {number} {'harbour ' * (number % 4)}."}] for number in range(40)]


@dataclass(frozen=True, kw_only=True)
class Config:
    batch_size: int = 4


def introduce(config, greeting):
    """Return who did what; only the main process is heard."""
    processes.join()
    index = environment.process_index()
    step.say(f"{greeting} from {index}")
    return processes.spread(lambda rows: [[row, index] for row in rows], range(5))


def fail_in_the_second(config, how):
    """Say who did what, then fail in one process while the other waits for it."""
    step.say(str(introduce(config, "hello")))
    if environment.process_index() == 1:
        if how == "error":
            raise ModelError("There is no such model.")
        if how == "bug":
            raise ZeroDivisionError("nothing to share")
        if how == "full":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory.")
        os.kill(os.getpid(), signal.SIGKILL)
    processes.spread(lambda rows: time.sleep(0.2) or list(rows), [1, 2])
    time.sleep(600)


def hold(config, model, compute):
    """Load a model in parts; return what each process holds of its layers and of the rest, and losses in each."""
    import torch

    from rlhf_tuning.distributed import sharding
    from rlhf_tuning.models import base_model

    processes.join()
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[compute]
    network = base_model.load_causal_lm(model, dtype=torch.float32, shard=True, compute=dtype)
    assert sharding.products(network) == sharding.products(network.model) == dtype
    held = {"layers": 0, "rest": 0}
    for weight in network.parameters():
        divided = sharding.is_sharded(weight)
        held["layers" if divided else "rest"] += (weight.to_local() if divided else weight).numel()
    losses = []
    with torch.no_grad(), sharding.in_step(network), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        # One process makes three passes, the other one.
        for row in range(3 - 2 * environment.process_index()):
            ids = torch.arange(5, 15)[None] + row
            losses.append(network(input_ids=ids, labels=ids).loss.item())
    return processes.spread(lambda _: [[held["layers"], held["rest"], losses]], range(2))


def change(config, model, saved):
    """Double every weight of a divided model, each process those that it holds, and save the model whole."""
    import torch

    from rlhf_tuning.distributed import sharding
    from rlhf_tuning.models import base_model

    processes.join()
    network = base_model.load_causal_lm(model, dtype=torch.float32, shard=True)
    with torch.no_grad():
        for weight in sharding.parts(network).values():
            weight *= 2
    weights = sharding.whole_weights(network)
    if environment.is_main_process():
        network.save_pretrained(saved, state_dict=weights)


def write_data(folder):
    """Write prompts and preferences."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": prompt, "chosen": "salt and gulls " * (1 + index % 3), "rejected": "0 1 2 3 " * (1 + index % 2)}
        for index, prompt in enumerate(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [{"prompt": row["prompt"], "answer": row["chosen"]} for row in rows]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))


def train_rewards(model, folder, checkpoint_dir="", data="preferences.jsonl", **settings):
    """Run phase 1 in as many processes as there are."""
    from rlhf_tuning.training import reward_model

    config = reward_model.RewardModelConfig(
        large_model_reference=str(model),
        **{
            "reward_model_train_steps": 3,
            "reward_model_max_epochs": 0.0,
            "reward_model_learning_rate_multiplier": 50.0,
            "reward_lora_dim": 8,
            "batch_size": 8,
            "prompt_sequence_length": 32,
            "target_sequence_length": 16,
            "dtype": "float32",
        }
        | settings,
    )
    return processes.run(
        reward_model.train_reward_model,
        config,
        preferences_path=str(folder / data),
        eval_preferences_path=str(folder / data),
        output_dir=str(folder / "reward"),
        tensorboard_dir=str(folder / "reward-events"),
        checkpoint_dir=str(checkpoint_dir),
    )


def train_policy(model, folder, name, checkpoint_dir="", budget="", **settings):
    """Run phase 2 in as many processes as there are."""
    from rlhf_tuning.training import reinforcement

    config = reinforcement.ReinforcementConfig(
        large_model_reference=str(model),
        **{
            "reinforcement_learning_train_steps": 3,
            "reinforcement_learning_rate_multiplier": 100.0,
            "batch_size": 4,
            "num_generations": 3,
            "lora_dim": 8,
            "prompt_sequence_length": 32,
            "target_sequence_length": 12,
            "kl_coeff": 0.3,
            "dtype": "float32",
            "min_reward_model_accuracy": 0.0,
        }
        | settings,
    )
    return processes.run(
        reinforcement.train_policy,
        config,
        prompts_path=str(folder / "prompts.jsonl"),
        reward_model_dir=str(folder / "reward"),
        held_out_reward_model_dir=str(folder / "reward"),
        adapter_dir=str(folder / name / "adapter"),
        model_dir=str(folder / name / "model"),
        tensorboard_dir=str(folder / name / "events"),
        checkpoint_dir=str(checkpoint_dir),
        budget=budget,
    )


def train_supervised(model, folder, checkpoint_dir="", budget="", **settings):
    """Tune on demonstrations in as many processes as there are."""
    from rlhf_tuning.training import supervised

    config = supervised.SupervisedConfig(
        large_model_reference=str(model),
        **{
            "train_steps": 3,
            "learning_rate_multiplier": 50.0,
            "evaluation_interval": 2,
            "lora_dim": 8,
            "batch_size": 8,
            "prompt_sequence_length": 32,
            "target_sequence_length": 16,
            "dtype": "float32",
        }
        | settings,
    )
    return processes.run(
        supervised.train_supervised,
        config,
        demonstrations_path=str(folder / "demonstrations.jsonl"),
        eval_demonstrations_path=str(folder / "demonstrations.jsonl"),
        adapter_dir=str(folder / "supervised/adapter"),
        model_dir=str(folder / "supervised/model"),
        tensorboard_dir=str(folder / "supervised/events"),
        checkpoint_dir=str(checkpoint_dir),
        budget=budget,
    )


def train_on_preferences(model, folder, **settings):
    """Tune on preferences in as many processes as there are."""
    from rlhf_tuning.training import preference

    config = preference.PreferenceConfig(
        large_model_reference=str(model),
        **{
            "epoch_count": 0.6,
            "learning_rate_multiplier": 200.0,
            "adapter_size": 8,
            "batch_size": 8,
            "prompt_sequence_length": 32,
            "target_sequence_length": 16,
            "dtype": "float32",
            "watch_prompts": 0,
        }
        | settings,
    )
    return processes.run(
        preference.train_on_preferences,
        config,
        preferences_path=str(folder / "preferences.jsonl"),
        eval_preferences_path=str(folder / "preferences.jsonl"),
        adapter_dir=str(folder / "preference/adapter"),
        model_dir=str(folder / "preference/model"),
        tensorboard_dir=str(folder / "preference/events"),
    )


def evaluate(model, folder):
    """Let the base and the tuned model answer, judge the answers, and return the pairs."""
    from rlhf_tuning.evaluation import evaluate
    from rlhf_tuning.generation import inference

    lengths = {"prompt_sequence_length": 32, "target_sequence_length": 12, "dtype": "float32", "temperature": 0.0}
    for name, reference in (("base", model), ("tuned", folder / "rl" / "model")):
        processes.run(
            inference.write_predictions,
            inference.InferenceConfig(large_model_reference=str(reference), batch_size=3, **lengths),
            trains=False,
            prompts_path=str(folder / "prompts.jsonl"),
            predictions_path=str(folder / f"{name}.jsonl"),
            label=f"answers of the {name} model",
            work_dir=str(folder / "kept"),
        )
    config = evaluate.EvaluationConfig(large_model_reference=str(model), **lengths | {"temperature": 1.0})
    pairs, _ = evaluate.evaluate_policy(
        config,
        judges=evaluate.judges_of(config, reward_model_dir=str(folder / "reward")),
        tuned_model_dir=str(folder / "rl" / "model"),
        base_predictions_path=str(folder / "base.jsonl"),
        tuned_predictions_path=str(folder / "tuned.jsonl"),
    )
    return pairs


def given_answers(model, prompts, *, most_tokens, **settings):
    """Stand in for `rollout.sample`: answers of unequal length that depend on the prompt and its answer's number."""
    seen = Counter()
    answers = []
    for prompt in map(tuple, prompts):
        number = seen[prompt]
        seen[prompt] += 1
        length = 1 + (sum(prompt) + 5 * number) % most_tokens
        answers.append([30 + (sum(prompt) + 7 * number + 3 * place) % 200 for place in range(length)])
    return answers


def train_on_given_answers(model, folder, rank=8):
    """Tune on demonstrations and preferences, train a reward model, and policies by both algorithms, in any number."""
    from rlhf_tuning.generation import rollout

    sample, rollout.sample = rollout.sample, given_answers
    try:
        write_data(folder)
        train_supervised(model, folder, lora_dim=rank)
        train_on_preferences(model, folder, adapter_size=rank)
        train_rewards(model, folder, reward_lora_dim=rank, centring_prompts=0)
        for algorithm in ("rloo", "grpo"):
            train_policy(model, folder, algorithm, lora_dim=rank, rl_algorithm=algorithm, watch_prompts=0)
    finally:
        rollout.sample = sample


if __name__ == "__main__":
    train_on_given_answers(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
