import time
from types import SimpleNamespace

import pytest
from reward_server import reward_server
from tests.unit.rewards.scoring import EXAMPLE, answer, loaded, scores

from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.rewards import service


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Failed requests are sent again soon."""
    monkeypatch.setattr(service, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(service, "MOST_WAIT", 0.05)


def asking(server, **options):
    return {"kind": "service", "url": f"{server.url}/score", **options}


def test_a_service_is_asked_by_googles_contract_and_its_reward_is_clipped_as_google_does():
    with reward_server() as server:
        assert scores(asking(server, concurrency=1), answer("abc"), answer("a" * 40)) == [0.3, 1.0]
        assert server.bodies[0] == {
            "example": {
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": [{"role": "user", "parts": [{"text": "6 x 7?"}]}],
                "references": {"answer": "42"},
            },
            "response": {"role": "model", "parts": [{"text": "abc"}]},
            "metadata": {"step": 1, "tuning_job_id": 0},
        }
        assert "authorization" not in server.headers[0]


def test_answers_are_scored_side_by_side_in_their_order():
    def slow(body):
        time.sleep(0.05)
        return {"reward": float(body["response"]["parts"][0]["text"])}

    with reward_server(slow) as server:
        found = scores(asking(server, concurrency=4), *(answer(str(number / 20)) for number in range(12)))
        assert found == [number / 20 for number in range(12)]
        assert server.most_together == 4


HUGE, DEEP = f'{{"reward": 1{"0" * 400}}}', "[" * 10**5


@pytest.mark.parametrize(
    "fault",
    [(500, "oops"), (503, ""), (429, "slow down"), (200, "<html>"), (200, HUGE), (200, DEEP), "drop", 1.0],
    ids=lambda fault: str(fault)[:12],
)
def test_a_fault_is_no_reward_and_the_answer_is_asked_for_again(fault):
    with reward_server(faults=[fault]) as server:
        assert scores(asking(server, timeout_s=0.3, concurrency=2), answer("abc"), answer("ab")) == [0.3, 0.2]
        assert len(server.bodies) >= 3


def test_a_service_that_is_gone_for_a_while_is_waited_for_by_one_request_at_a_time(capsys):
    with reward_server() as server:
        server.gone_until = time.monotonic() + 0.5
        assert scores(asking(server, concurrency=8), *[answer("abc")] * 24) == [0.3] * 24
        tried = [at for at in server.times if at < server.gone_until]
        assert 8 <= len(tried) <= 8 + 0.5 / 0.02  # eight when it went, then one after the other
    said = capsys.readouterr().out
    assert "The reward service does not answer: ConnectionError" in said
    assert "The reward service answers again, after" in said


def test_a_service_that_is_gone_for_too_long_fails_the_run_in_time():
    with reward_server() as server:
        server.gone_until = time.monotonic() + 60
        began = time.monotonic()
        with pytest.raises(
            RunError, match=r"has not been given for 0.3 s \(wait_s\). Its last failure: ConnectionError"
        ):
            scores(asking(server, wait_s=0.3), *[answer("abc")] * 40)
        assert time.monotonic() - began < 5


def test_one_answer_that_the_service_never_scores_fails_the_run_though_it_scores_others():
    def picky(body):
        if body["response"]["parts"][0]["text"] == "bad":
            raise ConnectionError
        return {"reward": 0.5}

    with reward_server(picky) as server:
        rewards = loaded(asking(server, wait_s=0.3, concurrency=2))
        with pytest.raises(RunError, match=r"has not been given for 0\.3 s"):
            rewards.score([EXAMPLE] * 9, [answer("bad"), *[answer("good")] * 8], step=1)
        assert rewards.score([EXAMPLE], [answer("good")], step=2) == [0.5]
        rewards.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((400, "no such field"), "refuses an answer with status 400: 'no such field'"),
        ((403, ""), r"refuses to be asked \(status 403\). Give the step access"),
        ((302, ""), "refuses an answer with status 302"),
    ],
)
def test_what_will_not_pass_fails_at_once_while_others_wait(fault, words):
    with (
        reward_server(faults=[(500, ""), fault]) as server,
        pytest.raises(ParameterError, match=words),
    ):
        scores(asking(server, concurrency=4), *[answer("abc")] * 12)


@pytest.mark.parametrize(
    "reply", [{"reward": "1"}, {"reward": True}, {"reward": None}, {"score": 1}, [1], {"reward": float("nan")}]
)
def test_a_reply_that_is_no_reward_is_never_taken_for_one(reply):
    with (
        reward_server(lambda body: reply) as server,
        pytest.raises(ParameterError, match=r'not \{"reward": NUMBER\}'),
    ):
        scores(asking(server), answer("abc"))


def test_googles_services_are_shown_the_identity_token_of_who_runs_the_step(monkeypatch):
    from google.oauth2 import id_token

    assert service.is_google("https://reward-abc-uc.a.run.app/score")
    assert service.is_google("https://us-central1-p.cloudfunctions.net/score")
    assert not service.is_google("http://reward-abc-uc.a.run.app")
    assert not service.is_google("https://run.app.example.com")
    audiences = []

    def credentials(audience, request):
        audiences.append(audience)
        return SimpleNamespace(valid=False, token="identity", refresh=lambda request: None)

    monkeypatch.setattr(id_token, "fetch_id_token_credentials", credentials)
    monkeypatch.setattr(service, "is_google", lambda url: True)
    with reward_server() as server:
        assert scores(asking(server, concurrency=2), *[answer("abc")] * 6) == [0.3] * 6
        assert {headers["authorization"] for headers in server.headers} == {"Bearer identity"}
        assert audiences == [server.url]


def test_without_an_identity_google_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setattr(service, "is_google", lambda url: True)
    with reward_server() as server:
        with pytest.raises(ParameterError, match="is Google's, and there is no identity token to show it"):
            scores(asking(server), answer("abc"))
        assert server.bodies == []
