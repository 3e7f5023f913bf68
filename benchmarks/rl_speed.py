"""How fast is reinforcement learning? Phase 2 beside TRL's own RLOO trainer, in turn, each in a process of its own.

    python benchmarks/rl_speed.py                                            # the sample's model and prompts, bfloat16
    python benchmarks/rl_speed.py --dtype float32
    python benchmarks/rl_speed.py --model random-1b --prompts 64 --tokens 128  # on a GPU

Both sides take the same steps with the same prompts (the sample's, at their own lengths), LoRA of the same rank on every
linear layer, the same KL coefficient, and answers of exactly `--tokens` tokens, of which none may end early. Theirs is
RLOOTrainer with a reward model of its own (the same base with a score head), all samples in one pass, as its documentation
has it. A step's time is the median without the first. Memory is the process's peak, or the GPU's.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import beside_trl
from beside_trl import LORA_DIM, MODEL

KL_COEFF = 0.02


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = beside_trl.arguments_of(__doc__, model_help="alias, folder, or random-1b: a Llama of random weights")
    parser.add_argument("--prompts", type=int, default=4, help="prompts a step")
    parser.add_argument("--k", type=int, default=4, help="answers to each")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rollout-engine", default="auto", choices=["auto", "lean", "transformers"])
    beside_trl.main(
        parser,
        prepare=prepare,
        ours=ours,
        stock=stock,
        rival="TRL RLOOTrainer",
        work=lambda arguments: f"{arguments.prompts} prompts x {arguments.k} answers x {arguments.tokens} tokens",
        columns={
            "samples_per_second": "samples a second",
            "seconds_per_step": "seconds a step",
            "gib": "peak memory, GiB",
        },
    )


def prepare(arguments: argparse.Namespace, scratch: Path) -> None:
    """Write the prompts, a random model where one is asked for, and a reward model (one step: speed is what counts)."""
    from rlhf_tuning import sample
    from rlhf_tuning.training import reward_model

    folder = Path(sample.__file__).parent
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    instruction = json.loads((folder / "parameters.json").read_text(encoding="utf-8")).get("instruction", "")
    texts = [json.loads(line)["input_text"] for line in lines[: arguments.prompts * (arguments.steps + 1)]]
    turns = [[{"role": "user", "content": f"{instruction}\n\n{text}".strip()}] for text in texts]
    rows = "".join(json.dumps({"prompt": turn}) + "\n" for turn in turns)
    (scratch / "prompts.jsonl").write_text(rows, encoding="utf-8")
    if arguments.model == "random-1b":
        write_random_model(scratch / "model")
    preferences = scratch / "preferences.jsonl"
    pairs = [{"prompt": turn, "chosen": "Gulls call.", "rejected": "Enjoy the fun."} for turn in turns[:4]]
    preferences.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    reward_model.train_reward_model(
        reward_model.RewardModelConfig(
            large_model_reference=model_of(arguments, scratch),
            reward_model_train_steps=1,
            batch_size=2,
            dtype=arguments.dtype,
            centring_prompts=0,
        ),
        preferences_path=str(preferences),
        eval_preferences_path=str(preferences),
        output_dir=str(scratch / "reward"),
        tensorboard_dir=str(scratch / "tensorboard"),
    )


def write_random_model(folder: Path) -> None:
    """Save a Llama of 1.2 billion random weights, shaped as Llama 3.2 1B, with the sample's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_tuning.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_of(arguments: argparse.Namespace, scratch: Path) -> str:
    """Return the reference of the model that is tuned."""
    return str(scratch / "model") if arguments.model == "random-1b" else str(arguments.model)


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as phase 2 does."""
    from rlhf_tuning.generation import rollout
    from rlhf_tuning.training import reinforcement

    sample = rollout.sample
    rollout.sample = lambda model, prompts, **settings: sample(model, prompts, **settings | {"ends": []})
    folder = arguments.folder
    reinforcement.train_policy(
        reinforcement.ReinforcementConfig(
            large_model_reference=model_of(arguments, folder),
            reinforcement_learning_train_steps=arguments.steps,
            lora_dim=LORA_DIM,
            kl_coeff=KL_COEFF,
            batch_size=arguments.prompts,
            num_generations=arguments.k,
            target_sequence_length=arguments.tokens,
            dtype=arguments.dtype,
            rollout_engine=arguments.rollout_engine,
            min_reward_model_accuracy=0.0,
        ),
        prompts_path=str(folder / "prompts.jsonl"),
        reward_model_dir=str(folder / "reward"),
        adapter_dir=str(folder / "adapter"),
        model_dir=str(folder / "tuned"),
        tensorboard_dir=str(folder / "tensorboard"),
    )
    lines = beside_trl.metrics(folder / "adapter")
    assert {line["answer_tokens"] for line in lines} == {arguments.tokens}
    return result(arguments, [line["seconds_per_step"] for line in lines])


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's RLOOTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.model_reference import model_source
    from rlhf_tuning.models.tokenizer import load_tokenizer

    class Lengths(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.found: set[float] = set()

        def on_log(self, *rest: Any, logs: dict[str, float], **settings: Any) -> None:
            if "completions/mean_length" in logs:
                self.found.add(logs["completions/mean_length"])

    path = model_source(model_of(arguments, arguments.folder))["pretrained_model_name_or_path"]
    dtype = getattr(torch, arguments.dtype)
    gpu = torch.cuda.is_available()
    # The faster attention here, as this project has it.
    settings = {"dtype": dtype, "attn_implementation": base_model._attention(dtype)}
    tokenizer = load_tokenizer(str(path))
    policy = AutoModelForCausalLM.from_pretrained(path, **settings).to(base_model.device())
    judge = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **settings)
    judge.config._name_or_path = policy.config._name_or_path = str(path)
    samples = arguments.prompts * arguments.k
    clock, lengths = beside_trl.clock(), Lengths()
    rows = [json.loads(line) for line in (arguments.folder / "prompts.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RLOOTrainer(
            model=policy,
            reward_funcs=judge,
            reward_processing_classes=tokenizer,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock, lengths],
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=LORA_DIM, lora_alpha=2 * LORA_DIM, target_modules="all-linear"
            ),
            args=RLOOConfig(
                output_dir=scratch,
                max_steps=arguments.steps,
                per_device_train_batch_size=samples if not gpu else min(samples, 64),
                gradient_accumulation_steps=1 if not gpu else max(1, samples // 64),
                num_generations=arguments.k,
                max_completion_length=arguments.tokens,
                generation_kwargs={"min_new_tokens": arguments.tokens},
                beta=KL_COEFF,
                temperature=1.0,
                learning_rate=1e-4,
                bf16=dtype == torch.bfloat16,
                gradient_checkpointing=gpu,
                use_cpu=not gpu,
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    assert lengths.found == {arguments.tokens}
    return result(arguments, clock.seconds)


def result(arguments: argparse.Namespace, seconds: list[float]) -> dict[str, float]:
    """Return what a side found."""
    return beside_trl.result("samples_per_second", arguments.prompts * arguments.k, seconds)


if __name__ == "__main__":
    main()
