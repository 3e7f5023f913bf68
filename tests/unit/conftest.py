import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gcs_server import CloudStorage, serve_cloud_storage
from tiny_reward_model import train, write_preferences

from rlhf_tuning import cloud_storage


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """Serve Cloud Storage here, with the bucket `bucket`; failed requests are tried again soon."""
    monkeypatch.setattr(cloud_storage, "RETRY_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 60.0)
    with serve_cloud_storage() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.address)
        cloud_storage._client.cache_clear()
        yield storage
        cloud_storage._client.cache_clear()
        if storage.faults_happened:
            gc.collect()  # connections that the client left open: in this test, which knows of them, and no later one


@pytest.fixture
def two_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let tiny models compute parts of a batch side by side, and list the threads that did."""
    import torch

    from rlhf_tuning.generation import rollout
    from rlhf_tuning.ops import lanes

    used: list[str] = []
    lane = lanes._lane

    def noted(*state: Any) -> Any:
        used.append(threading.current_thread().name)
        return lane(*state)

    monkeypatch.setattr(lanes, "_lane", noted)
    monkeypatch.setattr(lanes, "_MOST_LEARNING", 1.0)
    monkeypatch.setattr(rollout, "_ENOUGH_ROWS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield used
    torch.set_num_threads(before)


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let memory run out in the third pass of a training, and list how many rows each pass is to hold."""
    import torch
    from transformers import Trainer

    rows: list[int] = []
    training_step = Trainer.training_step

    def full_at_the_third(trainer: Any, *inputs: Any, **settings: Any) -> Any:
        rows.append(trainer.args.per_device_train_batch_size)
        if len(rows) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return training_step(trainer, *inputs, **settings)

    monkeypatch.setattr(Trainer, "training_step", full_at_the_third)
    return rows


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with preferences to learn from, and others to measure on."""
    folder = tmp_path_factory.mktemp("preferences")
    write_preferences(folder)
    return folder


@pytest.fixture(scope="session")
def trained(
    preferences: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder with a tiny trained `reward_model`, which tests only read, and how it was measured."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(preferences, tiny_model, folder)
