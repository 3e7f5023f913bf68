"""A tiny reward model that has learnt to tell two answers apart."""

import json
import random
from pathlib import Path
from typing import Any

GOOD, BAD = "A Tranquil Oasis of Natural Beauty.", "Enjoy some fun in the sun at Gulf Shores."


def write_preferences(folder: Path) -> None:
    """Write `train.jsonl` and `eval.jsonl`: good answers are preferred whatever their length."""
    rng = random.Random(0)
    for name, count in (("train", 64), ("eval", 24)):
        with (folder / f"{name}.jsonl").open("w") as stream:
            stream.writelines(json.dumps(_preference(number, rng)) + "\n" for number in range(count))


def _preference(number: int, rng: random.Random) -> dict[str, Any]:
    good = f"{GOOD} The harbour smells of salt." if rng.random() < 0.5 else GOOD
    return {"prompt": [{"role": "user", "content": f"Create {number}."}], "chosen": good, "rejected": BAD}


def train(preferences: Path, base: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Train one into `folder/reward_model` and return how it was measured."""
    from rlhf_tuning.training import reward_model

    config = reward_model.RewardModelConfig(
        large_model_reference=str(base),
        **{
            "reward_model_train_steps": 30,
            "reward_model_max_epochs": 0.0,
            "reward_model_learning_rate_multiplier": 50.0,
            "batch_size": 8,
            "prompt_sequence_length": 64,
            "target_sequence_length": 64,
            "dtype": "float32",
            "centring_prompts": 8,
        }
        | settings,
    )
    return reward_model.train_reward_model(
        config,
        preferences_path=str(preferences / "train.jsonl"),
        eval_preferences_path=str(preferences / "eval.jsonl"),
        output_dir=str(folder / "reward_model"),
        tensorboard_dir=str(folder / "tensorboard"),
    )
