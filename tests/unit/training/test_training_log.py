import json
import math
from types import SimpleNamespace

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.training.training_log import TrainingLog


@pytest.fixture
def log(tmp_path):
    """A log of some training, which stops where a step's loss is 7."""

    def check(record):
        if record["loss"] == 7:
            raise ValueError("seven")

    made = TrainingLog(
        label="some training",
        total_steps=3,
        metrics_path=tmp_path / "metrics.jsonl",
        tensorboard_dir=tmp_path / "events",
        select=lambda logs, seconds: {"loss": logs["loss"]},
        vertex_tags={},
        check=check,
    )
    made.on_train_begin(None, None, None)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ({"loss": math.nan, "grad_norm": 1.0}, "The loss at step 2 of some training is nan: the training has diverged"),
        ({"loss": 0.5, "grad_norm": math.inf}, "The norm of the gradient at step 2 of some training is inf"),
    ],
)
def test_a_step_that_is_not_finite_ends_the_training_and_is_not_written(log, tmp_path, logs, words):
    log.on_log(None, SimpleNamespace(global_step=1), None, logs={"loss": 0.7, "grad_norm": 1.0})
    with pytest.raises(ParameterError, match=words):
        log.on_log(None, SimpleNamespace(global_step=2), None, logs=logs)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


def test_a_step_is_checked_once_it_is_written(log, tmp_path):
    with pytest.raises(ValueError, match="seven"):
        log.on_log(None, SimpleNamespace(global_step=1), None, logs={"loss": 7.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 7
