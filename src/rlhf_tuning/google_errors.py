"""What Google's services refuse, as people can act on it, and which of it passes when one asks again.

The clients raise three families: `google.api_core` for what a service answered, `google.auth` for credentials, and,
over REST, `requests` for connections.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rlhf_tuning.errors import RlhfError, RunError, UserError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Seconds before the second, third, ... attempt at what may pass.
DELAYS: tuple[float, ...] = (1, 2, 4, 8, 16)

#: How Google says that an API is not enabled in a project.
API_DISABLED = re.compile(r"has not been used in project|it is disabled|SERVICE_DISABLED", re.IGNORECASE)
_ACT_AS = re.compile(r"act ?as|serviceAccountUser", re.IGNORECASE)
_QUOTA = (
    re.compile(r"quota metric '([^']+)'(?: and limit '([^']+)')?"),
    re.compile(r"quotas? (?:are|is) exceeded: ?([\w,./ -]+)"),
    re.compile(r"[Qq]uota (?:exceeded|limit) (?:for|of):? ?([\w./-]+)"),
)
#: Over gRPC, credentials that cannot be refreshed look like a service that is not there.
_NO_TOKEN = "Getting metadata from plugin failed"
_UNREACHABLE = "failed to connect to all addresses"
SIGN_IN = (
    "Sign in with: gcloud auth application-default login. A program uses a service account: attach one to its machine, or "
    "name its key file in GOOGLE_APPLICATION_CREDENTIALS."
)


@dataclass(frozen=True, kw_only=True)
class Where:
    """What an error belongs to.

    Args:
        project: Google Cloud project.
        location: Region.
        address: What was asked, such as `us-central1-aiplatform.googleapis.com`.
    """

    project: str
    location: str
    address: str

    @property
    def words(self) -> str:
        """Name it in a sentence."""
        return f"project {self.project}, location {self.location}"


def is_unclear(error: Exception) -> bool:
    """Say whether the service may have acted although it did not say so."""
    from google.api_core import exceptions
    from requests.exceptions import RequestException

    return isinstance(error, exceptions.ServerError | exceptions.RetryError | RequestException)


def may_pass(error: Exception) -> bool:
    """Say whether the same request may be answered a little later."""
    from google.api_core import exceptions
    from google.auth.exceptions import TransportError

    if _NO_TOKEN in str(error):
        return False
    return is_unclear(error) or isinstance(error, exceptions.TooManyRequests | TransportError)


def persistently(ask: Callable[[], Answer]) -> Answer:
    """Ask until there is an answer: for requests that may be made twice. Errors that do not pass are raised at once."""
    for delay in DELAYS:
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
            wait(delay, error)
    return ask()


def wait(delay: float, error: Exception) -> None:
    """Wait before the next attempt, and say why."""
    logger.warning("%s Asking again in %g s.", message_of(error), delay)
    time.sleep(delay)


def explained(error: Exception, what: str, where: Where, *, sought: bool = True) -> RlhfError:
    """Return a client's error as one of ours.

    Args:
        error: What the client raised.
        what: What was asked for, such as `job tune-1`.
        where: Where it was asked for.
        sought: Whether it should have been there already; otherwise it was to be created.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    text = message_of(error)
    if isinstance(error, exceptions.NotFound) and sought:
        return UserError(f"There is no {what} in {where.words}. Vertex AI says: {text}")
    no_token = isinstance(error, GoogleAuthError) and not isinstance(error, TransportError)
    if isinstance(error, exceptions.Unauthorized) or no_token or _NO_TOKEN in text:
        return UserError(f"Google Cloud takes no credentials for {what} ({where.words}): {text} {SIGN_IN}")
    if isinstance(error, exceptions.Forbidden):
        return UserError(f"{what} was refused in {where.words}: {text} {_permission(text, where)}")
    if isinstance(error, exceptions.TooManyRequests):
        return UserError(f"{what} was refused in {where.words}: {text} {_quota(text, where)}")
    if isinstance(error, exceptions.ClientError):
        return UserError(f"{what} was refused in {where.words}: {text}")
    if isinstance(error, RequestException | TransportError) or _UNREACHABLE in text:
        return RunError(f"{where.address} cannot be reached ({what}): {text} Check the network and any proxy.")
    return RunError(f"Vertex AI failed at {what} in {where.words}: {text} Try again in a few minutes.")


def message_of(error: Exception) -> str:
    """Return what the service said, as one sentence, without the address that REST errors begin with."""
    text = str(getattr(error, "message", "") or error)
    text = " ".join(re.sub(r"^\w+ https?://\S+: ", "", text).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _permission(text: str, where: Where) -> str:
    if API_DISABLED.search(text):
        return f"Enable the API with: gcloud services enable aiplatform.googleapis.com --project {where.project}"
    if _ACT_AS.search(text):
        return "You need the role roles/iam.serviceAccountUser on the service account that the steps run as."
    return (
        f"You need the role roles/aiplatform.user on project {where.project} (and the project must exist): gcloud projects "
        f"add-iam-policy-binding {where.project} --member user:YOU --role roles/aiplatform.user"
    )


def _quota(text: str, where: Where) -> str:
    link = f"https://console.cloud.google.com/iam-admin/quotas?project={where.project}"
    for pattern in _QUOTA:
        if match := pattern.search(text):
            name = match[1].strip(" .")
            return f"The quota is {name}: wait until less of it is used, or ask for more at {link}"
    return f"Wait a minute, or ask for more quota at {link}"
