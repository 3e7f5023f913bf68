import json
from pathlib import Path

import pytest
from tiny_tuning import prompt, records, tune

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.training import distillation


def prompts(count: int, first: int = 0) -> list[dict[str, object]]:
    return [{"prompt": prompt(number), "answer": "of the teacher"} for number in range(first, first + count)]


def train(student: Path, teacher: Path, folder: Path, **settings: object) -> dict[str, float]:
    """Let a tiny student learn from another tiny model on its own answers."""
    ours = {
        "on_policy_train_steps": 20,
        "learning_rate_multiplier": 100.0,
        "evaluation_interval": 10,
        "lora_dim": 8,
        "batch_size": 8,
    }
    return tune(
        distillation.train_student,
        distillation.DistillationConfig,
        folder,
        data="demonstrations",
        learnt=prompts(20),
        held_out=prompts(12, first=50),
        large_model_reference=str(student),
        teacher_model_reference=str(teacher),
        **ours | settings,
    )


@pytest.mark.slow
def test_the_student_comes_nearer_to_its_teacher_on_its_own_answers(tiny_model, tiny_plain_model, tmp_path):
    found = train(tiny_model, tiny_plain_model, tmp_path)
    assert found["held_out_loss_high"] < found["held_out_loss_before"]
    assert found["held_out_loss"] < 0.8 * found["held_out_loss_before"]
    history = records(tmp_path / "adapter" / "metrics.jsonl")
    assert history[-1]["loss"] < history[0]["loss"]
    assert {"entropy", "answer_tokens", "ended", "tokens_per_second"} <= history[0].keys()
    curve = json.loads((tmp_path / "adapter" / "held_out_loss.json").read_text())
    assert [look["step"] for look in curve["looks"]] == [0, 10, 20]
    assert json.loads((tmp_path / "adapter" / "tuning.json").read_text())["method"] == "distillation"


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_model, tmp_path):
    found = train(tiny_model, tiny_model, tmp_path, on_policy_train_steps=1, lora_dim=0, learning_rate_multiplier=1.0)
    assert found["held_out_loss_before"] == pytest.approx(0.0, abs=1e-5)
    assert found["loss"] == pytest.approx(0.0, abs=1e-5)


def test_a_teacher_with_other_tokens_is_refused(tiny_model, tmp_path):
    other = load_tokenizer(str(tiny_model))
    other.add_tokens(["harbour"])
    other.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(ParameterError, match="are not the same"):
        train(tiny_model, tmp_path / "teacher", tmp_path)
