import shutil
from pathlib import Path

import pytest
import torch

from rlhf_tuning import machine
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import MachineError

#: As the two kinds of NVIDIA's kernel module write it.
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc 12.2.0\n"
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (builder@host)\nGCC version: 12.2.0\n"
)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU that torch, built for CUDA 13, cannot use; return the file of its driver's version."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    return tmp_path / "version"


@pytest.mark.parametrize(("text", "driver"), [(CLOSED, "535.183.01"), (OPEN, "570.86.15")])
def test_a_driver_that_is_too_old_is_named_with_the_least(gpu: Path, text: str, driver: str) -> None:
    gpu.write_text(text.format(driver))
    with pytest.raises(
        MachineError, match=f"driver of this machine is {driver}, and torch with CUDA 13.0 needs 580 or"
    ):
        processes.run(pytest.fail, "a step that began")


def test_a_gpu_that_torch_cannot_use_is_never_passed_over(gpu: Path) -> None:
    for driver in (None, "580.82.07"):
        if driver:
            gpu.write_text(OPEN.format(driver))
        with pytest.raises(
            MachineError, match=r"has an NVIDIA GPU.*, but torch with CUDA 13.0 cannot use it: "
        ) as caught:
            machine.check_gpu()
        assert (f"with driver {driver}" in str(caught.value)) == bool(driver)


def test_a_machine_that_computes_on_its_cpu_on_purpose_may(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine.check_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    machine.check_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (gpu.parent / "nvidia0").unlink()
    machine.check_gpu()


def test_room_is_looked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    folder = tmp_path / "not" / "yet"
    machine.check_room(folder, free // 2, what="The model", remedy="Free some.")
    with pytest.raises(
        MachineError, match=r"^The model needs [\d,]+ GB in .*/not/yet, and its disk has .* left\. Free s"
    ):
        machine.check_room(folder, free + 10**12, what="The model", remedy="Free some.")
    assert machine.free_room(Path("/proc")) > free + 10**12  # it has no size
    assert machine.same_disk(folder, tmp_path)
    assert not machine.same_disk(tmp_path, Path("/proc"))


def test_a_container_has_what_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMORY_LIMITS", (tmp_path / "memory.max",))
    there = machine.memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory() == there
    (tmp_path / "memory.max").write_text("1048576\n")
    assert machine.memory() == 1048576
