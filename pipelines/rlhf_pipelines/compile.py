"""Compiles the pipelines to YAML: `rlhf compile`, `make compile`, and the test that holds `pipelines/compiled` current."""

import importlib
from pathlib import Path
from typing import Any

#: Pipeline to the module that defines a function of that name. To add a pipeline: its file, a line here, its
#: parameters in `parameters.PIPELINES`.
PIPELINES: dict[str, str] = {
    "rlhf_pipeline": "rlhf_pipelines.rlhf_pipeline",
    "reward_model_pipeline": "rlhf_pipelines.reward_model_pipeline",
    "infer_pipeline": "rlhf_pipelines.infer_pipeline",
}


def load_pipeline(name: str) -> Any:
    """Return the pipeline function."""
    return getattr(importlib.import_module(PIPELINES[name]), name)


def compile_pipeline(name: str, path: Path) -> None:
    """Write one pipeline as YAML."""
    from kfp import compiler

    compiler.Compiler().compile(load_pipeline(name), str(path))


def compile_all(output_dir: Path) -> list[Path]:
    """Write every pipeline as YAML and return the files."""
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = [output_dir / f"{name}.yaml" for name in PIPELINES]
    for name, path in zip(PIPELINES, paths, strict=True):
        compile_pipeline(name, path)
    return paths
