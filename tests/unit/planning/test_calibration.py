import pytest

from rlhf_tuning.models.architecture import SMOLLM2_135M
from rlhf_tuning.planning import calibration


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(calibration, "_SECONDS", 0.02)


def test_measures_the_machine_at_hand():
    import torch

    found = calibration.this_machine(SMOLLM2_135M, tokens=64, dtype="float32")
    assert found.measured
    assert found.cpu != torch.cuda.is_available()
    assert found.number_bytes == 4
    assert found.processor == f"1 core, {torch.backends.cpu.get_cpu_capability()}" or not found.cpu
    assert 1e8 < found.flops < 1e16
    assert 1e7 < found.bandwidth < 1e14
    assert 1e7 < found.elementwise < 1e14
    assert found.memory > 1e8


def test_a_slow_clock_makes_a_slow_machine():
    times = iter(range(10**6))
    found = calibration.this_machine(SMOLLM2_135M, tokens=64, dtype="float32", clock=lambda: next(times))
    assert found.flops == 2 * 64 * 576 * 1536
