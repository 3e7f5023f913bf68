"""Training, scoring, evaluation and serving must encode the same prompt and answer as the same tokens."""

import ast
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import TrainerState

import rlhf_tuning
from rlhf_tuning import registry
from rlhf_tuning.evaluation import evaluate
from rlhf_tuning.generation import generate, rollout
from rlhf_tuning.models import reward_model, text_format
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.rewards import Options, Reward
from rlhf_tuning.rewards.reward_model import ModelScorer
from rlhf_tuning.training import reinforcement
from rlhf_tuning.training.reward_model import RewardModelConfig, train_reward_model

QUESTION, ANSWER = "Create a description for Plantation Palms.", "A Tranquil Oasis of Natural Beauty."
PROMPT = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module", params=["tiny_model", "tiny_plain_model"])
def model_folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def expected(model_folder):
    """The tokens of the prompt, and of prompt and answer."""
    text_format = TextFormat(load_tokenizer(str(model_folder)), prompt_sequence_length=64, target_sequence_length=32)
    return text_format.prompt_ids(PROMPT), text_format.scored_ids(PROMPT, ANSWER)


@pytest.fixture(scope="module")
def reward_dir(model_folder, tmp_path_factory):
    """A reward model of one step, and the rows that its trainer was given."""
    import trl

    given = []
    original = trl.RewardTrainer.__init__

    def spy(self, *arguments, train_dataset, **options):
        given.extend(train_dataset)
        original(self, *arguments, train_dataset=train_dataset, **options)

    folder = tmp_path_factory.mktemp("rewards")
    row = {"prompt": PROMPT, "chosen": ANSWER, "rejected": "No.", "margin": 0.5}
    data = folder / "preferences.jsonl"
    data.write_text((json.dumps(row) + "\n") * 2)
    config = RewardModelConfig(
        large_model_reference=str(model_folder),
        reward_model_train_steps=1,
        batch_size=2,
        prompt_sequence_length=64,
        target_sequence_length=32,
        dtype="float32",
        centring_prompts=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl.RewardTrainer, "__init__", spy)
        train_reward_model(
            config,
            preferences_path=str(data),
            eval_preferences_path=str(data),
            output_dir=str(folder / "reward"),
            tensorboard_dir=str(folder / "tensorboard"),
        )
    return str(folder / "reward"), given


def test_reward_training(reward_dir, expected):
    _, given = reward_dir
    assert given[0]["chosen_ids"] == expected[1]
    assert given[0]["margin"] == 0.5


def test_scoring_during_reinforcement(reward_dir, model_folder, expected, monkeypatch):
    scored = []
    monkeypatch.setattr(
        reward_model.RewardModel,
        "score_ids",
        lambda self, rows, groups, **options: scored.extend(rows) or [0.0] * len(rows),
    )
    scorer = ModelScorer(nullcontext)
    reward = Reward("reward_model", Options(kind="reward_model"), scorer)
    function = reinforcement._RewardFunction(reward, [{"prompt": PROMPT}])
    function.ends = frozenset()
    scorer.model = reward_model.load_reward_model(reward_dir[0], dtype="float32")
    # TRL hands over the text that it decoded from the policy's tokens, special tokens left out.
    tokenizer = load_tokenizer(str(model_folder))
    sampled = expected[1][len(expected[0]) :]
    texts = tokenizer.batch_decode([sampled], skip_special_tokens=True)
    function(completions=texts, completion_ids=[sampled], row=[0], trainer_state=TrainerState())
    assert scored == [expected[1]]


def test_scoring_during_evaluation(reward_dir, model_folder, expected, monkeypatch, tmp_path):
    scored, prompted = [], []
    monkeypatch.setattr(reward_model, "saved_scores", lambda directory: {})
    monkeypatch.setattr(
        reward_model.RewardModel,
        "score_ids",
        lambda self, rows, groups, **options: scored.extend(rows) or [0.0] * len(rows),
    )
    monkeypatch.setattr(
        evaluate,
        "answer_log_probabilities",
        lambda model, prompts, answers, **options: prompted.extend(prompts) or [0.0] * len(prompts),
    )
    row = {"prompt": PROMPT, "prediction": ANSWER, "tokens": 9, "ended": True, "token_ids": [5]}
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text(json.dumps(row) + "\n")
    config = evaluate.EvaluationConfig(
        large_model_reference=str(model_folder),
        prompt_sequence_length=64,
        target_sequence_length=32,
        dtype="float32",
    )
    evaluate.evaluate_policy(
        config,
        judges=evaluate.judges_of(config, reward_model_dir=reward_dir[0]),
        tuned_model_dir=str(model_folder),
        base_predictions_path=str(predictions),
        tuned_predictions_path=str(predictions),
    )
    assert scored == [expected[1]]  # the same answer of both models, scored once
    assert prompted == [expected[0], expected[0]]


def test_serving(model_folder, expected, monkeypatch, tmp_path):
    version = registry.register_model(
        model_dir=str(model_folder), adapter_dir="", name="tiny", manifest={}, registry_dir=tmp_path
    )
    prompted = []
    sample = rollout.sample
    monkeypatch.setattr(
        rollout,
        "sample",
        lambda model, prompts, **options: prompted.extend(prompts) or sample(model, prompts, **options),
    )
    generate.predict(version.name, QUESTION, registry_dir=tmp_path, target_sequence_length=4)
    assert prompted == [expected[0]]


@pytest.mark.parametrize(
    ("row", "instruction_role"),
    [
        ({"input_text": QUESTION}, "user"),
        ({"messages": [{"author": "user", "content": QUESTION}]}, "system"),
    ],
)
def test_a_served_model_puts_the_instruction_where_the_importer_put_it(tmp_path, row, instruction_role):
    from rlhf_tuning.data.importer import import_prompts, read_canonical

    instruction = "Write one sentence."
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    import_prompts(
        prompt_dataset=str(tmp_path / "prompts.jsonl"),
        eval_dataset="",
        instruction=instruction,
        prompts_path=str(tmp_path / "rows"),
        eval_prompts_path=str(tmp_path / "eval"),
        eval_prompts=0,
    )
    (canonical,) = read_canonical(tmp_path / "rows")
    served = text_format.instructed(QUESTION, {"instruction": instruction, "instruction_role": instruction_role})
    assert served == canonical["prompt"]


def test_the_score_is_read_at_the_last_real_token_whichever_side_is_padded(reward_dir, expected):
    """transformers' own classifier, with the adapter that was saved, finds the last token by the padding token."""
    directory, _ = reward_dir
    ours = reward_model.load_reward_model(directory, dtype="float32")
    rows = [expected[1], ours.text_format.scored_ids(PROMPT, "No.")]
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = reward_model.read_metadata(directory)["base_model"]
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    classifier.config.pad_token_id = ours.text_format.tokenizer.pad_token_id
    classifier = PeftModel.from_pretrained(classifier, directory).eval()
    longest = max(map(len, rows))
    input_ids = torch.tensor([row + [classifier.config.pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        right = classifier(input_ids=input_ids, attention_mask=mask).logits[:, 0] - ours.offset
    assert ours.score_ids(rows) == pytest.approx(right.tolist(), abs=1e-5)


def test_no_other_module_renders_or_tokenises_a_prompt():
    """Only `text_format` may call a tokenizer on text or render a chat template."""
    found = []
    for path in Path(rlhf_tuning.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("apply_chat_template", "tokenizer", "encode_plus", "batch_encode_plus", "processing_class"):
                found.append(path.name)
    assert set(found) == {"text_format.py"}
