"""A text that Google's Secret Manager keeps, such as the key of a judge: parameters name it, and only who needs it reads it.

Through google-auth's session, by hand on purpose: Google's client would add gRPC, 23 MB, to the light image for this one
request. What a secret holds stands in no message and no log.
"""

import base64

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError, RlhfError, RunError, UserError
from rlhf_tuning.google_errors import API_DISABLED, SIGN_IN, message_of, persistently
from rlhf_tuning.limits import problem_with_secret

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_SECONDS = 30.0


def read_secret(name: str, *, parameter: str) -> str:
    """Return the text of a secret's version, without the white space around it: many are made with a line's end.

    Args:
        name: `projects/PROJECT/secrets/SECRET/versions/VERSION`; the newest version where none is named.
        parameter: The parameter that holds the name, for messages.

    Raises:
        UserError: If there is no such version, it may not be read, or it holds no text.
        RunError: If Secret Manager gives no answer.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    if problem := problem_with_secret(name, parameter=parameter):
        raise ParameterError(problem)
    try:
        data = persistently(lambda: _access(name if "/versions/" in name else f"{name}/versions/latest"))
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise _explained(error, name, parameter) from None
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UserError(f"{parameter} is {name!r}, but what it holds is not UTF-8 text. {_add(name)}") from None
    if not text:
        raise UserError(f"{parameter} is {name!r}, but that version is empty. {_add(name)}")
    return text


def _access(name: str) -> bytes:
    import google.auth
    import google_crc32c
    from google.api_core import exceptions
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=_SCOPES)
    with AuthorizedSession(credentials) as session:
        response = session.get(f"{environment.SECRET_MANAGER_ENDPOINT}/v1/{name}:access", timeout=_SECONDS)
    if not response.ok:
        raise exceptions.from_http_response(response)
    payload = response.json().get("payload", {})
    data = base64.b64decode(payload.get("data", ""))
    if "dataCrc32c" in payload and google_crc32c.value(data) != int(payload["dataCrc32c"]):
        raise exceptions.DataLoss("What arrived does not have the checksum of the secret.")
    return data


def _explained(error: Exception, name: str, parameter: str) -> RlhfError:
    """Return a client's error as one of ours."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    what, text = f"{parameter} is {name!r}", message_of(error)
    project, secret = _parts(name)
    no_token = isinstance(error, GoogleAuthError) and not isinstance(error, TransportError)
    if no_token or isinstance(error, exceptions.Unauthorized):
        return UserError(f"{what}, but Google Cloud takes no credentials for it: {text} {SIGN_IN}")
    if isinstance(error, exceptions.Forbidden) and API_DISABLED.search(text):
        # The project of the credentials, which may be another than that of the secret.
        consumer = str((error.metadata or {}).get("consumer") or f"projects/{project}").removeprefix("projects/")
        return UserError(
            f"{what}, but the Secret Manager API is not enabled: {text} Enable it with: gcloud services enable "
            f"secretmanager.googleapis.com --project {consumer}"
        )
    if isinstance(error, exceptions.Forbidden):
        return UserError(
            f"{what}, but the account that runs this may not read it: {text} Grant the role with: gcloud secrets "
            f"add-iam-policy-binding {secret} --project {project} --member serviceAccount:RUNNER --role "
            "roles/secretmanager.secretAccessor"
        )
    if isinstance(error, exceptions.NotFound):
        return UserError(f"{what}, but there is no such secret or version: {text} Check the name. {_add(name)}")
    if isinstance(error, exceptions.ClientError) and not isinstance(error, exceptions.TooManyRequests):
        return UserError(f"{what}, which Secret Manager does not give: {text} Name an enabled version. {_add(name)}")
    if isinstance(error, RequestException | TransportError):
        return RunError(
            f"{what}, but {environment.SECRET_MANAGER_ENDPOINT} cannot be reached: {text} Check the network and any proxy."
        )
    return RunError(f"{what}, but Secret Manager failed: {text} Try again in a few minutes.")


def _add(name: str) -> str:
    project, secret = _parts(name)
    return (
        f"See what is there with: gcloud secrets versions list {secret} --project {project} Or add a version with: gcloud "
        f"secrets versions add {secret} --project {project} --data-file FILE"
    )


def _parts(name: str) -> tuple[str, str]:
    """Return project and secret of a name that has the right form."""
    _, project, _, secret, *_ = name.split("/")
    return project, secret
