"""The judge in this process, with a tiny real model."""

import pytest
import torch

from rlhf_tuning.evaluation.judges import JudgeSettings, load_judge
from rlhf_tuning.evaluation.judges.rubric import question, read_rubric
from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.models import base_model
from rlhf_tuning.models.tokenizer import load_tokenizer

# Short, since the tiny tokenizer takes about one token a character and the tiny model has 1,024 positions.
RUBRIC = "Kind."


def pair(first, second):
    return Comparison([{"role": "user", "content": "Hi"}], first, second)


@pytest.fixture(scope="module")
def roomy_model(tmp_path_factory):
    """The tiny model with room for a whole question."""
    from tests.conftest import CHAT_TEMPLATE, make_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("judge") / "tiny-judge"
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, initializer_range=0.15, **shape)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_log_odds_of_both_orders_are_the_model_s_own(roomy_model):
    pairs = [pair("Yes.", "No, never at all."), pair("Same.", "Same."), pair("Sun", "Gulf Shores")]
    judge = load_judge("local_model", JudgeSettings(judge_model=str(roomy_model), judge_rubric=RUBRIC, dtype="float32"))
    verdicts = judge.compare(pairs)
    assert judge.label == "judge tiny-judge"
    tokenizer = load_tokenizer(str(roomy_model))
    model = base_model.load_causal_lm(str(roomy_model), dtype=torch.float32).eval()
    for index in (0, 2):
        expected = []
        for second_first in (False, True):
            asked = question(read_rubric(RUBRIC), pairs[index], second_first=second_first)
            turns = [{"role": "user", "content": asked}]
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            log_odds = {}
            for letter in "AB":
                ids = tokenizer(f"{text}Verdict: {letter}", add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    log_odds[letter] = torch.log_softmax(model(torch.tensor([ids[:-1]])).logits[0, -1], -1)[ids[-1]]
            difference = (log_odds["A"] - log_odds["B"]).item()
            expected.append(difference if second_first else -difference)
        assert verdicts[index].orders == pytest.approx(expected, abs=1e-3)
    assert verdicts[1].outcome == "tie"
    assert judge.notes == []


def test_answers_that_are_too_long_have_no_verdict(roomy_model):
    judge = load_judge("local_model", JudgeSettings(judge_model=str(roomy_model), judge_rubric=RUBRIC, dtype="float32"))
    verdicts = judge.compare([pair("long " * 900, "b"), pair("a", "b")])
    assert verdicts[0] is None
    assert verdicts[1] is not None
    assert "longer than the 2,048 positions" in judge.notes[0]
