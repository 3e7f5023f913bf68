import pytest
import torch
from tiny_reward_model import BAD, GOOD

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import base_model, reward_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import packing


def test_scores_do_not_depend_on_padding_or_batch(trained, two_lanes):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    prompts = [[{"role": "user", "content": "Create 1."}], [{"role": "user", "content": "Create a description. " * 5}]]
    together = model.score(prompts, [GOOD, BAD])
    assert len(two_lanes) == 2
    alone = model.score(prompts[:1], [GOOD]) + model.score(prompts[1:], [BAD])
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_head_that_learns_scores_as_it_has_become(tiny_model):
    """Several processes give weights that learn another place in memory."""
    model = base_model.load_scoring_model(str(tiny_model), dtype=torch.float32)
    text_format = TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=32, target_sequence_length=16)
    scores = reward_model.reward_model_of(model, text_format=text_format)
    before = scores.score_ids([[5, 6, 7]])
    model.score.weight.data = -model.score.weight.data
    assert scores.score_ids([[5, 6, 7]]) == [-before[0]]


@pytest.mark.parametrize("packs", [True, False])
def test_answers_to_one_prompt_score_as_each_does_alone(packs, trained, monkeypatch):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    short, long = ([{"role": "user", "content": text}] for text in ("Create 1.", "Create a description. " * 5))
    prompts = [short, long, short, short, long, short, short]
    answers = [GOOD, BAD, BAD, GOOD + BAD, GOOD, "", BAD + GOOD]
    alone = [model.score([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    if not packs:
        monkeypatch.setattr(packing, "window", lambda trunk: 3)
    packed = []
    plain = packing.last_hidden
    monkeypatch.setattr(packing, "last_hidden", lambda *given: packed.append(given[3] is not None) or plain(*given))
    done = []
    assert model.score(prompts, answers, batch_size=3, on_progress=done.append) == pytest.approx(alone, abs=1e-4)
    assert done == sorted(done)
    assert done[-1] == 7
    assert any(packed) == packs


def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_score(trained, monkeypatch):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    prompts = [
        [{"role": "user", "content": f"Create a description of a place by the sea: {number}"}] for number in range(9)
    ] * 2
    answers = [GOOD, BAD] * 9
    lengths = []
    model._trunk.register_forward_pre_hook(
        lambda module, given, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    found = model.score(prompts, answers)
    shortest = min(lengths)
    lengths.clear()
    monkeypatch.setattr(reward_model, "beginning_of", lambda *_: None)
    assert model.score(prompts, answers) == pytest.approx(found, abs=1e-4)
    assert shortest < min(lengths)


def test_a_shared_trunk_scores_like_the_reward_model_alone(trained, tiny_model, monkeypatch):
    from peft import LoraConfig, get_peft_model

    # What peft reads an adapter on unless it is told: the first GPU, whichever this process has.
    monkeypatch.setattr("peft.peft_model.infer_device", pytest.fail)
    directory = str(trained[0] / "reward_model")
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    policy = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    prompt = [[{"role": "user", "content": "Create 1."}]] * 2
    with policy.disable_adapter():
        before = policy(torch.tensor([[5, 6, 7]])).logits
    shared = reward_model.share_trunk(policy, directory)
    alone = reward_model.load_reward_model(directory, dtype="float32")
    assert shared.score(prompt, [GOOD, BAD]) == pytest.approx(alone.score(prompt, [GOOD, BAD]), abs=1e-5)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trainable
    with policy.disable_adapter():
        assert torch.equal(policy(torch.tensor([[5, 6, 7]])).logits, before)


def test_scores_are_float32_where_all_else_is_bfloat16(trained):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="bfloat16")
    model.offset = 1 / 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.tensor(model.score_ids([[5, 6, 7, token] for token in range(20, 84)]))
    assert len(scores.unique()) > 60
    assert not torch.equal(scores, scores.bfloat16().float())


def test_a_folder_that_holds_no_reward_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="holds no reward model"):
        reward_model.load_reward_model(str(tmp_path))
