import json

import pytest

from rlhf_tuning.promotion.approval import Ruling, rule_locally
from rlhf_tuning.promotion.upload import generated_name, upload_to_local_registry
from rlhf_tuning.registry import list_models


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct-rlhf"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct-rlhf"),
        ("/models/My Model/", "my-model-rlhf"),
    ],
)
def test_a_name_is_made_from_the_base_model_s(reference, name):
    assert generated_name(reference) == name
    assert generated_name(reference, "supervised") == name.removesuffix("-rlhf") + "-supervised"


@pytest.fixture
def run(tmp_path):
    """What a run leaves behind, as far as the upload reads it."""
    files = {
        "model/config.json": {},
        "adapter/tuning.json": {"seed": 3, "kl_coeff": 0.1},
        "reward/reward_model.json": {"offset": 0.5},
        "reward/evaluation.json": {"accuracy": 0.7},
        "evaluation": {"metrics": {"reward_win_rate": 0.8}, "answers": []},
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def upload(run, **settings):
    return upload_to_local_registry(
        model_dir=str(run / "model"),
        adapter_dir=str(run / "adapter"),
        evaluation_path=str(run / "evaluation"),
        large_model_reference="base",
        fingerprints={"prompts": "abc"},
        model_display_name="palms",
        instruction="Be brief.",
        registry_dir=str(run / "registry"),
        **{"reward_model_dir": str(run / "reward"), "promote": True, "champion": ""} | settings,
    )


def test_the_manifest_holds_what_made_the_model(run):
    version = upload(run)
    assert version.resource_name == "models/palms@1"
    assert version.manifest["parameters"] == {
        "seed": 3,
        "kl_coeff": 0.1,
        "instruction": "Be brief.",
        "instruction_role": "user",
    }
    assert version.manifest["fingerprints"] == {"prompts": "abc"}
    assert version.manifest["evaluation"] == {"reward_win_rate": 0.8}
    assert version.manifest["reward_model_evaluation"] == {"accuracy": 0.7}
    assert "rlhf-pipelines" in version.manifest["versions"]


def test_the_manifest_knows_in_which_turn_the_instruction_stood(run):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    (run / "evaluation").write_text(json.dumps({"metrics": {}, "answers": [{"prompt": turns}]}))
    assert upload(run).manifest["parameters"]["instruction_role"] == "system"


def test_uploading_the_same_twice_makes_one_version(run):
    assert upload(run).version == upload(run).version == 1
    assert len(list_models(run / "registry")) == 1


def test_the_rows_that_the_reward_model_learnt_from_are_kept(run):
    (run / "reward" / "preference_rows.bin").write_bytes(b"12345678")
    assert (upload(run).path / "preference_rows.bin").read_bytes() == b"12345678"


def test_a_method_without_a_reward_model_keeps_them_with_its_adapter_and_the_manifest_names_it(run):
    (run / "adapter" / "preference_rows.bin").write_bytes(b"12345678")
    (run / "adapter" / "tuning.json").write_text(json.dumps({"method": "preference", "seed": 3}))
    version = upload(run, reward_model_dir="")
    assert (version.path / "preference_rows.bin").read_bytes() == b"12345678"
    assert version.manifest["method"] == "preference"


def test_only_a_promoted_model_is_champion_and_what_predict_calls(run):
    assert upload(run, promote=False).aliases == ("challenger",)
    (run / "model/config.json").write_text('{"a": 1}')
    assert upload(run).aliases == ("champion", "default")
    (run / "model/config.json").write_text('{"a": 2}')
    assert upload(run, promote=False, champion="models/palms@2").aliases == ("challenger",)
    assert [version.aliases for version in list_models(run / "registry")] == [
        (),
        ("champion", "default"),
        ("challenger",),
    ]


def test_a_promoted_model_waits_where_a_person_approves_and_any_other_does_not(run):
    waits = upload(run, require_approval=True)
    assert waits.aliases == ("challenger",)
    assert (waits.manifest["approval"]["status"], waits.manifest["approval"]["champion"]) == ("pending", "")
    (run / "model/config.json").write_text('{"a": 1}')
    assert "approval" not in upload(run, require_approval=True, promote=False).manifest


def test_who_beat_a_champion_that_is_none_any_more_is_not_promoted(run, capsys):
    upload(run)
    (run / "model/config.json").write_text('{"a": 1}')
    assert upload(run, champion="").aliases == ("challenger",)
    assert "models/palms@1 became champion in the meantime" in capsys.readouterr().out


@pytest.mark.parametrize("require_approval", [False, True])
def test_an_upload_that_is_tried_again_leaves_a_model_what_it_was(run, require_approval, capsys):
    first = upload(run, require_approval=require_approval)
    if require_approval:
        rule_locally(first, Ruling(approve=True, by="anna", reason="Read 30 answers"))
    again = upload(run, require_approval=require_approval)
    assert again.aliases == ("champion", "default")
    assert "Not promoted" not in capsys.readouterr().out


def test_what_a_person_rejected_is_not_promoted_by_a_run_that_asks_nobody(run, capsys):
    waits = upload(run, require_approval=True)
    rule_locally(waits, Ruling(approve=False, by="anna", reason="It invents prices"))
    assert upload(run).aliases == ("challenger",)
    assert "Not promoted: palms@1 was rejected by anna on" in capsys.readouterr().out
    (run / "model/config.json").write_text('{"a": 1}')
    assert upload(run).aliases == ("champion", "default")
