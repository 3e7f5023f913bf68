"""A tune that recurs: the whole job again, but only when enough new preferences have arrived since the champion."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components.count_new_preferences import count_new_preferences
from rlhf_components.nothing_new import nothing_new
from rlhf_pipelines import rlhf_pipeline as whole_job
from rlhf_pipelines.upload_phases import RUN_PLACE


class RecurringOutputs(NamedTuple):
    """The Vertex job's two outputs, of the new version or of the champion that stays; and which of the two it is.

    The reports are outputs of the steps: an artifact of a step under a condition cannot be the pipeline's everywhere.
    """

    model_resource_name: str
    endpoint_resource_name: str
    outcome: str


def for_target(target: str) -> Any:
    """Return the pipeline for a target: it nests the whole job of that target, and knows where champions are."""
    tune_whole = whole_job.for_target(target)

    @dsl.pipeline(
        name="recurring-rlhf-pipeline",
        display_name="Recurring RLHF",
        description="Tunes a language model again when enough new human preferences have arrived.",
    )
    def recurring_rlhf_pipeline(
        prompt_dataset: str,
        preference_dataset: str,
        large_model_reference: str,
        model_display_name: str = "",
        prompt_sequence_length: int = 512,
        target_sequence_length: int = 64,
        reward_model_learning_rate_multiplier: float = 1.0,
        reinforcement_learning_rate_multiplier: float = 1.0,
        reward_model_train_steps: int = 1000,
        reinforcement_learning_train_steps: int = 1000,
        kl_coeff: float = 0.1,
        instruction: str = "",
        deploy_model: bool = True,
        eval_dataset: str = "",
        project: str = "",
        location: str = "",
        accelerator_type: str = "GPU",
        encryption_spec_key_name: str = "",
        tensorboard_resource_id: str = "",
        rl_algorithm: str = "rloo",
        lora_dim: int = 16,
        reward_lora_dim: int = 16,
        batch_size: int = 64,
        num_generations: int = 4,
        temperature: float = 1.0,
        seed: int = 0,
        reward_model_reference: str = "",
        eval_prompts: int = 200,
        scorer: str = "",
        judge: str = "",
        judge_model: str = "",
        judge_endpoint: str = "",
        judge_key_secret: str = "",
        judge_rubric: str = "",
        judge_max_calls: int = 1000,
        dtype: str = "auto",
        max_bad_rows: int = 0,
        registry_dir: str = "",
        serving_machine: str = "",
        warm_start_adapter: str = "",
        rollout_engine: str = "auto",
        held_out_reward_model_share: float = 0.25,
        watch_interval: int = 0,
        watch_prompts: int = 64,
        gate_win_rate_margin: float = 0.0,
        gate_max_kl: float = 50.0,
        gate_max_length_ratio: float = 3.0,
        min_new_preferences: int = 100,
        warm_start: bool = False,
    ) -> RecurringOutputs:
        """Tune a language model with human preferences when enough of them are new.

        Args:
            prompt_dataset: JSONL of prompts without labels: a path, a gs:// path, or a glob.
            preference_dataset: JSONL of human preferences: a path, a gs:// path, or a glob.
            large_model_reference: Base model: a hub id, a folder, a gs:// folder, or an alias.
            model_display_name: Name in the model registry; generated when empty.
            prompt_sequence_length: Most tokens of a prompt, up to 8192.
            target_sequence_length: Most tokens of an answer, up to 1024.
            reward_model_learning_rate_multiplier: Times the base learning rate of the reward model.
            reinforcement_learning_rate_multiplier: Times the base learning rate of reinforcement learning.
            reward_model_train_steps: Optimizer steps of the reward model.
            reinforcement_learning_train_steps: Optimizer steps of reinforcement learning.
            kl_coeff: Reward given up for each nat of KL to the base model over an answer; 0 for no reference pass.
            instruction: Put before every prompt; the default context of chat rows.
            deploy_model: Deploy to an endpoint after the upload, where the run's target has endpoints.
            eval_dataset: JSONL of prompts or preferences for evaluation; a part of the data is held out when empty.
            project: Google Cloud project; the run's own when empty.
            location: Google Cloud region; the run's own when empty.
            accelerator_type: Kind of accelerator; only GPU is supported.
            encryption_spec_key_name: Customer-managed encryption key on Google Cloud.
            tensorboard_resource_id: Vertex TensorBoard to write to.
            rl_algorithm: Reinforcement learning algorithm: rloo or grpo.
            lora_dim: LoRA rank of the policy; 0 trains all weights.
            reward_lora_dim: LoRA rank of the reward model; 0 trains all weights.
            batch_size: Preferences (phase 1) or prompts (phase 2) in one optimizer step, on all GPUs together.
            num_generations: Answers sampled to each prompt in reinforcement learning.
            temperature: Sampling temperature, in training and evaluation.
            seed: Of every random choice.
            reward_model_reference: Base of the reward model; the policy's own when empty.
            eval_prompts: Most prompts to hold out, a tenth at the most, when there is no evaluation dataset.
            scorer: Program that knows the true quality of an answer, such as house_style for the sample.
            judge: Language model that compares answers: language_model, gemini or local_model; none when empty.
            judge_model: Name of that model, as its server knows it; for local_model a base model reference.
            judge_endpoint: Base URL of an OpenAI-compatible server, such as https://api.example.com/v1.
            judge_key_secret: Secret that holds the judge's key: projects/P/secrets/S/versions/V of Secret Manager.
            judge_rubric: What a better answer is, in words, or a text file, also on gs://; a general one when empty.
            judge_max_calls: Most requests to the server; what was judged by then counts.
            dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
            max_bad_rows: Bad rows of each dataset that are set aside; one more and the data is refused.
            registry_dir: Folder of the local model registry; its usual place when empty.
            serving_machine: What the model is served on, such as l4 or a100-80gb-x2; the cheapest it fits on when empty.
            warm_start_adapter: LoRA adapter that the policy starts from: a registered model, such as my-model@champion, or a folder.
            rollout_engine: What samples answers in training: lean (our decode loop), transformers, or auto: the first that is exact.
            held_out_reward_model_share: Share of the prompts from which a held-out reward model learns, which only judges; 0 for none.
            watch_interval: Steps between looks of the watch over over-optimisation; 0 for a tenth of all steps.
            watch_prompts: Prompts set aside for that watch, and not learnt from; 0 for no watch.
            gate_win_rate_margin: Win rate against the champion, beyond one half, that must be shown for a promotion.
            gate_max_kl: Most nats of KL to the base model over an answer, on average, for a promotion; 0 for no limit.
            gate_max_length_ratio: Most that the mean length of answers may grow or shrink for a promotion, as a factor; 0 for no limit.
            min_new_preferences: Distinct preferences that the champion was not trained on, without which the run ends.
            warm_start: Start the policy from the champion's adapter; KL is still measured to the base model.

        Returns:
            model_resource_name: The registered model; the champion when nothing is new.
            endpoint_resource_name: The endpoint, or empty where there is none.
            outcome: Whether enough was new, in words.
        """
        count = (
            count_new_preferences(
                target=target,
                preference_dataset=preference_dataset,
                large_model_reference=large_model_reference,
                model_display_name=model_display_name,
                instruction=instruction,
                max_bad_rows=max_bad_rows,
                lora_dim=lora_dim,
                registry_dir=registry_dir,
                project=project,
                location=location,
                **(RUN_PLACE if target == "vertex" else {}),
                min_new_preferences=min_new_preferences,
                warm_start=warm_start,
                warm_start_adapter=warm_start_adapter,
            )
            .set_display_name("Count New Preferences")
            .set_caching_options(False)
        )
        with dsl.If(count.outputs["enough"] == True, name="enough is new"):  # noqa: E712
            tune = tune_whole(
                prompt_dataset=prompt_dataset,
                preference_dataset=preference_dataset,
                large_model_reference=large_model_reference,
                model_display_name=model_display_name,
                prompt_sequence_length=prompt_sequence_length,
                target_sequence_length=target_sequence_length,
                reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
                reinforcement_learning_rate_multiplier=reinforcement_learning_rate_multiplier,
                reward_model_train_steps=reward_model_train_steps,
                reinforcement_learning_train_steps=reinforcement_learning_train_steps,
                kl_coeff=kl_coeff,
                instruction=instruction,
                deploy_model=deploy_model,
                eval_dataset=eval_dataset,
                project=project,
                location=location,
                accelerator_type=accelerator_type,
                encryption_spec_key_name=encryption_spec_key_name,
                tensorboard_resource_id=tensorboard_resource_id,
                rl_algorithm=rl_algorithm,
                lora_dim=lora_dim,
                reward_lora_dim=reward_lora_dim,
                batch_size=batch_size,
                num_generations=num_generations,
                temperature=temperature,
                seed=seed,
                reward_model_reference=reward_model_reference,
                eval_prompts=eval_prompts,
                scorer=scorer,
                judge=judge,
                judge_model=judge_model,
                judge_endpoint=judge_endpoint,
                judge_key_secret=judge_key_secret,
                judge_rubric=judge_rubric,
                judge_max_calls=judge_max_calls,
                dtype=dtype,
                max_bad_rows=max_bad_rows,
                registry_dir=registry_dir,
                serving_machine=serving_machine,
                warm_start_adapter=count.outputs["warm_start_adapter"],
                rollout_engine=rollout_engine,
                held_out_reward_model_share=held_out_reward_model_share,
                watch_interval=watch_interval,
                watch_prompts=watch_prompts,
                gate_win_rate_margin=gate_win_rate_margin,
                gate_max_kl=gate_max_kl,
                gate_max_length_ratio=gate_max_length_ratio,
            ).set_display_name("Tune")
        with dsl.Else(name="nothing is new"):
            kept = (
                nothing_new(message=count.outputs["message"], champion=count.outputs["champion"])
                .set_display_name("Nothing New")
                .set_caching_options(False)
            )
        return RecurringOutputs(
            model_resource_name=dsl.OneOf(tune.outputs["model_resource_name"], kept.outputs["model_resource_name"]),
            endpoint_resource_name=dsl.OneOf(
                tune.outputs["endpoint_resource_name"], kept.outputs["endpoint_resource_name"]
            ),
            outcome=count.outputs["message"],
        )

    return recurring_rlhf_pipeline


recurring_rlhf_pipeline = for_target("local")
