"""`rlhf label`: what the step Label Preferences does, by itself."""

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlhf_tuning.data.importer import import_prompts
from rlhf_tuning.data.sources import resolve
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges import check_judge, check_server
from rlhf_tuning.evaluation.judges.language_model import check_reachable
from rlhf_tuning.labelling.tasks import task_rubric
from rlhf_tuning.models.registered import resolve_registered
from rlhf_tuning.parameters import Value

_MODELS = ("large_model_a_reference", "large_model_b_reference")


def label_here(values: Mapping[str, Value], output: Path) -> int:
    """Label prompts, print what came of it, and return the exit status.

    Args:
        values: Checked parameters, as `parameters.LABELLED` lists them.
        output: The file of preferences.

    Raises:
        UserError: If a model, the judge or the data cannot be used.
        RunError: If the judge's server is down.
    """
    given: dict[str, Any] = dict(values)
    judgements = output.with_suffix(".judgements.jsonl")
    for file in (output, judgements):
        if file.exists():
            raise ParameterError(f"{file} is there already, and nothing is written over. Give another --output.")
    judge = {name: given[name] for name in given if name.startswith("judge")}
    for_task = task_rubric(given["task_type"])
    judge["judge_rubric"] = check_judge(
        **judge | {"judge_rubric": judge["judge_rubric"] or (for_task if judge["judge"] else "")}
    )
    for dataset in ("preference_prompt_dataset", "human_preference_dataset"):
        if given[dataset]:
            resolve(given[dataset], parameter=dataset)
    models = {
        name: resolve_registered(
            given[name] or given["large_model_reference"],
            parameter=name if given[name] else "large_model_reference",
            registry_dir=given["registry_dir"],
        ).reference
        for name in _MODELS
    }
    check_server(judge["judge"], judge["judge_key_secret"])
    if judge["judge_endpoint"]:
        check_reachable(judge["judge_endpoint"])
    from rlhf_tuning.labelling.preferences import PreferenceLabelConfig, label_preferences

    names = {field.name for field in fields(PreferenceLabelConfig)}
    settings = {name: value for name, value in given.items() if name in names}
    config = PreferenceLabelConfig(**settings | models | judge)
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts"
        import_prompts(
            prompt_dataset=given["preference_prompt_dataset"],
            eval_dataset="",
            instruction=given["instruction"],
            prompts_path=str(prompts),
            eval_prompts_path=str(Path(scratch) / "none"),
            eval_prompts=0,
            max_bad_rows=given["max_bad_rows"],
        )
        found = label_preferences(
            config,
            prompts_path=str(prompts),
            preferences_path=str(output),
            judgements_path=str(judgements),
            work_dir=str(output.absolute().parent / ".answers"),
            human_preference_dataset=given["human_preference_dataset"],
            instruction=given["instruction"],
            max_bad_rows=given["max_bad_rows"],
        )
    print("\n".join(found.lines()))
    print(f"Preferences: {output}\nJudgements: {judgements}")
    return 0
