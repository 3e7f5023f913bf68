"""Label Demonstrations: a teacher answers the prompts that have no answer."""

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def label_demonstrations(
    demonstrations: dsl.Input[dsl.Dataset],
    eval_demonstrations: dsl.Input[dsl.Dataset],
    labelled_demonstrations: dsl.Output[dsl.Dataset],
    labelled_eval_demonstrations: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    teacher_model_reference: str,
    large_model_reference: str,
    teacher_fingerprint: str = "",
    teacher: str = "local_model",
    teacher_endpoint: str = "",
    teacher_key_secret: str = "",
    teacher_max_calls: int = 10000,
    teacher_max_cost: float = 0.0,
    teacher_price: float = 0.0,
    keep_answers: bool = True,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    dtype: str = "auto",
    inference_engine: str = "auto",
) -> None:
    """Let the teacher answer, and leave out what it did not answer to its end.

    Args:
        demonstrations: Canonical demonstrations to learn from, of which some have an empty answer.
        eval_demonstrations: Those to measure on, likewise.
        labelled_demonstrations: Canonical demonstrations to learn from.
        labelled_eval_demonstrations: Canonical demonstrations to measure on.
        labels: Both as a dataset of prompt and completion, to be looked at and to be learnt from by other runs.
        metrics: How many rows were labelled, kept and left out.
        teacher_model_reference: From Preprocess Inputs; of a server, the model's name there.
        large_model_reference: The student, whose tokens target_sequence_length counts.
        teacher_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the teacher's name.
        teacher: Where the teacher is: local_model (loaded here), language_model (any OpenAI-compatible server) or gemini.
        teacher_endpoint: Base URL of the server, such as https://api.openai.com/v1; another than Google's for gemini.
        teacher_key_secret: Secret of Google's Secret Manager that holds the key, projects/P/secrets/S/versions/V; the
            environment variable RLHF_TEACHER_API_KEY when empty.
        teacher_max_calls: Most requests to the server, repeated ones included.
        teacher_max_cost: Most that they may cost, in the currency of teacher_price; 0 for no limit.
        teacher_price: What a million tokens cost there, of questions and answers.
        keep_answers: Keep the answers that rows bring; otherwise the teacher answers their prompts too.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens that the student learns of an answer.
        temperature: Of the teacher's samples; 0 takes the likeliest token each time.
        batch_size: Most prompts of a batch.
        seed: Of the samples.
        dtype: auto, float32 or bfloat16.
        inference_engine: What samples the answers of a teacher that is loaded here: own, vllm or auto.
    """
    from pathlib import Path

    from rlhf_tuning.labelling.demonstrations import label_demonstrations
    from rlhf_tuning.labelling.teacher import LOCAL, TeacherConfig
    from rlhf_tuning.step import running_step, say

    written = [labelled_demonstrations, labelled_eval_demonstrations]
    with running_step("Label Demonstrations", inputs=[demonstrations, eval_demonstrations], outputs=[*written, labels]):
        config = TeacherConfig(
            teacher_model_reference=teacher_model_reference,
            large_model_reference=large_model_reference,
            teacher=teacher,
            teacher_endpoint=teacher_endpoint,
            teacher_key_secret=teacher_key_secret,
            teacher_max_calls=teacher_max_calls,
            teacher_max_cost=teacher_max_cost,
            teacher_price=teacher_price,
            keep_answers=keep_answers,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            inference_engine=inference_engine,
        )
        found = label_demonstrations(
            config,
            rows_path=demonstrations.path,
            eval_rows_path=eval_demonstrations.path,
            demonstrations_path=labelled_demonstrations.path,
            eval_demonstrations_path=labelled_eval_demonstrations.path,
            labels_path=labels.path,
            # Beside the runs: a retry, and a run that is started again, finds there what was answered.
            work_dir=str(Path(labels.path).parents[2] / ".answers"),
        )
        for line in found.lines():
            say(line)
        made_by = {
            "teacher": teacher_model_reference,
            "teacher_fingerprint": teacher_fingerprint,
            "teacher_is_loaded": teacher == LOCAL,
            "teacher_tokens_per_second": found.tokens_per_second,
        }
        sides = zip((demonstrations, eval_demonstrations), written, (found.rows, found.eval_rows), strict=True)
        for source, artifact, rows in sides:
            artifact.metadata.update(rows=rows, fingerprint=source.metadata.get("fingerprint", ""), **made_by)
        labels.metadata.update(rows=found.rows + found.eval_rows, **made_by)
        metrics.log_metric("labelled", found.labelled)
        metrics.log_metric("kept", found.kept)
        metrics.log_metric("left_out", found.left_out.total())
        if teacher_price:
            metrics.log_metric("cost", found.cost)
