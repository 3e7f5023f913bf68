"""The judge that asks Gemini, through google-genai, against a local server."""

import json
import sys

import pytest
from judge_server import KEY, judge_server
from secret_manager_server import SECRET, serve_secret_manager

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError, UserError
from rlhf_tuning.evaluation.judges import JudgeSettings, asking, load_judge
from rlhf_tuning.evaluation.judges.verdict import Comparison

PAIR = Comparison([{"role": "user", "content": "Describe Fern Hollow."}], "short", "much longer")


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(asking, "WORKERS", 1)
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(environment, "JUDGE_API_KEY", KEY)


def make(server, **settings):
    given = {"judge_model": "gemini-2.5-flash", "judge_endpoint": server.url, **settings}
    return load_judge("gemini", JudgeSettings(**given))


def test_both_orders_are_asked_once():
    with judge_server() as server:
        (verdict,) = make(server).compare([PAIR])
        assert make(server).compare([PAIR]) == [verdict]
    assert verdict.outcome == "win"
    assert len(server.questions) == 2
    assert server.headers[0]["x-goog-api-key"] == KEY


def test_the_key_comes_from_the_secret_that_is_named(monkeypatch, tmp_path):
    with serve_secret_manager(b"sk-from-secret\n") as secrets, judge_server() as server:
        secrets.use(monkeypatch, tmp_path)
        make(server, judge_key_secret=SECRET).compare([PAIR])
    assert {headers["x-goog-api-key"] for headers in server.headers} == {"sk-from-secret"}


@pytest.mark.parametrize(
    "fault",
    [(429, {"Retry-After": "0"}, "{}"), (503, {}, "busy"), "drop", "empty choices", "say:Neither, I would say."],
)
def test_a_fault_is_asked_again(fault):
    with judge_server(faults=[fault]) as server:
        judge = make(server)
        assert [verdict.outcome for verdict in judge.compare([PAIR])] == ["win"]
    assert len(server.questions) == judge.calls == 3


def test_the_cap_holds():
    with judge_server(faults=[(503, {}, "")] * 9) as server:
        assert make(server, judge_max_calls=2).compare([PAIR]) == [None]
    assert len(server.questions) == 2


def test_a_wrong_key_is_named_but_never_shown():
    refusal = (400, {}, json.dumps({"error": {"code": 400, "message": f"API key not valid: {KEY}"}}))
    with judge_server(faults=[refusal]) as server, pytest.raises(ParameterError) as caught:
        make(server).compare([PAIR])
    assert KEY not in str(caught.value)
    assert "API key not valid" in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(UserError, match=r"rlhf-pipelines\[gemini\]"):
        load_judge("gemini", JudgeSettings(judge_model="gemini-2.5-flash"))
