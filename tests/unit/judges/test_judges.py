import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.judges import JUDGES, JudgeSettings, check_judge, load_judge
from rlhf_tuning.judges.scorer import SCORERS
from rlhf_tuning.judges.verdict import Comparison
from rlhf_tuning.limits import CHOICES

GOOD = {
    "judge": "language_model",
    "judge_model": "m",
    "judge_endpoint": "http://localhost:8000/v1",
    "judge_rubric": "",
    "judge_max_calls": 10,
}


def test_every_judge_and_every_scorer_may_be_named():
    assert set(JUDGES) == set(CHOICES["judge"]) - {""} | {"scorer", "held_out_reward_model", "reward_model"}
    assert set(SCORERS) | {""} == set(CHOICES["scorer"])


def test_good_settings_pass():
    check_judge(**GOOD)
    check_judge(judge="", judge_model="", judge_endpoint="", judge_rubric="", judge_max_calls=1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"judge": "oracle"}, "judge is 'oracle'"),
        ({"judge": ""}, "judge is empty"),
        ({"judge_model": ""}, "judge_model is empty"),
        ({"judge_endpoint": ""}, "judge_endpoint is empty"),
        ({"judge_endpoint": "localhost:8000"}, "must be a URL"),
        ({"judge_endpoint": "http://[::1/v1"}, "must be a URL"),
        ({"judge_max_calls": 0}, "judge_max_calls is 0"),
        ({"judge_rubric": "gone.txt"}, "does not exist"),
        ({"judge": "local_model"}, "Leave it empty"),
    ],
)
def test_what_does_not_fit_together_is_named(change, words):
    with pytest.raises(ParameterError, match=words):
        check_judge(**GOOD | change)


@pytest.mark.parametrize("secret", ["http://me:hunter2@host/v1", "http://host/v1?key=hunter2"])
def test_a_secret_in_the_endpoint_is_refused_and_not_repeated(secret):
    with pytest.raises(ParameterError, match="RLHF_JUDGE_API_KEY") as caught:
        check_judge(**GOOD | {"judge_endpoint": secret})
    assert "hunter2" not in str(caught.value)


def test_the_scorer_prefers_the_house_style():
    judge = load_judge("scorer", JudgeSettings(scorer="house_style"))
    prompt = [{"role": "user", "content": "Create a description for Fern Hollow."}]
    good, bad = "Fern Hollow smells of salt and warm bread, and gulls call all day.", "Nice!!! " * 30
    (verdict,) = judge.compare([Comparison(prompt, bad, good)])
    assert verdict.outcome == "win"
    assert judge.label == "house style"
