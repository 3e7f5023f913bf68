import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml
from kfp import compiler, components
from kfp.client.client import _extract_pipeline_yaml

import rlhf_components
from rlhf_pipelines.cli.rlhf import main
from rlhf_pipelines.compile import as_yaml, compile_all, compile_components, compile_for_submission, load_pipeline
from rlhf_pipelines.parameters import PIPELINES
from rlhf_pipelines.targets import TARGETS
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
COMPONENTS = Path(__file__).parents[2] / "components" / "compiled"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def written(folder):
    """The files that the command says it has written."""
    folders = ["--output-dir", str(folder), "--components-dir", str(folder / "components")]
    with redirect_stdout(StringIO()) as printed:
        assert main(["compile", *folders]) == 0
    return [Path(line) for line in printed.getvalue().splitlines()]


@pytest.fixture(scope="module")
def compiled(folder, written):
    return [path for path in written if path.parent != folder / "components"]


@pytest.fixture(scope="module")
def compiled_components(folder, written):
    return [path for path in written if path.parent == folder / "components"]


def test_there_is_one_file_for_each_pipeline_and_target(folder, compiled):
    assert compiled == [folder / target / f"{name}.yaml" for target in TARGETS for name in PIPELINES]


def test_the_committed_pipelines_are_current(folder, compiled):
    for path in compiled:
        committed = COMPILED / path.relative_to(folder)
        assert committed.read_text() == path.read_text(), f"{committed} differs: run `make compile`"
    files = {path.relative_to(COMPILED) for path in COMPILED.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder) for path in compiled}


def test_the_committed_components_are_current(compiled_components):
    for path in compiled_components:
        assert (COMPONENTS / path.name).read_text() == path.read_text(), f"{path.name} differs: run `make compile`"
    assert {path.name for path in COMPONENTS.iterdir()} == {path.name for path in compiled_components}


@pytest.mark.parametrize("name", rlhf_components.__all__)
def test_what_is_loaded_from_a_component_s_yaml_takes_and_gives_the_same(name):
    loaded = components.load_component_from_file(str(COMPONENTS / f"{name}.yaml")).component_spec
    ours = getattr(rlhf_components, name).component_spec
    assert loaded.inputs == ours.inputs
    assert loaded.outputs == ours.outputs


@pytest.mark.parametrize("name", PIPELINES)
def test_the_local_pipeline_is_as_kfp_writes_it_but_for_the_shells(name, tmp_path):
    compiler.Compiler().compile(load_pipeline(name), str(tmp_path / "pipeline.yaml"))
    theirs = (tmp_path / "pipeline.yaml").read_text()
    assert (COMPILED / "local" / f"{name}.yaml").read_text() == theirs.replace(
        "=true python3 -m", "=true exec python3 -m"
    )


def test_nothing_is_downloaded_at_run_time(compiled, compiled_components):
    for path in [*compiled, *compiled_components]:
        assert "pip install" not in path.read_text()


def test_in_every_component_python_takes_the_place_of_the_shell(compiled, compiled_components):
    for path in [*compiled, *compiled_components]:
        text = path.read_text()
        assert text.count("exec python3 -m kfp.dsl.executor_main") == text.count("executor_main") > 0


def test_chosen_images_stand_in_every_component(folder, compiled, compiled_components, tmp_path):
    digest = "sha256:" + "0" * 64
    choices = {LIGHT_IMAGE: f"registry/light@{digest}", TRAINER_IMAGE: f"registry/trainer@{digest}"}
    pipelines = compile_all(tmp_path, ["local", "kubeflow"], images=choices)
    for path in [*pipelines, *compile_components(tmp_path / "components", choices)]:
        text = path.read_text()
        assert LIGHT_IMAGE not in text
        assert TRAINER_IMAGE not in text
        for ours, theirs in choices.items():
            text = text.replace(theirs, ours)
        if path == tmp_path / "components/evaluate.yaml":
            assert f"value: light={LIGHT_IMAGE},trainer={TRAINER_IMAGE}\n" in text
            continue  # its report names the images, once they are chosen
        assert text == (folder / path.relative_to(tmp_path)).read_text()


def test_the_machine_that_is_asked_for_stands_in_every_gpu_step(tmp_path):
    for path in compile_all(tmp_path, ["vertex"], machine="l4-x4"):
        text = path.read_text()
        assert text.count("type: NVIDIA_L4\n") == text.count(f"image: {TRAINER_IMAGE}\n") > 0
        assert text.count("count: '4'\n") == text.count("resourceCpuLimit: '48'\n") == text.count("type: NVIDIA_L4\n")


def test_every_step_that_may_forecast_knows_the_machine_also_in_a_job_that_is_nested():
    executors = compile_for_submission("rlaif_pipeline", "vertex", "l4", {})["deploymentSpec"]["executors"]
    forecasting = [label for label in executors if label.startswith("exec-validate-inputs")]
    assert len(forecasting) == 2
    for label in forecasting:
        assert executors[label]["container"]["env"] == [{"name": "RLHF_MACHINE", "value": "l4"}]


@pytest.mark.parametrize("target", ["local", "vertex"])
def test_every_job_that_registers_a_model_looks_first_whether_it_can(target):
    registering = [name for name, parameters in PIPELINES.items() if "registry_dir" in {p.name for p in parameters}]
    assert len(registering) > 5
    for name in registering:
        spec = compile_for_submission(name, target, "", {})
        graphs = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
        tasks = [task for graph in graphs for key, task in graph["tasks"].items() if key == "validate-inputs"]
        for task in tasks:
            assert task["inputs"]["parameters"]["target"] == {"runtimeValue": {"constant": target}}, name


def test_a_judge_is_held_anew_against_preferences_of_people_whose_content_has_changed():
    tasks = load_pipeline("rlaif_pipeline").pipeline_spec.root.dag.tasks
    given = tasks["ai-feedback"].inputs.parameters["human_preference_fingerprint"].task_output_parameter
    assert (given.producer_task, given.output_parameter_key) == ("validate-inputs", "human_preference_fingerprint")


def test_only_for_kubeflow_is_there_a_second_document(folder, compiled):
    for path in compiled:
        documents = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
        assert [list(document) for document in documents[1:]] == ([["platforms"]] if "kubeflow" in path.parts else [])


def test_a_local_pipeline_has_neither_resources_nor_retries():
    for path in (COMPILED / "local").iterdir():
        assert "resources:" not in path.read_text()
        assert "retryPolicy:" not in path.read_text()


@pytest.mark.parametrize("target", ["vertex", "kubeflow"])
def test_every_step_is_retried_and_the_costly_ones_only_once(target):
    for path in (COMPILED / target).iterdir():
        spec = next(yaml.load_all(path.read_text(), yaml.CSafeLoader))
        graphs = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
        for task in (task for graph in graphs for task in graph["tasks"].values()):
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                assert "retryPolicy" not in task
                continue
            if component["executorLabel"] == "exec-deploy-model":
                # It pays for a machine, and asks again by itself what may pass.
                assert "retryPolicy" not in task
                continue
            executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
            if "importer" in executor:
                continue  # It only names what is there.
            image = executor["container"]["image"]
            assert task["retryPolicy"]["maxRetryCount"] == (1 if image == TRAINER_IMAGE else 2)
            assert task["retryPolicy"]["backoffFactor"] > 1


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_submitted_is_what_is_committed(target):
    compiled = compile_for_submission("rlhf_pipeline", target, "", {})
    assert as_yaml(compiled) == (COMPILED / target / "rlhf_pipeline.yaml").read_text()
    assert set(compiled) == {"pipeline_spec", "platform_spec"} if target == "kubeflow" else "deploymentSpec" in compiled


def test_kfp_s_client_reads_from_the_yaml_what_is_submitted():
    read = _extract_pipeline_yaml(str(COMPILED / "kubeflow" / "rlhf_pipeline.yaml"))
    assert read.to_dict() == compile_for_submission("rlhf_pipeline", "kubeflow", "", {})


def test_a_machine_that_the_target_lacks_is_refused():
    for target in TARGETS:
        with pytest.raises(ParameterError, match="--machine is 'xyz'"):
            compile_for_submission("rlhf_pipeline", target, "xyz", {})


def test_importing_pipelines_and_components_imports_no_torch():
    code = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    assert not {'torch', 'transformers'} & set(sys.modules), name"
    modules = ["rlhf_components.train_policy", *(f"rlhf_pipelines.{name}" for name in PIPELINES)]
    done = subprocess.run([sys.executable, "-c", code, *modules], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_on_kubeflow_an_importer_s_address_is_an_input_of_the_pipeline_around_it(compiled):
    addresses = []
    for path in (path for path in compiled if path.parent.name == "kubeflow"):
        spec = next(yaml.load_all(path.read_text(), yaml.CSafeLoader))
        executors = spec["deploymentSpec"]["executors"]
        for part in (spec["root"], *spec["components"].values()):
            for task in part.get("dag", {}).get("tasks", {}).values():
                label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
                if "importer" in executors.get(label, {}):
                    addresses.append(task["inputs"]["parameters"]["uri"])
    # rlhf_pipeline's, the same in recurring_rlhf_pipeline and rlaif_pipeline, preference_tuning_pipeline's, and
    # distillation_pipeline's.
    assert addresses == [{"componentInputParameter": "start_uri"}] * 5


@pytest.mark.parametrize(
    ("pipeline", "phase", "asked", "followers"),
    [
        (
            "rlhf_pipeline",
            "supervised-start",
            "supervises",
            ("train-reward-model", "train-reward-model-2", "reinforcement-learning"),
        ),
        ("preference_tuning_pipeline", "supervised-start", "supervises", ("preference-tuning", "train-reward-model")),
        ("distillation_pipeline", "student-start", "on_policy", ("train-student",)),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_supervised_phase_runs_only_when_it_is_asked_for_and_all_that_follows_starts_from_its_model(
    target, pipeline, phase, asked, followers, compiled
):
    (path,) = [path for path in compiled if path.parent.name == target and path.stem == pipeline]
    spec = next(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    tasks = spec["root"]["dag"]["tasks"]
    start = spec["components"][f"comp-{phase}"]["dag"]["tasks"]["condition-branches-1"]["componentRef"]["name"]
    branches = spec["components"][start]["dag"]["tasks"].values()
    triggers = [task["triggerPolicy"]["condition"] for task in branches]
    condition = f"inputs.parameter_values['pipelinechannel--{asked}'] == true"
    assert triggers == [condition, f"!({condition})"]
    for name in (*followers, "evaluate-and-promote"):
        source = tasks[name]["inputs"]["parameters"]["large_model_reference"]["taskOutputParameter"]
        assert source["producerTask"] == phase
        assert ("start_model" in tasks[name]["inputs"].get("artifacts", {})) == (target == "kubeflow")
    if phase == "supervised-start":  # it leaves the held-out reward model's preferences alone
        share = {"componentInputParameter": "held_out_reward_model_share"}
        assert tasks[phase]["inputs"]["parameters"]["held_out_reward_model_share"] == share
    # What the model is registered under, and first held against, is the base model.
    base = tasks["evaluate-and-promote"]["inputs"]["parameters"]["base_model_reference"]["taskOutputParameter"]
    assert base["producerTask"] == "preprocess-inputs"


@pytest.mark.parametrize(
    ("pipeline", "phase"),
    [
        ("rlhf_pipeline", "reinforcement-learning"),
        ("preference_tuning_pipeline", "preference-tuning"),
        ("supervised_tuning_pipeline", "supervised-tuning"),
        ("distillation_pipeline", "student-start"),
        ("distillation_pipeline", "train-student"),
    ],
)
def test_every_method_starts_from_the_adapter_that_was_checked(pipeline, phase, compiled):
    (path,) = [path for path in compiled if path.parent.name == "local" and path.stem == pipeline]
    spec = yaml.load(path.read_text(), yaml.CSafeLoader)
    given = spec["root"]["dag"]["tasks"][phase]["inputs"]["parameters"]
    for name in ("warm_start_adapter", "warm_start_fingerprint"):
        source = {"outputParameterKey": name, "producerTask": "preprocess-inputs"}
        assert given[name] == {"taskOutputParameter": source}
