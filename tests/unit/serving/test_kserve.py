import json
import re

import pytest
import yaml
from tuned_run import MANIFEST, write_model

from rlhf_tuning.errors import ModelError
from rlhf_tuning.serving.kserve import kserve_uri, kubernetes_name, write_kserve

GB = 10**9


def write(tmp_path, uri="gs://bucket/run/model", **settings):
    location = write_kserve(
        model_dir=str(tmp_path / "model"),
        model_uri=uri,
        name="My Palms!",
        manifest=MANIFEST,
        service_path=str(tmp_path / "out/service"),
        manifest_path=str(tmp_path / "out/manifest"),
        **{"promote": True} | settings,
    )
    return location, yaml.safe_load((tmp_path / "out/service").read_text())


def test_the_service_has_what_kserve_needs(tmp_path):
    write_model(tmp_path / "model")
    location, service = write(tmp_path)
    assert location == "gs://bucket/run/model"
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "huggingface"}
    assert model["storageUri"] == "gs://bucket/run/model"
    assert model["args"][:2] == ["--model_name=my-palms", "--backend=vllm"]
    assert {"--dtype=bfloat16", "--max-model-len=2048", "--tensor-parallel-size=1"} <= set(model["args"])
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "volumes" not in service["spec"]["predictor"]
    assert json.loads((tmp_path / "out/manifest").read_text()) == MANIFEST


def test_names_and_labels_are_such_as_kubernetes_takes(tmp_path):
    write_model(tmp_path / "model")
    metadata = write(tmp_path)[1]["metadata"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
    for key, value in metadata["labels"].items():
        assert re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", key)
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)
    assert all(isinstance(value, str) for value in metadata["annotations"].values())


def test_the_service_says_how_its_model_is_asked(tmp_path):
    write_model(tmp_path / "model", template=False)
    annotations = write(tmp_path)[1]["metadata"]["annotations"]
    assert annotations["rlhf-pipelines/ask"] == "/openai/v1/completions"
    assert annotations["rlhf-pipelines/instruction"] == "Be brief."
    assert annotations["rlhf-pipelines/promoted"] == "true"
    assert write(tmp_path, promote=False)[1]["metadata"]["annotations"]["rlhf-pipelines/promoted"] == "false"
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages }}")
    assert write(tmp_path)[1]["metadata"]["annotations"]["rlhf-pipelines/ask"] == "/openai/v1/chat/completions"


def test_a_model_on_several_gpus_gets_shared_memory(tmp_path):
    write_model(tmp_path / "model", weights=28 * GB)
    predictor = write(tmp_path)[1]["spec"]["predictor"]
    assert predictor["model"]["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert predictor["model"]["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    assert predictor["volumes"][0]["name"] == "shared-memory"


def test_the_service_goes_to_nodes_with_gpus_and_to_those_of_the_machine_that_was_named(tmp_path):
    write_model(tmp_path / "model")
    predictor = write(tmp_path)[1]["spec"]["predictor"]
    assert predictor["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "nodeSelector" not in predictor
    predictor = write(tmp_path, serving_machine="a100-80gb-x2")[1]["spec"]["predictor"]
    assert predictor["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_an_instruction_cannot_forge_yaml(tmp_path):
    write_model(tmp_path / "model")
    instruction = 'x"\nspec: {}\n# {{ evil }}'
    parameters = {"instruction": instruction, "instruction_role": "user"}
    write_kserve(
        model_dir=str(tmp_path / "model"),
        model_uri="s3://bucket/model",
        name="palms",
        manifest={**MANIFEST, "parameters": parameters},
        service_path=str(tmp_path / "service"),
        manifest_path=str(tmp_path / "manifest"),
        promote=True,
    )
    service = yaml.safe_load((tmp_path / "service").read_text())
    assert service["metadata"]["annotations"]["rlhf-pipelines/instruction"] == instruction
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/model"


def test_minio_is_s3_for_kserve():
    assert kserve_uri("minio://mlpipeline/v2/model") == "s3://mlpipeline/v2/model"


def test_a_model_where_kserve_cannot_read_it_is_refused(tmp_path):
    write_model(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"/runs/model, which KServe cannot read.*pipeline root that starts with gs://"
    ):
        write(tmp_path, uri="/runs/model")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("palms", "palms"),
        ("2nd try", "model-2nd-try"),
        ("名", "model-"),
        ("A" * 60, "a" * 25 + "-"),
        ("7" * 60, "model-" + "7" * 25 + "-"),
    ],
)
def test_any_display_name_becomes_one_that_kubernetes_takes(name, plain):
    assert kubernetes_name(name).startswith(plain)
    assert len(kubernetes_name(name)) <= 40
    assert kubernetes_name(name) != kubernetes_name(name + "名")
