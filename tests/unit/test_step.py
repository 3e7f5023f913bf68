import errno
import json
import math
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rlhf_tuning import environment
from rlhf_tuning.errors import DataError, RunError
from rlhf_tuning.step import EVENT_MARKER, Progress, duration, log_metrics, running_step, say


@pytest.fixture
def events(monkeypatch, capsys):
    """Make steps print events, and return those printed so far."""
    monkeypatch.setattr(environment, "PROGRESS", "events")

    def printed():
        lines = capsys.readouterr().out.splitlines()
        return [json.loads(line.removeprefix(EVENT_MARKER)) for line in lines if line.startswith(EVENT_MARKER)]

    return printed


def test_a_finished_step_tells_its_start_and_its_end(events):
    with running_step("Reinforcer"):
        say("Half way")
    kinds = [event["event"] for event in events()]
    assert kinds == ["start", "message", "end"]


@pytest.mark.parametrize(("error", "status"), [(DataError("row 3 is bad"), 2), (RunError("no luck"), 1)])
def test_an_error_on_purpose_becomes_one_message_and_its_exit_status(events, error, status):
    with pytest.raises(SystemExit) as caught, running_step("Reinforcer"):
        raise error
    assert caught.value.code == status
    (event,) = [event for event in events() if event["event"] == "error"]
    assert event["text"] == str(error)
    assert event["status"] == status


@pytest.mark.parametrize(
    ("number", "place", "words"),
    [
        (errno.ENOSPC, "/data/model", "No space left"),
        (errno.EACCES, "/data/model", "No permission to use /data/model. Change its owner"),
        (errno.EACCES, "/gcs/bucket/model", "build the images with RUN_AS=0"),
        (errno.EROFS, "/data/model", "read-only"),
    ],
)
def test_a_full_or_closed_disk_is_said_in_words(events, number, place, words):
    with pytest.raises(SystemExit) as caught, running_step("Reinforcer"):
        raise OSError(number, "system words", place)
    assert caught.value.code == 1
    (event,) = [event for event in events() if event["event"] == "error"]
    assert words in event["text"]
    assert place in event["text"]


def test_an_error_nobody_expected_keeps_its_traceback_and_is_named(events):
    with pytest.raises(ZeroDivisionError), running_step("Reinforcer"):
        print(1 / 0)
    (event,) = [event for event in events() if event["event"] == "error"]
    assert "ZeroDivisionError" in event["text"]
    assert event["status"] == 1


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_lack_of_memory_says_what_to_lower(events, error):
    with pytest.raises(SystemExit), running_step("Reinforcer"):
        raise error("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert "batch_size" in events()[-1]["text"]


def test_metrics_are_the_numbers_that_json_has():
    kept = {}
    found = {"loss": 0.5, "n": 1, "loss_low": -math.inf, "loss_high": math.nan, "roc": {"fpr": [0.0]}}
    log_metrics(SimpleNamespace(log_metric=kept.__setitem__), found)
    assert kept == {"loss": 0.5, "n": 1}


def test_progress_counts_and_estimates_from_the_pace_after_the_first_unit(events, monkeypatch):
    clock = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr("rlhf_tuning.step.time.monotonic", lambda: next(clock))
    progress = Progress("training", 10)
    for done in (1, 2, 3):
        progress.update(done, {"loss": 0.5})
    found = events()
    assert [event["done"] for event in found] == [0, 1, 2, 3]
    # The first unit took 100 seconds of warm-up, from which nothing is concluded; the others take two each.
    assert [event["seconds_left"] for event in found] == [None, None, pytest.approx(16.0), pytest.approx(14.0)]
    assert found[-1]["metrics"] == {"loss": 0.5}


def test_a_log_gets_sparse_lines(capsys):
    progress = Progress("training", 1000)
    for done in range(1, 1001):
        progress.update(done)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 5
    assert lines[-1].startswith("training: step 1000/1000")


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (99, "99 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_as_people_read_them(seconds, text):
    assert duration(seconds) == text


def test_sigterm_ends_a_step_in_order_and_is_as_before_after_it(tmp_path):
    code = (
        "import os, signal, time\n"
        "from rlhf_tuning.step import running_step\n"
        "with running_step('first'):\n"
        "    pass\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        "with running_step('second'):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "    finally:\n"
        "        print('in order')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert "in order" in done.stdout
