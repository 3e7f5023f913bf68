"""A deployment rehearsed on this machine: the new version served by vLLM, asked, compared with what we compute, and stopped.

It changes nothing: a machine may have no vLLM, or too little room for one, and the version is as good. So what comes of
it is a sentence. Torch is imported where there is a vLLM alone: the image for light steps has neither.
"""

import json
from pathlib import Path

from rlhf_tuning.errors import RlhfError
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.registry import NamedModel, named_model
from rlhf_tuning.serving import local_server, openai_api
from rlhf_tuning.serving.vllm import plan_serving, problem_with_answer
from rlhf_tuning.vllm_program import Vllm, find_vllm

#: Prompts of the evaluation that are asked, and most tokens of an answer.
_PROMPTS, _TOKENS = 8, 64


def rehearse(model: str, evaluation_path: str, registry_dir: str = "") -> str:
    """Rehearse the deployment of a registered model, and return what came of it.

    Args:
        model: Its name and version.
        evaluation_path: What the evaluation wrote, whose prompts are asked.
        registry_dir: Where the registry lives; its default place when empty.
    """
    try:
        vllm = find_vllm()
        if vllm is None:
            return "No rehearsal of a deployment, for there is no vLLM here; rlhf serve says how to install it"
        evaluation = json.loads(Path(evaluation_path).read_text(encoding="utf-8"))
        prompts = [answer["prompt"] for answer in evaluation["answers"][:_PROMPTS]]
        return f"Deployment rehearsed with vLLM {vllm.version} ({vllm.device}): " + _compare(
            vllm, named_model(model, Path(registry_dir).expanduser() if registry_dir else None), prompts
        )
    except RlhfError as error:
        return f"The rehearsal of a deployment failed: {error}"


def _compare(vllm: Vllm, named: NamedModel, prompts: list[Conversation]) -> str:
    import torch

    from rlhf_tuning.evaluation.export_check import LIMITS, token_log_probabilities
    from rlhf_tuning.generation.generate import generate_answers
    from rlhf_tuning.models import base_model

    reference = str(named.folder)
    plan = plan_serving(named.folder, named.parameters)
    port = local_server.free_port(local_server.HOST, 0)
    with local_server.serving(vllm, named.folder, plan, model=named.name, port=port) as server:
        replies = [openai_api.likeliest(server.url, named.name, prompt, max_tokens=_TOKENS) for prompt in prompts]
    for reply, prompt in zip(replies, prompts, strict=True):
        if problem := problem_with_answer(reply.text, prompt):
            return f"its answer to {prompt[-1]['content'][:80]!r} {problem}"
    text_format = TextFormat(load_tokenizer(reference), prompt_sequence_length=8192, target_sequence_length=_TOKENS)
    served_in = torch.bfloat16
    network = base_model.load_causal_lm(reference, dtype=served_in, on_cpu=True)
    ours = generate_answers(network, text_format, prompts, temperature=0.0, batch_size=len(prompts), seed=0)
    expected = token_log_probabilities(
        network,
        [text_format.prompt_ids(prompt) for prompt in prompts],
        [reply.token_ids for reply in replies],
    )
    found = torch.tensor([log for reply in replies for log in reply.log_probabilities], dtype=torch.float64)
    apart, limit = (found - expected).abs().mean().item(), LIMITS[served_in].difference
    # vLLM leaves out a character that was cut off in its middle.
    same = sum(reply.text == answer.text.rstrip("\ufffd").strip() for reply, answer in zip(replies, ours, strict=True))
    verdict = "" if apart <= limit else ". That is more than rounding does, so look at its answers before you deploy it"
    return (
        f"{same} of {len(prompts)} answers are ours to the letter; its log-probabilities are {apart:.2g} nats a token from "
        f"ours on average (rounding to 16 bits: up to {limit:g}){verdict}"
    )
