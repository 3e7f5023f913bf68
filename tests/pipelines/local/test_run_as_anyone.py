"""A whole run as a user with no name and no home, on a file system that is read-only but for /tmp, as OpenShift has it."""

from pathlib import Path

import pytest
from pod import python_in_a_pod

pytestmark = pytest.mark.slow

_RUN = """
import json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from conftest import make_model

from rlhf_pipelines.cli.rlhf import main

make_model(Path("/tmp/model"), chat_template=None)
good, bad = "salt and gulls and salt", "0 1 2 3 4 5"
rows = [{"input_text": f"Create {n}.", "candidate_0": good, "candidate_1": bad, "choice": 0} for n in range(40)]
Path("/tmp/preferences.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
Path("/tmp/prompts.jsonl").write_text("".join(json.dumps({"input_text": f"Say {n}."}) + "\\n" for n in range(40)))
values = {
    "preference_dataset": "/tmp/preferences.jsonl",
    "prompt_dataset": "/tmp/prompts.jsonl",
    "large_model_reference": "/tmp/model",
    "model_display_name": "tiny",
    "prompt_sequence_length": 48,
    "target_sequence_length": 8,
    "reward_model_train_steps": 2,
    "reinforcement_learning_train_steps": 2,
    "batch_size": 4,
    "held_out_reward_model_share": 0.0,
    "min_reward_model_accuracy": 0.0,
    "dtype": "float32",
}
Path("/tmp/values.json").write_text(json.dumps(values))
print("status", main(["run", "--parameter-values", "/tmp/values.json", "--pipeline-root", "/tmp/runs"]))
"""


def test_every_step_works_for_a_user_whom_nobody_knows(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "RLHF_CACHE_DIR", "RLHF_REGISTRY_DIR", "HF_HOME"))
    told = python_in_a_pod(
        _RUN,
        str(Path(__file__).parents[2]),
        root=tmp_path,
        scratch=("/tmp",),
        user="12345:0",
        environment={**nobody, "OMP_NUM_THREADS": "1"},
    )
    assert told.splitlines()[-1] == "status 0", told[-3000:]
