import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_tuning import environment, registry
from rlhf_tuning.errors import ModelError, RunError
from rlhf_tuning.registry import (
    ModelVersion,
    find_champion,
    list_models,
    register_model,
    registry_name,
    resolve_model,
    tuned_by_one,
)

BIG = registry._LINK_FROM_BYTES


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a model and an adapter, as a training step leaves them."""
    (tmp_path / "made/model").mkdir(parents=True)
    (tmp_path / "made/adapter").mkdir()
    (tmp_path / "made/model/config.json").write_text("{}")
    (tmp_path / "made/model/model.safetensors").write_bytes(b"w" * BIG)
    (tmp_path / "made/adapter/adapter_model.safetensors").write_bytes(b"a" * 100)
    return tmp_path / "made"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def register(made: Path, root: Path, **changes: object) -> ModelVersion:
    arguments: dict[str, object] = {
        "model_dir": str(made / "model"),
        "adapter_dir": str(made / "adapter"),
        "name": "palms",
        "manifest": {"seed": 1},
        "registry_dir": root,
    }
    return register_model(**(arguments | changes))  # type: ignore[arg-type]


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_registered_model_is_found_again_with_all_its_files(made: Path, root: Path) -> None:
    version = register(made, root, manifest={"seed": 7, "data": {"rows": 3}})
    assert version.resource_name == "models/palms@1"
    assert version.aliases == ("default",)
    assert version.manifest == {"seed": 7, "data": {"rows": 3}}
    assert version.path == root / "palms/versions/1"
    assert tree(version.path) == [
        "adapter/adapter_model.safetensors",
        "manifest.json",
        "model/config.json",
        "model/model.safetensors",
        "version.json",
    ]
    assert resolve_model("palms", root) == version
    assert list_models(root) == [version]


def test_a_model_without_an_adapter_has_no_adapter_folder(made: Path, root: Path) -> None:
    version = register(made, root, adapter_dir="")
    assert not (version.path / "adapter").exists()


def test_uses_the_registry_of_the_environment(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "REGISTRY_DIR", root)
    register(made, root, registry_dir=None)
    assert resolve_model("palms").path == root / "palms/versions/1"
    assert len(list_models()) == 1


def test_large_files_are_linked_and_small_ones_copied(made: Path, root: Path) -> None:
    version = register(made, root)
    assert (version.path / "model/model.safetensors").samefile(made / "model/model.safetensors")
    assert not (version.path / "model/config.json").samefile(made / "model/config.json")


def test_copies_where_hard_links_do_not_work(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_file_system(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_file_system)
    version = register(made, root)
    weights = version.path / "model/model.safetensors"
    assert weights.read_bytes() == (made / "model/model.safetensors").read_bytes()
    assert not weights.samefile(made / "model/model.safetensors")


def test_links_into_a_download_cache_become_files(made: Path, root: Path) -> None:
    blob = made / "blob"
    (made / "model/model.safetensors").rename(blob)
    (made / "model/model.safetensors").symlink_to(blob)
    version = register(made, root)
    assert not (version.path / "model/model.safetensors").is_symlink()
    assert (version.path / "model/model.safetensors").stat().st_size == BIG


def test_other_content_makes_the_next_version(made: Path, root: Path) -> None:
    register(made, root)
    (made / "model/config.json").write_text('{"changed": 1}')
    assert register(made, root, aliases=()).version == 2
    assert resolve_model("palms", root).version == 1
    assert [version.version for version in list_models(root)] == [1, 2]


def test_the_same_content_is_one_version(made: Path, root: Path) -> None:
    first = register(made, root)
    again = register(made, root, aliases=("champion",))
    assert again.version == first.version == 1
    assert again.aliases == ("champion", "default")
    assert len(list_models(root)) == 1


def test_the_content_fingerprint_decides_what_is_the_same(made: Path, root: Path) -> None:
    register(made, root, manifest={"content_fingerprint": "sha256:a"})
    (made / "model/config.json").write_text('{"changed": 1}')
    assert register(made, root, manifest={"content_fingerprint": "sha256:a"}).version == 1
    assert register(made, root, manifest={"content_fingerprint": "sha256:b"}).version == 2


def test_aliases_move_to_the_new_version(made: Path, root: Path) -> None:
    register(made, root, aliases=("default", "champion"))
    (made / "model/config.json").write_text('{"changed": 1}')
    register(made, root)
    assert [version.aliases for version in list_models(root)] == [("champion",), ("default",)]
    assert resolve_model("palms@champion", root).version == 1
    assert resolve_model("palms@default", root).version == 2
    assert resolve_model("palms@1", root).version == 1
    assert resolve_model("models/palms@2", root).version == 2


def test_models_are_listed_by_name_and_number(made: Path, root: Path) -> None:
    register(made, root, name="zebra")
    register(made, root, name="ant")
    for number in range(10):
        register(made, root, name="ant", manifest={"content_fingerprint": str(number)})
    listed = [(version.name, version.version) for version in list_models(root)]
    assert listed == [("ant", number) for number in range(1, 12)] + [("zebra", 1)]


def test_a_damaged_version_does_not_hide_the_others(made: Path, root: Path) -> None:
    register(made, root)
    (made / "model" / "config.json").write_text('{"other": 1}', encoding="utf-8")
    register(made, root)
    (root / "palms" / "versions" / "1" / "manifest.json").unlink()
    told: list[str] = []
    assert [model.version for model in registry.list_models(root, told.append)] == [2]
    assert len(told) == 1
    assert "manifest.json is missing" in told[0]


def test_a_registry_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file"):
        registry.list_models(tmp_path / "file")


def test_an_absent_registry_lists_nothing(root: Path) -> None:
    assert list_models(root) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a b", "a@b", "näme", "a\n", "a\x00", "x" * 129, "-rf"]
)
def test_rejects_names_that_are_not_plain(made: Path, root: Path, name: str) -> None:
    with pytest.raises(ModelError, match="not allowed"):
        register(made, root, name=name)
    with pytest.raises(ModelError, match="not allowed"):
        register(made, root, aliases=(name,))
    assert not root.exists()


def test_rejects_an_alias_that_reads_as_a_version(made: Path, root: Path) -> None:
    with pytest.raises(ModelError, match="means a version"):
        register(made, root, aliases=("12",))


@pytest.mark.parametrize("spec", ["", "@1", "palms@", "palms@../../x", "palms@a@b", "models/"])
def test_rejects_a_spec_that_is_not_name_at_alias(made: Path, root: Path, spec: str) -> None:
    register(made, root)
    with pytest.raises(ModelError, match="not allowed"):
        resolve_model(spec, root)


@pytest.mark.parametrize(
    ("display_name", "name"),
    [
        ("palms", "palms"),
        ("My model (v2)", "My-model-v2"),
        ("../../etc", "etc"),
        (" ", ""),
        ("名", "model-51a5d681"),
        ("Café", "Cafe-"),
        ("Модель v2", "v2-"),
        ("a" * 300, "a" * 91 + "-"),
    ],
)
def test_any_display_name_becomes_a_name_that_the_registry_takes(display_name: str, name: str) -> None:
    assert registry_name(display_name).startswith(name)
    assert len(registry_name(display_name)) <= 100


def test_names_in_other_scripts_are_never_taken_for_each_other() -> None:
    names = ["模型", "模型一", "Модель", "Модель 2", "модель", "e\u0301", "é", "e", "!!!", "???", "a" * 300, "a" * 301]
    assert len({registry_name(name) for name in names}) == len(names) - 1  # é in its two spellings


def test_a_model_is_found_by_the_name_that_its_run_was_given(made: Path, root: Path) -> None:
    for name in ("Моя модель", "My model (v2)", "me@home"):
        version = register(made, root, name=registry_name(name))
        for spec in (name, f"{name}@1", f"models/{name}@default", version.resource_name):
            assert resolve_model(spec, root) == version
        with pytest.raises(
            ModelError, match=re.escape(f"Model '{name}' has no version '7'. There are: {version.name}@1")
        ):
            resolve_model(f"{name}@7", root)
    with pytest.raises(ModelError, match="No model 'Чужая модель' in the registry"):
        resolve_model("Чужая модель@1", root)


def test_an_unknown_model_lists_those_there_are(made: Path, root: Path) -> None:
    with pytest.raises(ModelError, match="none yet"):
        resolve_model("palm", root)
    register(made, root)
    with pytest.raises(ModelError, match=r"No model 'palm' .* Models there: palms\."):
        resolve_model("palm", root)


def test_an_unknown_alias_or_version_lists_those_there_are(made: Path, root: Path) -> None:
    register(made, root, aliases=("champion",))
    with pytest.raises(ModelError, match=r"is promoted yet. Name one: palms@1, palms@champion \(version 1\)"):
        resolve_model("palms", root)
    with pytest.raises(ModelError, match=r"no alias 'x'. There are: palms@1, palms@champion \(version 1\)\."):
        resolve_model("palms@x", root)
    with pytest.raises(ModelError, match="no version '2'"):
        resolve_model("palms@2", root)


def test_rejects_folders_that_are_missing_or_empty(made: Path, root: Path) -> None:
    (made / "empty").mkdir()
    with pytest.raises(ModelError, match=r"model folder .*missing does not exist"):
        register(made, root, model_dir=str(made / "missing"))
    with pytest.raises(ModelError, match=r"adapter folder .*empty is empty"):
        register(made, root, adapter_dir=str(made / "empty"))
    assert not root.exists()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_rejects_a_manifest_that_json_cannot_hold(made: Path, root: Path, value: object) -> None:
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        register(made, root, manifest={"value": value})


def test_a_changed_model_is_not_served(made: Path, root: Path) -> None:
    """The weights are a hard link: writing into the original changes the registered file too."""
    version = register(made, root)
    with (made / "model/model.safetensors").open("r+b") as stream:
        stream.write(b"other")
    with pytest.raises(ModelError, match=r"palms@1 is damaged: .*model/model.safetensors"):
        resolve_model("palms", root)
    repaired = register(made, root)
    assert (repaired.version, version.version) == (2, 1)
    assert resolve_model("palms", root).version == 2


def test_a_damaged_version_is_not_taken_for_the_same_content(made: Path, root: Path) -> None:
    register(made, root)
    (root / "palms/versions/1/model/config.json").unlink()
    assert register(made, root).version == 2


def test_a_moved_registry_still_serves(made: Path, root: Path) -> None:
    """Times of writing change when a registry is copied elsewhere; the content decides."""
    version = register(made, root)
    os.utime(version.path / "model/model.safetensors", ns=(1, 1))
    assert resolve_model("palms", root) == version


def test_a_failed_copy_leaves_no_trace(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = register(made, root)

    def full_disk(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(registry.shutil, "copy2", full_disk)
    with pytest.raises(OSError, match="No space left"):
        register(made, root, manifest={"content_fingerprint": "new"})
    assert list_models(root) == [before]
    assert os.listdir(root / "palms/versions") == ["1"]


def test_a_damaged_record_is_named(made: Path, root: Path) -> None:
    version = register(made, root)
    (version.path / "manifest.json").write_text("not json")
    with pytest.raises(ModelError, match=r"manifest\.json is missing or not JSON"):
        resolve_model("palms", root)


def test_registrations_at_the_same_time_all_arrive(made: Path, root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlhf_tuning.registry import register_model\n"
        "for n in range(10): register_model(model_dir=sys.argv[1], adapter_dir='', name='palms',"
        " manifest={'content_fingerprint': sys.argv[3] + str(n)}, aliases=(sys.argv[3] + str(n), 'default'),"
        " registry_dir=Path(sys.argv[2]))\n"
        "register_model(model_dir=sys.argv[1], adapter_dir='', name='palms',"
        " manifest={'content_fingerprint': 'shared'}, aliases=(), registry_dir=Path(sys.argv[2]))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, made / "model", root, name]) for name in ("a", "b", "c")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    versions = list_models(root)
    assert [version.version for version in versions] == list(range(1, 32))
    aliases = json.loads((root / "palms/aliases.json").read_text())
    assert len(aliases) == 31
    for alias, number in aliases.items():
        if alias != "default":
            assert versions[number - 1].manifest["content_fingerprint"] == alias


def test_the_champion_is_the_alias_of_that_name_or_else_the_default(made: Path, root: Path) -> None:
    assert find_champion("palms", root) is None
    register(made, root)
    assert find_champion("palms", root) == resolve_model("palms@1", root)
    register(made, root, aliases=("champion",))
    register(made, root, manifest={"content_fingerprint": "other"})
    champion = find_champion("palms", root)
    assert champion is not None
    assert champion.version == 1


def test_the_rows_that_a_model_was_trained_on_are_kept_with_it(made: Path, root: Path) -> None:
    (made / "rows").write_bytes(b"12345678")
    version = register(made, root, preference_rows=str(made / "rows"))
    assert (version.path / "preference_rows.bin").read_bytes() == b"12345678"


def test_a_model_is_tuned_by_one_process_at_a_time_and_another_is_told_by_whom(root: Path) -> None:
    with tuned_by_one("palms", root):
        with pytest.raises(RunError, match=rf"tuned already, by process {os.getpid()} on .* since 20\d\d"):
            tuned_by_one("palms", root).__enter__()
        with tuned_by_one("other", root):
            pass
    assert tree(root) == []
    with tuned_by_one("palms", root):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(root: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from rlhf_tuning.registry import tuned_by_one\n"
        "held = tuned_by_one('palms', Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(root)], check=False).returncode == 9
    assert tree(root) == [".palms.tuning"]
    with tuned_by_one("palms", root):
        assert f"process {os.getpid()} " in (root / ".palms.tuning").read_text()
    assert list_models(root) == []


def test_a_model_may_be_named_by_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(ModelError, match="no folder with a config"):
        registry.named_model(str(folder))
    (folder / "config.json").write_text("{}")
    found = registry.named_model(str(folder))
    assert (found.name, found.folder, found.parameters) == ("mine", folder, {})
