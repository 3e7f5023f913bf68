"""How fast is preference tuning? It beside TRL's own DPOTrainer, in turn, each in a process of its own.

    python benchmarks/preference_speed.py                        # the packaged model, bfloat16
    python benchmarks/preference_speed.py --dtype float32

Both sides learn from the same pairs of mixed lengths (words of the sample; prompts of 15 to 200 words, answers of 8 to 60),
the same ones in each step, by DPO's own loss, with LoRA of the same rank on every linear layer, the same learning rate and
the same attention code. Theirs is DPOTrainer with the whole batch in one pass, padded, which asks its reference in every
step, and no activation checkpointing (`--checkpointing` turns it on: slower, lighter). Ours asks the reference before the
first step: the time of that is divided among the steps, each of which sees other pairs. A step's time is the median without
the first. Memory is the process's peak, or the GPU's. The losses are to be the same on both sides.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import beside_trl
from beside_trl import LORA_DIM

PROMPT_TOKENS, ANSWER_TOKENS = 512, 128


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
        rival="TRL DPOTrainer",
        work=lambda arguments: f"{arguments.pairs} pairs a step",
        columns={
            "pairs_per_second": "pairs a second",
            "seconds_per_step": "seconds a step",
            "gib": "peak memory, GiB",
            "loss": "last loss",
            "mean_loss": "mean loss",
        },
    )


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Write the pairs."""
    beside_trl.write_rows(folder / "preferences.jsonl", arguments.pairs * arguments.steps, "chosen", "rejected")


def config(arguments: argparse.Namespace) -> Any:
    """Return the settings that both sides have."""
    from rlhf_tuning.training.preference import PreferenceConfig

    return PreferenceConfig(
        large_model_reference=arguments.model,
        adapter_size=LORA_DIM,
        learning_rate_multiplier=4.0,
        batch_size=arguments.pairs,
        prompt_sequence_length=PROMPT_TOKENS,
        target_sequence_length=ANSWER_TOKENS,
        dtype=arguments.dtype,
        watch_prompts=0,
    )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as preference tuning does."""
    from rlhf_tuning.statistics import MeanEstimate
    from rlhf_tuning.training import preference, tuning

    asked: list[float] = []
    ask = preference.log_probabilities_of

    def timed(*rest: Any, **settings: Any) -> Any:
        started = time.monotonic()
        found = ask(*rest, **settings)
        asked.append(time.monotonic() - started)
        return found

    # Training is what is compared, and the reference's part in it: the first that is asked of are the pairs to learn from.
    preference.log_probabilities_of = timed
    nothing = MeanEstimate(0.0, 0.0, 0.0, 1)
    preference.of_pairs = lambda *_, **__: dict.fromkeys(  # type: ignore[assignment]
        ("loss", "accuracy", "chosen_change", "rejected_change"), nothing
    )
    tuning.save_tuned_model = lambda *_, **__: None  # type: ignore[assignment]
    preferences = str(arguments.folder / "preferences.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        preference.train_on_preferences(
            config(arguments),
            preferences_path=preferences,
            eval_preferences_path=preferences,
            adapter_dir=scratch,
            model_dir=scratch,
            tensorboard_dir=scratch,
        )
        lines = beside_trl.metrics(Path(scratch))
    seconds = [line["seconds_per_step"] + asked[0] / arguments.steps for line in lines]
    return result(arguments, seconds, [line["loss"] for line in lines])


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's DPOTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from rlhf_tuning.data.importer import read_canonical
    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer
    from rlhf_tuning.training import preference
    from rlhf_tuning.training.trainer_settings import shared_settings, step_order

    class SameSteps(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *rest: Any) -> Any:
            lengths = list(map(preference._length, rows))
            return step_order(lengths, steps=arguments.steps, batch_size=arguments.pairs, seed=settings.seed)

    settings = config(arguments)
    tokenizer = load_tokenizer(arguments.model)
    text_format = TextFormat(tokenizer, prompt_sequence_length=PROMPT_TOKENS, target_sequence_length=ANSWER_TOKENS)
    rows = preference._encoded(list(read_canonical(arguments.folder / "preferences.jsonl")), text_format)
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(settings.seed)
    # The faster attention here, as this project has it.
    model = base_model.load_causal_lm(arguments.model, dtype=dtype)
    clock = beside_trl.clock()
    with tempfile.TemporaryDirectory() as scratch:
        shared = shared_settings(
            output_dir=scratch,
            steps=arguments.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            compute=dtype,
        )
        trainer = SameSteps(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=LORA_DIM, lora_alpha=2 * LORA_DIM, target_modules="all-linear"
            ),
            args=DPOConfig(
                **shared | {"activation_checkpointing": arguments.checkpointing},
                per_device_train_batch_size=arguments.pairs,
                max_length=None,
                beta=settings.beta,
            ),
        )
        trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return result(arguments, clock.seconds, losses)


def result(arguments: argparse.Namespace, seconds: list[float], losses: list[float]) -> dict[str, float]:
    """Return what a side found."""
    mean = sum(losses) / len(losses)
    return beside_trl.result("pairs_per_second", arguments.pairs, seconds, loss=losses[-1], mean_loss=mean)


if __name__ == "__main__":
    main()
