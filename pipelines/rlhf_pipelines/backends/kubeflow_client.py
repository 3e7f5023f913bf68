"""Calls of the Kubeflow Pipelines API through `kfp.Client`: who asks, what failed, and what may be asked again.

`kfp.Client` prints links, warns of itself, waits half a minute for a host that is not there, and leaves its exceptions
to the caller. Here its generated services are called instead, quietly, and every failure becomes one of our errors.
"""

import contextlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from time import sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rlhf_pipelines.backends.backend import Connection
from rlhf_tuning.errors import ParameterError, RlhfError, RunError, UserError
from rlhf_tuning.web_address import check_web_address

logger = logging.getLogger(__name__)

#: The first version that knows secrets which need not be there (`optional` of SecretAsEnv), as the steps name them.
LEAST_VERSION = (2, 15)

#: Where the token comes from: not a flag, which would stay in logs and in the shell's history.
TOKEN = "KF_PIPELINES_TOKEN"
_ENDPOINT, _UI_ENDPOINT = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"  # kfp's own
_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # kfp's own: a projected token of a Kubernetes service account
_PORT_FORWARD = "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"

#: Seconds before asking again.
_WAITS = (1.0, 2.0, 4.0)
#: Seconds to connect, and to answer.
_TIMEOUT = (10, 60)

#: In place of a status: the request succeeded, and the answer is not one of the API's.
_UNREADABLE = 200

#: A field of the answer to who it is: of the API's, or of the UI's where the UI cannot reach the API.
_HEALTH = {"commit_sha", "tag_name", "multi_user", "apiServerReady"}

Answer = TypeVar("Answer")


class _Failure(Exception):
    """A call that did not succeed, before it is put into words.

    Args:
        status: HTTP status; 0 when there was no answer, and `_UNREADABLE` when it was none of the API's.
        text: What the service, or the network, said.
        reached: Whether the request may have arrived.
        late: Whether the service may still be at it.
        page: Whether it answered with a web page.
    """

    def __init__(self, status: int, text: str, *, reached: bool = True, late: bool = False, page: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reached = reached
        self.late = late
        self.page = page

    @property
    def passing(self) -> bool:
        """Say whether the same request may succeed a little later."""
        return self.reached and (self.status in (0, 429) or self.status >= 500)

    @property
    def doubtful(self) -> bool:
        """Say whether the service may have acted all the same."""
        return self.reached and (self.status in (0, _UNREADABLE) or self.status >= 500)


class KubeflowClient:
    """One Kubeflow Pipelines installation. Nothing is sent before the first call.

    Args:
        connection: Its address and namespace.

    Raises:
        ParameterError: If the address cannot be one, or a setting is for another target.
    """

    def __init__(self, connection: Connection) -> None:
        for name in ("project", "location", "api_endpoint"):
            if vars(connection)[name]:
                raise ParameterError(
                    f"--{name.replace('_', '-')} is of Vertex, and Kubeflow Pipelines has no use for it: leave it away, "
                    "also from the parameter values."
                )
        self._given_host = _checked_host(
            *(("--host", connection.host) if connection.host else (_ENDPOINT, os.environ.get(_ENDPOINT, "")))
        )
        self._given_namespace = connection.namespace

    @property
    def host(self) -> str:
        """Return the address, as people know it."""
        return self._given_host or "the cluster's own Kubeflow Pipelines"

    @property
    def page(self) -> str:
        """Return the address of the pages for people."""
        return (os.environ.get(_UI_ENDPOINT) or self._given_host or "/pipeline").rstrip("/")

    @cached_property
    def services(self) -> Any:
        """Return kfp's client, which has been seen to reach the API: `runs`, `experiments`, `recurring_runs`."""
        from google.auth.exceptions import GoogleAuthError
        from kfp.client import Client
        from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
        from urllib3 import Retry

        printed = io.StringIO()

        class QuietClient(Client):  # type: ignore[misc]  # kfp ships no types
            """kfp's client, without its five attempts to reach a host that is not there."""

            healthz: Any = None
            healthz_told: Mapping[str, Any]

            def _load_config(self, *args: Any) -> Any:
                config = super()._load_config(*args)
                if "Failed to load kube config" in printed.getvalue():
                    raise ParameterError(
                        "There is no Kubeflow Pipelines to speak to: give --host, or set "
                        f"{_ENDPOINT}. To reach one inside a cluster: {_PORT_FORWARD}, then --host http://localhost:8080."
                    )
                # We decide what is asked again; urllib3 would, at once, and log each attempt.
                config.retries = Retry(total=3, connect=0, read=0, status=0, other=0)
                return config

            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                if self.healthz is None:
                    api = self._healthz_api.api_client  # the one of all services
                    api.call_api = _reading(api)
                    self.healthz = self._healthz_api.healthz_service_get_healthz(_request_timeout=_TIMEOUT)
                    # The generated answer has no field for the version.
                    self.healthz_told = json.loads(api.last_response.data)
                    if not _HEALTH & self.healthz_told.keys():
                        raise _Failure(_UNREADABLE, "")
                return self.healthz

            def set_user_namespace(self, namespace: str) -> None:
                """Keep it here; kfp would write it into a file for every later command."""
                self._context_setting["namespace"] = namespace

        def connect() -> Any:
            with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
                warnings.simplefilter("ignore")
                client = QuietClient(
                    host=self._given_host or None,
                    namespace=self._given_namespace or "kubeflow",
                    existing_token=_token(),
                    ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
                    credentials=ServiceAccountTokenVolumeCredentials() if os.environ.get(_TOKEN_FILE) else None,
                )
                client.get_kfp_healthz()
            return client

        try:
            return self._repeated("say who it is", connect)
        except GoogleAuthError as error:
            raise ParameterError(
                f"{self.host} needs Google credentials, and there are none that work: {_one_line(str(error))} "
                "Run `gcloud auth application-default login`."
            ) from None

    @cached_property
    def namespace(self) -> str:
        """Return the namespace to name in calls: none where the installation has a single user.

        Raises:
            ParameterError: If there are several users and none is chosen.
        """
        if not self.services.get_kfp_healthz().multi_user:
            return ""  # such an installation refuses every call that names one
        namespace = self._given_namespace or str(self.services.get_user_namespace() or "").strip()
        if not namespace:
            raise ParameterError(f"{self.host} has several users: give --namespace, that of your profile.")
        return namespace

    def check_version(self) -> None:
        """Look at the installation's version before it is given steps.

        Raises:
            ParameterError: If it is too old for them.
        """
        least = ".".join(map(str, LEAST_VERSION))
        trouble = "an older one refuses the run, or lets its steps wait for ever for secrets that need not be there."
        told = self.services.healthz_told.get("tag_name", "")
        version = re.match(r"v?(\d+)\.(\d+)", str(told))
        if version is None:
            logger.warning(
                "%s does not say which version of Kubeflow Pipelines it is (%s). It must be %s or newer: %s",
                *(self.host, _one_line(str(told)) or "nothing", least, trouble),
            )
        elif (int(version[1]), int(version[2])) < LEAST_VERSION:
            raise ParameterError(
                f"{self.host} is Kubeflow Pipelines {_one_line(str(told))}, and the steps need {least} or newer: {trouble} "
                "Ask its administrator for an upgrade."
            )

    @property
    def place(self) -> str:
        """Return host and namespace, for messages."""
        namespace = self._given_namespace
        return f"{self.host}, namespace {namespace}" if namespace else self.host

    def ask(self, doing: str, method: Callable[..., Answer], **arguments: Any) -> Answer:
        """Call what may be called twice: a reading, or a change to what is so already.

        Args:
            doing: What it is for, as in `refused to DOING`.
            method: Of one of the services.
            arguments: Its arguments.

        Raises:
            NotFoundError: If there is no such thing.
            UserError: If the service refuses it otherwise.
            RunError: If the service fails or does not answer.
        """
        return self._repeated(doing, lambda: method(**arguments, _request_timeout=_TIMEOUT))

    def create(
        self, doing: str, method: Callable[..., Answer], find: Callable[[], Answer | None], **arguments: Any
    ) -> Answer:
        """Call what must happen once. After a failure that may hide a success, look before asking again.

        Args:
            doing: What it is for, as in `refused to DOING`.
            method: Of one of the services.
            find: Returns what an earlier attempt made, if it did.
            arguments: The method's arguments.

        Raises:
            UserError: If the service refuses it.
            RunError: If the service fails or does not answer; says so when the outcome is not known.
        """
        doubtful = late = False
        failure: _Failure | None = None
        for wait in (*_WAITS, 0.0):
            if not late:
                try:
                    return _sent(lambda: method(**arguments, _request_timeout=_TIMEOUT))
                except _Failure as error:
                    failure = error
                doubtful, late = doubtful or failure.doubtful, failure.late
                if failure.status == 409 and (made := find()) is not None:
                    return made  # by an earlier attempt, or by someone else meanwhile
                if not failure.passing:
                    break
            sleep(wait)
            if doubtful:
                try:
                    found = find()
                except RlhfError:
                    break
                if found is not None:
                    return found
        assert failure is not None
        explained = self._explained(doing, failure)
        if doubtful:
            raise RunError(
                f"{explained} Whether it was done all the same is not known: look before you try again."
            ) from None
        raise explained from None

    def _repeated(self, doing: str, function: Callable[[], Answer]) -> Answer:
        for wait in (*_WAITS, None):
            try:
                return _sent(function)
            except _Failure as failure:
                if wait is None or not failure.passing:
                    raise self._explained(doing, failure) from None
            sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def unlike(self) -> ParameterError:
        """Return the error of an answer that Kubeflow Pipelines would not give."""
        return ParameterError(f"{self.host} answers, but not as Kubeflow Pipelines does. Is it the right --host?")

    def _explained(self, doing: str, failure: _Failure) -> RlhfError:
        if failure.page:
            return ParameterError(
                f"{self.host} answered with a web page, not as the Kubeflow Pipelines API. If it is its login page, put "
                f"a token into the environment variable {TOKEN}; otherwise --host must be the address of the Kubeflow "
                "Pipelines UI or API."
            )
        if failure.status == _UNREADABLE:
            return self.unlike()
        said = f" It said: {failure.text}" if failure.text else ""
        if failure.status == 0:
            return RunError(
                f"Cannot reach Kubeflow Pipelines at {self.host}: {failure.text} Is it the right --host? To "
                f"reach one inside a cluster: {_PORT_FORWARD}, then --host http://localhost:8080."
            )
        if failure.status == 401:
            state = "the token in it is not, or no longer, good" if os.environ.get(TOKEN) else "it is not set"
            return UserError(
                f"{self.place} refused to {doing}, since it does not know who asks (401). Put a token for it into the "
                f"environment variable {TOKEN}: {state}.{said}"
            )
        if failure.status == 403:
            return UserError(
                f"{self.place} refused to {doing}: no permission (403). Give the --namespace of your own profile, or ask "
                f"an administrator to make you a contributor of this one.{said}"
            )
        if failure.status == 404:
            return NotFoundError(
                f"{self.place} has nothing there to {doing} (404). Is --host the Kubeflow Pipelines UI or API?{said}"
            )
        if failure.status == 429:
            return RunError(f"{self.place} takes no more requests for now (429). Wait, then {doing} again.{said}")
        if failure.status >= 500:
            return RunError(f"{self.place} failed to {doing}, also when asked again ({failure.status}).{said}")
        return UserError(f"{self.place} refused to {doing} ({failure.status}).{said}")


class NotFoundError(UserError):
    """The service has no such thing."""


def _sent(function: Callable[[], Answer]) -> Answer:
    """Call `function`, and turn what the generated client and its network library raise into one exception."""
    from kfp_server_api import ApiException
    from urllib3 import exceptions

    try:
        return function()
    except ApiException as error:
        if error.status:
            raise _Failure(error.status, _said(error.body), late=error.status == 504) from None
        raise _Failure(0, f"{_one_line(str(error.reason))}.", reached=False) from None  # a certificate
    except exceptions.MaxRetryError as error:
        raise _unanswered(error.reason or error) from None
    except exceptions.HTTPError as error:
        raise _unanswered(error) from None


def _reading(api: Any) -> Callable[..., Any]:
    """Return the `call_api` of a generated client, with one failure for every answer that is not the API's.

    The client takes some of them for an answer without any field, and raises whatever comes up at others.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    call = api.call_api

    def call_api(*arguments: Any, **named: Any) -> Any:
        try:
            answer = call(*arguments, **named)
            if isinstance(json.loads(api.last_response.data), dict):
                return answer
        except HTTPError:
            raise
        except ApiException as error:
            if not str(error.reason).startswith("Failed to parse"):
                raise
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            if isinstance(error.__context__, ApiException):  # the page of an error, in other letters than UTF-8
                raise error.__context__ from None
        page = "html" in str(api.last_response.getheader("Content-Type"))
        raise _Failure(_UNREADABLE, "", page=page)

    return call_api


def _unanswered(error: Exception) -> _Failure:
    from urllib3 import exceptions

    if isinstance(error, exceptions.NameResolutionError):
        return _Failure(0, "there is no host of that name.", reached=False)
    if isinstance(error, exceptions.ConnectTimeoutError):  # urllib3 counts a refused connection among them
        refused = "refused" in str(error)
        return _Failure(0, "the connection was refused." if refused else "nothing answers there.", reached=False)
    if isinstance(error, exceptions.SSLError):
        return _Failure(0, f"{_one_line(str(error))}. SSL_CERT_FILE may name its authority's file.", reached=False)
    if isinstance(error, exceptions.TimeoutError):
        return _Failure(0, f"no answer came within {_TIMEOUT[1]} seconds.", late=True)
    return _Failure(0, "the connection broke before an answer came.")


def _said(body: object) -> str:
    """Return the message of an error's body: the API's JSON, or the text of what stands before it."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        held = json.loads(text)
    except ValueError:
        return "" if "<" in text else _one_line(text)
    if isinstance(held, dict):
        return _one_line(str(held.get("message") or held.get("error") or ""))
    return _one_line(text)


def _one_line(text: str) -> str:
    """Return untrusted text fit for a terminal: one line, nothing that is not printed, not too long."""
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line if len(line) <= 400 else f"{line[:400]}..."


def _checked_host(name: str, host: str) -> str:
    host = host.strip().rstrip("/")
    if not host:
        return ""
    check_web_address(host, name)
    if "#" in host or "?" in host:
        raise ParameterError(f"{name} is {host!r}; leave away what follows the address itself, from `#` or `?` on.")
    return urlsplit(host).geturl()  # kfp takes HTTP:// for the beginning of a name


def _token() -> str | None:
    token = os.environ.get(TOKEN, "").strip()
    if any(not "!" <= character <= "~" for character in token):
        raise ParameterError(
            f"The environment variable {TOKEN} holds no token: a space, a line break or no ASCII in it."
        )
    return token or None
