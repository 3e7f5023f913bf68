"""What can be said of a labelling before it: the tasks of Vertex's RLAIF job, and who prefers. Needs no torch."""

import re

from rlhf_tuning.errors import ParameterError

#: A task to what a better answer to it is.
RUBRICS = {
    "summarization": """\
Which summary would the person who wrote the prompt rather have?
- It says what matters most in the text, and leaves out what does not.
- All that it says stands in the text: it makes nothing up, and turns nothing round.
- It can be understood without the text, and is no longer than it must be: length by itself is no merit.
- A summary that copies the text, comments on it, repeats itself, is empty or breaks off is worse than one that does not.""",
    "question_answering": """\
Which answer to the question would the person who wrote the prompt rather have?
- It answers the very question that was asked, all of it.
- What it says is right, and where the prompt brings a text to answer from, stands in that text; it makes nothing up.
- It says so where the answer cannot be known.
- It is clear and no longer than it must be: length by itself is no merit.
- An answer that evades for no reason, repeats itself, is empty or breaks off is worse than one that does not.""",
}


def task_rubric(task_type: str) -> str:
    """Return what a better answer to a task is; an empty text where no task is named.

    Args:
        task_type: `TASK` or `TASK@VERSION`, whatever version.

    Raises:
        ParameterError: If there is no such task.
    """
    if not task_type:
        return ""
    task = re.sub(r"@\w+$", "", task_type)
    if task not in RUBRICS:
        raise ParameterError(
            f"task_type is {task_type!r}; it must be {' or '.join(RUBRICS)}, which may end in @ and a version, such as "
            "summarization@001. For another task take the nearest, and say in judge_rubric what a better answer is."
        )
    return RUBRICS[task]


def check_labelling(*, judge: str, scorer: str, sampling_strategy: str, temperature: float, same: bool) -> None:
    """Check that answers differ and that somebody prefers one.

    Raises:
        ParameterError: If not.
    """
    if not (judge or scorer):
        raise ParameterError(
            "Neither judge nor scorer says who prefers. Set judge to 'language_model', 'gemini' or 'local_model', and "
            "judge_model."
        )
    if same and (sampling_strategy == "greedy" or temperature == 0):
        which = "sampling_strategy is 'greedy'" if sampling_strategy == "greedy" else "temperature is 0"
        raise ParameterError(
            f"large_model_a_reference and large_model_b_reference are the same model, and {which}, so that both give the "
            "same answer to each prompt. Sample at a temperature above 0, with sampling_strategy 'temperature_sampling', or "
            "give two models."
        )
