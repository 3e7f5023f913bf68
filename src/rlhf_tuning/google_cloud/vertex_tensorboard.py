"""The metrics of both phases in a Vertex AI TensorBoard: one experiment a run, one TensorBoard run a phase.

Through the REST API, for the reasons that `vertex_api` names. Everything here can be done again without harm: what exists
is used, and a value written twice for a step is one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rlhf_tuning import registry
from rlhf_tuning.google_cloud.vertex_api import Json, VertexApi
from rlhf_tuning.google_errors import persistently

#: Phase to our metric and the tag that the Vertex job wrote for it, which stands beside our own name.
_VERTEX_TAGS: Mapping[str, Mapping[str, str]] = {
    "reward-model": {"loss": "rank_loss"},
    "reinforcement-learning": {"kl": "kl_loss"},
    "supervised-tuning": {},
    "preference-tuning": {},
}
#: Method to its phase.
_TUNING = {
    "reinforcement": "reinforcement-learning",
    "supervised": "supervised-tuning",
    "preference": "preference-tuning",
}
#: What a record holds beside metrics.
_NO_METRICS = ("step", "seconds")
#: Values of one request; the service takes 10,000 at most.
_VALUES = 5000


def write_to_tensorboard(
    api: VertexApi, tensorboard: str, *, experiment: str, reward_model_dir: str, adapter_dir: str
) -> str:
    """Write the metrics files of both phases, and return the experiment's resource name.

    Args:
        api: The project and region of the TensorBoard.
        tensorboard: projects/PROJECT/locations/REGION/tensorboards/NUMBER.
        experiment: Name of the run; its characters become lower-case letters, digits and hyphens.
        reward_model_dir: What phase 1 saved; empty where there was none.
        adapter_dir: What the tuning saved.

    Raises:
        UserError: If Vertex AI refuses.
        RunError: If Vertex AI fails.
    """
    with api.explaining(f"TensorBoard {tensorboard}"):
        name = _created(api, f"{tensorboard}/experiments", "tensorboardExperimentId", experiment_id(experiment))
        tuning = _TUNING[registry.method_of(adapter_dir)]
        for phase, folder in (("reward-model", reward_model_dir), (tuning, adapter_dir)):
            if not folder:
                continue
            path = Path(folder) / "metrics.jsonl"
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            run = _created(api, f"{name}/runs", "tensorboardRunId", phase)
            _write_run(api, name, run, records, _VERTEX_TAGS[phase], written)
    return name


def experiment_id(name: str) -> str:
    """Return a name as an experiment can have it: `My Run_2` becomes `my-run-2`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:127] or "rlhf"


def _created(api: VertexApi, path: str, id_field: str, chosen: str) -> str:
    """Return the resource of that id, made if there is none."""
    from google.api_core import exceptions

    try:
        created = persistently(lambda: api.post(path, {"displayName": chosen}, **{id_field: chosen}))
    except exceptions.Conflict:
        return f"{path}/{chosen}"
    return str(created["name"])


def _write_run(
    api: VertexApi,
    experiment: str,
    run: str,
    records: Sequence[Mapping[str, float]],
    tags: Mapping[str, str],
    written: datetime,
) -> None:
    """Write every metric of a phase. `written` is when the last record was."""
    metrics = list(dict.fromkeys(name for record in records for name in record if name not in _NO_METRICS))
    names = {tag: metric for metric in metrics for tag in dict.fromkeys((metric, tags.get(metric, metric)))}
    known = {series["displayName"]: series["name"] for series in api.list(f"{run}/timeSeries", "tensorboardTimeSeries")}
    for tag in names:
        if tag not in known:
            body = {"displayName": tag, "valueType": "SCALAR"}
            known[tag] = str(api.post(f"{run}/timeSeries", body)["name"])
    last = records[-1]["seconds"] if records else 0.0
    for batch in _batches(records, max(1, _VALUES // max(1, len(names)))):
        data = [
            {
                "tensorboardTimeSeriesId": known[tag].rsplit("/", 1)[-1],
                "valueType": "SCALAR",
                "values": [
                    _point(record, metric, written - timedelta(seconds=last - record["seconds"]))
                    for record in batch
                    if metric in record
                ],
            }
            for tag, metric in names.items()
        ]
        _write(api, experiment, {"writeRunDataRequests": [{"tensorboardRun": run, "timeSeriesData": data}]})


def _write(api: VertexApi, experiment: str, body: Json) -> None:
    persistently(lambda: api.post(f"{experiment}:write", body))


def _batches(records: Sequence[Mapping[str, float]], size: int) -> Iterator[Sequence[Mapping[str, float]]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


def _point(record: Mapping[str, float], metric: str, at: datetime) -> Json:
    return {
        "step": str(int(record["step"])),
        "wallTime": at.isoformat().replace("+00:00", "Z"),
        "scalar": {"value": record[metric]},
    }
