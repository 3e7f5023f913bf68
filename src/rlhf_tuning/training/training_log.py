"""What a training loop reports while it runs: progress lines, a metrics file, and TensorBoard events.

Of several processes the main one reports; every one keeps the history, whose metrics are those of the whole batch. A loss or
a gradient that is not finite ends the training at the step at which it is seen, in every process.

TensorBoard tags follow the Vertex job where it had one (`rank_loss`, `reward`, `kl_loss`), beside this project's own
names, so that dashboards made for it keep working.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.step import Progress


class TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Turns a Trainer's logs into this project's metrics, and writes them down at every step.

    Args:
        label: What is trained, for the progress line.
        total_steps: How many optimizer steps there will be.
        metrics_path: JSON lines, one a step: `step`, `seconds` since the start, and the metrics.
        tensorboard_dir: Where event files go.
        select: Takes the newest of all that the Trainer logs, and the seconds that the step took, and returns our metrics in
            the order to show.
        vertex_tags: Which of the metrics are written under the Vertex job's tags as well.
        check: Told each step's metrics once they are written; raises where the training is not worth going on with.
    """

    def __init__(
        self,
        *,
        label: str,
        total_steps: int,
        metrics_path: Path,
        tensorboard_dir: Path,
        select: Callable[[Mapping[str, float], float], dict[str, float]],
        vertex_tags: Mapping[str, str],
        check: Callable[[Mapping[str, float]], None] = lambda record: None,
    ) -> None:
        self._label, self._total_steps = label, total_steps
        self._select = select
        self._vertex_tags, self._check = vertex_tags, check
        self._file: TextIO | None = None
        self._writer: SummaryWriter | None = None
        if environment.is_main_process():
            metrics_path.parent.mkdir(parents=True, exist_ok=True)
            self._file = metrics_path.open("w", encoding="utf-8")
            self._writer = SummaryWriter(str(tensorboard_dir))
        self.history: list[dict[str, float]] = []
        self._newest: dict[str, float] = {}
        self._looks: list[tuple[int, Mapping[str, float]]] = []
        self._before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock after the set-up, which is not part of the first step."""
        self._progress = Progress(self._label, self._total_steps)
        if self.history:  # of a training that goes on
            self._progress.update(int(self.history[-1]["step"]))
        self._step_started = time.monotonic()
        self._started = self._step_started - self._before

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kw: Any) -> None:
        """Write one step's metrics down and show them.

        Raises:
            ParameterError: If the loss or the gradient is not finite.
        """
        if logs is None or "loss" not in logs:  # the Trainer's closing summary is not a step
            return
        for name, words in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
            if name in logs and not math.isfinite(logs[name]):
                raise ParameterError(
                    f"The {words} at step {state.global_step} of {self._label} is {logs[name]}: the training has diverged. "
                    "Lower the learning rate multiplier; if this is the first step, look at the base model's weights and "
                    "dtype."
                )
        now = time.monotonic()
        self._newest |= logs  # a step that learns from the samples of another has no metrics of samples
        metrics = self._select(self._newest, now - self._step_started)
        self._step_started = now
        record = {"step": state.global_step, "seconds": round(now - self._started, 3), **metrics}
        self._write(record)
        self._progress.update(state.global_step, metrics)
        self._check(record)

    def _write(self, record: dict[str, float]) -> None:
        self.history.append(record)
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        metrics = {name: value for name, value in record.items() if name not in ("step", "seconds")}
        tags = {tag: metrics[name] for name, tag in self._vertex_tags.items() if name in metrics}
        self._draw(metrics | tags, int(record["step"]))

    def add_look(self, at: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Draw what was measured beside the training, and take the time that it took out of the step's."""
        self._step_started += seconds
        self._looks.append((at, metrics))
        self._draw(metrics, at)

    def state_dict(self) -> dict[str, Any]:
        """Return what was reported so far, for a checkpoint."""
        reported = {
            "history": self.history,
            "newest": self._newest,
            "looks": self._looks,
            "before": time.monotonic() - self._started,
        }
        return {"reported": json.dumps(reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: report again what had been reported."""
        reported = json.loads(state["reported"])
        self._newest, self._looks, self._before = reported["newest"], reported["looks"], reported["before"]
        for record in reported["history"]:
            self._write(record)
            self._check(record)
        for at, metrics in self._looks:
            self._draw(metrics, at)

    def close(self) -> None:
        """Finish the files."""
        for stream in (self._file, self._writer):
            if stream is not None:
                stream.close()

    def _draw(self, metrics: Mapping[str, float], at: int) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, at)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the records of a metrics file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def micro_batch(batch_size: int, most: int) -> int:
    """Return the largest divisor of `batch_size` that is at most `most`: what one forward and backward pass holds."""
    return max(size for size in range(1, min(batch_size, most) + 1) if batch_size % size == 0)
