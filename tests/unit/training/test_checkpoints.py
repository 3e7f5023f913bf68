"""A training that was stopped and continued ends like one that was not, bit by bit."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import transformers
from stopped_trainings import TRAININGS, learnt, prepare, train

from rlhf_tuning.training import checkpoint_store, checkpoints

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "resume.py"


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(tiny_model, folder)
    return folder


@pytest.fixture(autouse=True)
def save_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SAVING_SHARE", 0)


@pytest.fixture
def happen(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen in the middle of a step, when so many have been taken; with -1 nothing."""
    training_step = transformers.Trainer.training_step

    def plan(steps: int, what: Callable[[], None]) -> None:
        def take(trainer, *arguments, **settings):
            loss = training_step(trainer, *arguments, **settings)
            if trainer.state.global_step == steps:
                what()
            return loss

        monkeypatch.setattr(transformers.Trainer, "training_step", take)

    return plan


def die() -> None:
    raise Killed


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "reward model" else pytest.mark.slow) for kind in TRAININGS]
)
def test_a_training_that_was_killed_goes_on_to_the_same_end(kind, tiny_model, prepared, tmp_path, happen, capsys):
    train(kind, tiny_model, prepared, tmp_path / "unbroken", None)
    kept = tmp_path / "kept"
    for steps in (2, 4, 5):
        happen(steps, die)
        with pytest.raises(Killed):
            train(kind, tiny_model, prepared, tmp_path / "broken", kept)
        shutil.rmtree(tmp_path / "broken")  # as where a retry is a new machine
    happen(-1, die)
    capsys.readouterr()
    train(kind, tiny_model, prepared, tmp_path / "broken", kept)
    assert " goes on behind step 5 of 6, from the checkpoint of " in capsys.readouterr().out
    assert learnt(tmp_path / "broken") == learnt(tmp_path / "unbroken")
    assert not list(kept.iterdir())


def test_sigterm_saves_in_the_middle_of_a_step(tiny_model, prepared, tmp_path, monkeypatch, happen, capsys):
    monkeypatch.setattr(checkpoints.Checkpoints, "_is_due", lambda self: False)
    train("rloo", tiny_model, prepared, tmp_path / "unbroken", None)
    kept = tmp_path / "kept"
    happen(3, partial(os.kill, os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        train("rloo", tiny_model, prepared, tmp_path / "broken", kept)
    assert [path.name for path in kept.glob("*/*.json")] == ["00000003.json"]
    happen(-1, die)
    train("rloo", tiny_model, prepared, tmp_path / "broken", kept)
    assert " goes on behind step 3 of 6" in capsys.readouterr().out
    assert learnt(tmp_path / "broken") == learnt(tmp_path / "unbroken")


def stopped(kind: str, model: Path, prepared: Path, folder: Path, happen, steps: int = 3) -> Path:
    """Return the checkpoints of a training that was killed."""
    happen(steps, die)
    with pytest.raises(Killed):
        train(kind, model, prepared, folder / "stopped", folder / "kept")
    happen(-1, die)
    return folder / "kept"


def test_another_training_begins_anew(tiny_model, prepared, tmp_path, monkeypatch, happen, capsys):
    kept = stopped("supervised", tiny_model, prepared, tmp_path, happen)
    monkeypatch.setitem(TRAININGS, "supervised", partial(TRAININGS["supervised"], learning_rate_multiplier=49.0))
    train("supervised", tiny_model, prepared, tmp_path / "other", kept)
    assert "goes on" not in capsys.readouterr().out
    assert len(list(kept.glob("*/*.json"))) == 1  # what was stopped can still go on


def test_what_is_no_whole_checkpoint_of_this_training_is_left_out(tiny_model, prepared, tmp_path, happen, capsys):
    (folder,) = stopped("supervised", tiny_model, prepared, tmp_path, happen).iterdir()
    good = (folder / "00000003.json").read_text()
    (folder / "half.pt").write_bytes(b"half")
    harmed = {
        "00000009.json is no manifest of a checkpoint": "{",
        "of step 8 cannot be used: it is another training's": good.replace(folder.name, "0" * 32),
        "of step 7 cannot be used: No such file or directory": good.replace("00000003-1-of-1.pt", "gone.pt"),
        "half.pt is not what was written": good.replace("00000003-1-of-1.pt", "half.pt"),
    }
    for number, text in zip((9, 8, 7, 6), harmed.values(), strict=True):
        (folder / f"0000000{number}.json").write_text(text.replace('"step": 3', f'"step": {number}'))
    train("supervised", tiny_model, prepared, tmp_path / "again", folder.parent)
    out = capsys.readouterr().out
    assert [words for words in harmed if words not in out] == []
    assert " goes on behind step 3 of 6" in out
    assert not folder.exists()


def test_a_full_disk_costs_the_checkpoint_alone(tiny_model, prepared, tmp_path, monkeypatch, happen, capsys):
    train("supervised", tiny_model, prepared, tmp_path / "unbroken", None)
    put = checkpoint_store.Store.put

    def full(store, name, write):
        if name.startswith(("00000003", "00000004")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(store, name, write)

    monkeypatch.setattr(checkpoint_store.Store, "put", full)
    kept = stopped("supervised", tiny_model, prepared, tmp_path, happen, steps=4)
    out = capsys.readouterr().out
    assert "no checkpoint of supervised tuning at step 4: No space left on device; that of step 2 stays" in out
    train("supervised", tiny_model, prepared, tmp_path / "again", kept)
    assert "goes on behind step 2 of 6" in capsys.readouterr().out
    assert learnt(tmp_path / "again") == learnt(tmp_path / "unbroken")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "small", str(folder)], check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_at_every_write_loses_nothing(tiny_model, prepared, tmp_path, small_disk, happen, capsys):
    train("supervised", tiny_model, prepared, tmp_path / "unbroken", None)
    kept = small_disk / "kept"
    for room in range(0, 400_000, 40_000):
        with (small_disk / "filling").open("wb") as filling:
            filling.write(bytes(max(0, os.statvfs(small_disk).f_bavail * 4096 - room)))
        train("supervised", tiny_model, prepared, tmp_path / "full", kept)
        assert learnt(tmp_path / "full") == learnt(tmp_path / "unbroken")
        (small_disk / "filling").unlink()
        shutil.rmtree(tmp_path / "full")
    assert "No space left on device; there is none before it, and the training goes on" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes"), [("rloo", 1), ("reward model", 1), ("supervised", 2)])
def test_killed_at_random_moments_a_training_ends_as_if_it_had_not_been(kind, processes):
    command = [sys.executable, str(BENCHMARK), "kills", "--kills", "1", "--only", kind, "--processes", str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
