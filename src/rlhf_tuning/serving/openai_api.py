"""Ask an OpenAI-compatible server: that of `rlhf serve`, any other vLLM, or KServe's.

A model with a chat template is sent the turns. One without refuses them and is sent the plain text that `text_format` makes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from rlhf_tuning.errors import ParameterError, RunError, UserError
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models.text_format import Turn, plain_text
from rlhf_tuning.web_address import WEB_ADDRESS, host_of

_SECONDS = 300.0
#: Within which a server takes a connection that is there.
_REACHED_SECONDS = 20.0
#: Part of vLLM's answer where a model has no chat template.
_NO_TEMPLATE = "must provide a chat template"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer; its tokens and the log-probability of each where they were asked for."""

    text: str
    token_ids: list[int]
    log_probabilities: list[float]


class _RefusedError(UserError):
    """The server will not answer this request. The message holds its words."""


def base_url(address: str) -> str:
    """Return the URL under which a server has its API: `http://host:8000` becomes `http://host:8000/v1`.

    Raises:
        ParameterError: If no server can be there.
    """
    if not host_of(address):
        raise ParameterError(f"The address of the server cannot be asked: {WEB_ADDRESS}.")  # it may hold a password
    url = address.rstrip("/")
    for path in ("/chat/completions", "/completions"):
        url = url.removesuffix(path)
    return url if url.endswith("/v1") else f"{url}/v1"


def is_healthy(url: str) -> bool:
    """Say whether a vLLM server is ready."""
    try:
        return bool(_send("GET", f"{url.removesuffix('/v1')}/health", None, seconds=5.0).status_code == 200)
    except requests.RequestException:
        return False


def served_model(url: str) -> str:
    """Return the name of the model that a server serves; of several, the first that is no adapter.

    Raises:
        UserError: If the server refuses.
        RunError: If it cannot be reached, or is no such server.
    """
    listed = _answer("GET", url, "models", None)
    try:
        names = [str(model["id"]) for model in listed["data"] if not model.get("parent")]
    except (KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise RunError(f"{url}/models lists no model, so that is no OpenAI-compatible server that could be asked.")
    return names[0]


def ask(
    url: str,
    model: str,
    conversation: Sequence[Turn],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """Return a served model's answer to a conversation.

    Args:
        url: From `base_url`.
        model: The model's name there.
        conversation: Rendered as in training.
        max_tokens: Most tokens of the answer.
        temperature: 0 takes the likeliest token each time.
        seed: Of the sample, where the temperature is above 0.

    Raises:
        ParameterError: If a number is beyond its limits.
        UserError: If the server refuses.
        RunError: If it cannot be reached, fails, or answers in another form.
    """
    check_limits(target_sequence_length=max_tokens, temperature=temperature, seed=seed)
    settings = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return _reply(url, conversation, settings).text


def likeliest(url: str, model: str, conversation: Sequence[Turn], *, max_tokens: int) -> Reply:
    """Return a served model's likeliest answer with its tokens, which vLLM tells.

    Args:
        url: From `base_url`.
        model: The model's name there.
        conversation: Rendered as in training.
        max_tokens: Most tokens of the answer.

    Raises:
        UserError: If the server refuses.
        RunError: If it cannot be reached, fails, or answers in another form.
    """
    settings = {"model": model, "max_tokens": max_tokens, "temperature": 0, "return_token_ids": True}
    return _reply(url, conversation, settings, tokens=True)


def _reply(url: str, conversation: Sequence[Turn], settings: Mapping[str, object], *, tokens: bool = False) -> Reply:
    try:
        chat = {"messages": [dict(turn) for turn in conversation], **settings, **({"logprobs": True} if tokens else {})}
        choice = _first_choice(post(url, "chat/completions", chat))
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        logs = [token["logprob"] for token in choice["logprobs"]["content"]] if tokens else []
    except _RefusedError as error:
        if _NO_TEMPLATE not in str(error):
            raise
        plain = {"prompt": plain_text(conversation), **settings, **({"logprobs": 1} if tokens else {})}
        choice = _first_choice(post(url, "completions", plain))
        text = choice.get("text")
        logs = choice["logprobs"]["token_logprobs"] if tokens else []
    if text is None:
        raise RunError(f"{url} answered in a form that is not OpenAI's.")
    return Reply(text=str(text).strip(), token_ids=choice.get("token_ids") or [], log_probabilities=logs)


def post(url: str, path: str, body: Mapping[str, object]) -> Any:
    """Return what a server answers to a request.

    Raises:
        UserError: If it refuses.
        RunError: If it cannot be reached or fails.
    """
    return _answer("POST", url, path, body)


def _answer(method: str, url: str, path: str, body: Mapping[str, object] | None) -> Any:
    try:
        response = _send(method, f"{url}/{path}", body, seconds=_SECONDS)
    except requests.RequestException as error:
        raise RunError(
            f"{url} cannot be asked: {_innermost(error)}. Check the address, and that the server runs."
        ) from None
    if response.status_code >= 500:
        raise RunError(f"{url}/{path} failed with status {response.status_code}: {_said(response)}")
    if response.status_code != 200:
        raise _RefusedError(f"{url}/{path} refuses with status {response.status_code}: {_said(response)}")
    answer = _held(response)
    if answer is None:
        raise RunError(f"{url}/{path} answers no JSON, so that is no OpenAI-compatible server.")
    return answer


def _send(method: str, url: str, body: Mapping[str, object] | None, *, seconds: float) -> Any:
    with requests.Session() as session:
        # What runs here is not asked through a proxy.
        session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")
        return session.request(method, url, json=body, timeout=(min(seconds, _REACHED_SECONDS), seconds))


def _held(response: Any) -> Any:
    """Return the JSON of an answer; None where it is none that can be read."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _first_choice(reply: Any) -> dict[str, Any]:
    try:
        choice = reply["choices"][0]
    except (KeyError, IndexError, TypeError):
        return {}
    return choice if isinstance(choice, dict) else {}


def _said(response: Any) -> str:
    answer = _held(response)
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(said or response.text).split())[:500] or "nothing"


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
