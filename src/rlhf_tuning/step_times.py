"""How long the steps of a run took, handed on from step to step in the metadata of their artifacts.

On a cluster no step sees the others, only the artifacts that it gets. Each carries the times of the step that made it and of
those before it, with the folder of their run: a result that was taken from an earlier run has the folder of that one.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

#: Name of the times among an artifact's metadata: a JSON list, since not every backend keeps nested values.
STEP_TIMES = "step_times"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Artifact(Protocol):
    """What kfp's artifacts are to this library."""

    uri: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Carrier:
    """What carries times where there is no artifact that does."""

    uri: str
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Took:
    """How long a step took.

    Args:
        name: The step's display name.
        started: When, in seconds since 1970.
        seconds: From then until its outputs were saved.
        run: Folder of the run that it was a step of.
        earlier: Seconds of an attempt before, from whose checkpoint it went on.
    """

    name: str
    started: float
    seconds: float
    run: str
    earlier: float = 0.0


class StepClock:
    """The times of a running step and of those before it.

    Args:
        name: The step's display name.
        inputs: Artifacts that it got, None for those that are absent; the times that they carry go on to its outputs.
        outputs: Artifacts that it makes.
    """

    def __init__(self, name: str, inputs: Iterable[Artifact | None], outputs: Iterable[Artifact]) -> None:
        self.started = time.monotonic()
        self._name = name
        self._began = time.time()
        self._outputs = list(outputs)
        self._before = _carried(inputs)
        #: Seconds of an attempt before, from whose checkpoint the step went on.
        self.earlier = 0.0

    def times(self) -> list[Took]:
        """Return the times of the steps before this one in the order of their starts, and its own until now as the last."""
        run = run_folder(self._outputs[0].uri) if self._outputs else ""
        seconds = round(time.monotonic() - self.started, 1)
        return [*self._before, self._own(seconds, run)]

    def _own(self, seconds: float, run: str) -> Took:
        return Took(name=self._name, started=self._began, seconds=seconds, run=run, earlier=self.earlier)

    def hand_on(self) -> None:
        """Write the times into the metadata of the outputs."""
        carried = as_metadata(self.times())
        for artifact in self._outputs:
            artifact.metadata[STEP_TIMES] = carried


def seconds_to(metadata: Mapping[str, Any]) -> float:
    """Return what the steps took in all that led to an artifact with this metadata, in whichever run they ran."""
    return float(sum(took["seconds"] for took in json.loads(metadata[STEP_TIMES])))


def as_metadata(times: Iterable[Took]) -> str:
    """Return times as an artifact carries them."""
    return json.dumps([asdict(took) for took in times])


def run_folder(uri: str) -> str:
    """Return the folder of the run that made an artifact: RUN/STEP/ARTIFACT; Kubeflow has RUN/STEP/UUID/ARTIFACT."""
    parts = uri.rstrip("/").split("/")[:-1]
    if parts and _UUID.fullmatch(parts[-1]):
        parts.pop()
    return "/".join(parts[:-1])


def _carried(artifacts: Iterable[Artifact | None]) -> list[Took]:
    found = {
        Took(**fields)
        for artifact in artifacts
        if artifact is not None
        for fields in json.loads(artifact.metadata.get(STEP_TIMES, "[]"))
    }
    return sorted(found, key=lambda took: (took.started, took.name))
