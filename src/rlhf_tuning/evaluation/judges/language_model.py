"""Any language model behind an OpenAI-compatible `/chat/completions`: a provider's, or one's own vLLM, llama.cpp, Ollama."""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.evaluation.judges import JudgeSettings, asking
from rlhf_tuning.evaluation.judges.asking import AskingJudge, Cap, RefusedError, Reply, UnansweredError
from rlhf_tuning.evaluation.judges.role import JUDGE, Role
from rlhf_tuning.evaluation.judges.rubric import read_rubric

#: Busy or failing for now: timeout, conflict, too early, too many requests; and every 5xx.
RETRIED = {408, 409, 425, 429}
#: A reply, with whatever thoughts of the model go before it, has so many tokens at most.
MOST_TOKENS = 4096
#: Within which a server answers that is there.
REACHED_SECONDS = 20.0


class ChatCompletions:
    """Sends questions to `/chat/completions`.

    Args:
        endpoint: The base URL, with or without `/chat/completions`.
        model: The model's name on that server.
        key_secret: Name of the secret that holds the key, which is sent as a bearer token and shown nowhere; the environment
            has it, or none is needed, when empty.
        role: Whose server it is.
        temperature: Of the samples.
    """

    def __init__(
        self, endpoint: str, model: str, key_secret: str, *, role: Role = JUDGE, temperature: float = 0.0
    ) -> None:
        self.url = endpoint.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._model, self._api_key, self._role = model, role.key(key_secret), role
        self._key_place = role.key_place(key_secret)
        # Some models refuse one of these by name; it is then left out.
        self._options: dict[str, object] = {"temperature": temperature, "max_tokens": MOST_TOKENS}
        self._local = threading.local()

    def ask(self, question: str) -> Reply:
        """Return the reply to one question; an empty one when the server chose to give none."""
        return self.reply([{"role": "user", "content": question}])

    def reply(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """Return the reply to a conversation."""
        options = dict(self._options)
        body = {"model": self._model, "messages": list(messages), **options}
        try:
            response = self._session().post(
                self.url, json=body, timeout=asking.REQUEST_SECONDS, allow_redirects=False, auth=self._authorize
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise UnansweredError(self._safe(_innermost(error))) from None
        except requests.RequestException as error:
            raise ParameterError(
                f"{self._role.endpoint} {self.url} cannot be asked: {self._safe(str(error))}"
            ) from None
        if response.status_code != 200:
            raise self._meaning(response, options)
        return _content(response)

    def _session(self) -> requests.Session:
        """Return this thread's own session: connections are kept, but sessions are not made for several threads."""
        if "session" not in self._local.__dict__:
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the key; a function and no header, since `requests` would replace that by what it finds in .netrc."""
        if self._api_key:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request

    def _meaning(self, response: requests.Response, options: Mapping[str, object]) -> Exception:
        """Return what another status than 200 means."""
        status = response.status_code
        said = self._safe(_said(response))
        if status in RETRIED or status >= 500:
            return UnansweredError(f"status {status}: {said}", retry_after=retry_after(response.headers))
        if status in (401, 403):
            what = f"The {self._role.name} at {self.url} refuses access (status {status}: {said})."
            if self._api_key:
                return ParameterError(f"{what} The key in {self._key_place} is not accepted there.")
            return ParameterError(
                f"{what} The key in {self._key_place} is not set. Set it, or name a secret of Google Cloud in "
                f"{self._role.key_secret}."
            )
        if status in (400, 413, 422):
            named = [name for name in options if name in said]
            if named:
                self._options = {name: value for name, value in self._options.items() if name not in named}
                return UnansweredError(f"status {status}: {said}", retry_after=0)
            return RefusedError(f"status {status}: {said}")
        return ParameterError(
            f"The {self._role.name} at {self.url} answers with status {status}: {said}. Check {self._role.endpoint}, which "
            f"is the base URL that ends in /v1 on most servers, and {self._role.model}, which is {self._model!r}."
        )

    def _safe(self, text: str) -> str:
        """Return a server's words, short, on one line and without the key, which some servers repeat."""
        if self._api_key:
            text = text.replace(self._api_key, "(key)")
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]


def _content(response: requests.Response) -> Reply:
    try:
        reply: Any = response.json()
    except ValueError:
        raise UnansweredError("its reply is no JSON") from None
    try:
        choice = reply["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Reply("")
    return Reply(content if isinstance(content, str) else "", cut=reason == "length", tokens=_tokens(reply))


def _tokens(reply: Mapping[str, Any]) -> int:
    usage = reply.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else 0


def _said(response: requests.Response) -> str:
    try:
        error: Any = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return str(response.text)[:1000]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, which it gives as seconds or as a date; None when it does not."""
    value = headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _innermost(error: BaseException) -> str:
    """Return the reason in the middle of an error that wraps others, without the addresses of objects."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {asking.REQUEST_SECONDS:g} s"
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def check_reachable(endpoint: str, role: Role = JUDGE) -> None:
    """Check that a server is there; what it answers does not matter.

    Raises:
        RunError: If there is none.
    """
    try:
        # No key is sent, nor what `requests` would find in .netrc.
        requests.get(endpoint, timeout=REACHED_SECONDS, allow_redirects=False, auth=lambda request: request)
    except requests.RequestException as error:
        raise RunError(
            f"{role.endpoint} {endpoint} cannot be reached: {_innermost(error)}. Start the server, or name another one."
        ) from None


def make_judge(settings: JudgeSettings) -> AskingJudge:
    """Return the judge behind `judge_endpoint`."""
    client = ChatCompletions(settings.judge_endpoint, settings.judge_model, settings.judge_key_secret)
    return AskingJudge(
        name="language_model",
        model=settings.judge_model,
        source=client.url,
        rubric=read_rubric(settings.judge_rubric),
        ask=client.ask,
        cap=Cap(settings.judge_max_calls, settings.judge_max_cost, settings.judge_price),
    )
