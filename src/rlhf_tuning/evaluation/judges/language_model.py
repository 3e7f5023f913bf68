"""Any language model behind an OpenAI-compatible `/chat/completions`: a provider's, or one's own vLLM, llama.cpp, Ollama."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges import JudgeSettings, asking, judge_key, key_place
from rlhf_tuning.evaluation.judges.asking import AskingJudge, RefusedError, UnansweredError
from rlhf_tuning.evaluation.judges.rubric import read_rubric

#: Busy or failing for now: timeout, conflict, too early, too many requests; and every 5xx.
RETRIED = {408, 409, 425, 429}


class ChatCompletions:
    """Sends questions to `/chat/completions`.

    Args:
        endpoint: The base URL, with or without `/chat/completions`.
        model: The model's name on that server.
        api_key: Sent as a bearer token, and shown nowhere; empty for a server without keys.
        key_place: Where it comes from, in words.
    """

    def __init__(self, endpoint: str, model: str, api_key: str, key_place: str) -> None:
        self.url = endpoint.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._model, self._api_key, self._key_place = model, api_key, key_place
        # Some models refuse one of these by name; it is then left out.
        self._options: dict[str, object] = {"temperature": 0, "max_tokens": 4096}
        self._local = threading.local()

    def ask(self, question: str) -> str:
        """Return the reply to one question; an empty one when the server chose to give none."""
        options = dict(self._options)
        body = {"model": self._model, "messages": [{"role": "user", "content": question}], **options}
        try:
            response = self._session().post(
                self.url, json=body, timeout=asking.REQUEST_SECONDS, allow_redirects=False, auth=self._authorize
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise UnansweredError(self._safe(_innermost(error))) from None
        except requests.RequestException as error:
            raise ParameterError(f"judge_endpoint {self.url} cannot be asked: {self._safe(str(error))}") from None
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
            what = f"The judge at {self.url} refuses access (status {status}: {said})."
            if self._api_key:
                return ParameterError(f"{what} The key in {self._key_place} is not accepted there.")
            return ParameterError(
                f"{what} The key in {self._key_place} is not set. Set it, or name a secret of Google Cloud in "
                "judge_key_secret."
            )
        if status in (400, 413, 422):
            named = [name for name in options if name in said]
            if named:
                self._options = {name: value for name, value in self._options.items() if name not in named}
                return UnansweredError(f"status {status}: {said}", retry_after=0)
            return RefusedError(f"status {status}: {said}")
        return ParameterError(
            f"The judge at {self.url} answers with status {status}: {said}. Check judge_endpoint, which is the base URL "
            f"that ends in /v1 on most servers, and judge_model, which is {self._model!r}."
        )

    def _safe(self, text: str) -> str:
        """Return a server's words, short, on one line and without the key, which some servers repeat."""
        if self._api_key:
            text = text.replace(self._api_key, "(key)")
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]


def _content(response: requests.Response) -> str:
    try:
        reply: Any = response.json()
    except ValueError:
        raise UnansweredError("its reply is no JSON") from None
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


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


def make_judge(settings: JudgeSettings) -> AskingJudge:
    """Return the judge behind `judge_endpoint`."""
    secret = settings.judge_key_secret
    client = ChatCompletions(settings.judge_endpoint, settings.judge_model, judge_key(secret), key_place(secret))
    return AskingJudge(
        name="language_model",
        model=settings.judge_model,
        source=client.url,
        rubric=read_rubric(settings.judge_rubric),
        ask=client.ask,
        max_calls=settings.judge_max_calls,
    )
