"""A judge that is asked over the network: both orders of every pair, again after failures, up to a cap, and never twice.

Every reply that was had is kept on the disk, so that an evaluation that is run again, or goes on after an interruption,
pays for nothing a second time.
"""

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rlhf_tuning import environment, step
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.evaluation.judges.role import JUDGE, Role
from rlhf_tuning.evaluation.judges.rubric import REMINDER, Choice, question, read_choice
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict

#: Human choices that a judge is scored by at most; each costs two calls.
MOST_HUMAN_CHOICES = 200
#: Requests at a time.
WORKERS = 4
#: Seconds until a request is given up.
REQUEST_SECONDS = 120.0
#: How often one question is sent when the server is busy, fails or does not answer.
ATTEMPTS = 6
#: Seconds before the second attempt; doubled before each later one.
FIRST_WAIT = 1.0
#: A server that asks for more patience than this many seconds is taken not to answer.
MOST_WAIT = 120.0
#: So many questions given up one after the other mean that the server is down.
MOST_UNANSWERED = 3


class Reply(NamedTuple):
    """What a model replied.

    Attributes:
        text: What it said.
        cut: Whether a limit of tokens cut it off.
        tokens: Of question and answer, as the server counts them; 0 where it does not tell.
    """

    text: str
    cut: bool = False
    tokens: int = 0


class Cap(NamedTuple):
    """What a server may be asked; then no more is sent.

    Attributes:
        calls: Most requests, repeated ones included.
        cost: The most that its tokens may cost, beside those of requests under way; 0 for no limit.
        price: Of a million tokens.
    """

    calls: int
    cost: float = 0.0
    price: float = 0.0


Item = TypeVar("Item")
Found = TypeVar("Found")


class UnansweredError(Exception):
    """The server was busy, failed or did not answer; the same question may be sent again.

    Args:
        reason: In words.
        retry_after: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RefusedError(Exception):
    """The server will not answer this question, such as one that is too long; others it may."""


class NoReplyError(Exception):
    """There is no reply to a question, or none that can be read; the message is the reason's name in `REASONS`."""


class Asker:
    """Sends questions to a server: some at a time, again after failures, up to a cap, and no faster than it wants.

    Args:
        role: Whose server it is.
        source: Where it is, such as its URL.
        cap: Of one `each`.
        paid: Tokens that were paid for before.
    """

    def __init__(self, role: Role, *, source: str, cap: Cap, paid: int = 0) -> None:
        self.calls, self._tokens, self._paid = 0, 0, paid
        self.refusal = ""
        self.lock = threading.Lock()
        self._role, self._source, self._cap = role, source, cap
        self._stop = threading.Event()
        self._not_before = 0.0
        self._unanswered = 0

    @property
    def cost(self) -> float:
        """What the replies have cost, those before included."""
        return (self._paid + self._tokens) * self._cap.price / 1e6

    def each(self, items: Iterable[Item], work: Callable[[Item], Found]) -> list[Found]:
        """Return what `work`, which may call `reply`, gives for each item; some are worked on at a time.

        Raises:
            UserError: If the server cannot be used as it is set.
            RunError: If it is down.
        """
        self.calls, self._tokens = 0, 0
        self._stop.clear()
        pool = ThreadPoolExecutor(WORKERS)
        try:
            return list(pool.map(work, items))
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def reply(self, send: Callable[[], Reply]) -> Reply:
        """Send one question, and again while the server is busy or fails.

        Args:
            send: Sends it and returns the reply; raises UnansweredError, RefusedError, or an error for the person.

        Raises:
            NoReplyError: If there is no reply to this one.
            ParameterError: If its cost is limited and the server does not tell it.
            RunError: If there was none to several in a row.
        """
        failure = UnansweredError("it was not asked")
        for attempt in range(ATTEMPTS):
            self._wait_for_turn()
            try:
                reply = send()
            except UnansweredError as error:
                failure = error
                # Spread, so that workers that failed together do not come back together.
                wait = FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)
                if error.retry_after is not None:
                    wait = max(error.retry_after, 0.0)
                if wait > MOST_WAIT:
                    break
                with self.lock:
                    self._not_before = max(self._not_before, time.monotonic() + wait)
            except RefusedError as error:
                with self.lock:
                    self._unanswered, self.refusal = 0, str(error)
                raise NoReplyError("refused") from None
            else:
                if self._cap.cost and not reply.tokens:
                    raise ParameterError(
                        f"{self._role.max_cost} is {self._cap.cost:g}, but the server at {self._source} does not tell how "
                        f"many tokens a reply took. Limit it by {self._role.max_calls} instead."
                    )
                with self.lock:
                    self._unanswered = 0
                    self._tokens += reply.tokens
                return reply
        with self.lock:
            self._unanswered += 1
            down = self._unanswered >= MOST_UNANSWERED
        if down:
            self._stop.set()
            raise RunError(
                f"The {self._role.name} at {self._source} did not answer {MOST_UNANSWERED} questions in a row, each asked "
                f"up to {ATTEMPTS} times. Its last failure: {failure}. Check {self._role.endpoint} and the server, then run "
                "again: replies that were had are kept."
            )
        raise NoReplyError("unanswered")

    def _wait_for_turn(self) -> None:
        """Wait as long as the server asked every worker to, then take one of the calls that are left."""
        while True:
            with self.lock:
                if self._stop.is_set():
                    raise NoReplyError("unanswered")
                left = self._not_before - time.monotonic()
                if self.calls >= self._cap.calls:
                    raise NoReplyError("capped")
                if self._cap.cost and self.cost >= self._cap.cost:
                    raise NoReplyError("spent")
                if left <= 0:
                    self.calls += 1
                    return
            self._stop.wait(left)


#: Why there is no verdict.
REASONS = {
    "unreadable": "the reply held no verdict that can be read, also when asked again",
    "refused": "the judge refused the question",
    "unanswered": "the judge did not answer",
    "capped": "judge_max_calls was reached",
    "spent": "judge_max_cost was reached",
}


class AskingJudge:
    """A language model behind a server.

    Args:
        name: The judge's name in `JUDGES`.
        model: The language model.
        source: Where it is, such as its URL; a part of what identifies a verdict.
        rubric: What a better answer is.
        ask: Sends one question and returns the reply; raises UnansweredError, RefusedError, or an error for the person.
        cap: Of the requests for one `compare`.
    """

    def __init__(
        self, *, name: str, model: str, source: str, rubric: str, ask: Callable[[str], Reply], cap: Cap
    ) -> None:
        self.name, self.label = name, f"judge {model}"
        # At most half of the calls go into the judge's own examination.
        self.most_human_choices = min(MOST_HUMAN_CHOICES, cap.calls // 4)
        self.notes: list[str] = []
        self._source, self._rubric, self._ask = source, rubric, ask
        self._asker = Asker(JUDGE, source=source, cap=cap)
        identity = json.dumps([name, source, model, rubric])
        self._cache: Cache[Choice] = Cache(identity, lambda value: value in ("A", "B", "tie"))
        self._finished = 0
        self._missing: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """How many requests the last comparisons took."""
        return self._asker.calls

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison; None where there is none.

        Raises:
            UserError: If the server cannot be used as it is set.
            RunError: If it is down.
        """
        self.notes, self._finished, self._missing = [], 0, Counter()
        progress = step.Progress(f"asking {self.label}", len(comparisons), "pair")
        verdicts = self._asker.each(comparisons, lambda comparison: self._judge(comparison, progress))
        if self._asker.cost:
            self.notes.append(f"{self.label} was asked {self.calls:,} times, which cost {self._asker.cost:,.2f}")
        count = len(comparisons)
        if self._missing["refused"] == count > 0:
            raise ParameterError(
                f"The judge at {self._source} refuses every question: {self._asker.refusal}. Check judge_model and "
                "judge_endpoint."
            )
        self.notes += [
            f"{missing:,} of {count:,} pairs, human choices included, have no verdict: {REASONS[reason]}"
            for reason, missing in sorted(self._missing.items())
        ]
        return verdicts

    def _judge(self, comparison: Comparison, progress: step.Progress) -> Verdict | None:
        verdict = None
        try:
            if comparison.first == comparison.second:
                verdict = Verdict()
            else:
                one = self._choice(question(self._rubric, comparison, second_first=False))
                two = self._choice(question(self._rubric, comparison, second_first=True))
                verdict = Verdict(orders=({"A": -1, "tie": 0, "B": 1}[one], {"A": 1, "tie": 0, "B": -1}[two]))
        except NoReplyError as error:
            with self._asker.lock:
                self._missing[str(error)] += 1
        with self._asker.lock:
            self._finished += 1
            progress.update(self._finished, {"calls": float(self.calls)})
        return verdict

    def _choice(self, asked: str) -> Choice:
        return self._cache.read_once(asked, read_choice, lambda text: self._asker.reply(lambda: self._ask(text)))


class Cache(Generic[Found]):
    """What replies were read as, on the disk: JSON lines, by a hash of the judge and the question.

    Other processes may append to the file too.

    Args:
        identity: Of the judge: a different model, server or rubric is a different judge.
        is_one: Says whether a value is what replies are read as.
    """

    def __init__(self, identity: str, is_one: Callable[[object], bool]) -> None:
        self._path = environment.CACHE_DIR / "judges" / f"{_digest(identity)[:16]}.jsonl"
        self._identity, self._is_one = identity, is_one
        self._lock = threading.Lock()
        self._known: dict[str, Found | None] = {}
        self._tokens: list[int] = []
        #: How many questions were sent by this process.
        self.asked = 0
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        """Take one line in; one that was cut off when its writer was stopped is left out."""
        try:
            record: Any = json.loads(line)
        except ValueError:
            return
        # Null is a reply that could not be read: by now the server may be mended.
        if isinstance(record, dict) and {"key", "verdict"} <= set(record) and self._is_one(record["verdict"]):
            self._known[str(record["key"])] = record["verdict"]
            self._tokens.append(record.get("tokens", 0))

    @property
    def tokens_each(self) -> float:
        """Return how many tokens a question and its reply took on average, where the server told."""
        told = [tokens for tokens in self._tokens if tokens]
        return sum(told) / len(told) if told else 0.0

    def read_once(self, asked: str, read: Callable[[str], Found | None], ask: Callable[[str], Reply]) -> Found:
        """Return what the reply to a question is read as; it is sent where it was not before, and then twice at most.

        Args:
            asked: The question.
            read: Reads a reply; None where it cannot be read.
            ask: Sends a question and returns the reply.

        Raises:
            NoReplyError: If neither reply can be read.
        """
        key = _digest(self._identity + "\n" + asked)
        if key not in self._known:
            reply = ask(asked)
            found, tokens = read(reply.text), reply.tokens
            if found is None:
                reply = ask(asked + REMINDER)
                found, tokens = read(reply.text), tokens + reply.tokens
            # With the end of the reply that it was read from.
            record = {"key": key, "verdict": found, "reply": reply.text[-2000:], "tokens": tokens}
            with self._lock:
                self._known[key] = found
                self._tokens.append(tokens)
                self.asked += 1
                append_record(self._path, record)
        known = self._known[key]
        if known is None:
            raise NoReplyError("unreadable")
        return known


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON to a file: in one write, and on a line of its own even after one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        broken = stream.tell() and not _ends_with_newline(path)
        stream.write(("\n" if broken else "").encode() + json.dumps(record).encode() + b"\n")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
