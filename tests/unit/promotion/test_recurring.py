import json

import pytest
from tuned_run import MANIFEST, write_model
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT

from rlhf_tuning import environment
from rlhf_tuning.data import known_rows
from rlhf_tuning.data.importer import import_preferences
from rlhf_tuning.errors import ParameterError, UserError
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_registry import upload_to_vertex
from rlhf_tuning.promotion.champion import Place, vertex_champion
from rlhf_tuning.promotion.recurring import RecurringConfig, count_new_preferences
from rlhf_tuning.registry import register_model


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "preferences.jsonl"
    write(path, 30)
    return path


def write(path, count):
    rows = [
        {"input_text": f"Place {number}.", "candidate_0": "Yes.", "candidate_1": "No.", "choice": 0}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def register(tmp_path, dataset, *, seed=0, aliases=("champion", "default"), with_rows=True, with_adapter=True):
    """Register a model that was tuned on the dataset as it is now."""
    for name in ("model/config.json", "adapter/tuning.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"seed": seed}))
    if with_adapter:
        (tmp_path / "adapter/adapter_config.json").write_text("{}")
    rows = tmp_path / "out" / "rows"
    import_preferences(
        preference_dataset=str(dataset),
        eval_dataset="",
        instruction="",
        preferences_path=str(tmp_path / "out/training"),
        eval_preferences_path=str(tmp_path / "out/held-out"),
        preference_rows_path=str(rows),
    )
    return register_model(
        model_dir=str(tmp_path / "model"),
        adapter_dir=str(tmp_path / "adapter"),
        name="My-model",
        manifest={"seed": seed},
        aliases=aliases,
        preference_rows=str(rows) if with_rows else "",
        registry_dir=tmp_path / "registry",
    )


def outcome(tmp_path, dataset, **settings):
    config = RecurringConfig(
        preference_dataset=str(dataset),
        large_model_reference="some/base",
        model_display_name="My model",
        registry_dir=str(tmp_path / "registry"),
        **{"min_new_preferences": 5} | settings,
    )
    return count_new_preferences(config, target="local")


def test_the_first_run_tunes(tmp_path, dataset):
    found = outcome(tmp_path, dataset, min_new_preferences=1000, warm_start=True)
    assert (found.enough, found.champion, found.warm_start_adapter) == (True, "", "")


def test_fewer_new_rows_than_needed_are_nothing_new(tmp_path, dataset):
    register(tmp_path, dataset)
    write(dataset, 34)
    found = outcome(tmp_path, dataset, warm_start=True)
    assert (found.enough, found.champion, found.warm_start_adapter) == (False, "models/My-model@1", "")
    assert found.message.startswith("Nothing new: 4 new preferences, 5 needed.")


def test_rows_of_feedback_count_too(tmp_path, dataset):
    register(tmp_path, dataset)
    write(dataset, 33)
    feedback = tmp_path / "feedback.jsonl"
    feedback.write_text(json.dumps({"prompt": "Place 1.", "completion": "Yes.", "label": True}) + "\n")
    found = outcome(tmp_path, dataset, feedback_dataset=str(feedback))
    assert found.message.startswith("Nothing new: 3 new preferences and 1 new row of feedback, 5 needed.")
    assert outcome(tmp_path, dataset, feedback_dataset=str(feedback), min_new_preferences=4).enough


def test_as_many_new_rows_as_needed_tune_and_start_from_the_champion_when_asked(tmp_path, dataset):
    register(tmp_path, dataset)
    write(dataset, 35)
    assert outcome(tmp_path, dataset).enough
    assert outcome(tmp_path, dataset).warm_start_adapter == ""
    assert outcome(tmp_path, dataset, warm_start=True).warm_start_adapter == "My-model@1"
    assert outcome(tmp_path, dataset, warm_start_adapter="./other").warm_start_adapter == "./other"


def test_zero_needed_always_tunes(tmp_path, dataset):
    register(tmp_path, dataset)
    assert outcome(tmp_path, dataset, min_new_preferences=0).enough


def test_the_champion_counts_and_not_the_newest_version(tmp_path, dataset):
    register(tmp_path, dataset, seed=1)
    write(dataset, 40)
    register(tmp_path, dataset, seed=2, aliases=("default",))
    found = outcome(tmp_path, dataset)
    assert (found.enough, found.champion) == (True, "models/My-model@1")


def test_a_champion_that_does_not_tell_its_rows_is_tuned_again(tmp_path, dataset):
    register(tmp_path, dataset, with_rows=False)
    found = outcome(tmp_path, dataset)
    assert found.enough
    assert "does not tell" in found.message


def test_a_champion_without_an_adapter_gives_no_warm_start(tmp_path, dataset, capsys):
    register(tmp_path, dataset, with_adapter=False)
    write(dataset, 40)
    assert outcome(tmp_path, dataset, warm_start=True).warm_start_adapter == ""
    assert "has no adapter" in capsys.readouterr().out


def test_the_rows_are_part_of_the_version(tmp_path, dataset):
    version = register(tmp_path, dataset)
    assert len(known_rows.read(version.path / "preference_rows.bin")) == 30


def test_a_warm_start_of_full_fine_tuning_is_refused():
    with pytest.raises(ParameterError, match="lora_dim 0"):
        RecurringConfig(preference_dataset="p", large_model_reference="b", warm_start=True, lora_dim=0)


def test_a_negative_minimum_is_refused():
    with pytest.raises(ParameterError, match="min_new_preferences is -1"):
        RecurringConfig(preference_dataset="p", large_model_reference="b", min_new_preferences=-1)


def test_kubeflow_which_has_no_registry_says_so(dataset):
    config = RecurringConfig(preference_dataset=str(dataset), large_model_reference="base")
    with pytest.raises(UserError, match="Kubeflow has none"):
        count_new_preferences(config, target="kubeflow")


def test_a_challenger_that_lost_is_not_tuned_again_from_the_same_rows_nor_started_from(tmp_path, dataset):
    register(tmp_path, dataset, aliases=("challenger",))
    assert outcome(tmp_path, dataset).message.startswith("Nothing new: 0 new preferences")
    write(dataset, 40)
    assert outcome(tmp_path, dataset, warm_start=True).warm_start_adapter == ""


def test_on_vertex_the_champion_is_held_against_the_rows_beside_its_manifest(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    local = register(tmp_path, dataset)
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        monkeypatch.setattr(environment, "VERTEX_API_ENDPOINT", server.rest)
        settings = {
            "preference_dataset": str(dataset),
            "large_model_reference": "some/base",
            "model_display_name": "My model",
            "min_new_preferences": 5,
            "warm_start": True,
            "project": PROJECT,
            "location": LOCATION,
        }
        assert count_new_preferences(RecurringConfig(**settings), target="vertex").champion == ""
        uploaded = upload_to_vertex(
            VertexApi(project=PROJECT, location=LOCATION),
            model_dir=str(write_model(tmp_path / "gcs/bucket/run/model")),
            name="My model",
            manifest={**MANIFEST, "adapter": "gs://bucket/run/adapter"},
            preference_rows=str(local.path / "preference_rows.bin"),
            aliases=("champion", "default"),
        )
        nothing = count_new_preferences(RecurringConfig(**settings), target="vertex")
        assert (nothing.enough, nothing.champion) == (False, uploaded.resource_name)
        write(dataset, 35)
        enough = count_new_preferences(RecurringConfig(**settings), target="vertex")
        assert (enough.enough, enough.warm_start_adapter) == (True, "gs://bucket/run/adapter")
        upload_to_vertex(
            VertexApi(project=PROJECT, location=LOCATION),
            model_dir=str(write_model(tmp_path / "gcs/bucket/other/model")),
            name="My model",
            manifest={**MANIFEST, "parameters": {"seed": 1}},
            aliases=("challenger",),
        )
        champion = vertex_champion("My model", "some/base", Place(project=PROJECT, location=LOCATION))
        assert champion
        assert (champion.resource_name, champion.beaten) == (uploaded.resource_name, 1)
