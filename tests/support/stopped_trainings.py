"""Every training step on a tiny model, stopped at some moment and continued: what it leaves behind, to compare."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from process_phases import train_policy, train_rewards, train_supervised, write_data

#: Measured, not learnt.
_TIMES = ("seconds", "seconds_per_step", "tokens_per_second")


def train_preferences(model: Path, folder: Path, checkpoint_dir: str | Path = "", **settings: Any) -> None:
    """Tune on preferences, or on feedback, in as many processes as there are."""
    from rlhf_tuning.distributed import processes
    from rlhf_tuning.training import kto, preference

    config = preference.PreferenceConfig(
        large_model_reference=str(model),
        batch_size=48,
        learning_rate_multiplier=50.0,
        adapter_size=8,
        prompt_sequence_length=32,
        target_sequence_length=16,
        watch_prompts=4,
        dtype="float32",
        **settings,
    )
    on_feedback = config.loss_type == "kto"
    data = str(folder / ("feedback.jsonl" if on_feedback else "preferences.jsonl"))
    processes.run(
        kto.train_on_feedback if on_feedback else preference.train_on_preferences,
        config,
        preferences_path=data,
        eval_preferences_path=data,
        adapter_dir=str(folder / "tuned" / "adapter"),
        model_dir=str(folder / "tuned" / "model"),
        tensorboard_dir=str(folder / "tuned" / "events"),
        checkpoint_dir=str(checkpoint_dir),
    )


def train_student(model: Path, folder: Path, checkpoint_dir: str | Path = "", **settings: Any) -> None:
    """Let a student learn from its teacher on its own answers."""
    from rlhf_tuning.training import distillation

    data = str(folder / "preferences.jsonl")
    distillation.train_student(
        distillation.DistillationConfig(
            large_model_reference=str(model),
            teacher_model_reference=str((folder / "teacher").resolve()),
            on_policy_train_steps=6,
            evaluation_interval=2,
            batch_size=8,
            learning_rate_multiplier=50.0,
            lora_dim=8,
            prompt_sequence_length=32,
            target_sequence_length=16,
            dtype="float32",
            **settings,
        ),
        demonstrations_path=data,
        eval_demonstrations_path=data,
        adapter_dir=str(folder / "tuned" / "adapter"),
        model_dir=str(folder / "tuned" / "model"),
        tensorboard_dir=str(folder / "tuned" / "events"),
        checkpoint_dir=str(checkpoint_dir),
    )


def save_teacher(model: Path, folder: Path) -> None:
    """Save a model with the same tokens and other weights."""
    import torch

    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.tokenizer import load_tokenizer

    teacher = base_model.load_causal_lm(str(model), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for weight in teacher.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    teacher.save_pretrained(folder)
    load_tokenizer(str(model)).save_pretrained(folder)


#: What is trained, by name: takes the model and the folder, and is six steps long; an epoch is four where there are epochs.
TRAININGS: dict[str, Callable[..., Any]] = {
    "supervised": partial(train_supervised, train_steps=6, batch_size=16),
    "supervised, all weights": partial(train_supervised, train_steps=6, lora_dim=0),
    "reward model": partial(train_rewards, reward_model_train_steps=6, batch_size=64),
    "reward model, all weights": partial(train_rewards, reward_model_train_steps=6, batch_size=64, reward_lora_dim=0),
    "reward model of feedback": partial(
        train_rewards, reward_model_train_steps=6, batch_size=64, data="judgements.jsonl"
    ),
    "held-out reward model": partial(
        train_rewards, reward_model_train_steps=6, batch_size=32, held_out=True, held_out_reward_model_share=0.5
    ),
    "preferences": partial(train_preferences, epoch_count=1.2),
    "feedback": partial(train_preferences, epoch_count=1.2, loss_type="kto"),
    "student": train_student,
    "rloo": partial(
        train_policy,
        name="rl",
        reinforcement_learning_train_steps=6,
        batch_size=8,
        watch_interval=2,
        watch_prompts=8,
        target_kl=0.5,
    ),
    "grpo, samples used twice": partial(
        train_policy,
        name="rl",
        reinforcement_learning_train_steps=6,
        batch_size=16,
        rl_algorithm="grpo",
        num_iterations=2,
        watch_prompts=0,
    ),
}


def prepare(model: Path, folder: Path) -> None:
    """Write the data of every training, and the reward model that reinforcement learning asks."""
    write_data(folder)
    # So many that some are set aside.
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Create {number} {'harbour ' * (number % 5)}."}],
            "chosen": "salt and gulls " * (1 + number % 3),
            "rejected": "0 1 2 3 " * (1 + number % 2),
        }
        for number in range(240)
    ]
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    feedback = [
        {"prompt": row["prompt"], "answer": row["chosen" if number % 3 else "rejected"], "label": number % 3 > 0}
        for number, row in enumerate(rows)
    ]
    (folder / "feedback.jsonl").write_text("".join(json.dumps(row) + "\n" for row in feedback))
    judgements = rows[::2] + feedback[1::2]
    (folder / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judgements))
    train_rewards(model, folder)
    save_teacher(model, folder / "teacher")


def train(kind: str, model: Path, prepared: Path, folder: Path, checkpoints: Path | None) -> None:
    """Train in a folder, with a checkpoint after every step where there is a place for them."""
    folder.mkdir(exist_ok=True)
    for path in prepared.iterdir():
        if not (folder / path.name).exists() and not ("reward model" in kind and path.is_dir()):
            (folder / path.name).symlink_to(path)
    TRAININGS[kind](model, folder, checkpoint_dir=checkpoints or "", checkpoint_interval=1e-9)


def learnt(folder: Path) -> dict[str, str]:
    """Return a digest of every file that a training left, without the times that it took."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.is_symlink() or "events" in str(file):
            continue
        content = file.read_bytes()
        if file.name == "metrics.jsonl":
            records = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in r.items() if k not in _TIMES} for r in records]).encode()
        if file.name == "adapter_config.json":  # of a set, whose order is each process's own
            content = bytes(sorted(content))
        found[str(file.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found
