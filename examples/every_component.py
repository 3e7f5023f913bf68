"""Every component, in the order of the graph: the examples of the components' reference, which a test compiles.

A real pipeline takes one of the three uploads, with its `target` where a registry is asked, and leaves out what it does not
need. Steps that read what may change behind its name, a dataset, a model or a registry, are not cached: what they find goes
on to the others. The smoke test, at the end, is a pipeline of its own.
"""

from kfp import dsl

from rlhf_components import (
    choose_start,
    compare_methods,
    count_new_preferences,
    deploy_model,
    divide_method_data,
    evaluate,
    find_champion,
    import_demonstration_dataset,
    import_preference_dataset,
    import_prompt_dataset,
    import_supervised_dataset,
    infer,
    keep_champion,
    label_demonstrations,
    label_preferences,
    nothing_new,
    preprocess_inputs,
    smoke_light,
    smoke_report,
    smoke_trainer,
    smoke_verdict,
    train_policy,
    train_preference,
    train_reward_model,
    train_student,
    train_supervised,
    upload_model,
    upload_model_to_kubeflow,
    upload_model_to_vertex,
    upload_tensorboard_metrics,
    validate_inputs,
)


@dsl.pipeline(name="every-component")
def every_component(
    prompt_dataset: str,
    preference_dataset: str,
    dataset_uri: str,
    large_model_reference: str,
    project: str,
    location: str,
) -> None:
    """Call every component."""
    news = count_new_preferences(
        target="local",
        preference_dataset=preference_dataset,
        large_model_reference=large_model_reference,
        min_new_preferences=500,
    ).set_caching_options(False)

    with dsl.If(news.outputs["enough"] == False):  # noqa: E712
        nothing_new(message=news.outputs["message"], champion=news.outputs["champion"])

    checked = validate_inputs(
        prompt_dataset=prompt_dataset,
        preference_dataset=preference_dataset,
        dataset_uri=dataset_uri,
        large_model_reference=large_model_reference,  # its tokens are counted
    ).set_caching_options(False)

    base = (
        preprocess_inputs(large_model_reference=large_model_reference)
        .set_caching_options(False)
        .after(checked)  # nothing is fetched for data that is refused
    )

    demonstrations = import_demonstration_dataset(
        dataset_uri=dataset_uri,
        demonstration_fingerprint=checked.outputs["demonstration_fingerprint"],
    )

    unlabelled = import_demonstration_dataset(
        dataset_uri=dataset_uri,
        demonstration_fingerprint=checked.outputs["demonstration_fingerprint"],
        to_label=True,  # prompts, of which some may have an answer
    )
    labels = label_demonstrations(
        demonstrations=unlabelled.outputs["demonstrations"],
        eval_demonstrations=unlabelled.outputs["eval_demonstrations"],
        teacher="language_model",
        teacher_model_reference="gpt-oss-120b",
        teacher_endpoint="http://teacher.example.com/v1",
        teacher_max_calls=5000,
        large_model_reference=base.outputs["large_model_reference"],  # the student, whose tokens are counted
    )
    train_student(
        demonstrations=labels.outputs["labelled_demonstrations"],
        eval_demonstrations=labels.outputs["labelled_eval_demonstrations"],
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
        teacher_model_reference="gpt-oss-120b",  # with on_policy it is loaded, and has the student's tokens
    )

    before_rlhf = import_supervised_dataset(
        supervised_dataset=dataset_uri,
        preference_dataset=preference_dataset,  # whose preferred answers are learnt where there is no supervised_dataset
        prompt_dataset=prompt_dataset,  # what is held out of it is not learnt from
        demonstration_fingerprint=checked.outputs["demonstration_fingerprint"],
        held_out_fingerprint=checked.outputs["held_out_fingerprint"],
        eval_prompts=100,
    )

    train_supervised(  # alone: the end of supervised tuning
        demonstrations=demonstrations.outputs["demonstrations"],
        eval_demonstrations=demonstrations.outputs["eval_demonstrations"],
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
        train_steps=200,
    )
    supervised = train_supervised(  # before RLHF, which starts from the model
        demonstrations=before_rlhf.outputs["demonstrations"],
        eval_demonstrations=before_rlhf.outputs["eval_demonstrations"],
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
        is_start=True,
    )

    start = choose_start(
        model=supervised.outputs["model"],
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
        reward_model_reference=base.outputs["reward_model_reference"],
        reward_model_fingerprint=base.outputs["reward_model_fingerprint"],
    )

    asked = import_prompt_dataset(prompt_dataset=prompt_dataset, eval_prompts=0)  # none is held out
    label_preferences(
        prompts=asked.outputs["prompts"],
        large_model_a_reference=base.outputs["large_model_a_reference"],
        large_model_b_reference=base.outputs["large_model_b_reference"],
        judge="language_model",
        judge_model="gpt-oss-20b",
        judge_endpoint="http://judge.example.com/v1",
        judge_rubric="The shorter answer is better.",
    )

    preferences = import_preference_dataset(
        preference_dataset=preference_dataset,
        preference_fingerprint=checked.outputs["preference_fingerprint"],
        prompt_dataset=prompt_dataset,  # what is held out of it is not learnt from here either
        held_out_fingerprint=checked.outputs["held_out_fingerprint"],
        eval_prompts=100,
    )

    judgement = (
        train_reward_model(
            preferences=preferences.outputs["preferences"],
            eval_preferences=preferences.outputs["eval_preferences"],
            large_model_reference=start.outputs["reward_model_reference"],
            large_model_fingerprint=start.outputs["reward_model_fingerprint"],
            reward_model_train_steps=500,
        )
        .set_accelerator_type("NVIDIA_L4")  # on Kubeflow: nvidia.com/gpu
        .set_accelerator_limit(1)
    )

    by_preferences = train_preference(
        preferences=preferences.outputs["preferences"],
        eval_preferences=preferences.outputs["eval_preferences"],
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
        beta=0.1,
        epoch_count=2.0,
    )

    prompts = import_prompt_dataset(
        prompt_dataset=prompt_dataset,
        prompt_fingerprint=checked.outputs["prompt_fingerprint"],
        eval_prompts=100,
    )

    tuned = train_policy(
        prompts=prompts.outputs["prompts"],
        reward_model=judgement.outputs["reward_model"],
        large_model_reference=start.outputs["large_model_reference"],
        large_model_fingerprint=start.outputs["large_model_fingerprint"],
        reinforcement_learning_train_steps=300,
        kl_coeff=0.05,
    )

    champion = find_champion(
        target="local",
        large_model_reference=base.outputs["large_model_reference"],
        large_model_fingerprint=base.outputs["large_model_fingerprint"],
    ).set_caching_options(False)

    tuned_answers = infer(
        prompts=prompts.outputs["evaluation_prompts"],
        model=tuned.outputs["model"],
        large_model_reference=start.outputs["large_model_reference"],
        large_model_fingerprint=start.outputs["large_model_fingerprint"],
    )
    champion_answers = infer(
        prompts=prompts.outputs["evaluation_prompts"],
        large_model_reference=champion.outputs["model_reference"],
        large_model_fingerprint=champion.outputs["model_fingerprint"],
        label="champion",
    )

    comparison = evaluate(
        champion_predictions=champion_answers.outputs["predictions"],
        tuned_predictions=tuned_answers.outputs["predictions"],
        model=tuned.outputs["model"],
        adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        eval_preferences=preferences.outputs["eval_preferences"],
        large_model_reference=start.outputs["large_model_reference"],
        base_model_reference=base.outputs["base_model_reference"],  # the supervised model is compared with it as well
        judge="language_model",  # somebody independent: the reward that was optimised never promotes
        judge_model="gpt-oss-20b",
        judge_endpoint="http://judge.example.com/v1",
        champion=champion.outputs["champion"],
        earlier_tries=champion.outputs["earlier_tries"],
    )

    upload_model(
        model=tuned.outputs["model"],
        adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        evaluation=comparison.outputs["evaluation"],
        large_model_reference=base.outputs["large_model_reference"],
        promote=comparison.outputs["promote"],
        champion=champion.outputs["champion"],
        model_display_name="my-model",
    ).set_caching_options(False)

    version = upload_model_to_vertex(
        model=tuned.outputs["model"],
        adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        evaluation=comparison.outputs["evaluation"],
        large_model_reference=base.outputs["large_model_reference"],
        promote=comparison.outputs["promote"],
        champion=champion.outputs["champion"],
        model_display_name="my-model",
        project=project,
        location=location,
    ).set_caching_options(False)

    with dsl.If(comparison.outputs["promote"] == True):  # noqa: E712
        deploy_model(
            evaluation=comparison.outputs["evaluation"],
            model_resource_name=version.output,
            project=project,
            location=location,
        ).set_caching_options(False)

    with dsl.Else():
        keep_champion(champion=champion.outputs["champion"], model_resource_name=version.output)

    upload_tensorboard_metrics(
        adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        tensorboard_resource_id="projects/my-project/locations/us-central1/tensorboards/123",
        run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        run_project=project,
        run_location=location,
    ).set_caching_options(False)

    upload_model_to_kubeflow(
        model=tuned.outputs["model"],
        adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        evaluation=comparison.outputs["evaluation"],
        large_model_reference=base.outputs["large_model_reference"],
        promote=comparison.outputs["promote"],
    ).set_caching_options(False)

    divided = divide_method_data(  # for a comparison of methods: none learns from what any of them is judged by
        preference_dataset=preference_dataset,
        prompt_dataset=prompt_dataset,
        preference_fingerprint=checked.outputs["preference_fingerprint"],
        prompt_fingerprint=checked.outputs["prompt_fingerprint"],
    )

    compare_methods(  # each trained on its part of `divided`, and all having answered its evaluation prompts
        base_predictions=champion_answers.outputs["predictions"],
        supervised_predictions=tuned_answers.outputs["predictions"],
        supervised_model=supervised.outputs["model"],
        supervised_adapter=supervised.outputs["adapter"],
        dpo_predictions=tuned_answers.outputs["predictions"],
        dpo_model=by_preferences.outputs["model"],
        dpo_adapter=by_preferences.outputs["adapter"],
        rlhf_predictions=tuned_answers.outputs["predictions"],
        rlhf_model=tuned.outputs["model"],
        rlhf_adapter=tuned.outputs["adapter"],
        reward_model=judgement.outputs["reward_model"],
        judging_reward_model=judgement.outputs["reward_model"],  # in earnest another, trained on `judge_preferences`
        evaluation_prompts=divided.outputs["evaluation_prompts"],
        choices=divided.outputs["choices"],
        large_model_reference=base.outputs["large_model_reference"],
        labels={"supervised": "supervised tuning", "dpo": "DPO", "rlhf": "RLHF"},
    )

    here = smoke_light(probe_object="gs://my-bucket/my-data.jsonl").set_caching_options(False)

    on_gpus = (
        smoke_trainer(checks_before=here.outputs["checks"])
        .set_accelerator_type("NVIDIA_L4")
        .set_accelerator_limit(1)
        .set_caching_options(False)
    )

    page = smoke_report(checks=on_gpus.outputs["checks"]).set_caching_options(False)

    smoke_verdict(report=page.outputs["report"], failed=page.outputs["failed"]).set_caching_options(False)
