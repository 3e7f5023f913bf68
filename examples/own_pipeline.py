"""A pipeline of one's own: three components, and one that is written here.

python examples/own_pipeline.py PROMPTS.jsonl MODEL
"""

import sys

from kfp import dsl, local

from rlhf_components import import_prompt_dataset, infer, validate_inputs


# This machine has kfp. On a cluster leave install_kfp_package out.
@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def count_words(predictions: dsl.Input[dsl.Dataset]) -> int:
    """Count the words of all answers."""
    import json

    with open(predictions.path, encoding="utf-8") as file:
        return sum(len(json.loads(line)["prediction"].split()) for line in file)


@dsl.pipeline(name="count-words-of-answers")
def count_words_of_answers(prompt_dataset: str, model: str) -> int:
    """Answer every prompt, and count."""
    # Not cached: rows may have changed behind their path.
    checked = validate_inputs(prompt_dataset=prompt_dataset)
    checked.set_caching_options(False)
    data = import_prompt_dataset(
        prompt_dataset=prompt_dataset,
        prompt_fingerprint=checked.outputs["prompt_fingerprint"],
        eval_prompts=0,
    )
    answers = infer(
        prompts=data.outputs["prompts"],
        large_model_reference=model,
        temperature=0.0,
    )
    return count_words(predictions=answers.outputs["predictions"]).output


if __name__ == "__main__":
    local.init(runner=local.SubprocessRunner(use_venv=False))
    run = count_words_of_answers(prompt_dataset=sys.argv[1], model=sys.argv[2])
    print(f"{run.output} words")
