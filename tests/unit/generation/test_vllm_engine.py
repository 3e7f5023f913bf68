"""Bulk answers by vLLM, with a stand-in for it; tests/serving has the real one."""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from rlhf_tuning import environment, vllm_program
from rlhf_tuning.errors import RunError, UserError
from rlhf_tuning.generation import inference, vllm_engine
from rlhf_tuning.generation.inference import InferenceConfig, write_predictions
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.vllm_program import Vllm

FAKE = str(Path(__file__).parents[2] / "support" / "fake_vllm.py")
GPU = Vllm(python=FAKE, version="0.32.0", device="cuda")
CPU = Vllm(python=FAKE, version="0.32.0", device="cpu")
ENOUGH = vllm_engine.ENOUGH_TOKENS
PROMPTS = [f"Create {number}." * (1 + number % 3) for number in range(10)]


@pytest.fixture(autouse=True)
def logs_go_with_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("engine", "tokens", "gpu", "there", "chosen"),
    [
        ("auto", ENOUGH, True, GPU, GPU),
        ("auto", ENOUGH - 1, True, GPU, None),
        ("auto", ENOUGH, False, GPU, None),
        ("auto", ENOUGH, True, CPU, None),
        ("auto", ENOUGH, True, None, None),
        ("own", ENOUGH, True, GPU, None),
        ("vllm", 1, False, CPU, CPU),
    ],
)
def test_auto_is_vllm_where_it_runs_on_a_gpu_and_its_start_pays(monkeypatch, engine, tokens, gpu, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(vllm_program, "find_vllm", lambda python="": there)
    assert vllm_engine.chosen_vllm(engine, tokens=tokens) == chosen


def test_a_vllm_that_is_missing_or_broken_matters_only_to_who_asked_for_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(environment, "VLLM_PYTHON", FAKE)
    monkeypatch.setenv("FAKE_VLLM", '{"import": "RuntimeError: operator torchvision::nms does not exist"}')
    assert vllm_engine.chosen_vllm("auto", tokens=ENOUGH) is None
    assert "Warning: the answers are sampled without vLLM." in capsys.readouterr().out
    with pytest.raises(UserError, match="torchvision::nms does not exist"):
        vllm_engine.chosen_vllm("vllm", tokens=1)
    monkeypatch.setattr(vllm_program, "find_vllm", lambda python="": None)
    with pytest.raises(UserError, match=r"(?s)no vLLM here, which inference_engine 'vllm' needs.*RLHF_VLLM_PYTHON"):
        vllm_engine.chosen_vllm("vllm", tokens=1)


@pytest.fixture
def infer(tiny_model, tmp_path, monkeypatch):
    """Answer the prompts with the stand-in, and return the lines and what it was asked."""
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("FAKE_VLLM_REQUESTS", str(tmp_path / "requests"))
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(inference, "chosen_vllm", lambda engine, tokens: CPU)

    def infer(faults=None, **settings):
        monkeypatch.setenv("FAKE_VLLM", json.dumps(faults or {}))
        known = {"target_sequence_length": 6, "dtype": "float32", "batch_size": 5, "inference_engine": "vllm"}
        write_predictions(
            InferenceConfig(large_model_reference=str(tiny_model), **known | settings),
            prompts_path=str(prompts),
            predictions_path=str(tmp_path / "out"),
            label="answers",
            work_dir=str(tmp_path / "work"),
        )
        lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        return lines, [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]

    return infer


def test_vllm_gets_our_tokens_and_our_ends_and_its_tokens_become_the_usual_lines(infer, tiny_model):
    lines, (settings, *requests) = infer(temperature=0.7, prompt_sequence_length=16)
    text_format = TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=16, target_sequence_length=6)
    prompts = [text_format.prompt_ids([{"role": "user", "content": text}]) for text in PROMPTS]
    assert {row: tokens for row, tokens, _ in requests} == dict(enumerate(prompts))
    assert len({seed for _, _, seed in requests}) == len(PROMPTS)
    assert [len(tokens) for _, tokens, _ in requests] == sorted(map(len, prompts), reverse=True)
    assert settings["engine"].items() >= {"model": str(tiny_model), "dtype": "float32", "max_model_len": 22}.items()
    ends = [text_format.tokenizer.eos_token_id]
    expected = {"temperature": 0.7, "max_tokens": 6, "stop_token_ids": ends, "ignore_eos": True}
    assert settings["sampling"].items() >= expected.items()
    assert [line["inputs"]["inputs_pretokenized"] for line in lines] == PROMPTS
    ids = [*prompts[0][:2], 7]
    kept = ids[: ids.index(ends[0]) + 1] if ends[0] in ids else ids
    assert lines[0]["token_ids"] == kept
    assert lines[0]["prediction"] == text_format.answer_text([token for token in kept if token not in ends])
    assert (lines[0]["tokens"], lines[0]["ended"]) == (len(kept), kept != ids or ids[-1] in ends)


def test_the_likeliest_tokens_need_no_seed(infer):
    _, (_, *requests) = infer(temperature=0.0)
    assert {seed for _, _, seed in requests} == {None}


def test_a_vllm_that_dies_says_why_and_the_next_run_asks_for_what_is_missing(infer, tmp_path, capsys):
    whole, _ = infer()
    with pytest.raises(RunError, match=r"vLLM ended: OutOfMemoryError: CUDA out of memory\. What it said .* to 'own'"):
        infer({"answers": 7})
    assert "torch.OutOfMemoryError: CUDA out of memory." in capsys.readouterr().out
    lines, (_, *requests) = infer()
    assert len(requests) == 5
    assert lines == whole
    assert "5 of 10 answers are there already" in capsys.readouterr().out


def test_what_auto_has_asked_vllm_for_in_vain_our_own_loop_answers(infer, capsys):
    by_vllm, _ = infer()
    lines, _ = infer({"answers": 7}, inference_engine="auto")
    assert "What is missing is answered without vLLM." in capsys.readouterr().out
    same = [line == other for line, other in zip(lines, by_vllm, strict=True)]
    assert sum(same) == 5
    assert all(line["tokens"] for line in lines)
