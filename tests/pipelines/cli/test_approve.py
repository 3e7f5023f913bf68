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
