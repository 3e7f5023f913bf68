import pytest

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges import JUDGES, JudgeSettings, check_judge, load_judge
from rlhf_tuning.evaluation.judges.role import JUDGE
from rlhf_tuning.evaluation.judges.scorer import SCORERS
from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.parameters import PARAMETERS

GOOD = {
    "judge": "language_model",
    "judge_model": "m",
    "judge_endpoint": "http://localhost:8000/v1",
    "judge_key_secret": "projects/p/secrets/s",
    "judge_rubric": "",
    "judge_max_calls": 10,
    "judge_max_cost": 0.0,
    "judge_price": 0.0,
}


def test_every_judge_and_every_scorer_may_be_named():
    assert set(JUDGES) == set(PARAMETERS["judge"].choices) - {""} | {"scorer", "held_out_reward_model", "reward_model"}
    assert set(SCORERS) | {""} == set(PARAMETERS["scorer"].choices)


def test_good_settings_pass():
    check_judge(**GOOD)
    check_judge(**GOOD | {"judge_key_secret": ""})
    check_judge(**GOOD | {"judge_max_cost": 2.5, "judge_price": 1.0})
    nothing = dict.fromkeys(("judge", "judge_model", "judge_endpoint", "judge_key_secret", "judge_rubric"), "")
    check_judge(**nothing, judge_max_calls=1000, judge_max_cost=0.0, judge_price=0.0)


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
        ({"judge_max_cost": -1.0}, "judge_max_cost is -1"),
        ({"judge_max_cost": 2.5}, "judge_max_cost is 2.5, and there is no judge_price"),
        ({"judge": "local_model", "judge_max_cost": 2.5}, "judge_max_cost is 2.5, but no judge is behind a server"),
        ({"judge_rubric": "gone.txt"}, "does not exist"),
        ({"judge": "local_model"}, "judge_endpoint is .*Leave it empty"),
        ({"judge": "local_model", "judge_endpoint": ""}, "judge_key_secret is .*Leave it empty"),
        ({"judge": "", "judge_model": "", "judge_endpoint": ""}, "judge_key_secret is .*but judge is empty"),
        ({"judge_key_secret": "projects/p"}, "judge_key_secret is 'projects/p'; it must be"),
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


def test_a_key_in_place_of_the_name_of_its_secret_is_refused_and_not_repeated():
    with pytest.raises(ParameterError, match="judge_key_secret is no name of a secret") as caught:
        check_judge(**GOOD | {"judge": "", "judge_key_secret": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["hunter2\nhunter3", "hunter\u00fc2", "hunter2\0"])
def test_what_can_be_no_key_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setattr(environment, "JUDGE_API_KEY", key)
    with pytest.raises(ParameterError, match="RLHF_JUDGE_API_KEY holds can be no key") as caught:
        JUDGE.key("")
    assert "hunter" not in str(caught.value)


def test_the_line_s_end_of_a_file_is_no_part_of_a_key(monkeypatch):
    monkeypatch.setattr(environment, "JUDGE_API_KEY", "hunter2\n")
    assert JUDGE.key("") == "hunter2"


def test_the_scorer_prefers_the_house_style():
    judge = load_judge("scorer", JudgeSettings(scorer="house_style"))
    prompt = [{"role": "user", "content": "Create a description for Fern Hollow."}]
    good, bad = "Fern Hollow smells of salt and warm bread, and gulls call all day.", "Nice!!! " * 30
    (verdict,) = judge.compare([Comparison(prompt, bad, good)])
    assert verdict.outcome == "win"
    assert judge.label == "house style"
