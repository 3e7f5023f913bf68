"""Import Supervised Dataset: what a supervised phase before others learns from, with a part held out."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def import_supervised_dataset(
    demonstrations: dsl.Output[dsl.Dataset],
    eval_demonstrations: dsl.Output[dsl.Dataset],
    preference_dataset: str,
    prompt_dataset: str,
    supervised_dataset: str = "",
    feedback_dataset: str = "",
    eval_dataset: str = "",
    instruction: str = "",
    demonstration_fingerprint: str = "",
    preference_fingerprint: str = "",
    feedback_fingerprint: str = "",
    held_out_fingerprint: str = "",
    eval_fingerprint: str = "",
    held_out_reward_model_share: float = 0.0,
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
) -> None:
    """Write the demonstrations to learn from and those to measure the loss on, none to a prompt of the evaluation.

    Args:
        demonstrations: Canonical rows to learn from.
        eval_demonstrations: Canonical rows to measure on, a part held out.
        preference_dataset: Human preferences, whose preferred answers are learnt where there are no demonstrations. Those
            that measure the reward model are not learnt from, nor those of the held-out reward model.
        prompt_dataset: Prompts of reinforcement learning, or empty: those of them that are held out are not learnt from.
        supervised_dataset: Demonstrations; empty for the preferred answers.
        feedback_dataset: Answers with a label or a rating each, beside preferences or in their place; what is held out of
            them is not learnt from.
        eval_dataset: Evaluation rows; empty for a held-out split.
        instruction: Put before every text prompt; the default context of chat rows.
        demonstration_fingerprint: From Validate Inputs; other content is refused. When empty, kfp's cache goes by the path.
        preference_fingerprint: From Validate Inputs, likewise.
        feedback_fingerprint: From Validate Inputs, likewise.
        held_out_fingerprint: From Validate Inputs, likewise: of the prompts, where some of them are held out.
        eval_fingerprint: From Validate Inputs, likewise.
        held_out_reward_model_share: Share of the prompts whose preferences only the held-out reward model learns from.
        eval_prompts: Most of those prompts to hold out when there is no evaluation dataset.
        seed: Of the held-out split.
        max_bad_rows: So many bad rows of each dataset are set aside.
    """
    from rlhf_tuning.data.importer import import_supervised
    from rlhf_tuning.step import running_step, say

    with running_step("Import Supervised Dataset", outputs=[demonstrations, eval_demonstrations]):
        summary = import_supervised(
            supervised_dataset=supervised_dataset,
            preference_dataset=preference_dataset,
            feedback_dataset=feedback_dataset,
            prompt_dataset=prompt_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            demonstrations_path=demonstrations.path,
            eval_demonstrations_path=eval_demonstrations.path,
            held_out_reward_model_share=held_out_reward_model_share,
            eval_prompts=eval_prompts,
            seed=seed,
            max_bad_rows=max_bad_rows,
            demonstration_fingerprint=demonstration_fingerprint,
            preference_fingerprint=preference_fingerprint,
            feedback_fingerprint=feedback_fingerprint,
            prompt_fingerprint=held_out_fingerprint,
            eval_fingerprint=eval_fingerprint,
        )
        say(
            f"{summary.rows:,} {'demonstrations' if supervised_dataset else 'preferred answers'} to learn from, "
            f"{summary.eval_rows:,} to measure on, {summary.left_out:,} left out since their prompts are like those of the "
            "evaluation"
        )
        demonstrations.metadata.update(rows=summary.rows, fingerprint=summary.fingerprint)
        eval_demonstrations.metadata.update(rows=summary.eval_rows, fingerprint=summary.fingerprint)
