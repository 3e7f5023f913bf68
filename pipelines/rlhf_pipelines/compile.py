"""Compiles the pipelines to YAML: `rlhf compile`, `make compile`, and the test that holds `pipelines/compiled` current."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_pipelines.executor_command import python_in_place_of_shells
from rlhf_pipelines.image_choice import put_in_place

#: Pipeline to the module that defines a function of that name, and `for_target`, which returns it. To add a pipeline: its
#: file, a line here, its parameters in `parameters.PIPELINES`.
PIPELINES: dict[str, str] = {
    "rlhf_pipeline": "rlhf_pipelines.rlhf_pipeline",
    "recurring_rlhf_pipeline": "rlhf_pipelines.recurring_rlhf_pipeline",
    "reward_model_pipeline": "rlhf_pipelines.reward_model_pipeline",
    "infer_pipeline": "rlhf_pipelines.infer_pipeline",
}


def load_pipeline(name: str, target: str = "local") -> Any:
    """Return the pipeline function for a target: where the model goes in the end differs between them."""
    return importlib.import_module(PIPELINES[name]).for_target(target)


def compile_pipeline(name: str, path: Path, images: Mapping[str, str]) -> None:
    """Write one pipeline as YAML, with `images` in the place of those that the components name."""
    from kfp import compiler

    compiler.Compiler().compile(load_pipeline(name), str(path))
    compiled = put_in_place(path.read_text(encoding="utf-8"), images)
    path.write_text(python_in_place_of_shells(compiled), encoding="utf-8")


def compile_all(output_dir: Path, images: Mapping[str, str] | None = None) -> list[Path]:
    """Write every pipeline as YAML and return the files.

    Args:
        output_dir: Folder that receives them.
        images: The components' image to the one that takes its place; none are replaced when absent.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = [output_dir / f"{name}.yaml" for name in PIPELINES]
    for name, path in zip(PIPELINES, paths, strict=True):
        compile_pipeline(name, path, images or {})
    return paths
