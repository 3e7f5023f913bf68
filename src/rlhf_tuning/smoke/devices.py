"""What the step that trains finds out: the driver, each GPU, a matrix product, and a step of training on all of them.

The step of training is real and tiny: a language model of two layers learns in one process for each GPU, the gradients are
averaged over NCCL, and afterwards all processes must hold the same weights.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from rlhf_tuning import environment
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import RlhfError
from rlhf_tuning.machine import LEAST_DRIVER, driver_version
from rlhf_tuning.models.base_model import device
from rlhf_tuning.smoke.checks import FAILS, NOTE, WORKS, Check

#: How long the processes wait for each other: a link between GPUs that does not work hangs.
_PATIENCE = timedelta(minutes=3)
#: Rows and columns of the matrices that are multiplied.
_SIZE = {"cuda": 4096, "cpu": 512}
#: Relative difference that bfloat16 may make to a product of so many terms.
_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class SmokeConfig:
    """What is expected of the machine. `expects_gpu`: a step that trains on a cluster runs on one."""

    expects_gpu: bool


def check_devices(config: SmokeConfig, step: str) -> list[Check]:
    """Return what was seen of the driver and of every device, after each of them has trained a step."""
    checks = [_driver(config, step)]
    if checks[0].state == FAILS:
        return checks
    try:
        found = processes.run(exercise, config, trains=False)
    except (RlhfError, RuntimeError, OSError) as error:
        return [*checks, Check(step=step, name=_TRAINS, state=FAILS, seen=_last_line(error), remedy=_NO_TRAINING)]
    return [*checks, *_devices(step, found), _training(step, found)]


def exercise(config: SmokeConfig) -> list[dict[str, Any]]:
    """Multiply and learn on this process's device, and return what every process saw, in their order."""
    processes.join(_PATIENCE)
    seen = {"device": _device_name(), "memory": _device_memory()} | _multiply() | _learn()
    return processes.spread(lambda rows: [seen for _ in rows], range(environment.process_count()))


_TRAINS = "A language model learns on every device"
_NO_TRAINING = (
    "Read the step's log. Where several GPUs cannot talk to each other, look at /dev/shm (64 MB is too little for NCCL), "
    "and run once more with NCCL_DEBUG=INFO in the environment of the step."
)


def _driver(config: SmokeConfig, step: str) -> Check:
    name, version, built = "The GPU and its driver can be used", driver_version(), torch.version.cuda
    if torch.cuda.is_available():
        seen = f"driver {version or 'unknown'}, CUDA {built}, {torch.cuda.device_count()} GPU(s)"
        return Check(step=step, name=name, state=WORKS, seen=seen)
    if not config.expects_gpu and not version:
        return Check(step=step, name=name, state=NOTE, seen="no GPU on this machine: training will use its processor")
    if not built:
        remedy = "Build the trainer image without CPU=1, or install the CUDA build of torch."
        return Check(step=step, name=name, state=FAILS, seen="this torch was built for processors alone", remedy=remedy)
    if not version:
        remedy = "Choose a machine with a GPU (--machine); look whether the node has NVIDIA's driver and device plugin."
        return Check(step=step, name=name, state=FAILS, seen="no NVIDIA driver is visible in the step", remedy=remedy)
    least = LEAST_DRIVER.get(int(built.partition(".")[0]), max(LEAST_DRIVER.values()))
    remedy = f"CUDA {built} needs driver {least} or newer; choose newer nodes, or build the image on an older CUDA."
    return Check(step=step, name=name, state=FAILS, seen=f"driver {version}: {_why_not()}", remedy=remedy)


def _why_not() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return _last_line(error)
    return "torch finds no GPU"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "processor"


def _device_memory() -> int:
    """Return the bytes of the GPU's memory; 0 for a processor."""
    return torch.cuda.mem_get_info()[1] if device().type == "cuda" else 0


def _multiply() -> dict[str, Any]:
    """Multiply two matrices in bfloat16; say how far some of it is from the float32 product, and at how many TFLOP/s."""
    size = _SIZE[device().type]
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    expected = left[:8] @ right
    left, right = (matrix.to(device(), torch.bfloat16) for matrix in (left, right))
    product = left @ right  # the first one also loads the kernels
    _finish()
    began = time.perf_counter()
    product = left @ right
    _finish()
    seconds = time.perf_counter() - began
    error = (product[:8].float().cpu() - expected).norm() / expected.norm()
    return {"error": float(error), "tflops": 2 * size**3 / seconds / 1e12}


def _finish() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def _learn() -> dict[str, Any]:
    """Train a step of a tiny language model together with the other processes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
        )
    ).to(device())
    rows = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(environment.process_index())).to(device())
    loss = model(input_ids=rows, labels=rows).loss
    loss.backward()
    if environment.process_count() > 1:
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= environment.process_count()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    with torch.no_grad():
        after = model(input_ids=rows, labels=rows).loss
        weights = sum(float(parameter.double().abs().sum()) for parameter in model.parameters())
    return {"loss": loss.item(), "loss_after": after.item(), "weights": weights}


def _devices(step: str, found: Sequence[dict[str, Any]]) -> list[Check]:
    checks = []
    for index, seen in enumerate(found):
        memory = f" with {seen['memory'] / 2**30:.0f} GiB" if seen["memory"] else ""
        said = f"{seen['device']}{memory}: {seen['tflops']:.3g} TFLOP/s in bfloat16, {seen['error']:.2%} off"
        right = seen["error"] < _TOLERANCE
        remedy = "" if right else "The device gives wrong products. Use another one, and tell whoever runs the cluster."
        name = f"Device {index + 1} of {len(found)} multiplies"
        checks.append(Check(step=step, name=name, state=WORKS if right else FAILS, seen=said, remedy=remedy))
    return checks


def _training(step: str, found: Sequence[dict[str, Any]]) -> Check:
    learnt = all(seen["loss_after"] < seen["loss"] for seen in found)
    agree = len({round(seen["weights"], 6) for seen in found}) == 1
    together = f" and {len(found)} processes hold the same weights" if len(found) > 1 else ""
    losses = ", ".join(f"{seen['loss']:.2f} to {seen['loss_after']:.2f}" for seen in found)
    if learnt and agree:
        return Check(step=step, name=_TRAINS, state=WORKS, seen=f"loss {losses}{together}")
    seen = f"loss {losses}" if agree else f"loss {losses}, and the processes hold different weights"
    return Check(step=step, name=_TRAINS, state=FAILS, seen=seen, remedy=_NO_TRAINING)
