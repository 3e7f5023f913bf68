"""What every pipeline that works on data begins with: are its inputs good, and which models are meant exactly?"""

from typing import Any

from rlhf_components import preprocess_inputs, validate_inputs
from rlhf_pipelines.wiring import Values


def first_steps(values: Values, *, method: str = "", **given: Any) -> tuple[Any, Any]:
    """Put Validate Inputs and Preprocess Inputs into a pipeline, and return both.

    Neither is cached: what is behind a path or a hub id may change.

    Args:
        values: Of the pipeline.
        method: By which it tunes, as Preprocess Inputs knows it; empty for that step's default.
        given: Inputs of Validate Inputs that the pipeline has under other names, or that are not its user's to choose.
    """
    inputs = (
        validate_inputs(**values.of(validate_inputs, **given))
        .set_display_name("Validate Inputs")
        .set_caching_options(False)
    )
    of_method = {"method": method} if method else {}
    models = (
        preprocess_inputs(**values.of(preprocess_inputs, **of_method))
        .set_display_name("Preprocess Inputs")
        .set_caching_options(False)
        .after(inputs)
    )
    return inputs, models
