"""The phases, as pipelines of their own that the others nest."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import (
    choose_start,
    import_demonstration_dataset,
    import_preference_dataset,
    import_prompt_dataset,
    import_supervised_dataset,
    label_demonstrations,
    label_preferences,
    train_policy,
    train_preference,
    train_reward_model,
    train_supervised,
)
from rlhf_pipelines.wiring import Values, takes_inputs


class SupervisedOutputs(NamedTuple):
    """What supervised tuning hands on."""

    model: dsl.Model
    adapter: dsl.Model
    eval_demonstrations: dsl.Dataset
    evaluation_prompts: dsl.Dataset


class DemonstrationLabelOutputs(NamedTuple):
    """What a teacher's labelling hands on: demonstrations, and all prompts with the answers that they have now."""

    demonstrations: dsl.Dataset
    eval_demonstrations: dsl.Dataset
    evaluation_prompts: dsl.Dataset
    labels: dsl.Dataset


class StartOutputs(NamedTuple):
    """What a supervised phase before others hands on, as `choose_start` does."""

    large_model_reference: str
    large_model_fingerprint: str
    reward_model_reference: str
    reward_model_fingerprint: str
    start_uri: str


class RewardModelOutputs(NamedTuple):
    """What phase 1 hands on."""

    reward_model: dsl.Model
    metrics: dsl.Metrics
    preferences: dsl.Dataset
    eval_preferences: dsl.Dataset
    preference_rows: dsl.Dataset


class PreferenceLabelOutputs(NamedTuple):
    """What a judge's labelling hands on."""

    labelled_preferences: dsl.Dataset
    judgements: dsl.Dataset


class PreferenceOutputs(NamedTuple):
    """What preference tuning hands on."""

    model: dsl.Model
    adapter: dsl.Model
    preferences: dsl.Dataset
    eval_preferences: dsl.Dataset
    evaluation_prompts: dsl.Dataset


class ReinforcementOutputs(NamedTuple):
    """What phase 2 hands on."""

    model: dsl.Model
    adapter: dsl.Model
    evaluation_prompts: dsl.Dataset


@dsl.pipeline(name="supervised-tuning", description="Learn to answer as demonstrations do.")
@takes_inputs(
    import_demonstration_dataset,
    train_supervised,
    demonstration_fingerprint=str,
    eval_fingerprint=str,
    large_model_fingerprint=str,
    warm_start_fingerprint=str,
    budget=str,
)
def supervised_phase(values: Values) -> SupervisedOutputs:
    """Import demonstrations and tune the model on them."""
    data = import_demonstration_dataset(**values.of(import_demonstration_dataset)).set_display_name(
        "Import Demonstration Dataset"
    )
    trainer = train_supervised(
        **values.of(
            train_supervised,
            demonstrations=data.outputs["demonstrations"],
            eval_demonstrations=data.outputs["eval_demonstrations"],
            evaluation_prompts=data.outputs["evaluation_prompts"],
        )
    ).set_display_name("Supervised Trainer")
    return SupervisedOutputs(
        model=trainer.outputs["model"],
        adapter=trainer.outputs["adapter"],
        eval_demonstrations=data.outputs["eval_demonstrations"],
        evaluation_prompts=data.outputs["evaluation_prompts"],
    )


@dsl.pipeline(name="teacher-labels", description="A teacher answers prompts.")
@takes_inputs(
    import_demonstration_dataset,
    label_demonstrations,
    demonstration_fingerprint=str,
    eval_fingerprint=str,
    teacher_fingerprint=str,
)
def demonstration_labels(values: Values) -> DemonstrationLabelOutputs:
    """Import prompts, and let the teacher answer those that have no answer."""
    data = import_demonstration_dataset(**values.of(import_demonstration_dataset, to_label=True)).set_display_name(
        "Import Prompts to Label"
    )
    labels = label_demonstrations(
        **values.of(
            label_demonstrations,
            demonstrations=data.outputs["demonstrations"],
            eval_demonstrations=data.outputs["eval_demonstrations"],
        )
    ).set_display_name("Label Demonstrations")
    return DemonstrationLabelOutputs(
        demonstrations=labels.outputs["labelled_demonstrations"],
        eval_demonstrations=labels.outputs["labelled_eval_demonstrations"],
        evaluation_prompts=data.outputs["evaluation_prompts"],
        labels=labels.outputs["labels"],
    )


def _start(values: Values, condition: str, name: str, demonstrations: Callable[[], dict[str, Any]]) -> StartOutputs:
    """Put supervised tuning under a condition into a pipeline, and say what the others start from.

    Args:
        values: Of the pipeline.
        condition: The value that says whether there is any.
        name: Of the condition, for people.
        demonstrations: Puts in what comes before, and returns the demonstrations that are not among the values.
    """
    with dsl.If(values[condition] == True, name=name):  # noqa: E712
        trainer = train_supervised(**values.of(train_supervised, **demonstrations(), is_start=True)).set_display_name(
            "Supervised Trainer"
        )
        supervised = choose_start(**values.of(choose_start, model=trainer.outputs["model"])).set_display_name(
            "Choose Start"
        )
    with dsl.Else(name="the base model is the start"):
        base = choose_start(**values.of(choose_start)).set_display_name("Choose Start")
    return StartOutputs(
        **{each: dsl.OneOf(supervised.outputs[each], base.outputs[each]) for each in StartOutputs._fields}
    )


@dsl.pipeline(
    name="supervised-start", description="Before all else, if asked for: learn to answer as demonstrations do."
)
@takes_inputs(
    import_supervised_dataset,
    train_supervised,
    choose_start,
    supervises=bool,
    demonstration_fingerprint=str,
    preference_fingerprint=str,
    feedback_fingerprint=str,
    held_out_fingerprint=str,
    eval_fingerprint=str,
    large_model_fingerprint=str,
    reward_model_fingerprint=str,
    budget=str,
)
def supervised_start(values: Values) -> StartOutputs:
    """Tune the model on demonstrations where that is asked for, and say which model the others start from."""

    def demonstrations() -> dict[str, Any]:
        data = import_supervised_dataset(**values.of(import_supervised_dataset)).set_display_name(
            "Import Supervised Dataset"
        )
        return {name: data.outputs[name] for name in ("demonstrations", "eval_demonstrations")}

    return _start(values, "supervises", "there is a supervised phase", demonstrations)


@dsl.pipeline(
    name="student-start", description="Before a student answers by itself: learn to answer as its teacher does."
)
@takes_inputs(
    train_supervised,
    choose_start,
    demonstrations=dsl.Input[dsl.Dataset],
    eval_demonstrations=dsl.Input[dsl.Dataset],
    on_policy=bool,
    large_model_fingerprint=str,
    reward_model_fingerprint=str,
    warm_start_fingerprint=str,
    budget=str,
)
def student_start(values: Values) -> StartOutputs:
    """Tune the student on its teacher's answers, where that is not the last phase, and say from what the last one starts."""
    return _start(values, "on_policy", "the student answers by itself afterwards", dict)


@dsl.pipeline(name="fetch-start", description="Hand on as an artifact what the other phases start from.")
def fetch_start(start_uri: str) -> dsl.Artifact:
    """Import the start as an artifact, for steps that share no storage.

    Kubeflow looks an importer's address up among the inputs of the pipeline around it, and knows no outputs of steps there.
    """
    start = dsl.importer(artifact_uri=start_uri, artifact_class=dsl.Artifact)
    return start.set_display_name("Import Start").output


def fetched_by(target: str) -> dict[str, Any]:
    """Return the artifacts, by name and type, that steps of a target get besides where a supervised phase may come first."""
    return {"start_model": dsl.Input[dsl.Artifact]} if target == "kubeflow" else {}


def supervised_first(values: Values, target: str, **given: Any) -> Values:
    """Put a supervised phase, where it is asked for, before all else; return the values that name what others start from.

    What is absent cannot be handed to a nested pipeline by kfp's local runner, nor chosen among artifacts by Kubeflow's
    backend, so that model goes on as the name of its folder, which both can choose. Where steps share no storage, as on
    Kubeflow, they get it as an artifact besides.

    Args:
        values: Of the pipeline, with what Validate Inputs and Preprocess Inputs found.
        target: Where the pipeline runs.
        given: Inputs of the phase that the pipeline has under other names.
    """
    start = supervised_start(
        **values.of(
            supervised_start,
            train_steps=values["supervised_train_steps"],
            learning_rate_multiplier=values["supervised_learning_rate_multiplier"],
            **given,
        )
    ).set_display_name("Supervised Tuning")
    return started_from(start, values, target)


def started_from(start: Any, values: Values, target: str) -> Values:
    """Return the values that name what others start from.

    Args:
        start: The task of a nested pipeline that hands that on.
        values: Of the pipeline.
        target: Where the pipeline runs.
    """
    values = values.adding(start.outputs)
    if not fetched_by(target):
        return values
    weights = fetch_start(**values.of(fetch_start)).set_display_name("Fetch Start")
    return values.adding({"start_model": weights.output})


@dsl.pipeline(name="ai-feedback", description="Two models answer prompts, and a judge says which answer is better.")
@takes_inputs(
    import_prompt_dataset,
    label_preferences,
    prompt_fingerprint=str,
    human_preference_fingerprint=str,
    large_model_a_fingerprint=str,
    large_model_b_fingerprint=str,
)
def preference_labels(values: Values) -> PreferenceLabelOutputs:
    """Import prompts and let a judge label the answers of two models."""
    # Prompts that are compared on leave the labels where these are imported, by the whole job.
    data = import_prompt_dataset(**values.of(import_prompt_dataset, eval_dataset="", eval_prompts=0)).set_display_name(
        "Import Prompts to Label"
    )
    labels = label_preferences(**values.of(label_preferences, prompts=data.outputs["prompts"])).set_display_name(
        "Label Preferences"
    )
    return PreferenceLabelOutputs(
        labelled_preferences=labels.outputs["labelled_preferences"], judgements=labels.outputs["judgements"]
    )


def reward_model_phase_with(**fetched: Any) -> Any:
    """Return phase 1, for steps that get these artifacts besides; their types, such as `dsl.Input[dsl.Artifact]`."""

    @dsl.pipeline(name="train-reward-model", description="Phase 1: learn to score answers as people do.")
    @takes_inputs(
        import_preference_dataset,
        train_reward_model,
        **fetched,
        preference_fingerprint=str,
        feedback_fingerprint=str,
        held_out_fingerprint=str,
        eval_fingerprint=str,
        large_model_fingerprint=str,
        budget=str,
    )
    def reward_model_phase(values: Values) -> RewardModelOutputs:
        """Import preferences and train the reward model on them."""
        data = import_preference_dataset(**values.of(import_preference_dataset)).set_display_name(
            "Import Preference Dataset"
        )
        trainer = train_reward_model(
            **values.of(
                train_reward_model,
                preferences=data.outputs["preferences"],
                eval_preferences=data.outputs["eval_preferences"],
                preference_rows=data.outputs["preference_rows"],
            )
        ).set_display_name("Reward Model Trainer")
        return RewardModelOutputs(
            reward_model=trainer.outputs["reward_model"],
            metrics=trainer.outputs["metrics"],
            preferences=data.outputs["preferences"],
            eval_preferences=data.outputs["eval_preferences"],
            preference_rows=data.outputs["preference_rows"],
        )

    return reward_model_phase


def preference_phase_with(**fetched: Any) -> Any:
    """Return preference tuning, for steps that get these artifacts besides."""

    @dsl.pipeline(name="preference-tuning", description="Learn people's choices without a reward model.")
    @takes_inputs(
        import_preference_dataset,
        train_preference,
        **fetched,
        preference_fingerprint=str,
        feedback_fingerprint=str,
        eval_fingerprint=str,
        large_model_fingerprint=str,
        warm_start_fingerprint=str,
        budget=str,
    )
    def preference_phase(values: Values) -> PreferenceOutputs:
        """Import preferences and tune the model on them."""
        data = import_preference_dataset(**values.of(import_preference_dataset)).set_display_name(
            "Import Preference Dataset"
        )
        trainer = train_preference(
            **values.of(
                train_preference,
                preferences=data.outputs["preferences"],
                eval_preferences=data.outputs["eval_preferences"],
                evaluation_prompts=data.outputs["evaluation_prompts"],
                preference_rows=data.outputs["preference_rows"],
            )
        ).set_display_name("Preference Trainer")
        return PreferenceOutputs(
            model=trainer.outputs["model"],
            adapter=trainer.outputs["adapter"],
            preferences=data.outputs["preferences"],
            eval_preferences=data.outputs["eval_preferences"],
            evaluation_prompts=data.outputs["evaluation_prompts"],
        )

    return preference_phase


def reinforcement_phase_with(**artifacts: Any) -> Any:
    """Return phase 2, for steps that get these artifacts besides: reward models, what is fetched; their types."""

    @dsl.pipeline(name="reinforcement-learning", description="Phase 2: raise the probability of good answers.")
    @takes_inputs(
        import_prompt_dataset,
        train_policy,
        **artifacts,
        prompt_fingerprint=str,
        eval_fingerprint=str,
        large_model_fingerprint=str,
        warm_start_fingerprint=str,
        budget=str,
    )
    def reinforcement_phase(values: Values) -> ReinforcementOutputs:
        """Import prompts and tune the policy on them."""
        data = import_prompt_dataset(**values.of(import_prompt_dataset)).set_display_name("Import Prompt Dataset")
        trainer = train_policy(**values.of(train_policy, prompts=data.outputs["prompts"])).set_display_name(
            "Reinforcer"
        )
        return ReinforcementOutputs(
            model=trainer.outputs["model"],
            adapter=trainer.outputs["adapter"],
            evaluation_prompts=data.outputs["evaluation_prompts"],
        )

    return reinforcement_phase


reward_model_phase = reward_model_phase_with()
