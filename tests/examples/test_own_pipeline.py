"""Pipelines that are none of ours, made of components: from Python, and from compiled YAML; run by kfp's local runner."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from examples.own_pipeline import count_words_of_answers
from kfp import dsl, local
from kfp.components import load_component_from_file

COMPILED = Path(__file__).parents[2] / "components" / "compiled"

# What kfp says of any image but Python's own.
pytestmark = pytest.mark.filterwarnings("ignore:You may be attemping to run a task that uses custom:RuntimeWarning")


@pytest.fixture(autouse=True)
def local_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local.config.LocalExecutionConfig, "instance", None)
    root, workspace = str(tmp_path / "root"), str(tmp_path / "workspace")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=workspace)


def write_rows(folder: Path, *rows: Mapping[str, object]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_imported_components_and_one_s_own_make_a_pipeline(tmp_path: Path, tiny_model: Path) -> None:
    prompts = write_rows(tmp_path, {"input_text": "Create a description."}, {"input_text": "Enjoy the sun."})
    run = count_words_of_answers(prompt_dataset=prompts, model=str(tiny_model))
    assert run.output > 0


def test_a_bad_row_ends_the_pipeline_in_words_that_name_it(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_rows(tmp_path, {"input_text": "Create a description."}, {"text": "Enjoy the sun."})
    with pytest.raises(RuntimeError, match=r"Inner task failed: .*'validate-inputs'"):
        count_words_of_answers(prompt_dataset=prompts, model=str(tiny_model))
    log = capsys.readouterr().out
    assert "ERROR in step Validate Inputs: prompt_dataset cannot be used: 1 problem." in log
    assert f"{prompts}:2: found the fields text; accepted: a row with input_text" in log
    assert "Traceback" not in log


class Learnt(NamedTuple):
    reward_model: dsl.Model
    checked: str


@pytest.mark.slow
def test_components_loaded_from_yaml_make_a_pipeline_and_need_none_of_what_only_ours_know(
    tmp_path: Path, tiny_model: Path
) -> None:
    validate, import_preferences, train = (
        load_component_from_file(str(COMPILED / f"{name}.yaml"))
        for name in ("validate_inputs", "import_preference_dataset", "train_reward_model")
    )

    @dsl.pipeline(name="learn-to-score")
    def learn_to_score(preference_dataset: str, large_model_reference: str) -> Learnt:
        checked = validate(preference_dataset=preference_dataset)
        data = import_preferences(preference_dataset=preference_dataset).after(checked)
        learnt = train(
            preferences=data.outputs["preferences"],
            eval_preferences=data.outputs["eval_preferences"],
            large_model_reference=large_model_reference,
            reward_model_train_steps=2,
            batch_size=4,
        )
        return Learnt(learnt.outputs["reward_model"], checked.outputs["preference_fingerprint"])

    rows = [
        {"input_text": f"Describe place {n}.", "candidate_0": "Sun.", "candidate_1": "Gulls call.", "choice": n % 2}
        for n in range(20)
    ]
    run = learn_to_score(preference_dataset=write_rows(tmp_path, *rows), large_model_reference=str(tiny_model))
    reward_model = run.outputs["reward_model"]
    assert reward_model.metadata["preference_fingerprint"] == run.outputs["checked"]
    assert "adapter_model.safetensors" in {path.name for path in Path(reward_model.path).rglob("*")}
