import pytest
from judge_server import judge_server, material
from tests.unit.rewards.scoring import EXAMPLE, answer, loaded, scores

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.evaluation.judges import asking
from rlhf_tuning.rewards.judge import read_score


@pytest.fixture(autouse=True)
def soon_and_here(monkeypatch, tmp_path):
    """Failed requests are sent again soon, and what is said is kept apart."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")


def by_length(question):
    return f"It is as long as it is.\nScore: {min(10, len(material(question)['the answer']))}"


def judging(server, **options):
    return {"kind": "judge", "model": "m", "endpoint": f"{server.url}/v1", **options}


def test_answers_are_scored_by_a_rubric_and_beside_a_good_answer(tmp_path):
    (tmp_path / "rubric.md").write_text("Longer is better.")
    with judge_server(by_length) as server:
        reward = judging(server, rubric=str(tmp_path / "rubric.md"), reference="answer")
        assert scores(reward, answer("abc"), answer("a" * 40)) == [0.3, 1.0]
        question = next(asked for asked in server.questions if "\nabc\n" in asked)
    assert "Longer is better." in question
    parts = material(question)
    assert (parts["system"], parts["user"], parts["a good answer, to compare with"]) == ("Be brief.", "6 x 7?", "42")


def test_what_was_asked_once_is_not_asked_again():
    with judge_server(by_length) as server:
        for _ in range(2):
            assert scores(judging(server), answer("abc")) == [0.3]
        assert len(server.questions) == 1
        scores(judging(server, rubric="Another."), answer("abc"))
        assert len(server.questions) == 2


def test_a_busy_server_is_asked_again_and_one_that_is_down_ends_the_run():
    with judge_server(by_length, [(500, {}, "oops"), (429, {}, "slow")]) as server:
        assert scores(judging(server, concurrency=1), answer("abc")) == [0.3]
    with judge_server(by_length, [(500, {}, "oops")] * 99) as server, pytest.raises(RunError, match="did not answer"):
        scores(judging(server, concurrency=1, no_score=0.0), *map(answer, "abcd"))


def test_no_more_requests_are_sent_than_may_be():
    with judge_server(by_length) as server:
        with pytest.raises(ParameterError, match="has sent the 2 requests of its max_calls"):
            scores(judging(server, max_calls=2, no_score=0.0, concurrency=1), *map(answer, "abcd"))
        assert len(server.questions) == 2


def test_no_more_requests_are_sent_once_they_have_cost_enough():
    with judge_server(by_length) as server:
        server.tokens = 500_000
        with pytest.raises(ParameterError, match=r"requests of the reward judge have cost its max_cost 1\."):
            scores(judging(server, max_cost=1, price=1, no_score=0.0, concurrency=1), *map(answer, "abcd"))
        assert len(server.questions) == 2
        server.tokens = 0
        with pytest.raises(ParameterError, match="max_cost of the reward judge is 1, but the server at"):
            scores(judging(server, max_cost=1, price=1), answer("e"))


def test_an_answer_without_a_score_ends_the_run_unless_it_is_said_what_it_is_worth(capsys):
    with judge_server(lambda question: "Nice!") as server:
        rewards = loaded(judging(server))
        with pytest.raises(ParameterError, match="no score for the answer 'abc': the reply held no verdict"):
            rewards.score([EXAMPLE], [answer("abc")], step=1)
        rewards.close()
        assert scores(judging(server, no_score=-0.5), answer("abc"), answer("ab")) == [-0.5, -0.5]
    assert "2 of 2 answers have no score by the reward judge and count as no_score -0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7.0),
        ("It is good.\n**Score: 7.5/10**\n", 7.5),
        ("<think>Score: 1</think>\nscore: 0", 0.0),
        ("Score: 11", None),
        ("Score: 7 or 8", None),
        ("Score: 7\nThank you.", None),
        ("", None),
    ],
)
def test_a_score_is_read_or_not_at_all(reply, score):
    assert read_score(reply) == score


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": ""}, r"but model is empty"),
        ({"model": "m"}, r"but endpoint is empty"),
        ({"model": "m", "endpoint": "http://host", "key_secret": "sk-1"}, "is no name of a secret"),
        ({"model": "m", "endpoint": "http://host", "max_calls": 0}, r"\(judge\): max_calls is 0"),
        ({"model": "m", "endpoint": "http://host", "concurrency": 0}, "concurrency is 0"),
        ({"model": "m", "endpoint": "http://host", "max_cost": 5}, r"\(judge\): max_cost is 5, and there is no price"),
    ],
)
def test_what_cannot_be_asked_is_told_before(options, words):
    with pytest.raises(ParameterError, match=words):
        loaded({"kind": "judge", **options})
