"""How a tuned model is served: on which machine, by vLLM with which arguments, how it is asked, and what is an answer.

Prompts are rendered as training rendered them. A model with a chat template is sent the turns, and the server applies the
template that is saved with the model; one without is sent the plain text that `text_format` makes. The instruction of the
tuning is put where it stood in the training rows.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning.accelerators import GPUS, machine_name
from rlhf_tuning.errors import ModelError
from rlhf_tuning.evaluation.degeneration import is_repetitive
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models.text_format import Conversation, instructed, plain_text

#: The longest prompt and answer that a run can ask for; more would only take memory from the answers at a time.
MOST_TOKENS = 8192 + 1024

_ERROR_TEXT = re.compile(
    r"\s*(?:Traceback \(most recent call last\)|Internal Server Error|<!?(?:html|doctype)|\{\"error)", re.I
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a server of a model runs on. `memory` is that of all its GPUs, in GB; `gke` names the GPU on a node of GKE."""

    machine_type: str
    accelerator: str
    gke: str
    count: int
    memory: int


#: By the names of `parameters.SERVING_MACHINES`.
MACHINES: dict[str, Machine] = {
    machine_name(kind, count): Machine(
        machine_type=machine_type,
        accelerator=gpu.vertex,
        gke=gpu.gke,
        count=count,
        memory=gpu.gpu_memory * count,
    )
    for kind, gpu in GPUS.items()
    for count, machine_type in gpu.machine_types.items()
}
#: What is taken when nobody says: the first that the model fits on, from the cheapest.
_BY_PRICE = ("l4", "l4-x2", "a100-80gb", "a100-80gb-x2", "a100-80gb-x4", "a100-80gb-x8")
#: Of a GPU's memory vLLM takes so much, and of that the weights may take no more than what leaves room for answers.
_GPU_SHARE, _WEIGHTS_SHARE = 0.9, 1 / 1.3


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """What a server and those who ask it need to know of a tuned model.

    Args:
        machine: Name in `MACHINES`.
        gpus: Over how many of its GPUs the model is split.
        max_length: Most tokens of a prompt and its answer.
        chat_template: Whether the model has one.
        instruction: That the model was tuned with.
        instruction_role: In which turn it stood.
    """

    machine: str
    gpus: int
    max_length: int
    chat_template: bool
    instruction: str
    instruction_role: str

    def to_json(self) -> str:
        """Return it as text that `from_json` reads, fit for a variable of a container: `$(NAME)` would be expanded there."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=True).replace("$", r"\u0024")

    @classmethod
    def from_json(cls, text: str) -> "ServingPlan":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def conversation(self, prompt: str) -> Conversation:
        """Return a prompt with the instruction, where the training rows had it."""
        return instructed(prompt, {"instruction": self.instruction, "instruction_role": self.instruction_role})

    def vllm_arguments(self) -> list[str]:
        """Return vLLM's own arguments, apart from where the model lies and where the server listens."""
        return [
            # Weights that training saved in 32 bits are served in 16; vLLM would take float16, which can overflow.
            "--dtype=bfloat16",
            f"--tensor-parallel-size={self.gpus}",
            f"--max-model-len={self.max_length}",
            f"--gpu-memory-utilization={_GPU_SHARE}",
            # Not the sampling habits that a hub model ships with: evaluation did not have them either.
            "--generation-config=vllm",
        ]


def plan_serving(model_dir: Path, parameters: Mapping[str, Any], machine: str = "") -> ServingPlan:
    """Decide how a model is served.

    Args:
        model_dir: The tuned model as plain transformers loads it.
        parameters: Of its manifest: `instruction` and `instruction_role`.
        machine: Name in `MACHINES`; the cheapest that the model fits on when empty.

    Raises:
        ParameterError: If there is no such machine.
        ModelError: If the folder holds no model, or the model does not fit.
    """
    check_limits(serving_machine=machine)
    text_config = _text_config(model_dir)
    weights = weight_bytes(model_dir)
    needed = weights / _WEIGHTS_SHARE / _GPU_SHARE / 1e9
    fitting = [name for name in _BY_PRICE if MACHINES[name].memory >= needed]
    if machine and MACHINES[machine].memory < needed:
        raise ModelError(
            f"serving_machine is {machine!r}, whose GPUs have {MACHINES[machine].memory} GB; the tuned model needs "
            f"{needed:.0f} GB. Choose {' or '.join(fitting[:2]) or 'h200-x8'}, or leave it empty."
        )
    if not machine and not fitting:
        raise ModelError(
            f"The tuned model needs {needed:.0f} GB of GPU memory to be served, more than {_BY_PRICE[-1]} has. Name a "
            "larger serving_machine, or set deploy_model to false."
        )
    name = machine or fitting[0]
    return ServingPlan(
        machine=name,
        # vLLM splits the attention heads evenly.
        gpus=math.gcd(MACHINES[name].count, int(text_config.get("num_attention_heads", 1))),
        max_length=min(int(text_config.get("max_position_embeddings", MOST_TOKENS)), MOST_TOKENS),
        chat_template=_has_chat_template(model_dir),
        instruction=str(parameters.get("instruction", "")),
        instruction_role=str(parameters.get("instruction_role", "user")),
    )


def weight_bytes(model_dir: Path) -> int:
    """Return the bytes that a model's weights take where they are served: those saved in 32 bits are served in 16.

    Raises:
        ModelError: If the folder holds no model.
    """
    text_config = _text_config(model_dir)
    weights = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"The tuned model in {model_dir} has no *.safetensors weights, so there is nothing to serve.")
    return weights // 2 if "float32" in (text_config.get("dtype"), text_config.get("torch_dtype")) else weights


def request_for(
    conversation: Sequence[Mapping[str, object]], *, chat_template: bool, max_tokens: int, temperature: float, seed: int
) -> dict[str, Any]:
    """Return one instance of a prediction request, as the vLLM server of Model Garden takes it.

    With `@requestFormat` it is a request of the Chat Completions API; without, `raw_response` asks for the answer alone,
    not for prompt and answer with headings. Both are in Google's notebooks on serving MedGemma and Llama with vLLM.
    """
    settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    if chat_template:
        return {"@requestFormat": "chatCompletions", "messages": [dict(turn) for turn in conversation], **settings}
    turns: Any = conversation
    return {"prompt": plain_text(turns), "raw_response": True, **settings}


def answer_in(predictions: object) -> str | None:
    """Return the answer's text, without white space around it, in what a prediction returned; None when it has no such form.

    A completion comes as a text, a chat completion as an object, in a list or (so the server sends it) without one.
    """
    found = predictions[0] if isinstance(predictions, list) and predictions else predictions
    if isinstance(found, str):
        return found.strip()
    try:
        text = found["choices"][0]["message"]["content"]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return None
    return text.strip() if isinstance(text, str) else ""


def problem_with_answer(text: str, conversation: Sequence[Mapping[str, object]]) -> str:
    """Return why a text is no sensible answer, as a sentence's end, or an empty string."""
    shown = json.dumps(text[:200], ensure_ascii=False)
    answer, prompt = _squeezed(text), _squeezed(str(conversation[-1]["content"]))
    if not answer:
        return "is empty"
    # Short prompts may well begin an answer.
    if answer == prompt or (len(prompt) >= 40 and answer.startswith((prompt, f"prompt: {prompt}"))):
        return f"repeats the prompt: {shown}"
    if _ERROR_TEXT.match(text):
        return f"is an error's text: {shown}"
    if not any(character.isalnum() for character in text) or is_repetitive(text):
        return f"makes no sense: {shown}"
    return ""


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def _text_config(model_dir: Path) -> dict[str, Any]:
    """Return a model's settings; of one with several parts, those of its text part."""
    try:
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The tuned model in {model_dir} has no config.json that can be read: {error}.") from None
    return {**config, **config.get("text_config", {})}


def _has_chat_template(model_dir: Path) -> bool:
    if (model_dir / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(settings.get("chat_template"))
