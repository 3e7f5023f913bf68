"""Import Preference Dataset: preferences and feedback in one canonical form, with a part held out."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def import_preference_dataset(
    preferences: dsl.Output[dsl.Dataset],
    eval_preferences: dsl.Output[dsl.Dataset],
    preference_rows: dsl.Output[dsl.Dataset],
    evaluation_prompts: dsl.Output[dsl.Dataset],
    preference_dataset: str = "",
    feedback_dataset: str = "",
    eval_dataset: str = "",
    instruction: str = "",
    preference_fingerprint: str = "",
    feedback_fingerprint: str = "",
    eval_fingerprint: str = "",
    prompt_dataset: str = "",
    held_out_fingerprint: str = "",
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    labelled_preferences: Optional[dsl.Input[dsl.Dataset]] = None,
) -> None:
    """Write the preferences and the feedback to learn from and to measure on.

    Args:
        preferences: Canonical rows to learn from.
        eval_preferences: Canonical rows to measure on: the evaluation dataset's where it holds preferences, else a part
            held out by prompt. Of feedback always such a part, beside preferences of the evaluation dataset, by which judges
            are measured.
        preference_rows: Which rows the dataset has, as sorted 8-byte hashes.
        evaluation_prompts: Prompts to compare answers on where there is no prompt dataset: the evaluation dataset's, else
            those of held-out preferences.
        preference_dataset: Human preferences; empty where there is feedback alone.
        feedback_dataset: Answers with a label or a rating each, beside preferences or in place of them.
        eval_dataset: Evaluation rows; empty for a held-out split.
        instruction: Put before every text prompt; the default context of chat rows.
        preference_fingerprint: From Validate Inputs; other content is refused. When empty, kfp's cache goes by the path.
        feedback_fingerprint: From Validate Inputs, likewise.
        eval_fingerprint: From Validate Inputs, likewise.
        prompt_dataset: Prompts of phase 2: those of them that are held out are not learnt from here either. Empty where no
            policy is tuned on prompts.
        held_out_fingerprint: From Validate Inputs, likewise: of those prompts, where some of them are held out.
        eval_prompts: Most prompts to hold out when there is no evaluation dataset.
        seed: Of the held-out split.
        max_bad_rows: So many bad rows of each dataset are set aside.
        labelled_preferences: From Label Preferences, in the place of preference_dataset.
    """
    from rlhf_tuning.data.importer import import_judgements
    from rlhf_tuning.step import running_step, say

    written = [preferences, eval_preferences, evaluation_prompts]
    with running_step("Import Preference Dataset", inputs=[labelled_preferences], outputs=written):
        summary = import_judgements(
            preference_dataset=labelled_preferences.path if labelled_preferences else preference_dataset,
            feedback_dataset=feedback_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            preferences_path=preferences.path,
            eval_preferences_path=eval_preferences.path,
            seed=seed,
            max_bad_rows=max_bad_rows,
            preference_fingerprint=preference_fingerprint,
            feedback_fingerprint=feedback_fingerprint,
            eval_fingerprint=eval_fingerprint,
            preference_rows_path=preference_rows.path,
            eval_prompts_path=evaluation_prompts.path,
            prompt_dataset=prompt_dataset,
            eval_prompts=eval_prompts,
            prompt_fingerprint=held_out_fingerprint,
        )
        prefers = bool(preference_dataset or labelled_preferences)
        what = " and ".join(["preferences"] * prefers + ["answers"] * bool(feedback_dataset))
        say(
            f"{summary.rows:,} {what} to learn from, {summary.eval_rows:,} held out, {summary.left_out:,} left out since "
            "their prompts are like those of the evaluation"
        )
        both = "+".join(filter(None, (summary.fingerprint, summary.feedback_fingerprint)))
        preferences.metadata.update(rows=summary.rows, fingerprint=both)
        eval_preferences.metadata.update(rows=summary.eval_rows, fingerprint=summary.eval_fingerprint)
        if labelled_preferences and summary.is_split:
            eval_preferences.metadata["labelled_by"] = labelled_preferences.metadata.get("labelled_by", "a judge")
        evaluation_prompts.metadata.update(rows=summary.eval_prompts, fingerprint=summary.eval_fingerprint)
