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
    def rlhf_pipeline(
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
    ) -> RlhfOutputs:
        """Tune a language model with human preferences.

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

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs = (
            validate_inputs(
                prompt_dataset=prompt_dataset,
                preference_dataset=preference_dataset,
                eval_dataset=eval_dataset,
                instruction=instruction,
                large_model_reference=large_model_reference,
                accelerator_type=accelerator_type,
                prompt_sequence_length=prompt_sequence_length,
                target_sequence_length=target_sequence_length,
                reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
                reinforcement_learning_rate_multiplier=reinforcement_learning_rate_multiplier,
                reward_model_train_steps=reward_model_train_steps,
                reinforcement_learning_train_steps=reinforcement_learning_train_steps,
                kl_coeff=kl_coeff,
                rl_algorithm=rl_algorithm,
                lora_dim=lora_dim,
                reward_lora_dim=reward_lora_dim,
                batch_size=batch_size,
                num_generations=num_generations,
                temperature=temperature,
                seed=seed,
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
                serving_machine=serving_machine,
                rollout_engine=rollout_engine,
                held_out_reward_model_share=held_out_reward_model_share,
                watch_interval=watch_interval,
                watch_prompts=watch_prompts,
                gate_win_rate_margin=gate_win_rate_margin,
                gate_max_kl=gate_max_kl,
                gate_max_length_ratio=gate_max_length_ratio,
            )
            .set_display_name("Validate Inputs")
            .set_caching_options(False)
        )
        models = (
            preprocess_inputs(
                large_model_reference=large_model_reference,
                reward_model_reference=reward_model_reference,
                warm_start_adapter=warm_start_adapter,
                lora_dim=lora_dim,
                registry_dir=registry_dir,
            )
            .set_display_name("Preprocess Inputs")
            .set_caching_options(False)
            .after(inputs)
        )
        phase_1 = reward_model_phase(
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            preference_fingerprint=inputs.outputs["preference_fingerprint"],
            eval_fingerprint=inputs.outputs["eval_fingerprint"],
            large_model_reference=models.outputs["reward_model_reference"],
            large_model_fingerprint=models.outputs["reward_model_fingerprint"],
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
            reward_model_train_steps=reward_model_train_steps,
            reward_lora_dim=reward_lora_dim,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            max_bad_rows=max_bad_rows,
            held_out_reward_model_share=held_out_reward_model_share,
        ).set_display_name("Train Reward Model")
        held_out = train_reward_model(
            preferences=phase_1.outputs["preferences"],
            eval_preferences=phase_1.outputs["eval_preferences"],
            preference_rows=phase_1.outputs["preference_rows"],
            large_model_reference=models.outputs["reward_model_reference"],
            large_model_fingerprint=models.outputs["reward_model_fingerprint"],
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
            reward_model_train_steps=reward_model_train_steps,
            reward_lora_dim=reward_lora_dim,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            held_out_reward_model_share=held_out_reward_model_share,
            held_out=True,
        ).set_display_name("Held-out Reward Model Trainer")
        phase_2 = reinforcement_phase(
            reward_model=phase_1.outputs["reward_model"],
            held_out_reward_model=held_out.outputs["reward_model"],
            prompt_dataset=prompt_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            prompt_fingerprint=inputs.outputs["prompt_fingerprint"],
            eval_fingerprint=inputs.outputs["eval_fingerprint"],
            large_model_reference=models.outputs["large_model_reference"],
            large_model_fingerprint=models.outputs["large_model_fingerprint"],
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reinforcement_learning_rate_multiplier=reinforcement_learning_rate_multiplier,
            reinforcement_learning_train_steps=reinforcement_learning_train_steps,
            kl_coeff=kl_coeff,
            rl_algorithm=rl_algorithm,
            lora_dim=lora_dim,
            batch_size=batch_size,
            num_generations=num_generations,
            temperature=temperature,
            eval_prompts=eval_prompts,
            seed=seed,
            dtype=dtype,
            max_bad_rows=max_bad_rows,
            rollout_engine=rollout_engine,
            watch_interval=watch_interval,
            watch_prompts=watch_prompts,
            warm_start_adapter=models.outputs["warm_start_adapter"],
            warm_start_fingerprint=models.outputs["warm_start_fingerprint"],
        ).set_display_name("Reinforcement Learning")
        champion = (
            find_champion(
                target=target,
                large_model_reference=models.outputs["large_model_reference"],
                large_model_fingerprint=models.outputs["large_model_fingerprint"],
                model_display_name=model_display_name,
                registry_dir=registry_dir,
                project=project,
                location=location,
                **(RUN_PLACE if target == "vertex" else {}),
            )
            .set_display_name("Find Champion")
            .set_caching_options(False)
            .after(phase_2)
        )
        champion_answers = infer(
            prompts=phase_2.outputs["evaluation_prompts"],
            large_model_reference=champion.outputs["model_reference"],
            large_model_fingerprint=champion.outputs["model_fingerprint"],
            label="champion",
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            seed=seed,
            dtype=dtype,
        ).set_display_name("Perform Inference (champion)")
        tuned_answers = infer(
            prompts=phase_2.outputs["evaluation_prompts"],
            large_model_reference=models.outputs["large_model_reference"],
            large_model_fingerprint=models.outputs["large_model_fingerprint"],
            model=phase_2.outputs["model"],
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            seed=seed,
            dtype=dtype,
        ).set_display_name("Perform Inference (tuned model)")
        comparison = evaluate(
            champion_predictions=champion_answers.outputs["predictions"],
            tuned_predictions=tuned_answers.outputs["predictions"],
            model=phase_2.outputs["model"],
            adapter=phase_2.outputs["adapter"],
            reward_model=phase_1.outputs["reward_model"],
            held_out_reward_model=held_out.outputs["reward_model"],
            eval_preferences=phase_1.outputs["eval_preferences"],
            large_model_reference=models.outputs["large_model_reference"],
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            scorer=scorer,
            judge=judge,
            judge_model=judge_model,
            judge_endpoint=judge_endpoint,
            judge_key_secret=judge_key_secret,
            judge_rubric=inputs.outputs["judge_rubric"],
            judge_max_calls=judge_max_calls,
            dtype=dtype,
            champion=champion.outputs["champion"],
            data_warnings=inputs.outputs["data_warnings"],
            gate_win_rate_margin=gate_win_rate_margin,
            gate_max_kl=gate_max_kl,
            gate_max_length_ratio=gate_max_length_ratio,
        ).set_display_name("Evaluate Tuned Model")
        # Not cached: a registry may have lost what an earlier run put there. The same content makes one version.
        upload = (
            UPLOAD_PHASES[target](
                model=phase_2.outputs["model"],
                adapter=phase_2.outputs["adapter"],
                reward_model=phase_1.outputs["reward_model"],
                evaluation=comparison.outputs["evaluation"],
                large_model_reference=models.outputs["large_model_reference"],
                large_model_fingerprint=models.outputs["large_model_fingerprint"],
                prompt_fingerprint=inputs.outputs["prompt_fingerprint"],
                preference_fingerprint=inputs.outputs["preference_fingerprint"],
                eval_fingerprint=inputs.outputs["eval_fingerprint"],
                promote=comparison.outputs["promote"],
                champion=champion.outputs["champion"],
                model_display_name=model_display_name,
                instruction=instruction,
                registry_dir=registry_dir,
                deploy_model=deploy_model,
                serving_machine=serving_machine,
                project=project,
                location=location,
                encryption_spec_key_name=encryption_spec_key_name,
                tensorboard_resource_id=tensorboard_resource_id,
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
