"""Validates the data of a run before anything is spent on it, and writes the data report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.findings import Training
from rlhf_tuning.data.held_out import ONE_IN, judged_prompts
from rlhf_tuning.data.problems import FILE_CODES
from rlhf_tuning.data.summary import Finding
from rlhf_tuning.errors import DataError, ModelError, ModelNotAtHandError
from rlhf_tuning.labelling.teacher import LOCAL, check_calls, check_same_tokens
from rlhf_tuning.limits import check_context, check_limits, check_on_policy, check_supervised_phase
from rlhf_tuning.models.architecture import load_config, positions
from rlhf_tuning.models.base_model_check import check_base_model
from rlhf_tuning.models.registered import folder_if_registered
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.reports.data_report import write_data_report
from rlhf_tuning.rewards import (
    Answer,
    Example,
    check_references,
    check_reward_model,
    read_options,
    read_rewards,
    written,
)
from rlhf_tuning.rewards.trial import known_answers, try_rewards
from rlhf_tuning.step import counted, say


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is to be validated: the datasets of RLHF, or those of supervised tuning, or feedback, or several.

    Args:
        prompt_dataset: Prompts without labels; empty when there are none.
        preference_dataset: Human preferences; empty when there are none.
        eval_dataset: Evaluation rows; empty when there are none.
        dataset_uri: Demonstrations to learn from; empty when there are none.
        evaluation_data_uri: Demonstrations to measure on; empty when there are none.
        supervised_dataset: Demonstrations of a supervised phase before others; empty when there are none.
        supervise_on_preferred: Whether that phase learns the preferred answers instead.
        feedback_dataset: Answers with labels or ratings; empty when there are none.
        preference_prompt_dataset: Prompts whose answers a judge is to compare; empty when there are none.
        human_preference_dataset: Preferences that say what that judge is worth; empty when there are none.
        instruction: Put before every text prompt; the default context of chat rows.
        default_context: The same, of `dataset_uri` and `evaluation_data_uri`.
        large_model_reference: Base model, whose tokens are counted; empty to count characters.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        reward_model_train_steps: Optimizer steps on the preferences.
        reinforcement_learning_train_steps: Optimizer steps on the prompts.
        train_steps: Optimizer steps on the demonstrations.
        supervised_train_steps: Optimizer steps of the supervised phase.
        batch_size: Rows a step.
        eval_prompts: Most prompts that are held out where there is no evaluation dataset.
        watch_prompts: Most prompts of the watch.
        held_out_reward_model_share: Share of the preferences' prompts that another reward model learns from.
        reward_model_max_epochs: Most times that a reward model sees each preference; 0 for no limit.
        max_bad_rows: So many bad rows of each dataset are set aside; with one more the data is refused.
        gate_min_prompts: Fewest evaluation prompts for a promotion.
        teacher_model_reference: The teacher of a distillation, that answers the prompts of dataset_uri; empty where there is
            none.
        teacher: Where it is.
        teacher_max_calls: Most requests to its server.
        keep_answers: Whether answers that rows bring are kept.
        on_policy: Whether the student is to learn on its own answers afterwards.
        registry_dir: Folder of the registry that the teacher may be in; its default place when empty.
        tunes_on_preferences: Whether a model is tuned on preferences or feedback themselves.
        epoch_count: Times that it sees each of them then.
        rewards: Rewards of one's own beside a reward model, or in its place; empty when there are none.
        independent_judge: Whether anybody judges but the reward that is optimised.
        rewards_judge: Whether these rewards judge the tuned model's answers, see `rewards.as_judge`.
    """

    prompt_dataset: str = ""
    preference_dataset: str = ""
    eval_dataset: str = ""
    dataset_uri: str = ""
    evaluation_data_uri: str = ""
    supervised_dataset: str = ""
    supervise_on_preferred: bool = False
    feedback_dataset: str = ""
    preference_prompt_dataset: str = ""
    human_preference_dataset: str = ""
    instruction: str = ""
    default_context: str = ""
    large_model_reference: str = ""
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    reward_model_train_steps: int = 1000
    reinforcement_learning_train_steps: int = 1000
    train_steps: int = 300
    supervised_train_steps: int = 300
    batch_size: int = 64
    eval_prompts: int = 200
    watch_prompts: int = 64
    held_out_reward_model_share: float = 0.25
    reward_model_max_epochs: float = 2.0
    max_bad_rows: int = 0
    gate_min_prompts: int = 50
    teacher_model_reference: str = ""
    teacher: str = LOCAL
    teacher_max_calls: int = 10_000
    keep_answers: bool = True
    on_policy: bool = False
    registry_dir: str = ""
    tunes_on_preferences: bool = False
    epoch_count: float = 1.0
    rewards: str = ""
    independent_judge: bool = True
    rewards_judge: bool = False

    def __post_init__(self) -> None:
        check_limits(
            prompt_sequence_length=self.prompt_sequence_length,
            target_sequence_length=self.target_sequence_length,
            reward_model_train_steps=self.reward_model_train_steps,
            reinforcement_learning_train_steps=self.reinforcement_learning_train_steps,
            train_steps=self.train_steps,
            supervised_train_steps=self.supervised_train_steps,
            batch_size=self.batch_size,
            eval_prompts=self.eval_prompts,
            watch_prompts=self.watch_prompts,
            held_out_reward_model_share=self.held_out_reward_model_share,
            reward_model_max_epochs=self.reward_model_max_epochs,
            max_bad_rows=self.max_bad_rows,
            epoch_count=self.epoch_count,
            teacher=self.teacher,
            teacher_max_calls=self.teacher_max_calls,
        )
        check_supervised_phase(
            supervised_dataset=self.supervised_dataset, supervise_on_preferred=self.supervise_on_preferred
        )
        check_on_policy(on_policy=self.on_policy, teacher=self.teacher)


def validate_data(
    config: ValidationConfig,
    *,
    report_path: str,
    problems_path: str,
    bad_rows_path: str,
    tell: Callable[[str], None] = say,
    torch: bool = False,
) -> DatasetCheck:
    """Check every row, write the report and all problems, and tell what was found.

    Args:
        config: What is to be validated.
        report_path: Where to write the data report, one HTML page.
        problems_path: Where to write every problem, one JSON object a line.
        bad_rows_path: Where to write the bad rows, as they stand in their files.
        tell: Called with each line that a person should read.
        torch: As for `check_base_model`; in a run the next step does that.

    Raises:
        ModelError: If the base model cannot be tuned; no row is read then.
        DataError: If a dataset cannot be used; the files are written all the same.
        ParameterError: If the base model takes no texts that long.
    """
    unchecked = _check_model(config.large_model_reference, torch=torch)
    tokens = _check_tokens(config) if config.on_policy and not unchecked else ""
    preferences = config.preference_dataset or config.preference_prompt_dataset
    rewarded = bool(config.prompt_dataset and (preferences or config.rewards))
    tunes = rewarded or config.tunes_on_preferences
    training = Training(
        load_text_format=lambda: _text_format(config, unchecked),
        batch_size=config.batch_size,
        reward_model_train_steps=config.reward_model_train_steps,
        # Prompts alone are answered, not trained on.
        reinforcement_learning_train_steps=config.reinforcement_learning_train_steps if tunes else 0,
        train_steps=config.train_steps,
        supervised_train_steps=config.supervised_train_steps,
        eval_prompts=0 if config.eval_dataset else config.eval_prompts,
        watch_prompts=config.watch_prompts,
        held_out_reward_model_share=config.held_out_reward_model_share if tunes else 0.0,
        reward_model_max_epochs=config.reward_model_max_epochs,
        preference_epochs=config.epoch_count if config.tunes_on_preferences else 0.0,
    )
    check = check_datasets(
        prompt_dataset=config.prompt_dataset,
        preference_dataset=config.preference_dataset,
        eval_dataset=config.eval_dataset,
        dataset_uri=config.dataset_uri,
        evaluation_data_uri=config.evaluation_data_uri,
        supervised_dataset=config.supervised_dataset,
        feedback_dataset=config.feedback_dataset,
        preference_prompt_dataset=config.preference_prompt_dataset,
        human_preference_dataset=config.human_preference_dataset,
        instruction=config.instruction,
        default_context=config.default_context,
        max_bad_rows=config.max_bad_rows,
        training=training,
        problems_path=problems_path,
        bad_rows_path=bad_rows_path,
        to_label=bool(config.teacher_model_reference),
    )
    if unchecked and not check.problems:
        check = _with_finding(check, _lengths_not_checked(unchecked[0]))
    if tokens and not check.problems:
        check = _with_finding(check, _tokens_not_checked(tokens))
    if (tunes or config.dataset_uri) and not check.problems and (finding := _nothing_promotes(config, check)):
        check = _with_finding(check, finding)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = [("Base model", config.large_model_reference), ("Made", made)]
    write_data_report(check.summary, report_path, facts)
    if check.problems:
        allowed = (
            f"Up to max_bad_rows ({config.max_bad_rows:,}) bad rows of each dataset are set aside; these are more, or no "
            "matter of single rows."
            if config.max_bad_rows
            else "To leave some bad rows out on purpose, say how many with max_bad_rows."
        )
        rows = f"\n{allowed}" if check.summary.problem_counts.keys() - FILE_CODES else ""
        raise DataError(
            f"{check.problems}{rows}\nAll problems: {problems_path}\nBad rows: {bad_rows_path}\nReport: {report_path}"
        )
    if config.teacher_model_reference:
        to_label = check.to_label if config.keep_answers else sum(check.counts.values())
        tell(f"Prompts that the teacher is to answer: {to_label:,}")
        if config.teacher != LOCAL:
            check_calls(to_label, config.teacher_max_calls)
    if config.rewards and (config.prompt_dataset or config.preference_dataset):
        _try_rewards(config, check, tell)
    tell("Rows: " + ", ".join(f"{name} {count:,}" for name, count in check.counts.items()))
    for warning in check.warnings:
        tell(f"Warning: {warning}")
    if not unchecked:
        check_context(
            positions(load_config(config.large_model_reference)),
            prompt_sequence_length=config.prompt_sequence_length,
            target_sequence_length=config.target_sequence_length,
        )
    return check


def _check_model(reference: str, *, torch: bool) -> list[str]:
    """Check the base model, and return why that cannot be done here; nothing where it was."""
    if not reference:
        return ["No large_model_reference is given."]
    try:
        check_base_model(reference, torch=torch)
    except ModelNotAtHandError as error:
        return [str(error)]
    return []


def _check_tokens(config: ValidationConfig) -> str:
    """Check that student and teacher have the same tokens, and return why that cannot be done here; empty where it was.

    Raises:
        ParameterError: If they have others.
    """
    teacher = folder_if_registered(config.teacher_model_reference, config.registry_dir)
    try:
        check_same_tokens(config.large_model_reference, teacher)
    except ModelError as error:  # of a hub's model that is not at hand
        return str(error)
    return ""


def _tokens_not_checked(reason: str) -> Finding:
    message = f"Whether the teacher has the student's tokens, as on_policy needs, was not checked. {reason}"
    return Finding(code="tokens_not_checked", parameter="teacher_model_reference", message=message)


def _text_format(config: ValidationConfig, unchecked: list[str]) -> TextFormat | None:
    """Return what counts tokens as training will; or None, with the reason in `unchecked`."""
    if unchecked:
        return None
    from rlhf_tuning.models.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(config.large_model_reference)
    except ModelError as error:  # of a hub's model that is not wholly at hand
        unchecked.append(str(error))
        return None
    return TextFormat(
        tokenizer,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )


def _lengths_not_checked(reason: str) -> Finding:
    message = (
        "Lengths were not checked: they are in characters, and nothing is known of the limits in tokens, nor of what the "
        f"model's chat template takes. {reason}"
    )
    return Finding(code="lengths_not_checked", parameter="large_model_reference", message=message)


def _nothing_promotes(config: ValidationConfig, check: DatasetCheck) -> Finding | None:
    """Find that the gate cannot promote whatever this run tunes."""
    datasets = {dataset.parameter: dataset for dataset in check.summary.datasets}
    learnt, measured = ("prompt_dataset", "eval_dataset")
    if config.tunes_on_preferences:
        learnt = "feedback_dataset" if config.feedback_dataset else "preference_dataset"
    elif not config.prompt_dataset:
        learnt, measured = ("dataset_uri", "evaluation_data_uri")
    given = datasets.get(measured)
    prompts = given.distinct_prompts if given else max(1, datasets[learnt].distinct_prompts // ONE_IN)
    if learnt != "prompt_dataset" and (given is None or given.kind != "prompt"):
        prompts = judged_prompts(prompts)
    prompts = prompts if given else min(config.eval_prompts, prompts)
    if not config.independent_judge:
        parameter = "held_out_reward_model_share"
        message = (
            "Nobody independent will judge the tuned model, so it will not be promoted: the reward that is optimised never "
            "promotes. Name a judge (judge, judge_model) or a scorer, or set held_out_reward_model_share above 0."
        )
        if config.feedback_dataset and config.held_out_reward_model_share:
            message = (
                "Nobody independent will judge the tuned model, so it will not be promoted: a held-out reward model must "
                "agree with what people chose of two answers, and feedback has single ones. Name a judge (judge, "
                "judge_model) or a scorer."
            )
    elif prompts < config.gate_min_prompts:
        parameter, least = "gate_min_prompts", config.gate_min_prompts
        if given:
            more = f"Give {measured} more prompts"
        elif config.eval_prompts < least:
            more = f"Raise eval_prompts to {least:,} or more, or give an {measured}"
        else:  # a tenth is held out
            more = f"Give an {measured} with {least:,} prompts, or {learnt} {ONE_IN * least:,} or more"
        message = (
            f"Answers to {counted(prompts, 'evaluation prompt')} will be compared, and a promotion "
            f"takes {least:,}, so the tuned model will not be promoted. {more}, or lower gate_min_prompts."
        )
    else:
        return None
    return Finding(code="nothing_promotes", parameter=parameter, message=message)


def _try_rewards(config: ValidationConfig, check: DatasetCheck, tell: Callable[[str], None]) -> None:
    """Score a few answers, so that a reward that cannot be used ends the run here.

    Raises:
        RlhfError: If a reward does not score.
    """
    options = read_options(read_rewards(config.rewards))
    learnt_from = config.preference_dataset or config.feedback_dataset or config.preference_prompt_dataset
    check_reward_model(options, trained=bool(learnt_from))
    rewards = written([each for each in options if each.scores_anywhere and each.weight])
    examples = {dataset.parameter: dataset.examples for dataset in check.summary.datasets}

    def rows_of(parameter: str) -> list[Example]:
        return [
            {"prompt": row.prompt, **({"references": row.references} if row.references else {})}
            for row in examples.get(parameter, ())
        ]

    prompts = rows_of("prompt_dataset")
    if config.rewards_judge:
        check_references(options, rows_of("eval_dataset"), parameter="eval_dataset")
    preferences = [
        {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
        for row in examples.get("preference_dataset", ())
    ]

    def answer_of(text: str) -> Answer:
        # Tokens do not matter here: no length is wrong, and none is told.
        return Answer(text, min(len(text.split()) + 1, config.target_sequence_length), True)

    asked, choices = known_answers(rewards, preferences, prompts, answer_of)
    asked = asked or [(row, answer_of(row["prompt"][-1]["content"])) for row in prompts]
    if not asked:
        tell("Rewards were not tried: they need references, which prompts bring. Give prompt_dataset.")
        return
    trial = try_rewards(rewards, asked, choices=choices, most_tokens=config.target_sequence_length)
    if trial is not None:
        said = ", ".join(f"{part.name} {part.mean:.3g} (spread {part.spread:.2g})" for part in trial.parts)
        tell(f"Rewards, tried on {counted(len(asked), 'answer')} of the data: {said}")


def _with_finding(check: DatasetCheck, finding: Finding) -> DatasetCheck:
    summary = replace(check.summary, findings=(*check.summary.findings, finding))
    return replace(check, warnings=[*check.warnings, finding.message], summary=summary)
