"""Divide Method Data: one's data, divided once for all methods that are compared."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def divide_method_data(
    demonstrations: dsl.Output[dsl.Dataset],
    eval_demonstrations: dsl.Output[dsl.Dataset],
    preferences: dsl.Output[dsl.Dataset],
    eval_preferences: dsl.Output[dsl.Dataset],
    judge_preferences: dsl.Output[dsl.Dataset],
    eval_judge_preferences: dsl.Output[dsl.Dataset],
    prompts: dsl.Output[dsl.Dataset],
    evaluation_prompts: dsl.Output[dsl.Dataset],
    choices: dsl.Output[dsl.Dataset],
    preference_dataset: str,
    prompt_dataset: str,
    supervised_dataset: str = "",
    eval_dataset: str = "",
    instruction: str = "",
    preference_fingerprint: str = "",
    prompt_fingerprint: str = "",
    demonstration_fingerprint: str = "",
    eval_fingerprint: str = "",
    held_out_reward_model_share: float = 0.25,
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
) -> None:
    """Write what each method learns from, and what they are judged by, of which none learns.

    Args:
        demonstrations: Canonical demonstrations, or the preferred answers, of supervised tuning.
        eval_demonstrations: A part held out of them.
        preferences: Canonical preferences that the methods learn from.
        eval_preferences: A part held out of them.
        judge_preferences: Canonical preferences that only the judging reward model learns from.
        eval_judge_preferences: A part held out of them.
        prompts: Canonical prompts of reinforcement learning.
        evaluation_prompts: The prompts that all methods answer.
        choices: Canonical preferences held out of everything, to hold the judges against.
        preference_dataset: Human preferences.
        prompt_dataset: Prompts.
        supervised_dataset: Demonstrations; empty for the preferred answers.
        eval_dataset: Evaluation rows; empty for a held-out split.
        instruction: Put before every text prompt; the default context of chat rows.
        preference_fingerprint: From Validate Inputs; other content is refused. When empty, kfp's cache goes by the path.
        prompt_fingerprint: Likewise.
        demonstration_fingerprint: Likewise.
        eval_fingerprint: Likewise.
        held_out_reward_model_share: Share of the preferences' prompts for the judging reward model, above 0.
        eval_prompts: Most prompts to hold out when there is no evaluation dataset.
        seed: Of what is held out of each method's data; the division itself knows none.
        max_bad_rows: So many bad rows of each dataset are set aside.
    """
    import json
    import tempfile
    from pathlib import Path

    from rlhf_tuning.data.method_data import import_method_data, write_method_data
    from rlhf_tuning.limits import check_judge_share
    from rlhf_tuning.step import running_step, say

    outputs = {
        "demonstrations": demonstrations,
        "eval_demonstrations": eval_demonstrations,
        "preferences": preferences,
        "eval_preferences": eval_preferences,
        "judge_preferences": judge_preferences,
        "eval_judge_preferences": eval_judge_preferences,
        "prompts": prompts,
        "evaluation_prompts": evaluation_prompts,
        "choices": choices,
    }
    with running_step("Divide Method Data", outputs=outputs.values()), tempfile.TemporaryDirectory() as folder:
        check_judge_share(held_out_reward_model_share)
        data = write_method_data(
            Path(folder),
            prompt_dataset=prompt_dataset,
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            dataset_uri=supervised_dataset,
            instruction=instruction,
            eval_prompts=eval_prompts,
            judge_share=held_out_reward_model_share,
            max_bad_rows=max_bad_rows,
            fingerprints={
                "preference": preference_fingerprint,
                "prompt": prompt_fingerprint,
                "demonstration": demonstration_fingerprint,
                "eval": eval_fingerprint,
            },
        )
        rows = import_method_data(data, {name: output.path for name, output in outputs.items()}, seed=seed)
        say("Rows: " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in data.rows.items()))
        for name, output in outputs.items():
            output.metadata.update(rows=rows[name], fingerprint=data.fingerprint)
        choices.metadata["divided"] = json.dumps(dict(data.rows))
