import json

from rlhf_tuning.promotion.champion import Place, model_to_beat
from rlhf_tuning.registry import register_model


def beat(tmp_path):
    return model_to_beat(
        "local",
        model_display_name="palms",
        large_model_reference="some/base",
        large_model_fingerprint="base",
        place=Place(registry_dir=str(tmp_path / "registry")),
    )


def register(tmp_path, seed, *aliases):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model/config.json").write_text(json.dumps({"seed": seed}))
    register_model(
        model_dir=str(tmp_path / "model"),
        adapter_dir="",
        name="palms",
        manifest={"seed": seed},
        aliases=aliases,
        registry_dir=tmp_path / "registry",
    )


def test_every_version_that_did_not_beat_the_champion_was_a_try(tmp_path):
    assert (beat(tmp_path).champion, beat(tmp_path).earlier_tries) == ("", 0)
    register(tmp_path, 1, "challenger")
    register(tmp_path, 2, "challenger")
    assert (beat(tmp_path).champion, beat(tmp_path).earlier_tries) == ("", 2)
    register(tmp_path, 2, "challenger")  # the same content again is the same try
    assert beat(tmp_path).earlier_tries == 2
    register(tmp_path, 3, "champion", "default")
    assert (beat(tmp_path).champion, beat(tmp_path).earlier_tries) == ("models/palms@3", 0)
    register(tmp_path, 4, "challenger")
    assert (beat(tmp_path).champion, beat(tmp_path).earlier_tries) == ("models/palms@3", 1)
