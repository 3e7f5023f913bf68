import gc
from collections.abc import Iterator

import pytest
from tests.gcs_server import CloudStorage, serve_cloud_storage

from rlhf_tuning.data import sources


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """Serve Cloud Storage here, with the bucket `bucket`; failed requests are tried again soon."""
    monkeypatch.setattr(sources, "RETRY_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(sources, "RETRY_SECONDS", 60.0)
    gc.freeze()  # what is there already need not be looked through when the test has ended
    with serve_cloud_storage() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.address)
        sources._client.cache_clear()
        yield storage
        sources._client.cache_clear()
        if storage.faults_happened:
            gc.collect()  # connections that the client left open: in this test, which knows of them, and no later one
    gc.unfreeze()
