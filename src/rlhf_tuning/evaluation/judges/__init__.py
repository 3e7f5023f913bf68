"""The judges, one file each: which of two answers to a prompt is better.

To add one: its file with a function `make_judge`, a line in `JUDGES`, its name among the choices of the parameter
`judge`, a test.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from rlhf_tuning import environment, machine
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges.role import JUDGE, Role
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.limits import check_limits
from rlhf_tuning.web_address import WEB_ADDRESS, host_of

#: A judge's name to the module that holds it, imported only when it is used.
JUDGES: dict[str, str] = {
    "scorer": "rlhf_tuning.evaluation.judges.scorer",
    "language_model": "rlhf_tuning.evaluation.judges.language_model",
    "gemini": "rlhf_tuning.evaluation.judges.gemini",
    "local_model": "rlhf_tuning.evaluation.judges.local_model",
    "held_out_reward_model": "rlhf_tuning.evaluation.judges.held_out_reward_model",
    "reward_model": "rlhf_tuning.evaluation.judges.reward_model",
}

#: Those that are asked over the network, and paid.
_BEHIND_A_SERVER = ("language_model", "gemini")


class Judge(Protocol):
    """Says which of two answers is better.

    Attributes:
        name: Its name in `JUDGES`.
        label: How people read it, after "by": `judge gpt-oss-20b`.
        most_human_choices: By how many human choices it is scored at most; each may cost a call.
        notes: What a person should know of the last comparisons, such as that a cap was reached.
    """

    name: str
    label: str
    most_human_choices: int
    notes: list[str]

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison; None where there is none. Whatever it loads is free afterwards."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What judges are made from; those of the evaluation's parameters that concern them, under the same names.

    Args:
        reward_model_dir: What phase 1 saved.
        held_out_reward_model_dir: What the training of the held-out reward model saved.
        scorer: The scoring program.
        judge_model: The language model that judges.
        judge_endpoint: Base URL of an OpenAI-compatible server, such as `https://api.openai.com/v1`; of another Gemini
            server, for `gemini`.
        judge_key_secret: Name of the secret that holds the key of that server; the environment has it when empty.
        judge_rubric: What a better answer is, as text or the name of a text file; the default rubric when empty.
        judge_max_calls: Most requests to a server in one evaluation, repeated ones included.
        judge_max_cost: What they may cost; 0 for no limit.
        judge_price: What a million tokens cost there.
        dtype: Of local models.
    """

    reward_model_dir: str = ""
    held_out_reward_model_dir: str = ""
    scorer: str = ""
    judge_model: str = ""
    judge_endpoint: str = ""
    judge_key_secret: str = ""
    judge_rubric: str = ""
    judge_max_calls: int = 1000
    judge_max_cost: float = 0.0
    judge_price: float = 0.0
    dtype: str = "auto"


class _Module(Protocol):
    def make_judge(self, settings: JudgeSettings) -> Judge:
        """Return the judge; nothing heavy is loaded yet."""


def load_judge(name: str, settings: JudgeSettings) -> Judge:
    """Return one of `JUDGES`."""
    return cast(_Module, importlib.import_module(JUDGES[name])).make_judge(settings)


def check_server(judge: str, judge_key_secret: str, role: Role = JUDGE) -> None:
    """Check what a judge behind a server needs in the end: its key, and a place for what it says.

    Args:
        judge: Its name in `JUDGES`.
        judge_key_secret: Name of the secret with the key; empty for none.
        role: What its parameters are called.

    Raises:
        UserError: If the key cannot be read or can be none, or nothing can be written to the cache.
        RunError: If Secret Manager gives no answer.
    """
    if judge in _BEHIND_A_SERVER:
        role.key(judge_key_secret)
        machine.check_writable(
            environment.CACHE_DIR, what="The judge's verdicts would be kept", remedy=environment.NAME_CACHE
        )


def check_judge(
    *,
    judge: str,
    judge_model: str,
    judge_endpoint: str,
    judge_key_secret: str,
    judge_rubric: str,
    judge_max_calls: int,
    judge_max_cost: float,
    judge_price: float,
) -> str:
    """Check the parameters of a language-model judge together, and return its rubric in words; none without a judge.

    No secret is read.

    Raises:
        ParameterError: Naming the parameter that is missing or cannot be used.
    """
    from rlhf_tuning.evaluation.judges.rubric import read_rubric

    check_limits(
        judge=judge,
        judge_key_secret=judge_key_secret,
        judge_max_calls=judge_max_calls,
        judge_max_cost=judge_max_cost,
        judge_price=judge_price,
    )
    check_cost(judge_max_cost, judge_price, asked=judge in _BEHIND_A_SERVER, role=JUDGE)
    of_server = {"judge_endpoint": judge_endpoint, "judge_key_secret": judge_key_secret}
    given = {"judge_model": judge_model, **of_server, "judge_rubric": judge_rubric}
    if not judge:
        for name, value in given.items():
            if value:
                raise ParameterError(
                    f"{name} is {value[:80]!r}, but judge is empty, so nothing would use it. "
                    "Set judge to 'language_model', 'gemini' or 'local_model'."
                )
        return ""
    if not judge_model:
        raise ParameterError(f"judge is {judge!r}, but judge_model is empty. Say which model is to judge.")
    if judge == "language_model" and not judge_endpoint:
        raise ParameterError(
            "judge is 'language_model', but judge_endpoint is empty. Give the base URL of an OpenAI-compatible server, "
            "such as https://api.openai.com/v1 or http://localhost:8000/v1."
        )
    for name, value in of_server.items():
        if judge == "local_model" and value:
            raise ParameterError(f"{name} is {value!r}, but judge 'local_model' runs in this process. Leave it empty.")
    if judge_endpoint:
        check_endpoint(judge_endpoint, JUDGE)
    return read_rubric(judge_rubric)


def check_cost(max_cost: float, price: float, *, asked: bool, role: Role) -> None:
    """Check that what a server may cost can be counted.

    Args:
        max_cost: The most; 0 for no limit.
        price: Of a million tokens; 0 where it is not known.
        asked: Whether a server is asked at all.
        role: Whose.

    Raises:
        ParameterError: If it cannot.
    """
    if max_cost and not asked:
        raise ParameterError(
            f"{role.max_cost} is {max_cost:g}, but no {role.name} is behind a server, so none is paid. Leave it out."
        )
    if max_cost and not price:
        raise ParameterError(
            f"{role.max_cost} is {max_cost:g}, and there is no {role.price}: what a million of the {role.name}'s tokens "
            "cost is not known. Say it, in the same currency."
        )


def check_endpoint(endpoint: str, role: Role) -> None:
    """Check the base URL of a server.

    Raises:
        ParameterError: If it is none, or holds what is no one's business.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(endpoint)
        secret = parts.username or parts.password or parts.query
    except ValueError:
        secret = None
    if secret:
        # Not shown: parameters are logged and stored, and this one may hold a key.
        raise ParameterError(
            f"{role.endpoint} holds a user name, a password or a query. Give the bare URL, and the key in the environment "
            f"variable {role.key_variable}, or in a secret that {role.key_secret} names."
        )
    if not host_of(endpoint):
        raise ParameterError(f"{role.endpoint} is {endpoint!r}; {WEB_ADDRESS}.")
