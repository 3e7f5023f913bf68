"""What is compiled for Kubeflow, parsed as each release that we claim parses it: strictly, with its own definitions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf_pipelines.backends.kubeflow_client import LEAST_VERSION

COMPILED = sorted((Path(__file__).parents[2] / "pipelines" / "compiled" / "kubeflow").glob("*.yaml"))
#: The first of each line of releases.
RELEASES = ["2.15.0", "2.16.0", "2.17.0"]

#: Empty packages stand for kfp and kfp.kubernetes, or the ones of this environment would be imported.
_PARSE = """
import json, sys, types
from google.protobuf import json_format

for name in ("kfp", "kfp.kubernetes"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

for pipeline, platform in json.load(sys.stdin):
    json_format.ParseDict(pipeline, PipelineSpec())
    json_format.ParseDict(platform, PlatformSpec())
    for config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(config, KubernetesExecutorConfig())
"""


def complaint(version: str, folder: Path) -> str:
    """Return what the definitions of a release say against what is compiled, from a package index; skip without one."""
    packages = [f"kfp-kubernetes=={version}", f"kfp-pipeline-spec=={version}"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    installed = subprocess.run([*pip, "--target", str(folder), *packages], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"SKIPPED: pip cannot install {' and '.join(packages)} here: {installed.stderr.strip()[-300:]}")
    documents = [list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)) for path in COMPILED]
    parse = [sys.executable, "-c", _PARSE, str(folder)]
    done = subprocess.run(parse, input=json.dumps(documents), capture_output=True, text=True, check=False)
    return done.stderr.strip()


@pytest.mark.slow
@pytest.mark.parametrize("version", RELEASES)
def test_every_release_that_we_claim_understands_what_is_compiled(version: str, tmp_path: Path) -> None:
    assert len(COMPILED) >= 3
    assert complaint(version, tmp_path) == ""


@pytest.mark.slow
def test_the_release_before_the_least_does_not(tmp_path: Path) -> None:
    assert RELEASES[0].startswith(".".join(map(str, LEAST_VERSION)))
    assert '"kfp_kubernetes.SecretAsEnv" has no field named "optional"' in complaint("2.14.0", tmp_path)
