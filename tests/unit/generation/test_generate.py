import pytest
import torch
from tiny_architectures import make_network
from transformers import GenerationConfig

from rlhf_tuning.generation import generate
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer

PROMPTS = [[{"role": "user", "content": "Create a description. " * count}] for count in (1, 4, 2, 3, 1)]


@pytest.fixture(scope="module")
def model(tiny_model):
    return base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)


@pytest.fixture(scope="module")
def text_format(tiny_model):
    return TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=64, target_sequence_length=10)


def answers_of(model, text_format, prompts=PROMPTS, **settings):
    return generate.generate_answers(
        model, text_format, prompts, **{"temperature": 1.0, "batch_size": 2, "seed": 0} | settings
    )


def test_answers_come_in_the_order_of_the_prompts(model, text_format):
    greedy = answers_of(model, text_format, temperature=0.0)
    assert [answer.ids for answer in greedy] == [
        answers_of(model, text_format, [prompt], temperature=0.0)[0].ids for prompt in PROMPTS
    ]


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(model, text_format):
    first = answers_of(model, text_format)
    assert answers_of(model, text_format) == first
    assert answers_of(model, text_format, seed=1) != first


def test_generation_leaves_the_random_state_alone(model, text_format):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    answers_of(model, text_format)
    assert torch.equal(torch.rand(2), expected)


def test_a_prompt_full_of_ends_does_not_make_an_answer_ended(model, text_format):
    # The chat template puts the end token after every turn of the prompt.
    end = text_format.tokenizer.eos_token_id
    assert end in text_format.prompt_ids(PROMPTS[0])
    for answer in answers_of(model, text_format, PROMPTS * 6):
        assert answer.ended == (end in answer.ids)
        assert answer.tokens == len(answer.ids) <= 10
        assert answer.ended or answer.tokens == 10


def test_an_answer_stops_at_its_first_end(text_format):
    end = text_format.tokenizer.eos_token_id
    answer = generate.answer_of([40, 41, end, 42, end], [end], text_format)
    assert answer.ids == (40, 41, end)
    assert answer.ended
    assert answer.text == text_format.answer_text([40, 41])


def test_sampling_habits_that_a_model_ships_with_are_not_used(model, text_format):
    shipped = model.generation_config
    try:
        model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, temperature=0.1)
        answers = answers_of(model, text_format, PROMPTS[:1] * 8, batch_size=8)
    finally:
        model.generation_config = shipped
    assert len({answer.ids for answer in answers}) > 1


def test_the_ends_that_a_model_names_count_too(model, text_format):
    shipped = model.generation_config
    try:
        model.generation_config = GenerationConfig(eos_token_id=[0, 7])
        assert generate.end_token_ids(model.generation_config, text_format.tokenizer) == sorted(
            {0, 7, text_format.tokenizer.eos_token_id}
        )
    finally:
        model.generation_config = shipped


def test_progress_counts_answers(model, text_format):
    seen = []
    answers_of(model, text_format, on_progress=seen.append)
    assert seen == [1, 3, 5]


@pytest.mark.parametrize(
    ("rows", "most", "sizes"),
    [(5, 2, [1, 2, 2]), (200, 64, [50, 50, 50, 50]), (64, 64, [64]), (3, 64, [3]), (0, 64, [])],
)
def test_batches_are_few_and_of_about_equal_size(rows, most, sizes):
    found = generate.batches_of(range(rows), most)
    assert [len(batch) for batch in found] == sizes
    assert [row for batch in found for row in batch] == list(range(rows))


@pytest.mark.parametrize("name", ["RWKV", "RecurrentGemma"])
def test_padding_does_not_get_into_a_state(name):
    model = make_network(name)
    prompts = [list(range(3, 20)), list(range(30, 35)), list(range(40, 57))]
    settings = {"pad_id": 0, "most_tokens": 5, "temperature": 0.0, "ends": [2]}
    alone = [generate.by_transformers(model, [prompt], **settings)[0] for prompt in prompts]
    assert generate.by_transformers(model, prompts, **settings) == alone
