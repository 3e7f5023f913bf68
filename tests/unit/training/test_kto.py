import json
import random
from pathlib import Path

import pytest
from tiny_tuning import BAD, GOOD, gain, prompt, records, tune

from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.training import kto
from rlhf_tuning.training.preference import PreferenceConfig


def thumbs(count: int, first: int = 0) -> list[dict[str, object]]:
    """Return an answer to each prompt, with what somebody thought of it."""
    return [
        {
            "prompt": prompt(number),
            "answer": f"{GOOD}{' Salt and gulls.' * (number % 4)}" if number % 2 else f"{BAD}{' 6 7' * (number % 4)}",
            "label": bool(number % 2),
        }
        for number in range(first, first + count)
    ]


HELD_OUT = thumbs(12, first=50)


def train(
    model: Path,
    folder: Path,
    rows: list[dict[str, object]] | None = None,
    held_out: list[dict[str, object]] = HELD_OUT,
    **settings: object,
) -> dict[str, float]:
    """Tune a tiny model on some feedback."""
    ours = {"epoch_count": 3, "learning_rate_multiplier": 100.0, "adapter_size": 4, "batch_size": 8, "watch_prompts": 4}
    return tune(
        kto.train_on_feedback,
        PreferenceConfig,
        folder,
        data="preferences",
        learnt=thumbs(32) if rows is None else rows,
        held_out=held_out,
        large_model_reference=str(model),
        loss_type="kto",
        **ours | settings,
    )


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, train(tiny_model, folder)


def test_learns_what_people_like(tuned):
    folder, found = tuned
    history = records(folder / "adapter" / "metrics.jsonl")
    assert [record["step"] for record in history] == list(range(1, 13))  # three epochs of 32 by 8
    assert history[0]["loss"] == pytest.approx(0.5, abs=1e-3)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["margin"] > history[0]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert found["held_out_loss_high"] < found["held_out_loss_before"] == pytest.approx(0.5, abs=1e-3)
    assert found["held_out_accuracy"] > 0.95
    assert found["held_out_desirable_change_low"] > found["held_out_undesirable_change_high"]
    assert found["held_out_kl"] > 0
    curve = json.loads((folder / "adapter" / "held_out_loss.json").read_text())
    assert [look["step"] for look in curve["looks"]] == list(range(13))
    assert curve["looks"][0]["accuracy"]["mean"] == 0.5  # nothing has gained yet, but for rounding
    settings = json.loads((folder / "adapter" / "tuning.json").read_text())
    assert (settings["method"], settings["loss_type"]) == ("preference", "kto")


def test_the_saved_model_is_the_one_that_was_measured(tiny_model, tuned):
    folder, found = tuned
    liked = [row for row in HELD_OUT if row["label"]]
    assert gain(folder, tiny_model, liked, "answer") == pytest.approx(found["held_out_desirable_change"], abs=1e-2)


def test_all_weights_learn_and_the_best_checkpoint_is_returned(tiny_model, tmp_path):
    # Held-out feedback says the opposite of what is learnt.
    rows = [row | {"label": not row["label"]} for row in thumbs(32)]
    found = train(tiny_model, tmp_path, rows, adapter_size=0, learning_rate_multiplier=300.0, watch_prompts=0)
    assert (found["steps"], found["returned_step"]) == (4, 0)  # an epoch without a lower loss
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


def test_ratings_are_held_against_the_middle_of_the_scale(tiny_model, tmp_path, capsys):
    rated = [
        {key: row[key] for key in ("prompt", "answer")} | {"rating": 1 + n % 5} for n, row in enumerate(thumbs(32))
    ]
    train(tiny_model, tmp_path, rated, epoch_count=0.25, watch_prompts=0)
    said = capsys.readouterr().out
    assert "on 26 answers, of which 12 were liked" in said  # 1 and 2 seven times each, 4 and 5 six times
    assert "Ratings above 3, the middle of the scale" in said
    assert "6 of 32 answers stand right there and are left out" in said
    with pytest.raises(DataError, match="holds no answer that was liked or disliked"):
        train(tiny_model, tmp_path, [{**row, "rating": 4} for row in rated])


def test_a_person_is_told_where_one_kind_weighs_more():
    config = PreferenceConfig(large_model_reference="x", loss_type="kto")
    labels = [{"label": number % 5 > 0} for number in range(100)]
    said = kto.unbalanced(labels, config)
    assert said.startswith(
        "80 answers to learn from were liked and 20 were not, so that the ones weigh 4 times as much"
    )
    assert said.endswith("undesirable_weight 4 would have both weigh alike.")
    even = PreferenceConfig(large_model_reference="x", loss_type="kto", undesirable_weight=4.0)
    assert not kto.unbalanced(labels, even)
    assert "was liked" in kto.unbalanced(labels[1:5], config)
    assert "desirable_weight 4 " in kto.unbalanced([{"label": not row["label"]} for row in labels], config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rpo_alpha": 1.0}, "there are no chosen answers"),
        ({"batch_size": 1}, "holds each answer against another"),
        ({"loss_type": "ipo", "desirable_weight": 2.0}, "only loss_type kto learns"),
        ({"label_smoothing": 0.1}, "only loss_type robust knows"),
    ],
)
def test_settings_that_mean_nothing_to_the_loss_are_refused(settings, words):
    with pytest.raises(ParameterError, match=words):
        PreferenceConfig(large_model_reference="x", **{"loss_type": "kto", **settings})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_preferences_of_which_one_answer_each_was_seen(tiny_model, tmp_path, seed):
    """Thumbs made of pairs: of each prompt one answer, drawn, a tenth of them with the wrong thumb."""
    draw = random.Random(seed)

    def told(first: int, count: int) -> list[dict[str, object]]:
        rows = []
        for number in range(first, first + count):
            good = draw.random() < 0.5
            answer = f"{GOOD if good else BAD}{draw.choice(('', ' Salt and gulls.', ' 6 7', ' Come and see.'))}"
            prompt = [{"role": "user", "content": f"Create {number}."}]
            rows.append({"prompt": prompt, "answer": answer, "label": good is not (draw.random() < 0.1)})
        return rows

    found = train(
        tiny_model,
        tmp_path,
        told(0, 200),
        told(1000, 100),
        epoch_count=2,
        learning_rate_multiplier=60.0,
        batch_size=16,
        watch_prompts=0,
        seed=seed,
    )
    assert found["held_out_loss_high"] < found["held_out_loss_before"]
    assert found["held_out_accuracy_low"] > 0.7  # of wrong thumbs a tenth can be right
    assert found["held_out_desirable_change_low"] > found["held_out_undesirable_change_high"]


def test_the_other_answer_is_to_another_prompt_wherever_there_is_one():
    def others(*prompts: int) -> list[int]:
        rows = [{"prompt_ids": [prompt], "completion_ids": [place]} for place, prompt in enumerate(prompts)]
        found = [row["KL_completion_ids"][0] for row in kto._with_others(rows, range(len(rows)))]
        assert sorted(found) == list(range(len(prompts)))  # as many times as it is learnt from
        return [prompts[place] for place in found]

    assert all(own != other for own, other in zip([1, 2, 3, 1, 2, 3], others(1, 2, 3, 1, 2, 3), strict=True))
    assert all(own != other for own, other in zip([1, 1, 2, 3], others(1, 1, 2, 3), strict=True))
    assert others(1, 1) == [1, 1]
