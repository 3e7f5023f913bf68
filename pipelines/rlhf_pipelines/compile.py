"""Compiles pipelines and components to YAML, for `rlhf compile`, `make compile`, and the test that holds both current.

The pipelines are in `pipelines/compiled`, the components, for pipelines of others, in `components/compiled`.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_pipelines.executor_command import python_in_place_of_shell
from rlhf_pipelines.image_choice import as_environment
from rlhf_pipelines.parameters import PIPELINES
from rlhf_pipelines.targets import TARGETS, choose_machine, containers, fit_to_kubeflow, fit_to_vertex, writes_report

#: The steps that forecast a run that has a budget, on a machine that they do not run on: a nested job's has a number behind.
_FORECASTS = "exec-validate-inputs"


def load_pipeline(name: str, target: str = "local") -> Any:
    """Return the pipeline function for a target: where the model goes in the end differs between them."""
    return importlib.import_module(f"rlhf_pipelines.{name}").for_target(target)


def compile_for_submission(name: str, target: str, machine: str, images: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a pipeline as its target takes it.

    Args:
        name: Name of the pipeline.
        target: One of `targets.TARGETS`.
        machine: Name of the machine for GPU steps; the target's default when empty.
        images: The components' image to the one that takes its place.

    Returns:
        For `local` and `vertex` the pipeline spec. For `kubeflow` the two that belong together, under `pipeline_spec`
        and `platform_spec`, which is how kfp's client sends them. `as_yaml` writes either as a file for the client.

    Raises:
        ParameterError: If the target has no such machine.
    """
    from google.protobuf import json_format

    spec: dict[str, Any] = json_format.MessageToDict(load_pipeline(name, target).pipeline_spec)
    platform_spec: dict[str, Any] = {}
    if target == "vertex":
        fit_to_vertex(spec, choose_machine(target, machine))
    elif target == "kubeflow":
        platform_spec = fit_to_kubeflow(spec, choose_machine(target, machine))
    elif machine:
        choose_machine(target, machine)  # says that there is none to choose
    for label, container in containers(spec):
        if target != "local" and label.startswith(_FORECASTS):
            container["env"] = [{"name": "RLHF_MACHINE", "value": choose_machine(target, machine).name}]
        if target != "local" and writes_report(spec, label):
            # The report names the images. Other steps do not, and their cache need not depend on them.
            container["env"] = _images_in_the_report(images)
        _fit_container(container, images)
    return {"pipeline_spec": spec, "platform_spec": platform_spec} if platform_spec else spec


def compile_component(name: str, images: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a component as a pipeline of one step, from which `kfp.components.load_component_from_file` makes it again.

    Args:
        name: Name of the component.
        images: The components' image to the one that takes its place.
    """
    from google.protobuf import json_format

    import rlhf_components

    component = getattr(rlhf_components, name)
    spec: dict[str, Any] = json_format.MessageToDict(component.pipeline_spec)
    spec["pipelineInfo"]["description"] = component.description
    for label, container in containers(spec):
        if images and writes_report(spec, label):
            container["env"] = _images_in_the_report(images)
        _fit_container(container, images)
    return spec


def _images_in_the_report(images: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in as_environment(images).items()]


def _fit_container(container: dict[str, Any], images: Mapping[str, str]) -> None:
    container["command"] = python_in_place_of_shell(container["command"])
    container["image"] = images.get(container["image"], container["image"])


def as_yaml(compiled: Mapping[str, Any]) -> str:
    """Return a compiled pipeline or component as the YAML that kfp's and Vertex's clients read."""
    import yaml
    from kfp.compiler.pipeline_spec_builder import extract_comments_from_pipeline_spec

    documents = [dict(compiled)]
    if "pipeline_spec" in compiled:
        documents = [compiled["pipeline_spec"], compiled["platform_spec"]]
    header: str = extract_comments_from_pipeline_spec(documents[0], documents[0]["pipelineInfo"]["description"])
    return header + yaml.dump_all(documents, sort_keys=True)


def compile_all(
    output_dir: Path,
    targets: Sequence[str] = TARGETS,
    machine: str = "",
    images: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write every pipeline for every target, as TARGET/PIPELINE.yaml, and return the files.

    Args:
        output_dir: Folder that receives them.
        targets: Some of `targets.TARGETS`.
        machine: Name of the machine for GPU steps; each target's default when empty.
        images: The components' image to the one that takes its place; none are replaced when absent.
    """
    return [
        _write(output_dir / target / f"{name}.yaml", compile_for_submission(name, target, machine, images or {}))
        for target in targets
        for name in PIPELINES
    ]


def compile_components(output_dir: Path, images: Mapping[str, str] | None = None) -> list[Path]:
    """Write every component, as COMPONENT.yaml, and return the files.

    Args:
        output_dir: Folder that receives them.
        images: The components' image to the one that takes its place; none are replaced when absent.
    """
    import rlhf_components

    return [
        _write(output_dir / f"{name}.yaml", compile_component(name, images or {})) for name in rlhf_components.__all__
    ]


def _write(path: Path, compiled: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_yaml(compiled), encoding="utf-8")
    return path
