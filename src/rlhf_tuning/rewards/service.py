"""A service that scores, by the HTTP contract of Google's Cloud Run reward: one POST for each answer.

    {"kind": "service", "url": "https://reward-abc123-uc.a.run.app"}

    asked      {"example": ..., "response": ..., "metadata": {"step": 12, "tuning_job_id": 0}}, see `contract`
    answered   {"reward": 0.5, "user_requested_aux_info": "optional text"}

`tuning_job_id` is 0: no job of Vertex stands behind a run. Where the address is Google's, a request brings the identity
token of who runs the step.

A service that is busy, fails or is not there is asked again, first after a moment, then ever more rarely. While it is down
one request at a time tries it, and all others wait. After `wait_s` seconds the run fails. So it does where an answer is
refused, or where the reply is no reward.
"""

import math
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any
from urllib.parse import urlsplit

import requests

from rlhf_tuning import rewards
from rlhf_tuning import step as progress
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.rewards import Answer, Example
from rlhf_tuning.rewards.contract import google_example, google_response
from rlhf_tuning.web_address import check_web_address

#: Busy or failing for now: timeout, conflict, too early, too many requests; and every 5xx.
_RETRIED = {408, 409, 425, 429}
#: Seconds until a failed request is sent again: at first, and at most.
FIRST_WAIT, MOST_WAIT = 0.5, 30.0
#: Replies that are no reward may come from something between, as while a service is deployed anew; so often.
_MOST_GARBAGE = 3
_GOOGLE = (".run.app", ".cloudfunctions.net")
_MOST_BYTES = 2**20


class Options(rewards.Options, frozen=True, kw_only=True):
    """Where the service is, and how patiently it is asked."""

    url: str
    timeout_s: float = 300.0
    wait_s: float = 600.0
    concurrency: int = 16
    clip: tuple[float, float] | None = rewards.UNIT

    def problem(self) -> str:
        """Return what is wrong with the options, or an empty string."""
        try:
            check_web_address(self.url, "url")
        except ParameterError as error:
            return str(error)
        if not 0 < self.timeout_s <= rewards.MOST_SECONDS:
            return (
                f"timeout_s is {self.timeout_s:g}; it must be greater than 0 and at most {rewards.MOST_SECONDS:,.0f}."
            )
        if self.wait_s <= 0:
            return f"wait_s is {self.wait_s:g}; it must be greater than 0."
        if not 1 <= self.concurrency <= 256:
            return f"concurrency is {self.concurrency}; it must be from 1 to 256."
        return ""


class _UnansweredError(Exception):
    """The service gave no reward now; it may later."""


class ServiceScorer:
    """Scores by asking the service, several answers at once."""

    def __init__(self, options: Options) -> None:
        self._options, self._name = options, options.name or options.kind
        self._pool = ThreadPoolExecutor(options.concurrency)
        self._local = threading.local()
        self._breaker = _Breaker(self._name, options.wait_s)
        self._token = _IdentityToken(options.url) if is_google(options.url) else None

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the service's reward for each answer.

        Raises:
            ParameterError: If it refuses one, or does not keep the contract.
            RunError: If it is down for too long.
        """
        asked = [
            {
                "example": google_example(example),
                "response": google_response(answer),
                "metadata": {"step": step, "tuning_job_id": 0},
            }
            for example, answer in zip(examples, answers, strict=True)
        ]
        self._breaker.begin()
        futures = [self._pool.submit(self._reward, body) for body in asked]
        try:
            done = wait_for(futures, return_when=FIRST_EXCEPTION).done
            for future in done:  # the one that failed before those that wait for it
                future.result()
            return [future.result() for future in futures]
        finally:
            self._breaker.give_up()
            for future in futures:
                future.cancel()

    def _reward(self, body: dict[str, Any]) -> float:
        garbage = 0
        unanswered_since = math.inf
        while True:
            tries = self._breaker.wait()
            try:
                response = self._post(body)
                self._check_status(response)
            except _UnansweredError as error:
                unanswered_since = min(unanswered_since, time.monotonic())
                self._breaker.failed(error, tries=tries, since=unanswered_since)
                continue
            reward = _reward_in(response)
            if reward is None:
                garbage += 1
                told = f'answers {response.text[:200]!r}, not {{"reward": NUMBER}}'
                if garbage == _MOST_GARBAGE:
                    raise ParameterError(
                        f"The reward {self._name}: the service at {self._options.url} {told}. Check its url, or what it "
                        "answers."
                    )
                self._breaker.failed(_UnansweredError(told), tries=tries, since=math.inf)
                continue
            self._breaker.succeeded()
            return reward

    def _post(self, body: dict[str, Any]) -> requests.Response:
        try:
            return self._session().post(
                self._options.url, json=body, timeout=self._options.timeout_s, allow_redirects=False, auth=self._token
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _UnansweredError(f"{type(error).__name__}: {str(error)[:200]}") from None
        except requests.RequestException as error:
            raise ParameterError(f"The reward {self._name}: {self._options.url} cannot be asked: {error}.") from None

    def _session(self) -> requests.Session:
        """Return this thread's own session: connections are kept, but sessions are not made for several threads."""
        if "session" not in self._local.__dict__:
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in _RETRIED or status >= 500:
            raise _UnansweredError(f"status {status}: {response.text[:200]!r}")
        if status in (401, 403):
            whom = "the step's service account the role roles/run.invoker on it" if self._token else "the step access"
            raise ParameterError(
                f"The reward {self._name}: the service at {self._options.url} refuses to be asked (status {status}). Give "
                f"{whom}."
            )
        if status != 200:
            raise ParameterError(
                f"The reward {self._name}: the service at {self._options.url} refuses an answer with status {status}: "
                f"{response.text[:200]!r}. Check its url, or why the service does not take that answer."
            )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Breaker:
    """Holds requests back while the service is down, and says when that has lasted too long."""

    def __init__(self, name: str, wait_s: float) -> None:
        self._name, self._wait_s = name, wait_s
        self._changed = threading.Condition()
        self._down_since: float | None = None
        self._failures = 0
        self._not_before = 0.0
        self._trying = False
        self._over = False

    def begin(self) -> None:
        """Begin a batch."""
        self._over = self._trying = False

    def wait(self) -> bool:
        """Wait until a request may be sent: at once while the service is up, else one at a time, ever more rarely.

        Returns:
            Whether it is the one that tries a service that is down.
        """
        with self._changed:
            while True:
                if self._over:
                    raise RunError(f"The reward {self._name} has failed on another answer.")
                left = self._not_before - time.monotonic()
                if self._down_since is None or (left <= 0 and not self._trying):
                    self._trying = self._down_since is not None
                    return self._trying
                self._changed.wait(max(left, 0.01) if not self._trying else None)

    def failed(self, error: _UnansweredError, *, tries: bool, since: float) -> None:
        """Take note that a request had no answer, nor has had since a time.

        Raises:
            RunError: If there was none for too long, to any request or to this one.
        """
        now = time.monotonic()
        with self._changed:
            if self._down_since is None:
                self._down_since = now
                progress.say(f"The reward {self._name} does not answer: {error}. It is waited for")
            elif not tries:
                return  # sent while it was still up
            self._trying = False
            self._not_before = now + min(FIRST_WAIT * 2 ** min(self._failures, 16), MOST_WAIT) * random.uniform(0.5, 1)
            self._failures += 1
            self._changed.notify_all()
            if now - min(self._down_since, since) > self._wait_s:
                raise RunError(
                    f"The reward {self._name} has not been given for {self._wait_s:g} s (wait_s). Its last failure: "
                    f"{error}. Look at the service, and run again: finished steps are not done again."
                )

    def succeeded(self) -> None:
        """Take note that the service answers."""
        with self._changed:
            if self._down_since is not None:
                gone = progress.duration(time.monotonic() - self._down_since)
                progress.say(f"The reward {self._name} answers again, after {gone}")
            self._down_since, self._failures, self._trying = None, 0, False
            self._changed.notify_all()

    def give_up(self) -> None:
        """End all waiting."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class _IdentityToken:
    """Puts the identity token of who runs the step into requests; it is Google's library that renews it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._audience = f"{parts.scheme}://{parts.netloc}"
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the token of a request.

        Raises:
            ParameterError: If there is none to be had.
        """
        from google.auth import exceptions
        from google.auth.transport.requests import Request
        from google.oauth2.id_token import fetch_id_token_credentials

        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = fetch_id_token_credentials(self._audience, Request())  # type: ignore[no-untyped-call]
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
            except exceptions.GoogleAuthError as error:
                raise ParameterError(
                    f"The service at {self._audience} is Google's, and there is no identity token to show it: {error}. Run "
                    "as a service account (on Vertex: --service-account), or set GOOGLE_APPLICATION_CREDENTIALS to the file "
                    "of one."
                ) from None
        request.headers["Authorization"] = f"Bearer {self._credentials.token}"
        return request


def is_google(url: str) -> bool:
    """Say whether a service runs at Google, where a token proves who asks."""
    parts = urlsplit(url)
    return parts.scheme == "https" and str(parts.hostname).endswith(_GOOGLE)


def _reward_in(response: requests.Response) -> float | None:
    """Return the reward that a reply holds; None where it holds none."""
    if len(response.content) > _MOST_BYTES:
        return None
    try:
        reply = response.json()
    except (ValueError, RecursionError):
        return None
    reward = reply.get("reward") if isinstance(reply, dict) else None
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not abs(reward) <= sys.float_info.max:
        return None
    return float(reward)


def make_scorer(options: Options, *, most_tokens: int) -> ServiceScorer:
    """Return the scorer; nothing is asked yet."""
    return ServiceScorer(options)
