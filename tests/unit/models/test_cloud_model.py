"""Models on Cloud Storage where no mount shows them: the real client against the server of these tests."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from gcs_server import Fault

from rlhf_tuning import environment
from rlhf_tuning.errors import MachineError, ModelError
from rlhf_tuning.models import cloud_model
from rlhf_tuning.models.architecture import read_architecture
from rlhf_tuning.models.base_model import load_causal_lm
from rlhf_tuning.models.base_model_check import check_base_model
from rlhf_tuning.models.model_reference import resolve_reference
from rlhf_tuning.models.tokenizer import load_tokenizer

MODEL = "gs://bucket/models/tiny"


@pytest.fixture
def stored(cloud, tiny_model, tmp_path, monkeypatch):
    """The tiny model in a bucket, with what must not be fetched beside it."""
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")
    for file in tiny_model.iterdir():
        cloud.put(f"models/tiny/{file.name}", file.read_bytes())
    cloud.put("models/tiny/", b"")
    cloud.put("models/tiny/original/consolidated.pth", b"pickle")
    cloud.put("models/tiny-2/config.json", b"another model")
    return cloud


def copy_of(tmp_path):
    (folder,) = (path for path in (tmp_path / "cache" / "cloud-models").iterdir() if path.is_dir())
    return folder


def test_a_model_has_the_fingerprint_that_it_has_in_a_folder(stored, tiny_model, tmp_path):
    assert resolve_reference(f"{MODEL}/").fingerprint == resolve_reference(str(tiny_model)).fingerprint
    # Large weights are known by samples: they are not fetched to be known.
    large = bytes(range(256)) * 2**12 * 40
    folder = shutil.copytree(tiny_model, tmp_path / "large")
    (folder / "large.safetensors").write_bytes(large)
    stored.put("models/tiny/large.safetensors", large)
    stored.downloads.clear()
    assert resolve_reference(MODEL).fingerprint == resolve_reference(str(folder)).fingerprint
    assert (
        sum(int(last) - int(first) + 1 for first, last in (span.split("-") for span in stored.downloads)) < 10 * 2**20
    )
    assert not (tmp_path / "cache").exists()


def test_what_is_needed_is_copied_once(stored, tiny_model, tmp_path):
    tokenizer = load_tokenizer(MODEL)
    assert tokenizer.chat_template == load_tokenizer(str(tiny_model)).chat_template
    assert read_architecture(MODEL).layers == 2
    assert not list(copy_of(tmp_path).glob("*.safetensors"))
    small = len(stored.downloads)
    model, original = load_causal_lm(MODEL, dtype="auto"), load_causal_lm(str(tiny_model), dtype="auto")
    assert all(one.equal(other) for one, other in zip(model.parameters(), original.parameters(), strict=True))
    assert len(stored.downloads) == small + 1
    load_causal_lm(MODEL, dtype="auto")
    assert len(stored.downloads) == small + 1
    assert {path.name for path in copy_of(tmp_path).iterdir()} == {path.name for path in tiny_model.iterdir()}


def test_a_model_that_is_written_anew_is_copied_anew(stored, tiny_model, tiny_plain_model):
    before = cloud_model.copied(MODEL, weights=True)
    for file in tiny_plain_model.iterdir():
        stored.put(f"models/tiny/{file.name}", file.read_bytes())
    after = cloud_model.copied(MODEL, weights=True)
    assert after != before
    assert (after / "model.safetensors").read_bytes() == (tiny_plain_model / "model.safetensors").read_bytes()
    assert (before / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def test_a_copy_that_broke_off_goes_on_where_it_was(stored, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(cloud_model, "_AT_ONCE", 1)
    stored.download_faults.extend([Fault(), Fault(), Fault(status=403)])
    with pytest.raises(ModelError, match=r"gs://bucket/models/tiny cannot be read: .*roles/storage\.objectViewer"):
        cloud_model.copied(MODEL, weights=True)
    kept = {path.name for path in copy_of(tmp_path).iterdir() if not path.name.startswith(".")}
    assert len(kept) >= 2
    stored.downloads.clear()
    folder = cloud_model.copied(MODEL, weights=True)
    assert len(stored.downloads) == len(list(tiny_model.iterdir())) - len(kept)
    assert (folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def test_of_several_that_need_a_model_one_copies_it(stored, tiny_model):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: cloud_model.copied(MODEL, weights=True), range(4)))
    assert len(folders) == 1
    assert len(stored.downloads) == len(list(tiny_model.iterdir()))


def test_a_disk_without_room_is_found_out_before_anything_is_copied(stored, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(MachineError, match=r"^The copy of gs://bucket/models/tiny needs .* left\. .*RLHF_CACHE_DIR"):
        load_causal_lm(MODEL, dtype="auto")
    assert not stored.downloads


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gs://bucket/models/none", "large_model_reference is 'gs://bucket/models/none', but there is no such folder"),
        ("gs://none/model", "large_model_reference: gs://none/model cannot be read: there is no such bucket or object"),
        ("gs://_/model", "large_model_reference: gs://_/model cannot be read: "),
        ("gs://bucket/models/tiny-2", r"no \*\.safetensors weights"),
        ("gs://bucket/models", r"a folder without config\.json"),
    ],
)
def test_what_is_no_model_is_refused_in_words(stored, reference, message):
    stored.put("models/readme.txt", b"")
    with pytest.raises(ModelError, match=message):
        check_base_model(reference)
    if "such" in message:
        with pytest.raises(ModelError, match=r"There is no folder|cannot be read"):
            load_tokenizer(reference)


def test_a_model_is_checked_without_being_fetched(stored, tiny_model, tmp_path):
    check_base_model(MODEL)
    assert not list(copy_of(tmp_path).glob("*.safetensors"))
    stored.put("models/tiny/model.safetensors", (tiny_model / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut short"):
        check_base_model(MODEL)


def test_a_folder_that_the_mount_does_not_show_is_asked_for(stored, tmp_path, monkeypatch):
    (tmp_path / "mount" / "bucket").mkdir(parents=True)
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "mount")
    assert resolve_reference(MODEL).fingerprint.startswith("sha256:")
    assert stored.downloads
