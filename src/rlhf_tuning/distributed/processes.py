"""A phase in several processes, one for each GPU, which together do what one process would.

A process knows its place by RANK, LOCAL_RANK and WORLD_SIZE, which `accelerate launch` and torchrun set; without them it is
alone. Where a component finds several GPUs, `run` starts a process for each. It does so by torch's own `spawn`:
when one process fails the others are ended, and nothing stays behind (no agent, no port chosen in advance, no signal handler
of its own), while errors and results come back as they are.

In training each process has an equal share of every batch, and gradients are averaged over all; elsewhere each has a share
of the rows. What is written and said is the affair of the main process, number 0.
"""

import json
import logging
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from rlhf_tuning import environment, machine, step
from rlhf_tuning.distributed import memory
from rlhf_tuning.errors import DataError, MachineError, ModelError, ParameterError, RunError

Row = TypeVar("Row")
Found = TypeVar("Found")

#: How long processes wait for each other: the main one may write a large model meanwhile. A failure ends all at once.
_PATIENCE = timedelta(hours=6)

#: The group of processes whose flags are on a CPU; made once in a process.
_flags: list[Any] = []

#: Errors that a process hands on as they are, by name.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ParameterError, DataError, ModelError, MachineError, RunError, MemoryError)
}
#: torch's, of a GPU that is full.
_FULL = "OutOfMemoryError"

#: Parameters by which the longest row of a pass grows.
_TOKENS_OF_A_ROW = ("num_generations", "prompt_sequence_length", "target_sequence_length")


def share(batch_size: int, processes: int) -> int:
    """Return how much of a batch each process has.

    Raises:
        ParameterError: If it cannot be divided evenly.
    """
    if batch_size % processes:
        fewer = max(n for n in range(1, processes) if batch_size % n == 0)
        raise ParameterError(
            f"batch_size is {batch_size}, which {processes} processes (one for each GPU) cannot share evenly. Set it to a "
            f"multiple of {processes}, such as {-(-batch_size // processes) * processes}, or set the environment variable "
            f"RLHF_PROCESSES to {fewer}."
        )
    return batch_size // processes


def join(patience: timedelta = _PATIENCE) -> None:
    """Meet the other processes, if there are any, and take this one's GPU. To be called before a model is loaded.

    Args:
        patience: How long one waits for the others, here and whenever they exchange something.
    """
    import torch

    if environment.process_count() == 1 or torch.distributed.is_initialized():
        return
    if not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo", timeout=patience)
        return
    from accelerate.utils import check_cuda_p2p_ib_support

    if not check_cuda_p2p_ib_support():  # as `accelerate launch` does: some cards for games cannot talk directly
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl", timeout=patience, device_id=device)


def spread(work: Callable[[Sequence[Row]], Sequence[Found]], rows: Sequence[Row]) -> list[Found]:
    """Return what `work` finds for each row, in order, known to every process; each does its share of the rows."""
    index, count = environment.process_index(), environment.process_count()
    if count == 1:
        return list(work(rows))
    import torch

    shares: list[Any] = [None] * count
    torch.distributed.all_gather_object(shares, list(work(rows[index::count])))
    found: list[Any] = [None] * len(rows)
    for first, part in enumerate(shares):
        found[first::count] = part
    return found


def gather(value: Found) -> list[Found]:
    """Return what each process has, in order, known to every process."""
    return spread(lambda ranks: [value for _ in ranks], range(environment.process_count()))


def from_main(find: Callable[[], Found]) -> Found:
    """Return what the main process finds, for which the others wait."""
    return cast(Found, gather(find() if environment.is_main_process() else None)[0])


def any_says(this: bool) -> bool:
    """Ask all processes whether any says so, without waiting for a GPU."""
    if environment.process_count() == 1:
        return this
    import torch

    if not _flags:
        _flags.append(torch.distributed.new_group(backend="gloo"))
    flag = torch.tensor([int(this)])
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=_flags[0])
    return bool(flag.item())


def wanted() -> int:
    """Return how many processes a component starts: RLHF_PROCESSES, or one for each GPU.

    Raises:
        ParameterError: If RLHF_PROCESSES is no such number.
    """
    import torch

    gpus = torch.cuda.device_count()
    asked = environment.PROCESSES
    if not asked:
        return max(1, gpus)
    if not asked.isdecimal() or int(asked) == 0:
        raise ParameterError(f"The environment variable RLHF_PROCESSES is {asked!r}; it must be a number from 1 on.")
    if int(asked) > gpus > 0:
        raise ParameterError(
            f"The environment variable RLHF_PROCESSES is {asked}, but there {'is' if gpus == 1 else 'are'} {gpus} GPU"
            f"{'' if gpus == 1 else 's'} here, and each process needs one of its own."
        )
    return int(asked)


def wait() -> None:
    """Wait until every process is here."""
    spread(list, [])


def run(phase: Callable[..., Any], config: Any, *, trains: bool = True, **paths: str) -> Any:
    """Return what a phase returns in the main of several processes; in this one alone where there is one GPU or none.

    Where a GPU's memory runs out it begins anew, once, with half as much at a time (`memory`). What it finds is the
    same, save with `rpo_alpha`, whose term depends on what goes through at a time.

    Args:
        phase: A function of a module, called with the rest. Its result is JSON.
        config: The settings; of training with their `batch_size`.
        trains: Whether it trains, so that the processes must share a batch evenly.
        paths: What it reads and writes.

    Raises:
        MachineError: If torch cannot use the machine's GPU.
        ParameterError: If the processes cannot share a batch evenly.
        RunError: If a process was killed, or memory has run out twice.
        RuntimeError: If a process failed in an unexpected way, with its traceback. An error raised on purpose comes as is.
    """
    import torch

    machine.check_gpu()
    processes = wanted() if environment.process_count() == 1 else 1
    if trains:
        share(config.batch_size, processes)
    attempt = partial(phase, config, **paths)
    if processes > 1:
        step.say(_told(processes, trains=trains))
        attempt = partial(_spawned, processes, phase, config, paths)
    try:
        return attempt()
    except torch.OutOfMemoryError:
        step.say("The GPU's memory has run out. Once more from the beginning, with half as much at a time")
    # Past the error, which holds on to all that there was.
    try:
        with memory.halved():
            return attempt()
    except torch.OutOfMemoryError:
        raise RunError(_what_to_lower(config)) from None


def _told(processes: int, *, trains: bool) -> str:
    import torch

    where = ", each on a GPU" if torch.cuda.is_available() else ""
    return f"{'Training' if trains else 'Working'} in {processes} processes{where}"


def _what_to_lower(config: Any) -> str:
    settings = vars(config) if is_dataclass(config) else {}
    lengths = [f"{name} ({settings[name]:,})" for name in _TOKENS_OF_A_ROW if name in settings]
    return (
        "The GPU's memory has run out twice, the second time with half as many rows at a time. Lower "
        f"{' or '.join(lengths or ['the sequence lengths'])}, or use GPUs with more memory."
    )


def _spawned(processes: int, phase: Callable[..., Any], config: Any, paths: dict[str, str]) -> Any:
    """Return what a phase returns in the main of several processes that are started for it."""
    import torch
    from torch.multiprocessing.spawn import ProcessException, spawn

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # warns of each process that it ends
    # The processes meet here, so the port is one that is free.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    # What they leave behind when they are ended goes with this folder.
    with tempfile.TemporaryDirectory(prefix="processes-") as folder:
        arguments = (processes, store.port, folder, phase, config, paths, memory.has_run_out())
        context: Any = spawn(_work, arguments, nprocs=processes, join=False)  # type: ignore[no-untyped-call]
        try:
            while not context.join():
                pass
        except ProcessException as error:
            raise _cause(folder, error, processes) from None
        finally:
            # Those that train finish their step, save it and end.
            for process in context.processes:
                process.terminate()
            for process in context.processes:
                process.join()
        return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def _work(
    index: int,
    processes: int,
    port: int,
    folder: str,
    phase: Callable[..., Any],
    config: Any,
    paths: dict[str, str],
    again: bool,
) -> None:
    """Be one of the processes."""
    import torch

    threads = max(1, torch.get_num_threads() // processes)
    torch.set_num_threads(threads)
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the parent's
        "OMP_NUM_THREADS": str(threads),
    }
    tempfile.tempdir = folder
    step.start_log()
    try:
        with memory.halved() if again else nullcontext():
            result = phase(config, **paths)
    except Exception as error:
        record = {"time": time.time(), "index": index, "trace": traceback.format_exc(), **_as_json(error)}
        (Path(folder) / f"error-{index}.json").write_text(json.dumps(record), encoding="utf-8")
        raise
    if index == 0:
        (Path(folder) / "result.json").write_text(json.dumps(result), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _as_json(error: Exception) -> dict[str, Any]:
    """Return what is needed to raise an error again that says enough by itself; other kinds need their traceback."""
    if isinstance(error, OSError):
        return {"kind": "OSError", "arguments": [error.errno, error.strerror, error.filename]}
    kind = type(error).__name__
    return {"kind": kind, "arguments": [str(error)] if kind in _KINDS or kind == _FULL else []}


def _cause(folder: str, error: Any, processes: int) -> Exception:
    """Return what went wrong first; the other processes fail because it did."""
    import torch

    records = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("error-*.json")]
    records.sort(key=lambda record: (record["kind"] not in _KINDS and record["kind"] != _FULL, record["time"]))
    for record in records:
        if record["kind"] == _FULL:
            return torch.OutOfMemoryError(*record["arguments"])
        if record["kind"] in _KINDS:
            return _KINDS[record["kind"]](*record["arguments"])
        if record["kind"] == "OSError":
            return OSError(*record["arguments"])
        return RuntimeError(f"Process {record['index'] + 1} of {processes} failed:\n{record['trace']}")
    return RunError(
        f"Process {error.error_index + 1} of {processes} was ended from outside ({error.msg}), most often for want of "
        "memory. Lower batch_size or the sequence lengths, or use a larger machine."
    )
