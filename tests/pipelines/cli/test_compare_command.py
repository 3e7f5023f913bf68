"""Two models side by side: what is refused before either answers. The rest is in test_rlhf_pipeline."""

import pytest
from secret_manager_server import SECRET, serve_secret_manager

from rlhf_pipelines.cli.rlhf import main


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Run the command on two runs that left a model each, and return its status and what it said."""
    for name in ("one", "two"):
        (tmp_path / name / "train-policy" / "model").mkdir(parents=True)
    (tmp_path / "prompts.jsonl").write_text('{"input_text": "Describe a place."}\n')
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        status = main(["compare", "one", "two", "--prompts", "prompts.jsonl", *flags])
        return status, "".join(capsys.readouterr())

    return run


def test_a_judge_s_key_is_read_before_any_model_answers(compare, monkeypatch, tmp_path):
    judge = ("--judge", "language_model", "--judge-model", "judge-1", "--judge-endpoint", "http://127.0.0.1:1/v1")
    with serve_secret_manager(b"sk-from-secret") as secrets:
        secrets.use(monkeypatch, tmp_path)
        secrets.permitted = False
        assert "there is no judge_price" in compare(*judge, "--judge-max-cost", "2.5")[1]
        status, said = compare(*judge, "--judge-key-secret", SECRET)
    assert status == 2
    assert f"judge_key_secret is '{SECRET}', but the account" in said
    assert "answers 1 prompts" not in said
