"""A base model from a hub: its revision is resolved once, and that very revision is loaded, whatever the hub has by then."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, running_hub

from rlhf_tuning.models.base_model import load_causal_lm
from rlhf_tuning.models.tokenizer import load_tokenizer

RESOLVE = """
import json, sys
from rlhf_components.preprocess_inputs import preprocess_inputs
print(json.dumps(preprocess_inputs.python_func(sys.argv[1], sys.argv[2])))
"""
LOAD = """
import json, sys, torch
from rlhf_tuning.models.base_model import load_causal_lm
from rlhf_tuning.models.tokenizer import load_tokenizer
for name in sys.argv[1:]:
    model, tokenizer = load_causal_lm(name, dtype=torch.float32), load_tokenizer(name)
    print(json.dumps([model.get_input_embeddings().weight.sum().item(), tokenizer.chat_template is not None]))
"""
#: The hub's client asks a hub that does not answer six times for each list of files, over 23 seconds.
IMPATIENT = "import time; time.sleep = lambda seconds: None"


class Machine:
    """Runs Python as a step of a cluster does: with a cache of its own, and the hub at another address."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self._environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, env=self._environment | environment, capture_output=True, text=True, check=False)

    def result(self, script: str, *arguments: str, **environment: str) -> Any:
        return self.results(script, *arguments, **environment)[-1]

    def results(self, script: str, *arguments: str, **environment: str) -> list[Any]:
        """Return what each line says that is JSON."""
        ended = self.run(script, *arguments, **environment)
        assert ended.returncode == 0, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
def test_every_step_loads_the_revision_that_the_run_began_with(tmp_path, tiny_model, tiny_plain_model):
    """The chat model is what the run resolves; then the branch moves on to other weights without a chat template."""
    with running_hub() as hub:
        first = hub.commit("palms/tiny", tiny_model)
        machine = Machine(hub, tmp_path / "one")
        pinned, fingerprint, reward, *_ = machine.result(RESOLVE, "palms/tiny", "palms/tiny@main")
        assert (pinned, fingerprint, reward) == (f"palms/tiny@{first}", f"commit:{first}", pinned)
        model, tokenizer = load_causal_lm(str(tiny_model), dtype=torch.float32), load_tokenizer(str(tiny_model))
        local = [model.get_input_embeddings().weight.sum().item(), tokenizer.chat_template is not None]
        hub.commit("palms/tiny", tiny_plain_model)
        found, moved_on = machine.results(LOAD, pinned, "palms/tiny")
        assert found == local
        assert moved_on != local
        assert Machine(hub, tmp_path / "another").result(LOAD, pinned) == local
    # Without a hub the cache answers, for the name and for the revision.
    assert machine.result(IMPATIENT + LOAD, pinned) == local
    assert machine.result(RESOLVE, f"palms/tiny@{first}", "")[0] == pinned


@pytest.mark.parametrize(
    ("reference", "words"),
    [("palms/tiny@no-such-tag", "no revision 'no-such-tag'"), ("palms/none", "does not have")],
)
def test_a_revision_or_a_model_that_the_hub_lacks_is_refused_in_words(tmp_path, tiny_model, reference, words):
    with running_hub() as hub:
        hub.commit("palms/tiny", tiny_model)
        ended = Machine(hub, tmp_path).run(RESOLVE, reference, "")
    assert ended.returncode != 0
    assert words in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_disk_is_looked_at_before_a_model_is_fetched_and_before_it_is_tuned(tmp_path, tiny_model):
    """A disk with room for the model but not for the tuned one beside it; then a cache that has the model already."""
    check = """
import json, shutil, sys
from pathlib import Path
from rlhf_tuning.errors import MachineError
from rlhf_tuning.models import base_model, model_reference
size = model_reference.weight_bytes("palms/tiny")
told = []
for free, output, full in ((size.stored - 1, None, False), (size.stored + 1, sys.argv[1], False),
                           (2 * size.stored + 1, sys.argv[1], False), (size.stored + 1, sys.argv[1], True)):
    shutil.disk_usage = lambda place: shutil._ntuple_diskusage(2 * free, free, free)
    try:
        base_model.check_disk("palms/tiny", output=Path(output) if output else None, full=full)
        told.append("")
    except MachineError as error:
        told.append(str(error))
print(json.dumps([*size, *told]))
"""
    with running_hub() as hub:
        hub.commit("palms/tiny", tiny_model)
        machine = Machine(hub, tmp_path / "cache")
        stored, missing, none, beside, both, full = machine.result(check, str(tmp_path / "model"))
        assert stored == missing == (tiny_model / "model.safetensors").stat().st_size
        assert none.startswith("The model 'palms/tiny' needs ")
        assert "HF_HOME" in none
        assert beside.startswith("The tuned model, with 'palms/tiny' itself, needs ")
        assert both == ""
        assert full.startswith("The tuned model, with")
        machine.result(LOAD, "palms/tiny")
        stored, missing, none, beside, *_ = machine.result(check, str(tmp_path / "model"))
        assert (missing, none, beside) == (0, "", "")
