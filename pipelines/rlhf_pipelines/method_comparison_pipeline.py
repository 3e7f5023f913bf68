"""Does reinforcement learning pay, over DPO, over supervised tuning? The comparison of methods as one run on a cluster.

As `rlhf compare-methods` makes it on one machine, of one seed: the data is divided once, each method is tuned on its part
and answers the same prompts, and one judging reward model, which learnt from preferences of its own, sees all answers.
"""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import (
    compare_methods,
    divide_method_data,
    infer,
    train_policy,
    train_preference,
    train_reward_model,
    train_supervised,
)
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.methods import METHODS
from rlhf_pipelines.wiring import Values, takes_inputs, takes_parameters


class ComparisonOutputs(NamedTuple):
    """What a person wants to look at."""

    summary: dsl.Markdown
    methods_report: dsl.HTML
    data_report: dsl.HTML


class MethodOutputs(NamedTuple):
    """What a method hands on."""

    model: dsl.Model
    adapter: dsl.Model
    predictions: dsl.Dataset


def _answers(values: Values, label: str, **model: Any) -> Any:
    """Have the base model, or a tuned one, answer the prompts, as many at once as the step itself likes."""
    inputs = values.without("batch_size").of(infer, prompts=values["evaluation_prompts"], label=label, **model)
    answers = infer(**inputs).set_display_name(f"Perform Inference ({label})")
    return answers.outputs["predictions"]


def _answered(values: Values, trainer: Any, label: str) -> dict[str, Any]:
    """Have a tuned model answer the prompts, and return what a method hands on."""
    model, adapter = trainer.outputs["model"], trainer.outputs["adapter"]
    return {"model": model, "adapter": adapter, "predictions": _answers(values, label, model=model)}


_ANSWERS = {"evaluation_prompts": dsl.Input[dsl.Dataset], "large_model_fingerprint": str}


@dsl.pipeline(name="tune-on-demonstrations", description="Supervised tuning, and its model's answers.")
@takes_inputs(
    train_supervised,
    infer,
    demonstrations=dsl.Input[dsl.Dataset],
    eval_demonstrations=dsl.Input[dsl.Dataset],
    **_ANSWERS,
)
def supervised(values: Values) -> MethodOutputs:
    """Tune on demonstrations, and answer."""
    trainer = train_supervised(**values.of(train_supervised)).set_display_name("Supervised Trainer")
    return MethodOutputs(**_answered(values, trainer, METHODS["supervised"].label))


@dsl.pipeline(name="tune-on-preferences", description="Preference tuning, and its model's answers.")
@takes_inputs(
    train_preference,
    infer,
    preferences=dsl.Input[dsl.Dataset],
    eval_preferences=dsl.Input[dsl.Dataset],
    **_ANSWERS,
)
def dpo(values: Values) -> MethodOutputs:
    """Tune on preferences, and answer."""
    trainer = train_preference(**values.of(train_preference)).set_display_name("Preference Trainer")
    return MethodOutputs(**_answered(values, trainer, METHODS["dpo"].label))


@dsl.pipeline(name="tune-by-reinforcement", description="Reinforcement learning, and its model's answers.")
@takes_inputs(
    train_policy,
    infer,
    prompts=dsl.Input[dsl.Dataset],
    reward_model=dsl.Input[dsl.Model],
    held_out_reward_model=dsl.Input[dsl.Model],
    **_ANSWERS,
)
def rlhf(values: Values) -> MethodOutputs:
    """Tune on prompts, and answer."""
    trainer = train_policy(**values.of(train_policy)).set_display_name("Reinforcer")
    return MethodOutputs(**_answered(values, trainer, METHODS["rlhf"].label))


#: In the order of `METHODS`. To add one: a nested pipeline above, a line here, and its inputs of `compare_methods`.
_NESTED = {"supervised": supervised, "dpo": dpo, "rlhf": rlhf}


def for_target(target: str) -> Any:
    """Return the pipeline, which is the same for all targets."""

    @dsl.pipeline(
        name="method-comparison-pipeline",
        display_name="Comparison of methods",
        description="Tunes a language model in several ways on the same data, and says which is worth what it costs.",
    )
    @takes_parameters("method_comparison_pipeline")
    def method_comparison_pipeline(values: Values) -> ComparisonOutputs:
        """Tune a language model by supervised tuning, DPO and RLHF on the same data, and compare them.

        Returns:
            summary: The advice and the tables, as text.
            methods_report: The whole comparison, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        # Nothing is promoted here.
        inputs, models = first_steps(values, gate_min_prompts=1)
        values = values.adding(inputs.outputs).adding(models.outputs)
        data = divide_method_data(**values.of(divide_method_data)).set_display_name("Divide Method Data")
        values = values.adding(data.outputs)
        # All at this level: of nested pipelines with several of one component kfp makes names by chance.
        reward_base = {
            "large_model_reference": values["reward_model_reference"],
            "large_model_fingerprint": values["reward_model_fingerprint"],
        }
        reward = train_reward_model(**values.of(train_reward_model, **reward_base)).set_display_name(
            "Reward Model Trainer"
        )
        held_out = train_reward_model(**values.of(train_reward_model, **reward_base, held_out=True)).set_display_name(
            "Held-out Reward Model Trainer"
        )
        judge = train_reward_model(
            **values.of(
                train_reward_model,
                **reward_base,
                preferences=data.outputs["judge_preferences"],
                eval_preferences=data.outputs["eval_judge_preferences"],
                held_out_reward_model_share=0.0,  # these are all its own
            )
        ).set_display_name("Judging Reward Model Trainer")
        values = values.adding(
            {
                "reward_model": reward.outputs["reward_model"],
                "held_out_reward_model": held_out.outputs["reward_model"],
            }
        )
        own = {
            "supervised": {
                "train_steps": values["supervised_train_steps"],
                "learning_rate_multiplier": values["supervised_learning_rate_multiplier"],
            },
            "dpo": {"held_out_reward_model_share": 0.0},  # the judge has preferences of its own
            "rlhf": {},
        }
        made = {
            name: tune(**values.of(tune, **own[name])).set_display_name(METHODS[name].label)
            for name, tune in _NESTED.items()
        }
        handed_on = {
            f"{name}_{output}": method.outputs[output]
            for name, method in made.items()
            for output in MethodOutputs._fields
        }
        compared = compare_methods(
            **values.of(
                compare_methods,
                **handed_on,
                base_predictions=_answers(values, "base model"),
                judging_reward_model=judge.outputs["reward_model"],
                labels={name: METHODS[name].label for name in _NESTED},
            )
        ).set_display_name("Compare Methods")
        return ComparisonOutputs(
            summary=compared.outputs["summary"],
            methods_report=compared.outputs["report"],
            data_report=inputs.outputs["data_report"],
        )

    return method_comparison_pipeline


method_comparison_pipeline = for_target("local")
