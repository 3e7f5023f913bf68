import pytest
import torch
from tiny_architectures import make_network

from rlhf_tuning.models import base_model
from rlhf_tuning.ops.log_probabilities import head_scale, log_probabilities, pack, pack_apart

PROMPTS = [[5, 6, 7], [5, 6, 7], [5, 6, 7], [9, 8], [9, 8]]
ANSWERS = [[20, 21, 22, 23], [24], [], [25, 26], [27, 28, 29]]


def plain(model, prompt, answer, temperature):
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    spread = logits.log_softmax(-1)
    return spread[torch.arange(len(answer)), torch.tensor(answer)], -(spread.exp() * spread).sum(-1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_answers_have_the_log_probabilities_and_entropies_of_separate_rows(tiny_model, attention, temperature):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    model.set_attn_implementation(attention)
    found, entropy = log_probabilities(
        model, pack(PROMPTS, ANSWERS, device=torch.device("cpu"), width=5), temperature=temperature
    )
    assert found.shape == entropy.shape == (5, 5)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = (torch.zeros(0), torch.zeros(0)) if not answer else plain(model, prompt, answer, temperature)
        assert torch.allclose(found[row, : len(answer)], expected[0], atol=1e-5)
        assert torch.allclose(entropy[row, : len(answer)], expected[1], atol=1e-5)
        assert torch.equal(found[row, len(answer) :], torch.zeros(5 - len(answer)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompts_of_one_answer_each_need_no_mask_of_ours(tiny_model, attention):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    model.set_attn_implementation(attention)
    packed = pack(PROMPTS[2:4], [ANSWERS[1], ANSWERS[3]], device=torch.device("cpu"))
    assert packed.owners is None
    found, _ = log_probabilities(model, packed, temperature=1.0)
    assert torch.allclose(found[1, :2], plain(model, PROMPTS[3], ANSWERS[3], 1.0)[0], atol=1e-5)
    assert torch.allclose(found[0, :1], plain(model, PROMPTS[2], ANSWERS[1], 1.0)[0], atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("several", [True, False])
def test_examples_packed_apart_have_the_log_probabilities_of_separate_rows(tiny_model, attention, several):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    model.set_attn_implementation(attention)
    prompts, answers = [[5, 6], [9], [10, 11, 12, 13], [7, 8, 9]], [[20], [22, 23], [24, 25, 26], [27]]
    packed = pack_apart(prompts, answers, device=torch.device("cpu"), width=4, several=several)
    # The longest in a row of its own, then two whose tokens are as many, then what is left.
    assert packed.input_ids.shape == ((3, 7) if several else (4, 7))
    assert (packed.owners is None) is not several
    found, _ = log_probabilities(model, packed, temperature=1.0)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert torch.allclose(found[row, : len(answer)], plain(model, prompt, answer, 1.0)[0], atol=1e-5)
        assert torch.equal(found[row, len(answer) :], torch.zeros(4 - len(answer)))


def test_a_prompt_is_held_once_for_its_answers():
    packed = pack(PROMPTS, ANSWERS, device=torch.device("cpu"))
    assert packed.input_ids.tolist() == [[5, 6, 7, 20, 21, 22, 23, 24], [9, 8, 25, 26, 27, 28, 29, 0]]
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("Cohere", 0.0625),
        ("Granite", 0.125),
        ("Falcon-H1", 0.5),
        ("Gemma 2", 1.0),  # its logits are capped
        ("Phi", 1.0),  # its head has biases
        ("MiniCPM 3", None),
        ("RecurrentGemma", None),
    ],
)
def test_log_probabilities_are_those_of_the_model_s_own_logits(name, scale):
    model = make_network(name)
    assert head_scale(model) == (None if scale is None else pytest.approx(scale))
    found, entropy = log_probabilities(
        model, pack(PROMPTS, ANSWERS, device=torch.device("cpu"), share=False), temperature=0.7
    )
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        if answer:
            expected = plain(model, prompt, answer, 0.7)
            assert torch.allclose(found[row, : len(answer)], expected[0], atol=1e-4)
            assert torch.allclose(entropy[row, : len(answer)], expected[1], atol=1e-4)


def test_an_adapter_on_the_output_head_is_not_passed_by():
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    model = get_peft_model(make_network("Qwen 2"), settings).get_base_model()
    found, _ = log_probabilities(model, pack(PROMPTS[:1], ANSWERS[:1], device=torch.device("cpu")), temperature=1.0)
    assert torch.allclose(found[0], plain(model, PROMPTS[0], ANSWERS[0], 1.0)[0], atol=1e-4)
