import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_pipelines.compile import PIPELINES, compile_all

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_all(tmp_path_factory.mktemp("compiled"))


def test_the_committed_pipelines_are_current(compiled):
    for path in compiled:
        assert (COMPILED / path.name).read_text() == path.read_text(), f"{path.name} differs: run `make compile`"
    assert sorted(path.name for path in COMPILED.iterdir()) == sorted(path.name for path in compiled)


def test_nothing_is_downloaded_at_run_time(compiled):
    for path in compiled:
        assert "pip install" not in path.read_text()


def test_every_pipeline_is_a_single_document(compiled):
    for path in compiled:
        assert "\n---\n" not in path.read_text()


@pytest.mark.parametrize("module", ["rlhf_components.train_policy", *PIPELINES.values()])
def test_importing_pipelines_and_components_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
