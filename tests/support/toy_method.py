"""A tuning method that changes nothing, as somebody would add one: its training component, and a pipeline of a few lines."""

from typing import Any

from kfp import dsl

from rlhf_components import import_prompt_dataset, preprocess_inputs, validate_inputs
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.evaluate_and_promote import PromotionOutputs
from rlhf_pipelines.wiring import Values, takes_inputs
from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def keep_base(
    prompts: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    adapter: dsl.Output[dsl.Model],
    large_model_reference: str,
    seed: int = 0,
) -> None:
    """Save the base model as if it had been tuned."""
    import json
    import shutil
    from pathlib import Path

    from rlhf_tuning.registry import TUNING_SETTINGS

    shutil.copytree(large_model_reference, model.path)
    Path(adapter.path).mkdir(parents=True)
    settings = {"large_model_reference": large_model_reference, "seed": seed}
    (Path(adapter.path) / TUNING_SETTINGS).write_text(json.dumps(settings))
    (Path(adapter.path) / "metrics.jsonl").write_text("")
    model.metadata.update(base_model=large_model_reference)


def for_target(target: str) -> Any:
    """Return the method's pipeline for a target."""
    promote_if_better = evaluate_and_promote.for_target(target)

    @dsl.pipeline(name="keep-base-pipeline")
    @takes_inputs(validate_inputs, preprocess_inputs, import_prompt_dataset, keep_base, promote_if_better)
    def keep_base_pipeline(values: Values) -> PromotionOutputs:
        """Tune nothing, and let the gate decide."""
        inputs = validate_inputs(**values.of(validate_inputs))
        models = preprocess_inputs(**values.of(preprocess_inputs)).after(inputs)
        values = values.adding(inputs.outputs).adding(models.outputs)
        data = import_prompt_dataset(**values.of(import_prompt_dataset))
        values = values.adding(data.outputs)
        trained = keep_base(**values.of(keep_base))
        outcome = promote_if_better(**values.adding(trained.outputs).of(promote_if_better))
        return PromotionOutputs(**{name: outcome.outputs[name] for name in PromotionOutputs._fields})

    return keep_base_pipeline


keep_base_pipeline = for_target("local")
