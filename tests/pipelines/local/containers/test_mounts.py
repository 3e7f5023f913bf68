from pathlib import Path

import pytest

from rlhf_pipelines.local.containers.mounts import Mount, choose_mounts, expand_home


def read_only(arguments):
    return {mount.path for mount in choose_mounts(arguments, writable=(), readable=()) if mount.read_only}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "more/c.jsonl"):
        (tmp_path / "data" / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "seen"),
    [
        ("data/a.jsonl", "data/a.jsonl"),
        ("./data", "data"),
        ("data/*.jsonl", "data"),
        ("data/**/c.jsonl", "data"),
        ("*/a.jsonl", "."),
    ],
)
def test_local_data_is_seen_read_only_at_its_own_path(folder, reference, seen):
    assert read_only({"prompt_dataset": reference}) == {str((folder / seen).resolve())}
    assert read_only({"prompt_dataset": f"{folder}/{reference}"}) == {str((folder / seen).resolve())}


@pytest.mark.parametrize("reference", ["org/model", "gs://bucket/*.jsonl", "missing.jsonl", "missing/*.jsonl", ""])
def test_what_is_not_here_is_left_to_the_first_step(folder, reference):
    assert read_only({"large_model_reference": reference}) == set()


def test_text_that_happens_to_name_a_folder_is_no_path(folder):
    assert read_only({"instruction": "data"}) == set()


def test_a_rubric_is_seen_where_it_is_a_file_and_not_where_it_is_words(folder, monkeypatch):
    (folder / "rubric.md").write_text("Be kind.")
    assert read_only({"judge_rubric": "rubric.md"}) == {str(folder / "rubric.md")}
    for words in ("data", "- Be *kind*.\n- Read rubric.md", ""):
        assert read_only({"judge_rubric": words}) == set()
    monkeypatch.setenv("HOME", str(folder))
    assert expand_home({"judge_rubric": "~/rubric.md"}) == {"judge_rubric": f"{folder}/rubric.md"}
    assert expand_home({"judge_rubric": "~ is no path"}) == {"judge_rubric": "~ is no path"}


def test_a_suite_is_seen_where_it_is_a_file_and_not_where_it_is_ours(folder):
    (folder / "suite.jsonl").write_text("{}")
    (folder / "general").mkdir()
    assert read_only({"regression_suite": "suite.jsonl"}) == {str(folder / "suite.jsonl")}
    assert read_only({"regression_suite": "general"}) == set()


def test_what_links_lead_to_is_seen_too(folder):
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0a").write_text("weights")
    (blobs / "latest").symlink_to("0a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/latest")
    assert read_only({"large_model_reference": str(snapshot)}) == {
        str(snapshot),
        str(blobs / "latest"),
        str(blobs / "0a"),
    }


def test_links_in_a_circle_end(folder):
    (folder / "data" / "x").symlink_to("y")
    (folder / "data" / "y").symlink_to("x")
    assert read_only({"prompt_dataset": "data"}) == {str(folder / "data")}


def test_folders_to_write_to_are_made_and_not_seen_twice(folder):
    mounts = choose_mounts(
        {"registry_dir": str(folder / "models"), "prompt_dataset": str(folder / "runs" / "old.jsonl")},
        writable=(folder / "runs",),
        readable=(folder / "data" / "a.jsonl", folder / "none"),
    )
    (folder / "runs" / "old.jsonl").write_text("{}")
    assert mounts == [
        Mount(str(folder / "runs"), read_only=False),
        Mount(str(folder / "models"), read_only=False),
        Mount(str(folder / "data" / "a.jsonl"), read_only=True),
    ]
    assert (folder / "models").is_dir()


def test_home_is_written_out_in_paths_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    arguments = {"prompt_dataset": "~/p.jsonl", "registry_dir": "~/m", "instruction": "~/ is home", "seed": 1}
    assert expand_home(arguments) == {
        "prompt_dataset": "/home/someone/p.jsonl",
        "registry_dir": str(Path("/home/someone/m")),
        "instruction": "~/ is home",
        "seed": 1,
    }


def test_a_local_adapter_to_start_from_is_seen_and_a_registered_one_needs_no_mount_of_its_own(folder):
    (folder / "adapter").mkdir()
    assert read_only({"warm_start_adapter": "./adapter"}) == {str(folder / "adapter")}
    assert read_only({"warm_start_adapter": "palms@champion"}) == set()
