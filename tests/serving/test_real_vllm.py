"""A real vLLM serves tiny models: its answers are ours, and its parser takes the arguments of every deployment."""

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.conftest import CHAT_TEMPLATE, make_model
from tuned_run import MANIFEST, write_model

from rlhf_tuning.evaluation.export_check import token_log_probabilities
from rlhf_tuning.generation.generate import generate_answers
from rlhf_tuning.google_cloud import vertex_registry
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat, instructed
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.promotion import rehearsal
from rlhf_tuning.registry import register_model
from rlhf_tuning.serving import kserve, local_server, openai_api
from rlhf_tuning.serving.vllm import ServingPlan, plan_serving
from rlhf_tuning.vllm_program import find_vllm

pytestmark = pytest.mark.vllm

QUESTIONS = ["Create a description for Plantation Palms.", "The harbour smells of salt", "Zürich, ünïcödé!", "0 1 2 3"]
TOKENS = 24
SAMPLE_MODEL = "smollm2-135m-instruct"
#: Least that vLLM's attention for the CPU takes.
HEAD_DIM = 32


@dataclass(frozen=True, kw_only=True)
class InFloat32(ServingPlan):
    """In the dtype in which answers can be compared token by token; maybe with an adapter beside the model."""

    adapter: Path | None = None

    def vllm_arguments(self):
        lora = ["--enable-lora", f"--lora-modules=tuned={self.adapter}"] if self.adapter else []
        return [*super().vllm_arguments(), "--dtype=float32", *lora]


@pytest.fixture(scope="module")
def vllm():
    found = find_vllm()
    assert found is not None, "no vLLM here; .ci/vllm installs one"
    return found


def serving(vllm, folder, plan):
    port = local_server.free_port(local_server.HOST, 0)
    return local_server.serving(vllm, folder, plan, model="palms@1", port=port)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("vllm") / "chat", chat_template=CHAT_TEMPLATE, head_dim=HEAD_DIM)


@pytest.fixture(scope="module")
def adapter(chat_model):
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    folder = chat_model.parent / "adapter"
    get_peft_model(load(chat_model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged_model(chat_model, adapter):
    folder = chat_model.parent / "merged"
    PeftModel.from_pretrained(load(chat_model), adapter).merge_and_unload().save_pretrained(folder)
    load_tokenizer(str(chat_model)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_server(vllm, chat_model, adapter):
    plan = InFloat32(**asdict(plan_serving(chat_model, {})), adapter=adapter)
    with serving(vllm, chat_model, plan) as server:
        yield server


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    """A model without a chat template that names another token that ends an answer: one that it soon says."""
    folder = make_model(tmp_path_factory.mktemp("vllm") / "plain", chat_template=None, seed=1, head_dim=HEAD_DIM)
    end = ours(folder, [QUESTIONS[0]])[0].ids[-1]
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], end], "repetition_penalty": 3.0}))
    return folder


def load(folder):
    return base_model.load_causal_lm(str(folder), dtype=torch.float32)


def text_format(folder):
    return TextFormat(load_tokenizer(str(folder)), prompt_sequence_length=512, target_sequence_length=TOKENS)


def ours(folder, questions):
    conversations = [instructed(question, {}) for question in questions]
    return generate_answers(load(folder), text_format(folder), conversations, temperature=0.0, batch_size=1, seed=0)


def said(answer):
    """Return an answer's text as vLLM tells it: without a character that was cut off in its middle."""
    return answer.text.rstrip("\ufffd").strip()


def test_a_chat_model_s_answers_are_ours_token_for_token_and_so_are_their_probabilities(chat_server, chat_model):
    assert openai_api.is_healthy(chat_server.url)
    assert openai_api.served_model(chat_server.url) == "palms@1"
    for question, answer in zip(QUESTIONS, ours(chat_model, QUESTIONS), strict=True):
        conversation = instructed(question, {})
        reply = openai_api.likeliest(chat_server.url, "palms@1", conversation, max_tokens=TOKENS)
        assert tuple(reply.token_ids) == answer.ids
        prompt = text_format(chat_model).prompt_ids(conversation)
        expected = token_log_probabilities(load(chat_model), [prompt], [answer.ids])
        assert reply.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)
        assert openai_api.ask(chat_server.url, "palms@1", conversation, max_tokens=TOKENS) == reply.text == said(answer)


def test_an_adapter_beside_the_base_model_answers_as_the_merged_model(chat_server, chat_model, merged_model):
    for question, answer in zip(QUESTIONS, ours(merged_model, QUESTIONS), strict=True):
        reply = openai_api.likeliest(chat_server.url, "tuned", instructed(question, {}), max_tokens=TOKENS)
        assert tuple(reply.token_ids) == answer.ids
    assert ours(merged_model, QUESTIONS) != ours(chat_model, QUESTIONS)


def test_the_sample_s_model_with_what_it_learnt_answers_as_ours(vllm, tmp_path):
    """The weights that `make tune` serves; what they learnt is drawn, since here it need not be good."""
    torch.manual_seed(5)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=1, target_modules="all-linear", init_lora_weights=False)
    tuned = get_peft_model(load(SAMPLE_MODEL), config).merge_and_unload()
    tuned.to(torch.bfloat16).save_pretrained(tmp_path)
    load_tokenizer(SAMPLE_MODEL).save_pretrained(tmp_path)
    questions = ["Describe Plantation Palms.", "Describe Old Town Square in one sentence."]
    with serving(vllm, tmp_path, InFloat32(**asdict(plan_serving(tmp_path, {})))) as server:
        for question, answer in zip(questions, ours(tmp_path, questions), strict=True):
            reply = openai_api.likeliest(server.url, "palms@1", instructed(question, {}), max_tokens=TOKENS)
            assert tuple(reply.token_ids) == answer.ids
    assert ours(tmp_path, questions) != ours(SAMPLE_MODEL, questions)


def test_a_model_without_a_template_is_asked_by_its_text_and_ends_where_ours_does(vllm, plain_model):
    with serving(vllm, plain_model, InFloat32(**asdict(plan_serving(plain_model, {})))) as server:
        for question, answer in zip(QUESTIONS, ours(plain_model, QUESTIONS), strict=True):
            conversation = instructed(question, {})
            reply = openai_api.likeliest(server.url, "palms@1", conversation, max_tokens=TOKENS)
            assert tuple(reply.token_ids) == answer.ids
            prompt = text_format(plain_model).prompt_ids(conversation)
            expected = token_log_probabilities(load(plain_model), [prompt], [answer.ids])
            assert reply.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)
            assert openai_api.ask(server.url, "palms@1", conversation, max_tokens=TOKENS) == reply.text == said(answer)
    assert ours(plain_model, QUESTIONS)[0].ended


def test_a_rehearsal_of_a_deployment_finds_our_answers(vllm, chat_model, tmp_path, monkeypatch):
    parameters = {"instruction": "", "instruction_role": "user"}
    evaluation = tmp_path / "evaluation"
    evaluation.write_text(json.dumps({"answers": [{"prompt": instructed(question, {})} for question in QUESTIONS]}))
    version = register_model(
        model_dir=str(chat_model),
        adapter_dir="",
        name="palms",
        manifest={"parameters": parameters},
        registry_dir=tmp_path / "registry",
    )
    # An untrained model repeats itself.
    monkeypatch.setattr(rehearsal, "problem_with_answer", lambda text, prompt: "")
    found = rehearsal.rehearse(version.resource_name, str(evaluation), str(tmp_path / "registry"))
    assert found.startswith(f"Deployment rehearsed with vLLM {vllm.version} (cpu): ")
    assert " of 4 answers are ours to the letter; its log-probabilities are 0.0" in found
    assert "more than rounding" not in found


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
found = [vars(parser.parse_args(arguments)) for arguments in json.loads(sys.argv[1])]
print(json.dumps([{name: value for name, value in one.items() if isinstance(value, (str, int, float))} for one in found]))
"""


def test_its_parser_takes_the_arguments_that_kserve_and_vertex_hand_it(vllm, tmp_path):
    model = write_model(tmp_path / "model", num_attention_heads=8)
    plan = plan_serving(model, MANIFEST["parameters"], "l4-x2")
    service = kserve.inference_service("palms", "gs://b/m", plan, MANIFEST, "sha256:0", promote=True)
    # The first two are the runtime's own; it hands the others on.
    own, handed_on = [], []
    for argument in service["spec"]["predictor"]["model"]["args"]:
        (own if argument.startswith(("--model_name=", "--backend=")) else handed_on).append(argument)
    assert len(own) == 2
    container = vertex_registry._container(plan, vertex_registry.SERVING_IMAGE)
    assert container["args"][:3] == ["python", "-m", "vllm.entrypoints.api_server"]
    expected = {
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.9,
        "generation_config": "vllm",
    }
    lists = json.dumps([handed_on, container["args"][3:]])
    done = subprocess.run([vllm.python, "-c", PARSE, lists], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    by_kserve, by_vertex = json.loads(done.stdout.splitlines()[-1])
    assert expected.items() <= by_kserve.items()
    expected |= {"port": 8080, "model": "$(AIP_STORAGE_URI)", "disable_log_stats": True}
    assert expected.items() <= by_vertex.items()
