import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_components.images import LIGHT_IMAGE, TRAINER_IMAGE
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


def test_in_every_component_python_takes_the_place_of_the_shell(compiled):
    for path in compiled:
        text = path.read_text()
        assert text.count("exec python3 -m kfp.dsl.executor_main") == text.count("executor_main") > 0


def test_chosen_images_stand_in_every_component(tmp_path):
    digest = "sha256:" + "0" * 64
    choices = {LIGHT_IMAGE: f"registry/light@{digest}", TRAINER_IMAGE: f"registry/trainer@{digest}"}
    for path, current in zip(compile_all(tmp_path, choices), sorted(COMPILED.iterdir(), key=_place), strict=True):
        text = path.read_text()
        assert LIGHT_IMAGE not in text
        assert TRAINER_IMAGE not in text
        for ours, theirs in choices.items():
            text = text.replace(theirs, ours)
        assert text == current.read_text()


def _place(path):
    return list(PIPELINES).index(path.stem)


def test_every_pipeline_is_a_single_document(compiled):
    for path in compiled:
        assert "\n---\n" not in path.read_text()


@pytest.mark.parametrize("module", ["rlhf_components.train_policy", *PIPELINES.values()])
def test_importing_pipelines_and_components_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
