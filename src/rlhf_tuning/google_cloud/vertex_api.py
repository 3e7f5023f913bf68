"""Vertex AI's REST API, as far as registering, deploying and calling a model needs it.

By hand on purpose: google-cloud-aiplatform and what it needs are 121 MB, a third of the image that these steps run in, and 3
to 6 seconds at each import. Requests go through google-auth's session; they and their answers are those of the reference,
https://cloud.google.com/vertex-ai/docs/reference/rest/v1, as plain JSON.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from rlhf_tuning import environment, google_errors
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.google_errors import Where, explained, is_unclear, may_pass, persistently

#: For one answer. A prediction may take a minute on Vertex's side.
SECONDS = 90.0
#: Seconds between looks for what a lost answer may have been about.
_LOOKS: tuple[float, ...] = (1, 2, 4, 8, 15, 30)
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
#: How an operation's error would have been answered at once: google.rpc.Code to the HTTP status.
_HTTP = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}
_ABORTED = 10

Json = dict[str, Any]


class VertexApi:
    """One project in one region. Nothing is sent before the first request.

    Methods raise the errors of google-api-core, google-auth and requests; `explaining` turns them into ours.

    Args:
        project: Google Cloud project; that of the credentials when empty.
        location: Region, such as `us-central1`.
        api_endpoint: Another address of the API; `RLHF_VERTEX_API_ENDPOINT`, or the region's own, when empty.

    Raises:
        ParameterError: If the location is missing, or either comes from a place that only Vertex Pipelines fills.
    """

    def __init__(self, *, project: str, location: str, api_endpoint: str = "") -> None:
        for name, value in (("project", project), ("location", location)):
            if value.startswith("{{$"):
                raise ParameterError(
                    f"{name} is empty, and only Vertex Pipelines knows the run's own. Give {name}, or compile the pipeline "
                    "for where it runs: rlhf compile --target."
                )
        if not location:
            raise ParameterError("location is missing: the Google Cloud region, such as us-central1.")
        self._project, self.location = project, location
        address = api_endpoint or environment.VERTEX_API_ENDPOINT or f"{location}-aiplatform.googleapis.com"
        self.address = address if address.startswith("http") else f"https://{address}"

    @cached_property
    def _credentials(self) -> tuple[Any, str]:
        import google.auth

        credentials, project = google.auth.default(scopes=_SCOPES)
        return credentials, project or ""

    @cached_property
    def _session(self) -> Any:
        from google.auth.transport.requests import AuthorizedSession

        return AuthorizedSession(self._credentials[0])

    @cached_property
    def project(self) -> str:
        """Return the project's id or number.

        Raises:
            ParameterError: If neither the caller nor the credentials name one.
        """
        project = self._project or self._credentials[1]
        if not project:
            raise ParameterError(
                "project is missing: the Google Cloud project's id, which the credentials do not name."
            )
        return project

    @property
    def parent(self) -> str:
        """Return the name under which everything here is."""
        return f"projects/{self.project}/locations/{self.location}"

    def get(self, name: str, **query: object) -> Json:
        """Read a resource; ask again when the service or the network fails for a moment."""
        return persistently(lambda: self._send("GET", name, query=query))

    def list(self, path: str, field: str, **query: object) -> Iterator[Json]:
        """Yield everything that all pages of a list hold."""
        token = ""
        while True:
            page = self.get(path, pageSize=100, **query, **({"pageToken": token} if token else {}))
            yield from page.get(field, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def post(self, path: str, body: Mapping[str, object], **query: object) -> Json:
        """Ask for something once."""
        return self._send("POST", path, body=body, query=query)

    def create(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        existing: Callable[[], Json | None],
        patience: float,
        seconds: float,
        **query: object,
    ) -> Json:
        """Start a long-running operation that must happen once, and return what it gave.

        When the answer to the request is lost, what it would have made is looked for before it is asked for again.

        Args:
            path: What to post to.
            body: What to post.
            existing: Looks for what the operation makes; returns it, in the form of the operation's own response, or None.
            patience: Seconds to look for it when its name is taken, since an earlier request may still go on.
            seconds: The longest that the operation may take.
            query: Of the address.
        """
        from google.api_core import exceptions

        for delay in (*google_errors.DELAYS, None):
            looks = _LOOKS
            operation: Json | None = None
            try:
                operation = self.post(path, body, **query)
                return self.wait(operation, seconds=seconds)
            except exceptions.Aborted as error:  # another operation on the same resource goes on
                refused: Exception = error
                looks = ()
            except exceptions.Conflict as error:
                refused = error
                looks = (_LOOKS[-1],) * int(patience / _LOOKS[-1])
            except Exception as error:
                # What an operation ends in is certain, and to start it again would cost as much again.
                if operation is not None or not may_pass(error):
                    raise
                refused = error
                looks = _LOOKS if is_unclear(error) else ()
            for look in looks:
                found = existing()
                if found is not None:
                    return found
                time.sleep(look)
            if delay is not None:
                google_errors.wait(delay, refused)
        raise refused

    def patch(self, name: str, body: Mapping[str, object], *, mask: str) -> Json:
        """Change fields of a resource; the same change twice is one."""
        return persistently(lambda: self._send("PATCH", name, body=body, query={"updateMask": mask}))

    def delete(self, name: str) -> Json:
        """Ask for a resource to be deleted."""
        return self._send("DELETE", name)

    def predict(self, endpoint: Mapping[str, Any], body: Mapping[str, object]) -> Json:
        """Ask what is deployed; a dedicated endpoint has an address of its own."""
        own = endpoint.get("dedicatedEndpointDns", "")
        # The reference has it with the scheme, the service without.
        address = own if not own or "://" in own else f"https://{own}"
        return persistently(lambda: self._send("POST", f"{endpoint['name']}:predict", body=body, address=address))

    def wait(self, operation: Json, *, seconds: float) -> Json:
        """Wait for a long-running operation and return what it gave.

        Raises:
            RunError: If it takes longer than `seconds`; it may still end well.
        """
        from google.api_core import exceptions

        deadline, delay = time.monotonic() + seconds, 1.0
        while not operation.get("done"):
            if time.monotonic() > deadline:
                raise RunError(
                    f"Vertex AI was not done with {operation['name']} after {seconds / 60:.0f} minutes. It may still go on: "
                    "look at it in the Google Cloud console before you start again."
                )
            time.sleep(delay)
            delay = min(delay * 1.5, 15.0)
            operation = self.get(operation["name"])
        if "error" in operation:
            error = operation["error"]
            message = error.get("message", "no reason was given")
            if error.get("code") == _ABORTED:
                raise exceptions.Aborted(message)
            raise exceptions.from_http_status(_HTTP.get(error.get("code"), 500), message)
        response: Json = operation.get("response", {})
        return response

    @contextmanager
    def explaining(self, what: str, *, sought: bool = True) -> Iterator[None]:
        """Turn the client's errors into ours.

        Args:
            what: What they are about, such as `model palms`.
            sought: Whether it should have been there already.
        """
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            yield
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            where = Where(project=self._project or "of the credentials", location=self.location, address=self.address)
            raise explained(error, what, where, sought=sought) from None

    def _send(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, object] | None = None,
        address: str = "",
    ) -> Json:
        from google.api_core import exceptions

        url = f"{address or self.address}/v1/{path}"
        response = self._session.request(verb, url, json=body, params=query, timeout=SECONDS)
        if not response.ok:
            error = exceptions.from_http_response(response)
            # Two things have the status 409: what exists already, and what has to wait for something else.
            raise exceptions.Aborted(error.message) if '"ABORTED"' in response.text else error
        answer: Json = response.json()
        return answer
