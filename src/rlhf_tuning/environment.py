"""Every environment variable that this project reads, with its default beside it."""

import os
import re
import sys
import tempfile
from pathlib import Path


def _home() -> Path:
    """Return the home folder, or a temporary one in its place where this user can write to none.

    A cluster may run a step as any user, who has no home, with a file system that is read-only but for `/tmp`. Libraries
    find their home by the same variable.
    """
    home = Path(os.path.expanduser("~"))  # stays `~` where there is none; pathlib raises
    if home.is_absolute() and os.access(next(place for place in (home, *home.parents) if place.exists()), os.W_OK):
        return home
    os.environ["HOME"] = str(_temporary_home())
    return Path(os.environ["HOME"])


def _temporary_home() -> Path:
    """Return the same folder for every command of a user, so that one finds what another left; nobody else's, though."""
    home = Path(tempfile.gettempdir()) / f"rlhf-home-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    return (
        home
        if home.lstat().st_uid == os.getuid() and not home.is_symlink()
        else Path(tempfile.mkdtemp(prefix="rlhf-home-"))
    )


def _number(name: str, default: str) -> float:
    text = os.environ.get(name, default)
    try:
        return float(text)
    except ValueError:
        print(
            f"rlhf: the environment variable {name} is {text!r}; it must be a number, such as {default}.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


_HOME = _home()

#: Where converted base models are kept between runs.
CACHE_DIR = Path(
    os.environ.get("RLHF_CACHE_DIR", "")
    or Path(os.environ.get("XDG_CACHE_HOME", "") or _HOME / ".cache") / "rlhf-pipelines"
)

#: What to do where nothing can be written there.
NAME_CACHE = "Name another folder with the environment variable RLHF_CACHE_DIR."

#: Where the local model registry lives.
REGISTRY_DIR = Path(
    os.environ.get("RLHF_REGISTRY_DIR", "")
    or Path(os.environ.get("XDG_DATA_HOME", "") or _HOME / ".local" / "share") / "rlhf-pipelines" / "models"
)

#: Network of the containers of `rlhf run --runner docker`, such as `host` or `none`; the engine's default when empty.
DOCKER_NETWORK = os.environ.get("RLHF_DOCKER_NETWORK", "")

#: Images that the steps run in, as `light=REFERENCE,trainer=REFERENCE`; empty where they are processes of a machine.
IMAGES = os.environ.get("RLHF_IMAGES", "")

#: The Python that runs vLLM, where it is neither installed here nor in the place that the command names by itself.
VLLM_PYTHON = os.environ.get("RLHF_VLLM_PYTHON", "")

#: A list of prices of machines in the place of the one that is built in, a CSV file.
PRICES = os.environ.get("RLHF_PRICES", "")

#: The machine of the training steps, such as `a100-80gb-x8`; empty where they run on the machine at hand.
MACHINE = os.environ.get("RLHF_MACHINE", "")

#: Key of the server whose language model judges answers; sent to it and shown nowhere.
JUDGE_API_KEY = os.environ.get("RLHF_JUDGE_API_KEY", "")

#: Key of the server whose language model labels prompts, likewise.
TEACHER_API_KEY = os.environ.get("RLHF_TEACHER_API_KEY", "")

#: Key for Gemini under the names that Google's libraries know, where neither of the two is set.
GEMINI_API_KEY = os.environ.get("GEMINI_API_KEY", "") or os.environ.get("GOOGLE_API_KEY", "")

#: "events" makes a step print its progress as machine-readable lines, which `rlhf run` draws; "lines" as sparse text.
PROGRESS = os.environ.get("RLHF_PROGRESS", "lines")

#: Seconds between two progress lines of a step when RLHF_PROGRESS is "lines".
PROGRESS_SECONDS = _number("RLHF_PROGRESS_SECONDS", "15")

#: Google Cloud region where none is given, by the names that Google's own tools read.
GOOGLE_CLOUD_REGION = os.environ.get("GOOGLE_CLOUD_REGION", "") or os.environ.get("CLOUD_ML_REGION", "")

#: Address of the Vertex AI API where it is not the region's own, such as that of a Private Service Connect endpoint.
VERTEX_API_ENDPOINT = os.environ.get("RLHF_VERTEX_API_ENDPOINT", "")

#: Address of Secret Manager where it is not Google's own, such as that of a Private Service Connect endpoint.
SECRET_MANAGER_ENDPOINT = os.environ.get("RLHF_SECRET_MANAGER_ENDPOINT", "") or "https://secretmanager.googleapis.com"

#: Where the buckets of Cloud Storage are mounted, each under its name. At the usual place only a mount of their kind counts;
#: a folder that is named here is taken at its word.
GCS_MOUNT = Path(os.environ.get("RLHF_GCS_MOUNT", "") or "/gcs")

#: In how many processes a component trains; by default one for each GPU. On a machine without a GPU they share its CPU.
PROCESSES = os.environ.get("RLHF_PROCESSES", "")

#: "1" divides a base model's layers over the processes even where each could hold them all.
SHARD = os.environ.get("RLHF_SHARD", "")

#: By which launchers of several processes (torchrun, accelerate, mpirun) tell each of them its place.
_LAUNCHERS = re.compile(
    r"(?:(?:GROUP_|LOCAL_|NODE_|ROLE_)?RANK|(?:GROUP_|LOCAL_|ROLE_)?WORLD_SIZE|MASTER_(?:ADDR|PORT)|ROLE_NAME"
    r"|(?:ACCELERATE|FSDP|MV2_COMM_WORLD|OMPI_COMM_WORLD|PMI|PMIX|TORCHELASTIC)_.*|MPI_LOCALN?RANKS?(?:ID)?)"
)


def forget_launchers() -> None:
    """Forget what a launcher left in this shell: a command is one process, and starts those that it needs itself."""
    for name in list(filter(_LAUNCHERS.fullmatch, os.environ)):
        del os.environ[name]


def without_launchers() -> dict[str, str]:
    """Return the environment for a program that is none of the processes that this one may be one of."""
    return {name: value for name, value in os.environ.items() if not _LAUNCHERS.fullmatch(name)}


def bare(folder: str) -> dict[str, str]:
    """Return the environment for a program that is to know nothing of this one's: a folder is its home."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def process_count() -> int:
    """Return how many processes do this one's work together, as `accelerate launch` and torchrun say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Return the number of this process among them. Read late: a process learns it after it has started."""
    return int(os.environ["RANK"]) if process_count() > 1 else 0


def is_main_process() -> bool:
    """Say whether this is the process that writes and speaks."""
    return process_index() == 0


# Without torch, transformers would say at every start that models need it; configs and tokenizers do not.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
