"""A parameter is described once; from there it finds its way by its name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rlhf_components import infer
from rlhf_pipelines.phases import reward_model_phase
from rlhf_pipelines.wiring import Values

ROOT = Path(__file__).parents[2]
PACKAGES = ("src/rlhf_tuning", "components/rlhf_components", "pipelines/rlhf_pipelines")

#: All that adding a parameter takes: its line in the table, the field of the config, the component that builds the config.
MADE_UP = {
    "src/rlhf_tuning/parameters.py": [
        (
            '        Parameter("lora_dim",',
            '        Parameter("entropy_bonus", float, 0.5, "Reward for each nat of entropy.", Limit(0, 2)),\n',
        )
    ],
    "src/rlhf_tuning/training/reinforcement.py": [
        ("    num_generations: int = 4\n", "    entropy_bonus: float = 0.5\n")
    ],
    "components/rlhf_components/train_policy.py": [
        ("    num_generations: int = 4,\n", "    entropy_bonus: float = 0.5,\n"),
        ("        num_generations: ", "        entropy_bonus: Reward for each nat of entropy.\n"),
        ("            num_generations=num_generations,\n", "            entropy_bonus=entropy_bonus,\n"),
    ],
}
PROGRAM = """
import sys
from rlhf_pipelines.cli import rlhf
from rlhf_pipelines.compile import compile_all
from pathlib import Path
compile_all(Path(sys.argv[1]), ["local"])
assert rlhf.main(["run", "--sample", "--entropy-bonus", "3"]) == 2
rlhf.main(["run", "--help"])
"""


def test_a_made_up_parameter_needs_its_line_its_config_and_its_component(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, insertions in MADE_UP.items():
        text = (tmp_path / name).read_text()
        for before, line in insertions:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, line + before)
        (tmp_path / name).write_text(text)
    path = os.pathsep.join(str(tmp_path / Path(package).parent) for package in PACKAGES)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "compiled")],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "entropy_bonus is 3.0; it must be at least 0 and at most 2." in done.stderr
    assert "--entropy-bonus X" in done.stdout, done.stderr
    assert "Reward for each nat of entropy; default: 0.5" in done.stdout
    for name in ("rlhf_pipeline", "recurring_rlhf_pipeline"):
        compiled = (tmp_path / "compiled/local" / f"{name}.yaml").read_text()
        # From the pipeline into the phase, and from there into the trainer.
        assert len(re.findall(r"entropy_bonus:\n +componentInputParameter: ", compiled)) >= 2
        assert "description: Reward for each nat of entropy." in compiled
        assert "#    entropy_bonus: float [Default: 0.5]" in compiled
        assert "entropy_bonus=entropy_bonus," in compiled


def test_a_step_gets_what_it_has_names_for_and_what_is_given() -> None:
    values = Values(seed=3, kl_coeff=0.1, large_model_reference="a/model", batch_size=8)
    found = values.without("batch_size").of(infer, prompts="rows", large_model_reference="another/model")
    assert found == {"seed": 3, "prompts": "rows", "large_model_reference": "another/model"}


def test_what_a_step_needs_and_the_pipeline_does_not_have_is_at_its_default() -> None:
    found = Values(preference_dataset="rows.jsonl", seed=1).of(reward_model_phase, held_out_reward_model_share=0.0)
    assert found["eval_dataset"] == ""
    assert found["held_out_reward_model_share"] == 0.0
    assert "held_out" not in found, "a step within has that default itself"


def test_outputs_take_the_place_of_what_has_their_names() -> None:
    assert Values(judge_rubric="rubric.txt", seed=1).adding({"judge_rubric": "Be brief."}) == {
        "judge_rubric": "Be brief.",
        "seed": 1,
    }
