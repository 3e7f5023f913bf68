import json
import shutil
from pathlib import Path

import pytest

from rlhf_pipelines.cli.rlhf import main
from rlhf_tuning.promotion.approval import ask_locally
from rlhf_tuning.registry import register_model


@pytest.fixture
def registry_dir(tmp_path):
    """A registry in which palms@1 waits for approval."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    version = register_model(
        model_dir=str(tmp_path / "model"),
        adapter_dir="",
        name="palms",
        manifest={},
        aliases=["challenger"],
        registry_dir=tmp_path / "registry",
    )
    ask_locally(version, champion="")
    return str(tmp_path / "registry")


def test_a_model_is_approved_by_who_runs_the_command_and_the_list_says_so(registry_dir, capsys, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    assert main(["models", "--registry-dir", registry_dir]) == 0
    assert "waits" in capsys.readouterr().out
    assert main(["approve", "palms@1", "--reason", "Read 30 answers", "--registry-dir", registry_dir]) == 0
    told = capsys.readouterr().out
    assert "palms@1 was approved by anna" in told
    assert "Its aliases: champion, default" in told
    assert main(["models", "--registry-dir", registry_dir]) == 0
    assert "approved by anna" in capsys.readouterr().out


def test_the_list_tells_of_one_model_and_of_one_version(registry_dir, capsys):
    assert main(["models", "palms", "--registry-dir", registry_dir]) == 0
    assert "waits" in capsys.readouterr().out
    assert main(["models", "palms@challenger", "--registry-dir", registry_dir]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "palms@1"
    assert "aliases     challenger" in told
    assert any(line.startswith("approval    palms@1 waits for approval: rlhf approve palms@1") for line in told)
    assert main(["models", "plams", "--registry-dir", registry_dir]) == 2
    assert "No model 'plams' in the registry. Models there: palms." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["palms", "--reason", "x"], "palms names no version"),
        (["palms@1", "--reason", " "], "--reason is empty"),
        (["palms@2", "--reason", "x", "--by", "anna"], "has no version '2'"),
        (["palms@1", "--reason", "x"], "Say it: --by WHO"),
    ],
)
def test_what_cannot_be_decided_ends_with_status_2(registry_dir, capsys, monkeypatch, arguments, message):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert main(["reject", *arguments, "--registry-dir", registry_dir]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("manifest.json", "[" * 100_000, "is missing or not JSON"),
        (
            "manifest.json",
            '{"evaluation": {"true_win_rate": null}}',
            "evaluation.true_win_rate is null, which is no number",
        ),
        ("manifest.json", '{"evaluation": {"true_win_rate_low": 1e308}}', "is 1e+308, which is no number from 0 to 1"),
        ("manifest.json", '{"approval": null}', "approval is null, which is no object"),
        ("manifest.json", '{"approval": {}}', "approval.status is null"),
        ("manifest.json", '{"approval": {"status": ["x"]}}', 'approval.status is ["x"], which is not pending'),
        ("manifest.json", '{"approval": {"status": "pending"}}', "approval.champion is null, which is no text"),
        ("manifest.json", '{"approval": {"status": "rejected", "champion": ""}}', "approval.by is null"),
        (
            "manifest.json",
            '{"approval": {"status": "pending", "champion": "", "deployment": 1}}',
            "approval.deployment is 1, which is no object",
        ),
        ("version.json", "", "is missing or not JSON"),
        ("version.json", '{"files": null}', "does not list the files"),
        ("version.json", '{"files": {"model/config.json": []}}', "does not list the files"),
    ],
)
def test_a_damaged_version_is_named_and_the_others_are_listed(registry_dir, capsys, file, content, fault):
    main(["approve", "palms@1", "--reason", "x", "--by", "anna", "--registry-dir", registry_dir])
    there = Path(registry_dir) / "palms"
    shutil.copytree(there / "versions/1", there / "versions/2")
    path = there / "versions/2" / file
    path.write_text(content)
    capsys.readouterr()
    assert main(["models", "--registry-dir", registry_dir]) == 0
    listed = capsys.readouterr()
    assert "approved by anna" in listed.out
    assert "rlhf: warning: The registry is damaged" in listed.err
    for words in (["models", "palms@2"], ["approve", "palms@2", "--reason", "x", "--by", "anna"]):
        assert main([*words, "--registry-dir", registry_dir]) == 2
        told = capsys.readouterr().err
        assert str(path) in told
        assert fault in told


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"default": null}'])
def test_damaged_aliases_are_named(registry_dir, capsys, content):
    path = Path(registry_dir) / "palms/aliases.json"
    path.write_text(content)
    assert main(["models", "palms@1", "--registry-dir", registry_dir]) == 2
    assert str(path) in capsys.readouterr().err


def test_text_of_others_does_not_steer_the_terminal(registry_dir, capsys):
    manifest = Path(registry_dir) / "palms/versions/1/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "display_name": "\x1b[31mpalms"}))
    reject = ["reject", "palms@1", "--reason", "\x1b[31mRed", "--by", "\x9b31manna", "--registry-dir", registry_dir]
    assert main(["models", "palms@1", "--registry-dir", registry_dir]) == 0
    assert [main(reject), main(reject)] == [0, 2]
    told = capsys.readouterr()
    assert "[31mRed. That stays so" in told.err
    assert not {"\x1b", "\x9b"} & set(told.out + told.err)
