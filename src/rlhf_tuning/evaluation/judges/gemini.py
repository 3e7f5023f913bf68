"""Gemini, through google-genai: with an API key, or on Google Cloud with the credentials that Google's libraries find."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_tuning import environment
from rlhf_tuning.errors import ModelError, ParameterError, how_to_install
from rlhf_tuning.evaluation.judges import JudgeSettings, asking
from rlhf_tuning.evaluation.judges.asking import AskingJudge, Cap, RefusedError, Reply, UnansweredError
from rlhf_tuning.evaluation.judges.language_model import MOST_TOKENS, RETRIED, retry_after
from rlhf_tuning.evaluation.judges.role import JUDGE, Role
from rlhf_tuning.evaluation.judges.rubric import read_rubric


class GeminiClient:
    """Sends questions to a Gemini model.

    Args:
        model: Such as `gemini-2.5-flash`.
        endpoint: Base URL of another server than Google's; empty for Google's.
        key_secret: Name of the secret that holds the key; the environment has it when empty.
        role: Whose model it is.
        temperature: Of the samples.
    """

    def __init__(
        self, model: str, endpoint: str, key_secret: str, *, role: Role = JUDGE, temperature: float = 0.0
    ) -> None:
        try:
            from google import genai
            from google.genai import errors, types
        except ModuleNotFoundError:
            raise ModelError(
                f"{role.name} is 'gemini', for which the package google-genai is missing here. {how_to_install('gemini')}"
            ) from None
        self._model, self._errors, self._role = model, errors, role
        # Thinking is left at the model's own default: some models do not take a limit.
        self._options = {"temperature": temperature, "max_output_tokens": MOST_TOKENS}
        self._config = types.GenerateContentConfig
        options = types.HttpOptions(
            base_url=endpoint or None,
            timeout=round(asking.REQUEST_SECONDS * 1000),
            # Repeated by the judge itself, which counts every call.
            retry_options=types.HttpRetryOptions(attempts=1),
        )
        key = role.key(key_secret) or environment.GEMINI_API_KEY
        try:
            # Without a key it is Google Cloud, where GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION apply.
            self._client: Any = genai.Client(vertexai=not key, api_key=key or None, http_options=options)
        except Exception as error:  # google.auth's and google-genai's own have no base in common
            raise ParameterError(
                f"{role.name} is 'gemini', but there are no credentials for it: {error} Set the environment variable "
                f"GEMINI_API_KEY or {role.key_variable}, name a secret in {role.key_secret}, or log in to Google Cloud and "
                "set GOOGLE_CLOUD_PROJECT."
            ) from None
        self._key = key

    def ask(self, question: str) -> Reply:
        """Return the reply to one question; an empty one when the model gave none."""
        return self.reply([{"role": "user", "content": question}])

    def reply(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """Return the reply to a conversation, whose system turn, if any, comes first."""
        system = [turn["content"] for turn in messages if turn["role"] == "system"]
        contents = [
            {"role": "user" if turn["role"] == "user" else "model", "parts": [{"text": turn["content"]}]}
            for turn in messages[len(system) :]
        ]
        config = self._config(**self._options, system_instruction="\n\n".join(system) or None)
        try:
            response = self._client.models.generate_content(model=self._model, contents=contents, config=config)
        except self._errors.APIError as error:
            raise self._meaning(error) from None
        except Exception as error:  # the transport beneath differs by version: httpx, httpx2 or requests
            raise UnansweredError(self._safe(f"{type(error).__name__}: {error}")) from None
        reasons = {str(found.finish_reason) for found in response.candidates or []}
        cut = any(reason.endswith("MAX_TOKENS") for reason in reasons)
        usage = response.usage_metadata
        return Reply(str(response.text or ""), cut=cut, tokens=(usage.total_token_count or 0) if usage else 0)

    def _meaning(self, error: Any) -> Exception:
        said = self._safe(str(error.message or error.status or ""))
        if error.code in RETRIED or error.code >= 500:
            headers = error.response.headers if error.response is not None else {}
            return UnansweredError(f"status {error.code}: {said}", retry_after=retry_after(headers))
        if error.code == 400 and "api key" not in said.lower():
            return RefusedError(said)
        return ParameterError(
            f"Gemini answers with status {error.code}: {said}. Check {self._role.model}, which is {self._model!r}, and "
            "the key or the credentials."
        )

    def _safe(self, text: str) -> str:
        """Return a server's words, short, on one line and without the key."""
        if self._key:
            text = text.replace(self._key, "(key)")
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]


def make_judge(settings: JudgeSettings) -> AskingJudge:
    """Return the judge that asks Gemini."""
    client = GeminiClient(settings.judge_model, settings.judge_endpoint, settings.judge_key_secret)
    return AskingJudge(
        name="gemini",
        model=settings.judge_model,
        source=settings.judge_endpoint or "Google",
        rubric=read_rubric(settings.judge_rubric),
        ask=client.ask,
        cap=Cap(settings.judge_max_calls, settings.judge_max_cost, settings.judge_price),
    )
