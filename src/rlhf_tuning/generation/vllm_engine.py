"""Bulk answers by vLLM: which it is that answers, and a vLLM that does, as a program in an environment of its own.

vLLM gets tokens and gives tokens, so prompts and answers are this project's to the letter: `text_format` renders, cuts and
decodes, and an answer ends where ours does. Nothing but the temperature shapes the distribution, as in `generate`. Each
prompt has a seed of its own, so that its answer does not depend on what was answered before. It may still depend, in its
last bits, on what is answered beside it.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from rlhf_tuning import step, vllm_program
from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.models.model_reference import model_source
from rlhf_tuning.vllm_program import Vllm

#: Tokens of answers from which on `auto` takes vLLM, whose start takes a minute or more: an estimate.
ENOUGH_TOKENS = 250_000

#: Of a GPU's memory, as for a deployment.
_GPU_SHARE = 0.9
#: Characters of vLLM's log that go to the step's where it has failed.
_MOST_LOG = 20_000
_WORKER = Path(__file__).with_name("vllm_worker.py")


def chosen_vllm(engine: str, *, tokens: int) -> Vllm | None:
    """Return the vLLM that answers, or None where our own loop does: the parameter `inference_engine`.

    Its `auto` is vLLM where there is one that runs on a GPU, and so much to answer that its start pays.

    Args:
        engine: `auto`, `own` or `vllm`.
        tokens: Most tokens of all answers together.

    Raises:
        UserError: If vLLM is asked for and is not here, or cannot be used.
    """
    if engine == "vllm":
        return vllm_program.needed_vllm(needed_by="inference_engine 'vllm'")
    if engine == "own" or tokens < ENOUGH_TOKENS or not torch.cuda.is_available():
        return None
    try:
        found = vllm_program.find_vllm()
    except UserError as error:
        step.say(f"Warning: the answers are sampled without vLLM. {error}")
        return None
    return found if found and found.device == "cuda" else None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt's tokens, and a number to know its answer by."""

    row: int
    tokens: Sequence[int]
    seed: int


class VllmModel:
    """A model that a vLLM can answer with.

    Args:
        vllm: From `chosen_vllm`.
        reference: The model.
        dtype: Of weights and matrix products.

    Raises:
        ModelError: If the model cannot be had.
    """

    def __init__(self, vllm: Vllm, reference: str, *, dtype: torch.dtype) -> None:
        self._vllm, self._dtype = vllm, dtype
        self._folder = _folder(reference)
        self._config = AutoConfig.from_pretrained(self._folder, trust_remote_code=False).get_text_config()

    @property
    def positions(self) -> int:
        """Return for how many the model was made; 0 where there is no limit."""
        found = self._config.to_dict().get("max_position_embeddings")
        return found if isinstance(found, int) else 0

    @property
    def generation_config(self) -> GenerationConfig:
        """Return what the model itself says of generation, as transformers reads it."""
        try:
            return GenerationConfig.from_pretrained(self._folder)
        except OSError:
            return GenerationConfig.from_model_config(self._config)

    def answers(
        self,
        requests: Iterable[Request],
        *,
        ends: Sequence[int],
        most_prompt_tokens: int,
        most_tokens: int,
        temperature: float,
        gpus: int = 1,
        on_start: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[int, list[int]]]:
        """Yield the row and the tokens of each answer as it is finished.

        Args:
            requests: The prompts.
            ends: Tokens that end an answer.
            most_prompt_tokens: Of any prompt.
            most_tokens: Of an answer.
            temperature: 0 takes the likeliest token each time.
            gpus: Over how many the model is divided at the most; 1 for this process's own, if it has one.
            on_start: Called when vLLM is ready.

        Raises:
            RunError: If vLLM ends before all are answered.
        """
        on_cpu = self._vllm.device == "cpu"
        engine = {
            "model": self._folder,
            "dtype": str(self._dtype).removeprefix("torch."),
            "max_model_len": most_prompt_tokens + most_tokens,
            # vLLM splits the attention heads evenly.
            "tensor_parallel_size": math.gcd(gpus, self._config.to_dict().get("num_attention_heads", 1)),
            "gpu_memory_utilization": _GPU_SHARE,
            "generation_config": "vllm",  # not the sampling habits that a hub model ships with
            "skip_tokenizer_init": True,
            "enforce_eager": on_cpu,  # it would compile for many minutes
            # A piece of a prompt makes vLLM turn back the prompt's random stream, which a CPU's cannot.
            **({"enable_chunked_prefill": False} if on_cpu else {}),
            "disable_log_stats": True,
        }
        sampling = {
            "max_tokens": most_tokens,
            "temperature": temperature,
            "stop_token_ids": list(ends),
            "ignore_eos": True,  # it would add what it takes for the end
            "detokenize": False,
        }
        with tempfile.TemporaryDirectory(prefix="rlhf-vllm-") as scratch:
            path = Path(scratch) / "requests.jsonl"
            waited_for = _write(path, {"engine": engine, "sampling": sampling}, requests, seeded=temperature > 0)
            variables = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "PYTHONSAFEPATH": "1"}
            if on_cpu:
                # Another process for the engine would take as long again to import all.
                variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            elif gpus == 1 and torch.cuda.is_available():
                variables["CUDA_VISIBLE_DEVICES"] = _own_gpu()
            with vllm_program.running(
                self._vllm, [str(_WORKER), str(path)], answers=True, variables=variables
            ) as program:
                assert program.process.stdout is not None
                for line in program.process.stdout:
                    found = json.loads(line)
                    if found is None:
                        on_start()
                        continue
                    yield found[0], found[1]
                    waited_for -= 1
                    if not waited_for:
                        return
                program.process.wait()
                reason = program.death()
                # A cluster keeps what a step says, and no other file.
                step.write_log(program.log.read_text(encoding="utf-8", errors="replace")[-_MOST_LOG:])
        raise RunError(f"{reason} What it said stands in this step's log.")


def _write(path: Path, settings: dict[str, Any], requests: Iterable[Request], *, seeded: bool) -> int:
    """Write what the worker reads, and return how many prompts there are."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(settings) + "\n")
        for request in requests:
            stream.write(json.dumps([request.row, list(request.tokens), request.seed if seeded else None]) + "\n")
            count += 1
    return count


def _own_gpu() -> str:
    """Return what makes this process's GPU the only one that another process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = torch.cuda.current_device()
    return visible.split(",")[own] if visible else str(own)


def _folder(reference: str) -> str:
    """Return where a model lies; one of the hub is fetched."""
    source = model_source(reference)
    name = source["pretrained_model_name_or_path"]
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        # Some models come in two forms, of which this is the one of transformers.
        return str(
            snapshot_download(
                name,
                revision=source.get("revision"),
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["consolidated*", "original/*"],
            )
        )
    except OSError as error:
        raise ModelError(f"Cannot load the model {reference!r}: {error}") from error
