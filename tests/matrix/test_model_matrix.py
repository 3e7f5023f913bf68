"""Every architecture through everything: validation, both phases, merge, reload, answers. Writes the table of the docs."""

import json
import os
from pathlib import Path

import pytest
import torch
from tiny_architectures import ARCHITECTURES, save_network
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.evaluation.export_check import check_export
from rlhf_tuning.evaluation.reward_model_accuracy import evaluate_reward_model
from rlhf_tuning.generation.generate import generate_answers
from rlhf_tuning.models import base_model
from rlhf_tuning.models.reward_model import load_reward_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.training.reinforcement import ReinforcementConfig, train_policy
from rlhf_tuning.training.reward_model import RewardModelConfig, train_reward_model
from rlhf_tuning.validation import ValidationConfig, validate_data

PAGE = Path(__file__).parents[2] / "docs/reference/models.md"
LIMITS = {"prompt_sequence_length": 32, "target_sequence_length": 12}
PROMPTS = [
    [{"role": "user", "content": f"Create {number}. {'Natural Beauty. ' * (number % 3)}"}] for number in range(6)
]
PREFERENCES = [
    {"prompt": prompt, "chosen": "salt and gulls " * (1 + row % 2), "rejected": "0 1 2 3 4 " * (2 - row % 2)}
    for row, prompt in enumerate(PROMPTS)
]
#: What the self-checks say, and the column that it fills.
SAID = {
    "answers cannot share their prompt": "alone",
    "sampled by transformers' own generate": "generate",
}
#: Of the kinds that go wrong in different ways.
IN_CI = {"Gemma 2", "Granite", "Gemma 3", "gpt-oss", "LFM 2"}
EVERY = [
    pytest.param(name, marks=[pytest.mark.matrix, *([pytest.mark.slow] if name in IN_CI else [])])
    for name in ARCHITECTURES
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with preferences, as a person gives them and as they are imported, and prompts."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PREFERENCES))
    given = [
        row | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in PREFERENCES
    ]
    (folder / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return folder


def learn_rewards(base, data, folder, *, lora, dtype):
    """Train a reward model, and see that it scores the same when it is loaded anew."""
    config = RewardModelConfig(
        large_model_reference=str(base),
        reward_model_train_steps=1,
        reward_lora_dim=2 if lora else 0,
        batch_size=4,
        centring_prompts=2,
        dtype=dtype,
        **LIMITS,
    )
    measured = train_reward_model(
        config,
        preferences_path=str(data / "preferences.jsonl"),
        eval_preferences_path=str(data / "preferences.jsonl"),
        output_dir=str(folder),
        tensorboard_dir=str(folder / "tensorboard"),
    )
    again = evaluate_reward_model(
        load_reward_model(str(folder), dtype=dtype), list(read_canonical(data / "preferences.jsonl"))
    )
    # Trained in full and in bfloat16, weights are float32 and measured so.
    assert again["mean_margin"] == pytest.approx(measured["mean_margin"], abs=1e-5)


def tune(base, data, reward_model, folder, *, algorithm, lora, dtype):
    """Tune a policy for a step and return where it is."""
    config = ReinforcementConfig(
        large_model_reference=str(base),
        reinforcement_learning_train_steps=1,
        reinforcement_learning_rate_multiplier=30.0,
        rl_algorithm=algorithm,
        lora_dim=2 if lora else 0,
        batch_size=2,
        num_generations=2,
        watch_prompts=0,
        dtype=dtype,
        **LIMITS,
    )
    final = train_policy(
        config,
        prompts_path=str(data / "prompts.jsonl"),
        reward_model_dir=str(reward_model),
        adapter_dir=str(folder / "adapter"),
        model_dir=str(folder / "model"),
        tensorboard_dir=str(folder / "tensorboard"),
    )
    # In the first step the policy is the reference yet.
    assert final["kl"] == pytest.approx(0.0, abs=1e-4)
    return folder / "model"


def answers_of(model, tokenizer, prompts, engine="auto"):
    return generate_answers(
        model,
        TextFormat(tokenizer, **LIMITS),
        prompts,
        temperature=0.0,
        batch_size=8,
        seed=0,
        rollout_engine=engine,
    )


def check_answers(base, tuned, folder):
    """See that a tuned model is loaded by transformers alone, has moved, and that its numbers are its own."""
    model, told = AutoModelForCausalLM.from_pretrained(tuned, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    tokenizer = load_tokenizer(str(tuned))
    model = base_model.load_causal_lm(str(tuned), dtype=torch.float32)
    together = answers_of(model, tokenizer, PROMPTS)
    assert [answer.ids for answer in answers_of(model, tokenizer, PROMPTS[:1])] == [together[0].ids]
    assert [answer.ids for answer in answers_of(model, tokenizer, PROMPTS, "transformers")] == [
        answer.ids for answer in together
    ]
    text_format = TextFormat(tokenizer, **LIMITS)
    prompts = [text_format.prompt_ids(prompt) for prompt in PROMPTS]
    found = answer_log_probabilities(model, prompts, [answer.ids for answer in together])
    for prompt, answer, log_probability in zip(prompts, together, found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer.ids]])).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None]).sum().item()
        assert log_probability == pytest.approx(own, abs=1e-3)
    rows = [{"prompt": prompt, "token_ids": answer.ids} for prompt, answer in zip(PROMPTS, together, strict=True)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = check_export(
        str(base),
        model_dir=str(tuned),
        adapter_dir=str(tuned.parent / "adapter"),
        predictions_path=str(folder / "predictions.jsonl"),
        **LIMITS,
    )
    assert checked is None or checked.equal


@pytest.mark.parametrize("name", EVERY)
def test_an_architecture_is_tuned_as_the_docs_say(name, data, tiny_model, tmp_path, capsys, recwarn):
    base = save_network(name, tmp_path / "base", AutoTokenizer.from_pretrained(tiny_model))
    reports = {f"{kind}_path": str(tmp_path / kind) for kind in ("report", "problems", "bad_rows")}
    validate_data(
        ValidationConfig(
            prompt_dataset=str(data / "prompts.jsonl"),
            preference_dataset=str(data / "given.jsonl"),
            eval_dataset="",
            instruction="",
            large_model_reference=str(base),
            batch_size=4,
            **LIMITS,
        ),
        **reports,
    )
    for dtype, algorithms in (("float32", ("rloo", "grpo")), ("bfloat16", ("grpo", "rloo"))):
        for lora, algorithm in zip((True, False), algorithms, strict=True):
            folder = tmp_path / f"{dtype}-{algorithm}"
            learn_rewards(base, data, folder / "rewards", lora=lora, dtype=dtype)
            settings = {"algorithm": algorithm, "lora": lora, "dtype": dtype}
            tuned = tune(base, data, folder / "rewards", folder, **settings)
            check_answers(base, tuned, folder)
    said = capsys.readouterr().out
    attention = base_model.load_causal_lm(str(base), dtype=torch.float32).config._attn_implementation
    check_row(name, attention=attention, said={word for text, word in SAID.items() if text in said})


def check_row(name, *, attention, said):
    """Hold an architecture's line of the table; with RLHF_WRITE_TABLE=1 write it."""
    row = line_of(name, attention, "no" if "alone" in said else "yes", "no" if "generate" in said else "yes")
    lines = PAGE.read_text().splitlines()
    if os.environ.get("RLHF_WRITE_TABLE") == "1":
        rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")} | {f"| {name}": row}
        order = ["| architecture", *(f"| {name}" for name in ARCHITECTURES)]
        table = [rows[first] for first in order if first in rows]
        start = next(place for place, line in enumerate(lines) if line.startswith("|"))
        rest = [line for line in lines if not line.startswith("|")]
        lines = [*rest[:start], table[0], "|---|---|---|---|---|", *table[1:], *rest[start:]]
        PAGE.write_text("\n".join(lines) + "\n")
    assert row in lines


def line_of(name, *cells):
    return f"| {' | '.join((name, ARCHITECTURES[name].oddity, *cells))} |"


def test_the_page_names_every_architecture_with_its_oddity():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(ARCHITECTURES)
    for row, name in zip(rows, ARCHITECTURES, strict=True):
        assert row.startswith(line_of(name).removesuffix("|"))
