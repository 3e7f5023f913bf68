"""What `large_model_reference` may be, and what it stands for. Needs neither torch nor transformers.

A reference is an alias of this project (`ALIASES`), a local folder, a `gs://` folder, or a Hugging Face hub id, which may
end in `@` and a revision. Only safetensors weights are accepted, and code that comes with a model is never run.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from rlhf_tuning import cloud_storage
from rlhf_tuning.cloud_storage import StoredObject
from rlhf_tuning.errors import ModelError, ModelNotAtHandError
from rlhf_tuning.models import cloud_model
from rlhf_tuning.models.packaged_models import ALIASES, packaged_model

#: Names by which the Vertex job called models that are on the hub.
_RENAMED = {
    f"llama-2-{size}": f"meta-llama/Llama-2-{size}-hf"
    for size in ("7b", "7b-chat", "13b", "13b-chat", "70b", "70b-chat")
}
#: Names of the Vertex job's own base models, none of which can be had any more.
_RETIRED = re.compile(
    r"(?:publishers/google/models/)?"
    r"(?:(?:text|chat|code|codechat)-(?:bison|unicorn|gecko)|palm|bison|unicorn|gecko|otter|elephant|(?:flan-)?t5[-_])[^/]*",
    re.IGNORECASE,
)
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)(?:@(\w[\w./-]*))?")
#: A model's folder in the hub's cache, which holds its files further down.
_CACHE_NAME = re.compile(r"(?:.*/)?models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/?")


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A reference that exists; a hub id with the commit that it stands for now, so that whoever loads it gets that one.

    `fingerprint` changes when the weights behind the reference change.
    """

    reference: str
    fingerprint: str


def local_folder(reference: str, *, weights: bool = True) -> Path | None:
    """Return the folder that a local or `gs://` reference means, or None for an alias or a hub id.

    A `gs://` folder is read through the mount of Cloud Storage that Vertex gives every step; elsewhere it is copied.

    Args:
        reference: The model.
        weights: Whether they are needed too.

    Raises:
        ModelError: If there is no such folder on Cloud Storage, or it cannot be read.
        MachineError: If the disk has too little room for a copy.
    """
    if reference.startswith("gs://"):
        return _below_the_mount(reference) or cloud_model.copied(reference, weights=weights)
    path = Path(reference).expanduser()
    if reference.startswith(("/", "./", "../", "~")) or path.is_dir():
        return path
    return None


def _below_the_mount(reference: str) -> Path | None:
    """Return a `gs://` folder below the mount, where one is seen: a mount may show no folders that were never made."""
    folder = cloud_storage.mounted(reference.rstrip("/"))
    return folder if folder is not None and folder.is_dir() else None


def split_revision(reference: str) -> tuple[str, str]:
    """Return the hub id and the revision of a reference such as `name@revision`; the revision is empty for all others."""
    found = _HUB_ID.fullmatch(reference)
    if not found or not found[2] or Path(reference).is_dir():
        return reference, ""
    return found[1], found[2]


def model_source(reference: str, *, weights: bool = True) -> dict[str, str]:
    """Return what `from_pretrained` of transformers loads for a reference: a folder, or a hub id and its revision.

    Args:
        reference: The model.
        weights: Whether they are loaded too.
    """
    name, revision = split_revision(reference)
    source = {"pretrained_model_name_or_path": _folder_or_id(name, weights=weights)}
    return source | {"revision": revision} if revision else source


def _folder_or_id(reference: str, *, weights: bool) -> str:
    if reference in ALIASES:
        return str(packaged_model(reference))
    local = local_folder(reference, weights=weights)
    return str(local) if local is not None else reference


def problem_with_name(reference: str, *, parameter: str) -> str:
    """Return why a reference cannot be used, as far as its name tells, or an empty string."""
    name = reference.strip()
    folder = Path(name).expanduser()
    if (cached := _CACHE_NAME.fullmatch(name)) and ((folder / "snapshots").is_dir() or "/" not in name):
        return (
            f"{parameter} is {reference!r}, a folder of the Hugging Face hub's cache, which has no model right in it. Give "
            f"the hub id, {cached['owner']}/{cached['name']}, or the folder snapshots/COMMIT that is inside."
        )
    renamed = _RENAMED.get(name.lower(), "")
    if not (renamed or _RETIRED.fullmatch(name)) or folder.is_dir():
        return ""
    if renamed:
        return (
            f"{parameter} is {reference!r}, the retired Vertex job's name for {renamed}. Use that name, or another Hugging "
            f"Face hub id, a local folder, a gs:// folder, or one of: {_aliases()}."
        )
    return (
        f"{parameter} is {reference!r}, a base model of the retired Vertex job, which can no longer be had. Use an open "
        "causal language model: a Hugging Face hub id such as HuggingFaceTB/SmolLM2-1.7B-Instruct, a local folder, a "
        f"gs:// folder, or one of: {_aliases()}."
    )


def resolve_reference(reference: str, *, parameter: str = "large_model_reference") -> ResolvedModel:
    """Check that a model exists before anything is spent on it, and say which one exactly it is.

    Raises:
        ModelError: If the reference names no model that can be used; the message says what can.
    """
    if not reference.strip():
        raise ModelError(f"{parameter} is empty. Give a Hugging Face hub id, a local folder, or one of: {_aliases()}.")
    if problem := problem_with_name(reference, parameter=parameter):
        raise ModelError(problem)
    if reference in ALIASES:
        return ResolvedModel(reference=reference, fingerprint=f"sha256:{ALIASES[reference].gguf_sha256}")
    found = files_of(reference, parameter=parameter)
    if found.commit:
        name = split_revision(reference)[0]
        return ResolvedModel(reference=f"{name}@{found.commit}", fingerprint=f"commit:{found.commit}")
    return ResolvedModel(reference=reference, fingerprint=_fingerprint(found.files))


def _aliases() -> str:
    return ", ".join(repr(alias) for alias in ALIASES)


class WeightBytes(NamedTuple):
    """The size of a model's weights as they are stored, and how much of that must still come from the hub."""

    stored: int
    to_fetch: int


def weight_bytes(reference: str, *, timeout: float = 10) -> WeightBytes:
    """Return how large a model's weights are; zeros where the hub does not tell.

    Args:
        reference: The model.
        timeout: Seconds in which the hub must answer.

    Raises:
        ModelError: If Cloud Storage does not.
    """
    if reference in ALIASES:
        return WeightBytes(0, 0)
    files = _files_of_folder(reference, "")
    if files is not None:
        return WeightBytes(sum(file.size for name, file in files.items() if name.endswith(".safetensors")), 0)
    from huggingface_hub import HfApi, try_to_load_from_cache

    name, revision = split_revision(reference)
    try:
        told = HfApi().model_info(name, revision=revision or None, files_metadata=True, timeout=timeout).siblings or []
    except (
        Exception
    ):  # the hub client lets errors of its transport through, whatever that is; loading says what is wrong
        return WeightBytes(0, 0)
    sizes = {file.rfilename: file.size or 0 for file in told if file.rfilename.endswith(".safetensors")}
    here = [one for one in sizes if isinstance(try_to_load_from_cache(name, one, revision=revision or None), str)]
    return WeightBytes(sum(sizes.values()), sum(sizes.values()) - sum(sizes[one] for one in here))


class ModelFile(Protocol):
    """A file of a model: here, on Cloud Storage or on the hub."""

    @property
    def size(self) -> int:
        """Return its bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Return some of its bytes; fewer where it ends."""


@dataclass(frozen=True)
class _LocalFile:
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, length: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)


@dataclass(frozen=True)
class _CloudFile:
    """A file on Cloud Storage that no mount shows."""

    stored: StoredObject
    folder: str
    parameter: str

    @property
    def size(self) -> int:
        return self.stored.size

    def read(self, start: int, length: int) -> bytes:
        with cloud_model.explaining(self.folder, parameter=self.parameter):
            return self.stored.read(start, length)


@dataclass(frozen=True)
class _HubFile:
    """A file on the hub. Weights are read in pieces; any other is fetched into the cache, where it will be needed."""

    repository: str
    commit: str
    path: str
    size: int
    parameter: str

    def read(self, start: int, length: int) -> bytes:
        from huggingface_hub import (
            get_session,
            hf_hub_download,
            hf_hub_url,
            hf_raise_for_status,
            try_to_load_from_cache,
        )
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not re-exported

        with _explaining_hub(f"{self.repository}@{self.commit}", self.parameter):
            here = try_to_load_from_cache(self.repository, self.path, revision=self.commit)
            if not isinstance(here, str) and not self.path.endswith(".safetensors"):
                here = hf_hub_download(self.repository, self.path, revision=self.commit)
            if isinstance(here, str):
                return _LocalFile(Path(here)).read(start, length)
            wanted = {"Range": f"bytes={start}-{min(start + length, self.size) - 1}"}
            address = hf_hub_url(self.repository, self.path, revision=self.commit)
            answer = get_session().get(address, headers=build_hf_headers() | wanted, timeout=10)
            hf_raise_for_status(answer)
            content = bytes(answer.content)
        return content if answer.status_code == 206 else content[start : start + length]


class ModelFiles(NamedTuple):
    """The files of a model by name, and where they are.

    Attributes:
        files: Those right in its folder.
        source: What loads it from there: a reference, or a folder of the hub's cache.
        commit: On the hub; empty for a folder.
        complete: Whether these are all: of a hub's model some may be in the cache alone.
    """

    files: Mapping[str, ModelFile]
    source: str
    commit: str = ""
    complete: bool = True


def files_of(reference: str, *, parameter: str) -> ModelFiles:
    """Return the files of a model that is no alias.

    Raises:
        ModelError: If there is no such model.
        ModelNotAtHandError: If nobody here can tell.
    """
    files = _files_of_folder(reference, parameter)
    if files is None:
        return _files_on_hub(reference, parameter)
    if not files:
        raise ModelError(
            f"{parameter} is {reference!r}, but there is no such folder, or no file right in it. Give a folder with "
            f"config.json and safetensors weights, a Hugging Face hub id, or one of: {_aliases()}."
        )
    return ModelFiles(files, reference)


def files_at_hand(reference: str) -> ModelFiles | None:
    """Return the files of a model that is in a folder here, or in the hub's cache; None for any other."""
    if reference in ALIASES or reference.startswith("gs://"):
        return None
    folder = local_folder(reference)
    if folder is None:
        return _files_in_cache(reference) if _HUB_ID.fullmatch(reference) else None
    files = _files_in(folder)
    return ModelFiles(files, reference) if files else None


def _files_of_folder(reference: str, parameter: str) -> Mapping[str, ModelFile] | None:
    """Return the files of a folder by name, none where there is no such folder; None for an alias or a hub id."""
    if reference.startswith("gs://") and _below_the_mount(reference) is None:
        stored = cloud_model.files_of(reference, parameter=parameter)
        return {name: _CloudFile(one, reference, parameter) for name, one in stored.items()}
    folder = local_folder(reference)
    return None if folder is None else _files_in(folder)


def _files_in(folder: Path) -> dict[str, ModelFile]:
    return {path.name: _LocalFile(path) for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}


def content_fingerprint(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Return a digest of a folder's files: small ones whole, large ones by size, both ends and 64 samples between them.

    Args:
        folder: A model, of which 100 GB take a second so.
        leave_out: Names of files that do not count.
    """
    return _fingerprint({name: file for name, file in _files_in(folder).items() if name not in leave_out})


def _fingerprint(files: Mapping[str, ModelFile]) -> str:
    """Return the digest of files, the same wherever they are. From Cloud Storage each sample takes a request."""
    digest = hashlib.sha256()
    names = sorted(files)
    with ThreadPoolExecutor(8) as pool:
        for name, sampled in zip(names, pool.map(lambda name: _sampled_bytes(files[name]), names), strict=True):
            digest.update(f"{name}\0{files[name].size}\0".encode())
            digest.update(sampled)
    return f"sha256:{digest.hexdigest()}"


def _sampled_bytes(file: ModelFile, whole_up_to: int = 32 * 2**20, piece: int = 2**16, pieces: int = 66) -> bytes:
    size = file.size
    if size <= whole_up_to:
        return hashlib.sha256(file.read(0, size)).digest()
    digest = hashlib.sha256()
    for index in range(pieces):
        digest.update(file.read((size - piece) * index // (pieces - 1), piece))
    return digest.digest()


def _files_on_hub(reference: str, parameter: str) -> ModelFiles:
    """Return the files that a hub id stands for now, from the hub or, without it, from the local hub cache."""
    from huggingface_hub import HfApi

    if not _HUB_ID.fullmatch(reference):
        raise ModelError(
            f"{parameter} is {reference!r}, which is no folder here and cannot be a hub id. Known aliases: {_aliases()}."
        )
    name, revision = split_revision(reference)
    try:
        with _explaining_hub(reference, parameter):
            told = HfApi().model_info(name, revision=revision or None, files_metadata=True, timeout=10)
    except ModelNotAtHandError:
        if cached := _files_in_cache(reference):
            return cached
        raise
    commit = str(told.sha)
    listed = [file for file in told.siblings or [] if "/" not in file.rfilename]
    # A mirror may not say how large they are, which reading them takes.
    known = {
        file.rfilename: _HubFile(name, commit, file.rfilename, file.size, parameter)
        for file in listed
        if file.size is not None
    }
    return ModelFiles(known, f"{name}@{commit}", commit, complete=len(known) == len(listed))


def _files_in_cache(reference: str) -> ModelFiles | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, revision = split_revision(reference)
    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return ModelFiles(_files_in(folder), str(folder), folder.name, complete=False)


@contextmanager
def _explaining_hub(reference: str, parameter: str) -> Iterator[None]:
    """Turn what asking the hub raises into one of our errors."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = split_revision(reference)
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{parameter} is {reference!r}, a gated model. Accept its licence on its hub page and log in with "
            "'hf auth login' (or set HF_TOKEN) where the run happens."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{parameter} is {reference!r}, which the Hugging Face hub does not have (or not for you: private models need "
            f"'hf auth login'). Check the spelling, or give a local folder or one of: {_aliases()}."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{parameter} is {reference!r}, but {name} has no revision {revision!r} on the Hugging Face hub. Give a branch, "
            "a tag or a commit that its page lists, or leave '@' and what follows away."
        ) from None
    except HFValidationError as error:
        raise ModelError(
            f"{parameter} is {reference!r}, which is no folder here and cannot be a hub id: {error} Known aliases: "
            f"{_aliases()}."
        ) from None
    except HfHubHTTPError as error:
        raise ModelNotAtHandError(f"{parameter}: the Hugging Face hub refused {reference!r}: {error}.") from None
    except Exception as error:  # the hub client lets errors of its transport through, whatever that is
        raise ModelNotAtHandError(
            f"{parameter} is {reference!r}: no such folder here, not in the local hub cache, and the Hugging Face hub "
            f"cannot be reached ({type(error).__name__}). Give a local folder or one of: {_aliases()}."
        ) from None
