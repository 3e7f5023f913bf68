import json
from pathlib import Path

import pytest
from tiny_tuning import BAD, GOOD, gain, prompt, records, tune

from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import packing
from rlhf_tuning.training import preference
from rlhf_tuning.training.held_out_preferences import warning


def preferences(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {
            "prompt": prompt(number),
            "chosen": f"{GOOD}{' Salt and gulls.' * (number % 3)}",
            "rejected": f"{BAD}{' 6 7' * (number % 2)}",
        }
        for number in range(first, first + count)
    ]


HELD_OUT = preferences(9, first=50)


def train(
    model: Path, folder: Path, rows: list[dict[str, object]] | None = None, **settings: object
) -> dict[str, float]:
    """Tune a tiny model on a few preferences."""
    ours = {"epoch_count": 3, "learning_rate_multiplier": 100.0, "adapter_size": 4, "batch_size": 6, "watch_prompts": 4}
    return tune(
        preference.train_on_preferences,
        preference.PreferenceConfig,
        folder,
        data="preferences",
        learnt=preferences(24) if rows is None else rows,
        held_out=HELD_OUT,
        large_model_reference=str(model),
        **ours | settings,
    )


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, train(tiny_model, folder)


def test_learns_what_people_prefer(tuned):
    folder, found = tuned
    history = records(folder / "adapter" / "metrics.jsonl")
    assert [record["step"] for record in history] == list(range(1, 13))  # three epochs of 24 by 6
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["margin"] > history[0]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert found["held_out_loss_high"] < found["held_out_loss_before"]
    assert found["held_out_accuracy"] == 1.0
    assert found["held_out_chosen_change"] > found["held_out_rejected_change"]
    assert found["held_out_kl"] > 0
    curve = json.loads((folder / "adapter" / "held_out_loss.json").read_text())
    assert [look["step"] for look in curve["looks"]] == list(range(13))
    assert curve["looks"][0]["kl"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert json.loads((folder / "adapter" / "tuning.json").read_text())["method"] == "preference"


def test_a_warm_start_begins_where_an_adapter_of_any_method_left_off_and_counts_from_the_base(
    tuned, tiny_model, tmp_path, capsys
):
    folder, found = tuned
    adapter = str(folder / "adapter")
    train(tiny_model, tmp_path, warm_start_adapter=adapter, epoch_count=0.2, learning_rate_multiplier=1.0)
    assert (
        f"Training starts from the adapter in {adapter}; the reference stays the base model" in capsys.readouterr().out
    )
    first = json.loads((tmp_path / "adapter" / "held_out_loss.json").read_text())["looks"][0]
    for name in ("loss", "chosen_change", "kl"):
        assert first[name]["mean"] == pytest.approx(found[f"held_out_{name}"], rel=1e-3)


def test_the_saved_model_is_the_one_that_was_measured(tiny_model, tuned):
    folder, found = tuned
    assert gain(folder, tiny_model, HELD_OUT, "chosen") == pytest.approx(found["held_out_chosen_change"], abs=1e-2)


def test_all_weights_learn_with_no_copy_of_the_model_as_the_reference(tiny_model, tmp_path, monkeypatch):
    loaded = []
    load = base_model.load_causal_lm
    monkeypatch.setattr(base_model, "load_causal_lm", lambda *args, **kw: loaded.append(args) or load(*args, **kw))
    found = train(tiny_model, tmp_path, adapter_size=0, learning_rate_multiplier=300.0)
    assert len(loaded) == 1
    assert found["held_out_accuracy"] == 1.0
    assert "held_out_kl" not in found
    assert gain(tmp_path, tiny_model, HELD_OUT, "chosen") == pytest.approx(found["held_out_chosen_change"], abs=1e-2)
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


def test_a_model_whose_answers_cannot_share_a_prompt_learns_the_same(tiny_model, tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "is_exact", lambda *_, **__: False)
    found = train(tiny_model, tmp_path)
    assert "cannot share their prompt" in capsys.readouterr().out
    assert found["held_out_loss"] == pytest.approx(tuned[1]["held_out_loss"], rel=1e-3)


def test_it_stops_and_returns_the_best_checkpoint(tiny_model, tmp_path):
    # Held-out preferences say the opposite of what is learnt.
    rows = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in preferences(24)]
    found = train(tiny_model, tmp_path, rows, watch_prompts=0)
    assert (found["steps"], found["returned_step"]) == (4, 0)  # an epoch without a lower loss
    assert gain(tmp_path, tiny_model, HELD_OUT, "chosen") == pytest.approx(0.0, abs=1e-4)


def test_preferences_of_the_held_out_reward_model_are_not_learnt_from(tiny_model, tmp_path, capsys):
    train(tiny_model, tmp_path, epoch_count=0.5, held_out_reward_model_share=0.5, watch_prompts=0)
    said = capsys.readouterr().out
    learnt = int(said.split(" preferences; measured")[0].split()[-1])
    assert 0 < learnt < 24
    with pytest.raises(DataError, match="fell to the held-out reward model"):
        train(tiny_model, tmp_path, [])


def test_label_smoothing_without_a_loss_that_knows_it_is_refused():
    with pytest.raises(ParameterError, match="only loss_type robust knows"):
        preference.PreferenceConfig(large_model_reference="x", label_smoothing=0.1)


@pytest.mark.parametrize(("high", "told"), [(-0.5, True), (0.5, False)])
def test_a_person_is_told_where_chosen_answers_became_less_likely(high, told):
    look = {
        "step": 8,
        "chosen_change": {"mean": -2.0, "low": -3.5, "high": high},
        "rejected_change": {"mean": -9.0, "low": -10.0, "high": -8.0},
    }
    said = warning({"looks": [look], "best_step": 8})
    assert said.startswith("The answers that people chose have become less likely, by 2.0 nats [0.5, 3.5] each") is told
    assert bool(said) is told
