"""The step that trains: on a processor here, in one process and in two that average their gradients."""

import pytest
import torch

from rlhf_tuning.smoke import devices
from rlhf_tuning.smoke.checks import FAILS, NOTE, WORKS
from rlhf_tuning.smoke.devices import SmokeConfig, check_devices

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def states(checks):
    return {check.name: check.state for check in checks}


@needs_no_gpu
def test_a_processor_multiplies_and_learns():
    # In two processes: the slow test of the pipeline.
    checks = check_devices(SmokeConfig(expects_gpu=False), "A step")
    assert states(checks) == {
        "The GPU and its driver can be used": NOTE,
        "Device 1 of 1 multiplies": WORKS,
        "A language model learns on every device": WORKS,
    }


@needs_no_gpu
def test_where_a_gpu_is_expected_its_absence_fails_at_once_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (check,) = check_devices(SmokeConfig(expects_gpu=True), "A step")
    assert check.state == FAILS
    assert "device plugin" in check.remedy
    monkeypatch.setattr(devices, "driver_version", lambda: "535.104")
    (check,) = check_devices(SmokeConfig(expects_gpu=True), "A step")
    assert "driver 535.104: " in check.seen
    assert "needs driver 580 or newer" in check.remedy


@needs_no_gpu
def test_wrong_products_weights_that_differ_and_processes_that_fail_are_told(monkeypatch):
    right = {"device": "processor", "memory": 0, "error": 0.003, "tflops": 0.042}
    right |= {"loss": 4.0, "loss_after": 3.5, "weights": 7.0}
    found = [right, right | {"error": 0.5, "weights": 8.0}]
    monkeypatch.setattr(devices.processes, "run", lambda *a, **k: found)
    checks = check_devices(SmokeConfig(expects_gpu=False), "A step")
    assert states(checks)["Device 2 of 2 multiplies"] == FAILS
    assert states(checks)["Device 1 of 2 multiplies"] == WORKS
    assert any("0.042 TFLOP/s" in check.seen for check in checks)  # what a small processor does is no 0.0
    assert "the processes hold different weights" in checks[-1].seen

    def fail(*a, **k):
        raise RuntimeError("Process 2 of 2 failed:\nTraceback ...\nNCCL error: unhandled system error")

    monkeypatch.setattr(devices.processes, "run", fail)
    checks = check_devices(SmokeConfig(expects_gpu=False), "A step")
    assert checks[-1].seen == "NCCL error: unhandled system error"
    assert "/dev/shm" in checks[-1].remedy
