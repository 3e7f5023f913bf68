import json
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_components.train_policy import train_policy
from rlhf_components.train_preference import train_preference
from rlhf_components.train_reward_model import train_reward_model
from rlhf_components.train_supervised import train_supervised
from rlhf_components.validate_inputs import validate_inputs
from rlhf_pipelines.local import expected_time
from rlhf_tuning import environment
from rlhf_tuning.errors import ModelError
from rlhf_tuning.planning import expectation

WORDS = "About 12 minutes on this machine (2 cores, AVX2, float32)"
TUNING = {"reinforcement_learning_train_steps": 1}


class Here:
    """A process that is none."""

    def __init__(self, target: Any, args: tuple[Any, ...]) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        self._target(*self._args)

    def join(self) -> None:
        pass


@pytest.fixture
def run_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a run of these components prints."""
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    monkeypatch.setattr(environment, "PROGRESS", "events")
    monkeypatch.setattr(SubprocessTaskHandler, "run", lambda handler: print(handler.name))
    monkeypatch.setattr(expected_time.multiprocessing, "get_context", lambda _: SimpleNamespace(Process=Here))

    def run(*components: Any) -> list[str]:
        for component in components:
            container = component.component_spec.implementation.container
            command = [*container.command, *container.args]
            SubprocessTaskHandler.run(SimpleNamespace(name=component.name, full_command=command))
        return capsys.readouterr().out.splitlines()

    return run


def test_it_is_said_once_before_the_reward_model_is_trained(run_steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectation, "expected_time", lambda values: WORDS if values == TUNING else "")
    expected_time.announce_expected_time(TUNING, preloaded=False)
    event = "@rlhf " + json.dumps({"event": "run_message", "text": WORDS})
    steps = (validate_inputs, train_reward_model, train_reward_model, train_policy)
    assert run_steps(*steps) == [
        "validate-inputs",
        event,
        *("train-reward-model", "train-reward-model", "train-policy"),
    ]


@pytest.mark.parametrize("tunes", ["epoch_count", "train_steps"])
def test_it_is_said_of_every_method(run_steps: Any, monkeypatch: pytest.MonkeyPatch, tunes: str) -> None:
    monkeypatch.setattr(expectation, "expected_time", lambda values: WORDS)
    expected_time.announce_expected_time({tunes: 1}, preloaded=False)
    component = train_preference if tunes == "epoch_count" else train_supervised
    assert WORDS in run_steps(component)[0]


def test_a_run_that_goes_on_after_that_step_says_nothing(run_steps: Any) -> None:
    expected_time.announce_expected_time(TUNING, preloaded=False)
    assert run_steps(train_policy) == ["train-policy"]


def test_a_run_that_does_not_tune_says_nothing(run_steps: Any) -> None:
    expected_time.announce_expected_time({"batch_size": 8}, preloaded=False)
    assert run_steps(train_reward_model) == ["train-reward-model"]


def test_a_model_without_a_forecast_is_tuned_all_the_same(run_steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(values: Any) -> str:
        raise ModelError("a mixture of experts")

    monkeypatch.setattr(expectation, "expected_time", refuse)
    expected_time.announce_expected_time(TUNING, preloaded=False)
    assert run_steps(train_reward_model) == ["train-reward-model"]
