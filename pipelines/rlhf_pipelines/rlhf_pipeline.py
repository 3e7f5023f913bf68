"""The whole job: reward model, reinforcement learning, evaluation, upload. Parameters as the Vertex RLHF job had them."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components.evaluate import evaluate
from rlhf_components.find_champion import find_champion
from rlhf_components.infer import infer
from rlhf_components.preprocess_inputs import preprocess_inputs
from rlhf_components.train_reward_model import train_reward_model
from rlhf_components.validate_inputs import validate_inputs
from rlhf_pipelines.phases import reinforcement_phase, reward_model_phase
from rlhf_pipelines.upload_phases import RUN_PLACE, UPLOAD_PHASES
from rlhf_pipelines.wiring import Values, takes_parameters


class RlhfOutputs(NamedTuple):
    """The Vertex job's two outputs, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes."""

    @dsl.pipeline(
        name="rlhf-pipeline",
        display_name="RLHF",
        description="Tunes a language model with human preferences, in two phases: reward model, reinforcement learning.",
    )
    @takes_parameters("rlhf_pipeline")
    def rlhf_pipeline(values: Values) -> RlhfOutputs:
        """Tune a language model with human preferences.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs = (
            validate_inputs(**values.of(validate_inputs)).set_display_name("Validate Inputs").set_caching_options(False)
        )
        models = (
            preprocess_inputs(**values.of(preprocess_inputs))
            .set_display_name("Preprocess Inputs")
            .set_caching_options(False)
            .after(inputs)
        )
        # What these steps found takes the place of what was named: a model's commit, a rubric's words.
        values = values.adding(inputs.outputs).adding(models.outputs)
        reward_base = {
            "large_model_reference": models.outputs["reward_model_reference"],
            "large_model_fingerprint": models.outputs["reward_model_fingerprint"],
        }
        phase_1 = reward_model_phase(**values.of(reward_model_phase, **reward_base)).set_display_name(
            "Train Reward Model"
        )
        held_out = train_reward_model(
            **values.of(
                train_reward_model,
                **reward_base,
                preferences=phase_1.outputs["preferences"],
                eval_preferences=phase_1.outputs["eval_preferences"],
                preference_rows=phase_1.outputs["preference_rows"],
                held_out=True,
            )
        ).set_display_name("Held-out Reward Model Trainer")
        phase_2 = reinforcement_phase(
            **values.of(
                reinforcement_phase,
                reward_model=phase_1.outputs["reward_model"],
                held_out_reward_model=held_out.outputs["reward_model"],
            )
        ).set_display_name("Reinforcement Learning")
        champion = (
            find_champion(**values.of(find_champion, target=target, **(RUN_PLACE if target == "vertex" else {})))
            .set_display_name("Find Champion")
            .set_caching_options(False)
            .after(phase_2)
        )
        # Inference has batches of its own.
        answering = values.without("batch_size")
        champion_answers = infer(
            **answering.of(
                infer,
                prompts=phase_2.outputs["evaluation_prompts"],
                large_model_reference=champion.outputs["model_reference"],
                large_model_fingerprint=champion.outputs["model_fingerprint"],
                label="champion",
            )
        ).set_display_name("Perform Inference (champion)")
        tuned_answers = infer(
            **answering.of(infer, prompts=phase_2.outputs["evaluation_prompts"], model=phase_2.outputs["model"])
        ).set_display_name("Perform Inference (tuned model)")
        comparison = evaluate(
            **values.of(
                evaluate,
                champion_predictions=champion_answers.outputs["predictions"],
                tuned_predictions=tuned_answers.outputs["predictions"],
                model=phase_2.outputs["model"],
                adapter=phase_2.outputs["adapter"],
                reward_model=phase_1.outputs["reward_model"],
                held_out_reward_model=held_out.outputs["reward_model"],
                eval_preferences=phase_1.outputs["eval_preferences"],
                champion=champion.outputs["champion"],
            )
        ).set_display_name("Evaluate Tuned Model")
        # Not cached: a registry may have lost what an earlier run put there. The same content makes one version.
        upload_phase = UPLOAD_PHASES[target]
        upload = (
            upload_phase(
                **values.of(
                    upload_phase,
                    model=phase_2.outputs["model"],
                    adapter=phase_2.outputs["adapter"],
                    reward_model=phase_1.outputs["reward_model"],
                    evaluation=comparison.outputs["evaluation"],
                    promote=comparison.outputs["promote"],
                    champion=champion.outputs["champion"],
                )
            )
            .set_display_name("Upload and Deploy Tuned Model")
            .set_caching_options(False)
        )
        return RlhfOutputs(
            model_resource_name=upload.outputs["model_resource_name"],
            endpoint_resource_name=upload.outputs["endpoint_resource_name"],
            summary=comparison.outputs["summary"],
            report=comparison.outputs["report"],
            data_report=inputs.outputs["data_report"],
        )

    return rlhf_pipeline


rlhf_pipeline = for_target("local")
