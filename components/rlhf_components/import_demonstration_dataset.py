"""Import Demonstration Dataset: prompts with the answers to learn, in one canonical form, with a part held out."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def import_demonstration_dataset(
    demonstrations: dsl.Output[dsl.Dataset],
    eval_demonstrations: dsl.Output[dsl.Dataset],
    evaluation_prompts: dsl.Output[dsl.Dataset],
    dataset_uri: str,
    evaluation_data_uri: str = "",
    default_context: str = "",
    demonstration_fingerprint: str = "",
    eval_fingerprint: str = "",
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    to_label: bool = False,
) -> None:
    """Write the demonstrations to learn from, those to measure the loss on, and the prompts of the latter.

    Args:
        demonstrations: Canonical rows to learn from.
        eval_demonstrations: Canonical rows to measure on: the evaluation data's, else a part held out by dialogue.
        evaluation_prompts: Their prompts, each once, to be answered.
        dataset_uri: Demonstrations.
        evaluation_data_uri: Demonstrations to measure on; empty for a held-out split.
        default_context: System turn of chat rows that bring none; put before the prompt of text rows.
        demonstration_fingerprint: From Validate Inputs; other content is refused. When empty, kfp's cache goes by the path.
        eval_fingerprint: From Validate Inputs, likewise.
        eval_prompts: Most prompts to answer when there is no evaluation data.
        seed: Of the held-out split.
        max_bad_rows: So many bad rows of each dataset are set aside.
        to_label: Whether rows may be prompts that a teacher is to answer; their answers are empty.
    """
    from rlhf_tuning.data.importer import import_demonstrations
    from rlhf_tuning.step import running_step, say

    outputs = [demonstrations, eval_demonstrations, evaluation_prompts]
    with running_step("Import Demonstration Dataset", outputs=outputs):
        summary = import_demonstrations(
            dataset_uri=dataset_uri,
            evaluation_data_uri=evaluation_data_uri,
            instruction=default_context,
            demonstrations_path=demonstrations.path,
            eval_demonstrations_path=eval_demonstrations.path,
            eval_prompts_path=evaluation_prompts.path,
            eval_prompts=eval_prompts,
            seed=seed,
            max_bad_rows=max_bad_rows,
            demonstration_fingerprint=demonstration_fingerprint,
            eval_fingerprint=eval_fingerprint,
            to_label=to_label,
        )
        say(
            f"{summary.rows:,} demonstrations to learn from, {summary.eval_rows:,} to measure on, "
            f"{summary.eval_prompts:,} prompts to answer"
        )
        demonstrations.metadata.update(rows=summary.rows, fingerprint=summary.fingerprint)
        eval_demonstrations.metadata.update(rows=summary.eval_rows, fingerprint=summary.eval_fingerprint)
        evaluation_prompts.metadata.update(rows=summary.eval_prompts, fingerprint=summary.eval_fingerprint)
