import pytest

from rlhf_pipelines.compile import compile_for_submission
from rlhf_pipelines.image_choice import read_choices, unpullable
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "reference",
    ["trainer", "europe-docker.pkg.dev/p/r/trainer", "localhost:5000/trainer:1.0_rc.1", f"r/trainer:1@{DIGEST}"],
)
def test_a_flag_names_the_image_and_what_takes_its_place(reference):
    assert read_choices([f"trainer={reference}", "light=x"]) == {TRAINER_IMAGE: reference, LIGHT_IMAGE: "x"}


@pytest.mark.parametrize("flag", ["trainer", "trainer=", "heavy=x", "x", "light=a b", "light=x@sha256:12", "light=X/y"])
def test_other_flags_are_refused_with_the_right_form(flag):
    with pytest.raises(ParameterError, match=r"--image is .*; give light=REFERENCE or trainer=REFERENCE"):
        read_choices([flag])


def test_on_clusters_the_step_that_writes_the_report_knows_the_images():
    steps = {}
    for target in ("local", "vertex", "kubeflow"):
        compiled = compile_for_submission("rlhf_pipeline", target, "", {TRAINER_IMAGE: f"r/trainer@{DIGEST}"})
        executors = compiled.get("pipeline_spec", compiled)["deploymentSpec"]["executors"]
        containers = {name: step["container"] for name, step in executors.items() if "container" in step}
        asked = {name: container.get("env", []) for name, container in containers.items()}
        steps[target] = {name: env for name, env in asked.items() if any(one["name"] == "RLHF_IMAGES" for one in env)}
    known = [{"name": "RLHF_IMAGES", "value": f"light={LIGHT_IMAGE},trainer=r/trainer@{DIGEST}"}]
    assert steps == {"local": {}, "vertex": {"exec-evaluate": known}, "kubeflow": {"exec-evaluate": known}}


def test_an_image_without_a_choice_cannot_be_pulled():
    assert unpullable({}) == [LIGHT_IMAGE, TRAINER_IMAGE]
    assert unpullable({LIGHT_IMAGE: f"r/light@{DIGEST}"}) == [TRAINER_IMAGE]
