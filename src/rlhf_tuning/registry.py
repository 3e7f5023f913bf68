"""A model registry in a folder: numbered versions whose files never change, and aliases that move.

    REGISTRY_DIR/NAME/versions/3/model/          the model that plain transformers loads
                                 adapter/        its LoRA adapter, when there is one
                                 preference_rows.bin   which preferences it was trained on, when that is known
                                 manifest.json   what the caller said about it, and what is decided of it later
                                 version.json    when it was registered and the digest of every file
    REGISTRY_DIR/NAME/aliases.json               {"champion": 2, "default": 2, "challenger": 3}

A version appears whole or not at all: it is put together beside the others and renamed into place. Large files are hard
links where the file system has them, so a version costs no space. A program that writes into the original would then
change the version too, so `resolve_model` checks that every file is still the one registered.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rlhf_tuning import environment, machine
from rlhf_tuning.errors import ModelError, RunError
from rlhf_tuning.manifest import damaged, manifest_fault, parsed_manifest, parsed_object

DEFAULT_ALIAS = "default"
#: The version that a new one must beat.
CHAMPION_ALIAS = "champion"
#: The newest version that did not beat the champion, or beat it and waits for approval.
CHALLENGER_ALIAS = "challenger"
#: Where there is no champion, what a recurring run's new rows are held against, so that it does not learn the same again.
CHAMPIONS = (CHAMPION_ALIAS, DEFAULT_ALIAS, CHALLENGER_ALIAS)
#: File of a version that tells which preferences it was trained on (see `rlhf_tuning.data.known_rows`).
PREFERENCE_ROWS = "preference_rows.bin"
#: File beside an adapter, or in its place where all weights learnt, that holds the settings of the method.
TUNING_SETTINGS = "tuning.json"
#: Methods, by their names in those settings, and how people call them.
METHODS = {
    "reinforcement": "RLHF",
    "supervised": "Supervised tuning",
    "preference": "Preference tuning",
    "distillation": "On-policy distillation",
}
#: What a watch over the training saw, beside them.
WATCH = "watch.json"
#: Beside the weights that an early stop chose: the loss on held-out examples at every look.
HELD_OUT_LOSS = "held_out_loss.json"
#: Beside them, where the run had a budget: what that did.
BUDGET = "budget.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Below this size a copy costs nothing, and is safe from whatever happens to the original.
_LINK_FROM_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered version of a model.

    `path` holds `model/` and, when there is one, `adapter/`; `fingerprint` changes with the content.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    path: Path
    manifest: dict[str, object]
    created: str
    fingerprint: str

    @property
    def resource_name(self) -> str:
        """Return the name by which pipelines and commands refer to this version."""
        return f"models/{self.name}@{self.version}"


def method_of(adapter_dir: str | Path) -> str:
    """Return the name among `METHODS` of what left an adapter; models of before 0.3 do not say it."""
    folder = Path(adapter_dir)
    file = folder / TUNING_SETTINGS
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    earlier = "supervised" if (folder / HELD_OUT_LOSS).is_file() else "reinforcement"
    return str(settings.get("method", earlier))


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model that a person named.

    `parameters` are those that it was tuned with, as far as they are known.
    """

    name: str
    folder: Path
    parameters: dict[str, Any]


def register_model(
    *,
    model_dir: str,
    adapter_dir: str,
    name: str,
    manifest: Mapping[str, object],
    aliases: Sequence[str] = (DEFAULT_ALIAS,),
    preference_rows: str = "",
    registry_dir: Path | None = None,
) -> ModelVersion:
    """Add a version of model `name`, point `aliases` at it, and return it.

    The same content registered twice is one version: its aliases move to it and its first manifest stays.

    Args:
        model_dir: Folder with the model; its files are linked or copied.
        adapter_dir: Folder with the adapter; empty when there is none.
        name: Letters, digits, `-`, `_` and `.`.
        manifest: What made the model, as JSON values. `content_fingerprint`, when given, says which models are the
            same; otherwise the digest of all files does.
        aliases: Names that are to mean this version from now on.
        preference_rows: File of the rows that it was trained on; empty when there is none.
        registry_dir: The registry; `RLHF_REGISTRY_DIR` when absent.

    Raises:
        ModelError: If a name or alias is not allowed, a folder is missing or empty, or the manifest is not JSON.
    """
    _check_name(name, "Model name")
    for alias in aliases:
        _check_name(alias, "Alias")
        if alias.isdecimal():
            raise ModelError(f"Alias '{alias}' is a number, which means a version. Use a name such as 'champion'.")
    manifest_text = _manifest_text(manifest)
    sources = _source_files(Path(model_dir), "model")
    if adapter_dir:
        sources |= _source_files(Path(adapter_dir), "adapter")
    if preference_rows:
        sources[PREFERENCE_ROWS] = Path(preference_rows).resolve()
    files = {target: _digest(source) for target, source in sources.items()}
    fingerprint = str(manifest.get("content_fingerprint") or _combined_digest(files))

    folder = _root(registry_dir) / name
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    version = _same_content(versions, fingerprint)
    if version is None:
        staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=versions))
        try:
            for target, source in sources.items():
                _place(source, staging / target)
            (staging / "manifest.json").write_text(manifest_text, encoding="utf-8")
            record = {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "fingerprint": fingerprint,
                "files": {
                    target: {"sha256": digest, "mtime_ns": (staging / target).stat().st_mtime_ns}
                    for target, digest in files.items()
                },
            }
            (staging / "version.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            staging.chmod(0o755)
            with _locked(folder):
                # Another process may have registered the same content while this one copied.
                version = _same_content(versions, fingerprint) or _publish(staging, versions)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return name_version(_load(folder, version, {}), aliases)


def name_version(version: ModelVersion, aliases: Collection[str]) -> ModelVersion:
    """Let aliases mean a version from now on, and return it as it is then."""
    folder = version.path.parent.parent
    with _locked(folder):
        _write_aliases(folder, {**_read_aliases(folder), **dict.fromkeys(aliases, version.version)})
        return _load(folder, version.version, _read_aliases(folder))


def amend_version(
    version: ModelVersion,
    change: Callable[[ModelVersion], Mapping[str, object]],
    *,
    aliases: Collection[str] = (),
    without: Collection[str] = (),
) -> ModelVersion:
    """Change what is said of a version, and what it is called; its files stay as they are.

    Args:
        version: The version.
        change: Returns its manifest from now on. It is given the version as it is then, when nobody else can change the
            model. What it raises leaves all as it was.
        aliases: Names that are to mean this version from now on.
        without: Names that are not to mean it any more.

    Raises:
        ModelError: If the manifest is not JSON.
    """
    folder = version.path.parent.parent
    with _locked(folder):
        named = _read_aliases(folder)
        manifest = _manifest_text(change(_load(folder, version.version, named)))
        kept = {alias: number for alias, number in named.items() if number != version.version or alias not in without}
        # The aliases first: who fails between the two can do it again.
        _write_aliases(folder, {**kept, **dict.fromkeys(aliases, version.version)})
        _replace(version.path / "manifest.json", manifest)
        return _load(folder, version.version, _read_aliases(folder))


def check_writable(registry_dir: Path | None = None) -> None:
    """Check that a model can be registered, before there is one.

    Args:
        registry_dir: The registry; `RLHF_REGISTRY_DIR` when absent.

    Raises:
        MachineError: If nothing can be written there.
    """
    machine.check_writable(
        _root(registry_dir),
        what="The model would be registered",
        remedy="Name another folder with registry_dir, or with the environment variable RLHF_REGISTRY_DIR.",
    )


def registry_name(display_name: str, most: int = 100) -> str:
    """Return a display name as the registry can have it: `My model (v2)` becomes `My-model-v2`.

    Names in other scripts than ours, and longer ones, get a digest of the whole name, so that no two are taken for each
    other: `Café` becomes `Cafe-` and eight digits. Blank ones stay empty.

    Args:
        display_name: Any text.
        most: So many characters at most.
    """
    name = unicodedata.normalize("NFC", display_name.strip())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    if not name or (plain and name.isascii() and len(plain) <= most):
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-._")[: most - 9].rstrip("-._")
    return f"{plain or 'model'}-{digest}"


def list_models(
    registry_dir: Path | None = None, on_damage: Callable[[str], None] = lambda message: None
) -> list[ModelVersion]:
    """Return every version of every model, by name and then by number.

    Args:
        registry_dir: The registry; `RLHF_REGISTRY_DIR` when absent.
        on_damage: Is told of each version, or model, whose records cannot be read and which is therefore left out.

    Raises:
        ModelError: If the registry is no folder.
    """
    root = _root(registry_dir)
    if root.exists() and not root.is_dir():
        raise ModelError(f"The registry {root} is a file. Give the folder in which models were registered.")
    found = []
    for folder in _model_folders(root):
        for number in _version_numbers(folder / "versions"):
            try:
                found.append(_load(folder, number, _read_aliases(folder)))
            except ModelError as error:
                on_damage(str(error))
    return found


def resolve_model(spec: str, registry_dir: Path | None = None) -> ModelVersion:
    """Return the version that `spec` means.

    Args:
        spec: `NAME` (its alias `default`), `NAME@ALIAS` or `NAME@VERSION`; a leading `models/` is allowed, and the
            display name that a run was given in place of the name made from it.
        registry_dir: The registry; `RLHF_REGISTRY_DIR` when absent.

    Raises:
        ModelError: If there is no such model, alias or version, or its files were changed after it was registered.
    """
    root = _root(registry_dir)
    folders = {folder.name: folder for folder in _model_folders(root)}
    name, at, reference = _split(spec.removeprefix("models/"), folders)
    if at:
        _check_name(reference, "Alias or version")
    if name not in folders:
        names = ", ".join(sorted(folders)) or "none yet"
        raise ModelError(f"No model '{name}' in the registry {root}. Models there: {names}.")
    folder = folders[name]
    # A name in another script has one in the registry that nobody would know for it.
    asked = spec.removeprefix("models/").removesuffix(f"{at}{reference}")
    aliases, numbers = _read_aliases(folder), _version_numbers(folder / "versions")
    if not reference and DEFAULT_ALIAS not in aliases:
        raise ModelError(
            f"No version of model '{asked}' is promoted yet. Name one: {_versions_and_aliases(name, numbers, aliases)}"
        )
    reference = reference or DEFAULT_ALIAS
    number = int(reference) if reference.isdecimal() else aliases.get(reference)
    if number not in numbers:
        kind = "version" if reference.isdecimal() else "alias"
        raise ModelError(
            f"Model '{asked}' has no {kind} '{reference}'. There are: {_versions_and_aliases(name, numbers, aliases)}"
        )
    changed = _changed_files(folder / "versions" / str(number))
    if changed:
        raise ModelError(
            f"{name}@{number} is damaged: changed or removed after it was registered: {', '.join(changed)} "
            f"in {folder / 'versions' / str(number)}. Register the model again."
        )
    return _load(folder, number, aliases)


def named_model(spec: str, registry_dir: Path | None = None) -> NamedModel:
    """Return the model that `spec` means: one of the registry, or a folder that transformers loads.

    Args:
        spec: As for `resolve_model`; or a folder, which begins with `/`, `./`, `../` or `~`.
        registry_dir: The registry; `RLHF_REGISTRY_DIR` when absent.

    Raises:
        ModelError: If there is no such model or folder, or its files were changed after it was registered.
    """
    if spec.startswith(("/", "./", "../", "~")):
        folder = Path(spec).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{spec} is no folder with a config.json, so it holds no model that can be loaded.")
        return NamedModel(name=folder.name, folder=folder, parameters={})
    version = resolve_model(spec, registry_dir)
    parameters = version.manifest.get("parameters")
    return NamedModel(
        name=f"{version.name}@{version.version}",
        folder=version.path / "model",
        parameters=parameters if isinstance(parameters, dict) else {},
    )


def _split(spec: str, folders: Collection[str]) -> tuple[str, str, str]:
    """Return the name of a model, `@` and what follows it; both empty where a name stands alone."""
    name, at, reference = spec.partition("@")
    if name in folders:
        return name, at, reference
    if registry_name(spec) in folders:  # `@` may be a part of a display name
        return registry_name(spec), "", ""
    name, at, reference = spec.rpartition("@") if at else (spec, "", "")
    made = registry_name(name)
    if not made:
        _check_name(name, "Model name")
    return (made if made in folders else name), at, reference


def _versions_and_aliases(name: str, numbers: Sequence[int], aliases: Mapping[str, int]) -> str:
    versions = [f"{name}@{number}" for number in numbers]
    return ", ".join([*versions, *(f"{name}@{alias} (version {aliases[alias]})" for alias in sorted(aliases))]) + "."


def find_champion(name: str, registry_dir: Path | None = None) -> ModelVersion | None:
    """Return the version that is `champion`, or else `default` or `challenger`; None when there is no such version.

    Raises:
        ModelError: If that version's files were changed after it was registered.
    """
    folder = _root(registry_dir) / name
    aliases = _read_aliases(folder)
    alias = next((alias for alias in CHAMPIONS if alias in aliases), "")
    return resolve_model(f"{name}@{alias}", registry_dir) if alias else None


def count_versions(versions: Path, *, after: int) -> int:
    """Return how many versions a model's folder of them has beyond a number."""
    return sum(number > after for number in _version_numbers(versions))


@contextmanager
def tuned_by_one(name: str, registry_dir: Path | None = None) -> Iterator[None]:
    """Let one process at a time tune model `name`.

    The lock is the kernel's and ends with the process, however it ends, so a dead process never stands in the way; the
    file says to others who holds it and since when.

    Raises:
        RunError: If another process tunes it now.
    """
    root = _root(registry_dir)
    root.mkdir(parents=True, exist_ok=True)
    path = root / f".{name}.tuning"
    with _lock_file(path) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _lock_file(path: Path) -> Iterator[TextIO]:
    while True:
        with path.open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                owner = stream.read() or "another process"
                raise RunError(
                    f"This model is being tuned already, by {owner}; it is never tuned twice at once. Wait for that run, "
                    f"or stop it. ({path})"
                ) from None
            # The holder before may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                yield stream
                return


def _root(registry_dir: Path | None) -> Path:
    return Path(registry_dir) if registry_dir is not None else environment.REGISTRY_DIR


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{what} {name!r} is not allowed: use 1 to 128 letters, digits, '-', '_' and '.', "
            "starting with a letter or digit."
        )


def _manifest_text(manifest: Mapping[str, object]) -> str:
    if fault := manifest_fault(manifest):
        raise ModelError(f"The model's manifest cannot be kept: {fault}.")
    try:
        return json.dumps(dict(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ModelError(f"The model's manifest cannot be written as JSON: {error}.") from error


def _source_files(source_dir: Path, kind: str) -> dict[str, Path]:
    """Return each file's place in the version, such as `model/config.json`, and where it is now."""
    if not source_dir.is_dir():
        raise ModelError(f"The {kind} folder {source_dir} does not exist.")
    # Downloaded models are folders of links into a cache, hence the resolving.
    files = {
        f"{kind}/{path.relative_to(source_dir).as_posix()}": path.resolve()
        for path in sorted(source_dir.rglob("*"))
        if path.is_file()
    }
    if not files:
        raise ModelError(f"The {kind} folder {source_dir} is empty.")
    return files


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _combined_digest(files: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {target}\n" for target, digest in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size >= _LINK_FROM_BYTES:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without hard links
    shutil.copy2(source, target)


def _publish(staging: Path, versions: Path) -> int:
    """Rename `staging` to the next free number. A rename onto a version that exists fails, whoever made it."""
    number = max(_version_numbers(versions), default=0) + 1
    while True:
        try:
            staging.rename(versions / str(number))
        except OSError:
            if not (versions / str(number)).exists():
                raise
            number += 1
        else:
            return number


def _same_content(versions: Path, fingerprint: str) -> int | None:
    """Return the newest undamaged version with this content."""
    for number in reversed(_version_numbers(versions)):
        folder = versions / str(number)
        if _read_record(folder).get("fingerprint") == fingerprint and not _changed_files(folder):
            return number
    return None


def _changed_files(version_dir: Path) -> list[str]:
    """Return the files that are not what was registered. An unchanged time of writing saves reading the file."""
    changed = []
    for target, known in _read_record(version_dir)["files"].items():
        path = version_dir / target
        if not path.is_file() or (path.stat().st_mtime_ns != known["mtime_ns"] and _digest(path) != known["sha256"]):
            changed.append(target)
    return changed


def _model_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    folders = [path for path in sorted(root.iterdir()) if _NAME.fullmatch(path.name)]
    return [folder for folder in folders if _version_numbers(folder / "versions")]


def _version_numbers(versions: Path) -> list[int]:
    if not versions.is_dir():
        return []
    return sorted(int(path.name) for path in versions.iterdir() if path.name.isdecimal())


def _load(folder: Path, version: int, aliases: Mapping[str, int]) -> ModelVersion:
    path = folder / "versions" / str(version)
    record = _read_record(path)
    return ModelVersion(
        name=folder.name,
        version=version,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == version)),
        path=path,
        manifest=parsed_manifest(_read(path / "manifest.json"), path / "manifest.json"),
        created=str(record.get("created", "")),
        fingerprint=str(record.get("fingerprint", "")),
    )


def _read_aliases(folder: Path) -> dict[str, int]:
    path = folder / "aliases.json"
    aliases = parsed_object(_read(path), path) if path.exists() else {}
    for alias, number in aliases.items():
        if type(number) is not int:
            raise damaged(f"in {path} {alias} is {number!r}, which is no number of a version")
    return aliases


def _read_record(version_dir: Path) -> dict[str, Any]:
    """Return when a version was registered, and what is known of every file."""
    path = version_dir / "version.json"
    record = parsed_object(_read(path), path)
    files = record.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(known, dict) and known.keys() >= {"mtime_ns", "sha256"} for known in files.values()
    ):
        raise damaged(f"{path} does not list the files of the version with their digests")
    return record


def _write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    _replace(folder / "aliases.json", json.dumps(dict(sorted(aliases.items())), indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    descriptor, staging = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(staging).chmod(0o644)
        Path(staging).replace(path)
    finally:
        Path(staging).unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise damaged(f"{path} is missing or not JSON ({error})") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change `folder`; the lock ends with the process, however it ends."""
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
