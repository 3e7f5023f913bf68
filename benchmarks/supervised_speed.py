"""How fast is supervised tuning? It beside TRL's own SFTTrainer, in turn, each in a process of its own.

    python benchmarks/supervised_speed.py                        # the packaged model, bfloat16
    python benchmarks/supervised_speed.py --dtype float32

Both sides learn from the same demonstrations of mixed lengths (words of the sample; prompts of 15 to 200 words, answers of
8 to 60), the same ones in each step, the answers' tokens alone, with LoRA of the same rank on every linear layer, the same
learning rate and the same attention code. Theirs is SFTTrainer with the whole batch in one pass, padded, and no activation
checkpointing (`--checkpointing` turns it on: slower, lighter). A step's time is the median without the first. Memory is the
process's peak, or the GPU's. The loss is that of the last step: it is to be the same on both sides.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import beside_trl
from beside_trl import LORA_DIM

PROMPT_TOKENS, ANSWER_TOKENS = 512, 128


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = beside_trl.arguments_of(__doc__)
    parser.add_argument("--examples", type=int, default=16, help="demonstrations an optimizer step")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing on TRL's side")
    beside_trl.main(
        parser,
        prepare=prepare,
        ours=ours,
        stock=stock,
        rival="TRL SFTTrainer",
        work=lambda arguments: f"{arguments.examples} demonstrations a step",
        columns={
            "examples_per_second": "demonstrations a second",
            "seconds_per_step": "seconds a step",
            "gib": "peak memory, GiB",
            "loss": "last loss",
        },
    )


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Write the demonstrations."""
    beside_trl.write_rows(folder / "demonstrations.jsonl", arguments.examples * arguments.steps, "answer")


def config(arguments: argparse.Namespace) -> Any:
    """Return the settings that both sides have."""
    from rlhf_tuning.training.supervised import SupervisedConfig

    return SupervisedConfig(
        large_model_reference=arguments.model,
        train_steps=arguments.steps,
        lora_dim=LORA_DIM,
        batch_size=arguments.examples,
        evaluation_interval=arguments.steps,
        prompt_sequence_length=PROMPT_TOKENS,
        target_sequence_length=ANSWER_TOKENS,
        dtype=arguments.dtype,
    )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as supervised tuning does."""
    from rlhf_tuning.training import held_out_loss, supervised, tuning

    # Training is what is compared.
    supervised._measured = lambda *_, **__: held_out_loss.of_answers([1.0, 1.0], [1, 1])
    tuning.save_tuned_model = lambda *_, **__: None  # type: ignore[assignment]
    demonstrations = str(arguments.folder / "demonstrations.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        supervised.train_supervised(
            config(arguments),
            demonstrations_path=demonstrations,
            eval_demonstrations_path=demonstrations,
            adapter_dir=scratch,
            model_dir=scratch,
            tensorboard_dir=scratch,
        )
        lines = beside_trl.metrics(Path(scratch))
    return result(arguments, [line["seconds_per_step"] for line in lines], lines[-1]["loss"])


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's SFTTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from rlhf_tuning.data.importer import read_canonical
    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer
    from rlhf_tuning.training.trainer_settings import shared_settings, step_order

    class SameSteps(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *rest: Any) -> Any:
            lengths = [len(row["input_ids"]) for row in rows]
            return step_order(lengths, steps=arguments.steps, batch_size=arguments.examples, seed=settings.seed)

    settings = config(arguments)
    tokenizer = load_tokenizer(arguments.model)
    text_format = TextFormat(tokenizer, prompt_sequence_length=PROMPT_TOKENS, target_sequence_length=ANSWER_TOKENS)
    rows = []
    for row in read_canonical(arguments.folder / "demonstrations.jsonl"):
        prompt, answer = text_format.prompt_ids(row["prompt"]), text_format.learnt_ids(row["answer"])
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
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
            args=SFTConfig(
                **shared | {"activation_checkpointing": arguments.checkpointing},
                per_device_train_batch_size=arguments.examples,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
        )
        trainer.train()
    loss = next(record["loss"] for record in reversed(trainer.state.log_history) if "loss" in record)
    return result(arguments, clock.seconds, loss)


def result(arguments: argparse.Namespace, seconds: list[float], loss: float) -> dict[str, float]:
    """Return what a side found."""
    return beside_trl.result("examples_per_second", arguments.examples, seconds, loss=loss)


if __name__ == "__main__":
    main()
