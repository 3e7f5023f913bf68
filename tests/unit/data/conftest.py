import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.gcs_server import CloudStorage, serve_cloud_storage

from rlhf_tuning.data import sources

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as a JSONL file in the test's folder and return its path."""

    def write(name: str, rows: Sequence[Mapping[str, object]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """Serve Cloud Storage here, with the bucket `bucket`; failed requests are tried again soon, but not for long."""
    monkeypatch.setattr(sources, "RETRY_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(sources, "RETRY_SECONDS", 0.5)
    gc.freeze()  # what is there already need not be looked through when the test has ended
    with serve_cloud_storage() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.address)
        sources._client.cache_clear()
        yield storage
        sources._client.cache_clear()
        if storage.faults_happened:
            gc.collect()  # connections that the client left open: in this test, which knows of them, and no later one
    gc.unfreeze()
