"""How fast is reward-model training? Phase 1 beside TRL's own RewardTrainer, in turn, each in a process of its own.

    python benchmarks/reward_model_speed.py                        # the packaged model, bfloat16
    python benchmarks/reward_model_speed.py --dtype float32

Both sides learn from the same pairs of mixed lengths (words of the sample; prompts of 15 to 200 words, answers of 8 to 60),
with the same optimizer batch, LoRA of the same rank on every linear layer, and the same attention code. Theirs is
RewardTrainer with the whole batch in one pass and no activation checkpointing (`--checkpointing` turns on what it has by
default: slower, lighter). A step's time is the median without the first; every step counts the same number of pairs. Memory
is the process's peak, or the GPU's.
"""

import argparse
import tempfile
from pathlib import Path

import beside_trl
from beside_trl import LORA_DIM


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = beside_trl.arguments_of(__doc__)
    parser.add_argument("--pairs", type=int, default=8, help="pairs an optimizer step")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing on TRL's side")
    beside_trl.main(
        parser,
        prepare=prepare,
        ours=ours,
        stock=stock,
        rival="TRL RewardTrainer",
        work=lambda arguments: f"{arguments.pairs} pairs a step",
        columns={
            "pairs_per_second": "pairs a second",
            "seconds_per_step": "seconds a step",
            "gib": "peak memory, GiB",
        },
    )


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Write the pairs."""
    beside_trl.write_rows(folder / "preferences.jsonl", arguments.pairs * arguments.steps, "chosen", "rejected")


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as phase 1 does."""
    from rlhf_tuning.training import reward_model

    measured = ("n", "accuracy", "accuracy_low", "accuracy_high", "longer_wins_accuracy")
    # Training is what is compared.
    reward_model.evaluate_reward_model = lambda *_, **__: dict.fromkeys(measured, 0)  # type: ignore[assignment]
    preferences = str(arguments.folder / "preferences.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        reward_model.train_reward_model(
            reward_model.RewardModelConfig(
                large_model_reference=arguments.model,
                reward_model_train_steps=arguments.steps,
                reward_model_max_epochs=0.0,
                reward_lora_dim=LORA_DIM,
                batch_size=arguments.pairs,
                target_sequence_length=128,
                dtype=arguments.dtype,
                centring_prompts=0,
            ),
            preferences_path=preferences,
            eval_preferences_path=preferences,
            output_dir=scratch,
            tensorboard_dir=scratch,
        )
        seconds = [line["seconds_per_step"] for line in beside_trl.metrics(Path(scratch))]
    return beside_trl.result("pairs_per_second", arguments.pairs, seconds)


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's RewardTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from rlhf_tuning.data.importer import read_canonical
    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.model_reference import model_source
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(arguments.model)
    text_format = TextFormat(tokenizer, prompt_sequence_length=512, target_sequence_length=128)
    rows = [
        {f"{side}_ids": text_format.scored_ids(row["prompt"], row[side]) for side in ("chosen", "rejected")}
        for row in read_canonical(arguments.folder / "preferences.jsonl")
    ]
    dtype = getattr(torch, arguments.dtype)
    # The faster attention here, as this project has it.
    settings = {"dtype": dtype, "attn_implementation": base_model._attention(dtype)}
    path = model_source(arguments.model)["pretrained_model_name_or_path"]
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **settings)
    clock = beside_trl.clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RewardTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=LORA_DIM,
                lora_alpha=2 * LORA_DIM,
                target_modules="all-linear",
                modules_to_save=["score"],
            ),
            args=RewardConfig(
                output_dir=scratch,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.pairs,
                max_length=None,
                bf16=dtype == torch.bfloat16,
                activation_checkpointing=arguments.checkpointing,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    return beside_trl.result("pairs_per_second", arguments.pairs, clock.seconds)


if __name__ == "__main__":
    main()
