"""Import Prompt Dataset: prompts in one canonical form, with a part held out."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def import_prompt_dataset(
    prompts: dsl.Output[dsl.Dataset],
    evaluation_prompts: dsl.Output[dsl.Dataset],
    prompt_dataset: str,
    eval_dataset: str = "",
    instruction: str = "",
    prompt_fingerprint: str = "",
    eval_fingerprint: str = "",
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
) -> None:
    """Write the prompts to learn on and those to evaluate on.

    Args:
        prompts: Canonical rows to learn on; where none are held out, all of them.
        evaluation_prompts: Canonical rows to evaluate on: the evaluation dataset's, else a part held out.
        prompt_dataset: Prompts without labels.
        eval_dataset: Evaluation rows; empty for a held-out split.
        instruction: Put before every text prompt; the default context of chat rows.
        prompt_fingerprint: From Validate Inputs; other content is refused. When empty, kfp's cache goes by the path.
        eval_fingerprint: From Validate Inputs, likewise.
        eval_prompts: Most prompts to hold out when there is no evaluation dataset; 0 for none.
        seed: Of the held-out split.
        max_bad_rows: So many bad rows of each dataset are set aside.
    """
    from rlhf_tuning.data.importer import import_prompts
    from rlhf_tuning.step import counted, running_step, say

    with running_step("Import Prompt Dataset", outputs=[prompts, evaluation_prompts]):
        summary = import_prompts(
            prompt_dataset=prompt_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            prompts_path=prompts.path,
            eval_prompts_path=evaluation_prompts.path,
            eval_prompts=eval_prompts,
            seed=seed,
            max_bad_rows=max_bad_rows,
            prompt_fingerprint=prompt_fingerprint,
            eval_fingerprint=eval_fingerprint,
        )
        say(
            f"{counted(summary.rows, 'prompt')} to learn on, {summary.eval_rows:,} to evaluate on, {summary.left_out:,} "
            "left out since they are like those of the evaluation"
            if summary.eval_rows
            else counted(summary.rows, "prompt")
        )
        prompts.metadata.update(rows=summary.rows, fingerprint=summary.fingerprint)
        evaluation_prompts.metadata.update(rows=summary.eval_rows, fingerprint=summary.eval_fingerprint)
