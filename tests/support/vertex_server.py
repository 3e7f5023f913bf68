"""A Vertex AI server on this machine for the real clients: REST over http, gRPC over TLS, one `VertexService` behind.

The clients need no patch: `api_endpoint` and `transport` lead them here, a key file of a service account gives them
credentials, and `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` the certificate.

    with serve_vertex() as vertex:
        vertex.use_credentials(monkeypatch, tmp_path)
        aiplatform.init(project=PROJECT, location=LOCATION, api_endpoint=vertex.rest, api_transport="rest")
"""

import functools
import ipaddress
import json
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.api import httpbody_pb2
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google_statuses import STATUSES
from local_http import served
from service_account import TOKEN, private_key_pem, use_service_account
from vertex_service import PROJECT, ContainerRefused, Refused, Reply, VertexService

_IN_REGION = r"projects/[^/]+/locations/[^/]+"


@dataclass(frozen=True)
class Route:
    """One method of the REST API. `{field}` in a path takes what the pattern behind it allows; `body` is a field or `*`."""

    method: str
    verb: str
    path: str
    body: str = ""

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        def group(match: re.Match[str]) -> str:
            kinds = match[2].split("/") if match[2] else []
            return f"(?P<{match[1].replace('.', '__')}>{_IN_REGION}{''.join(f'/{kind}/[^/:]+' for kind in kinds)})"

        return re.compile("/v1/" + re.sub(r"\{([\w.]+)(?:=([\w/]+))?\}", group, self.path))


#: `{name=models}` stands for `projects/*/locations/*/models/*`.
ROUTES = (
    Route("CreatePipelineJob", "POST", "{parent}/pipelineJobs", "pipeline_job"),
    Route("GetPipelineJob", "GET", "{name=pipelineJobs}"),
    Route("ListPipelineJobs", "GET", "{parent}/pipelineJobs"),
    Route("CancelPipelineJob", "POST", "{name=pipelineJobs}:cancel", "*"),
    Route("DeletePipelineJob", "DELETE", "{name=pipelineJobs}"),
    Route("CreateSchedule", "POST", "{parent}/schedules", "schedule"),
    Route("GetSchedule", "GET", "{name=schedules}"),
    Route("ListSchedules", "GET", "{parent}/schedules"),
    Route("PauseSchedule", "POST", "{name=schedules}:pause", "*"),
    Route("ResumeSchedule", "POST", "{name=schedules}:resume", "*"),
    Route("UpdateSchedule", "PATCH", "{schedule.name=schedules}", "schedule"),
    Route("DeleteSchedule", "DELETE", "{name=schedules}"),
    Route("UploadModel", "POST", "{parent}/models:upload", "*"),
    Route("GetModel", "GET", "{name=models}"),
    Route("ListModels", "GET", "{parent}/models"),
    Route("ListModelVersions", "GET", "{name=models}:listVersions"),
    Route("UpdateModel", "PATCH", "{model.name=models}", "model"),
    Route("MergeVersionAliases", "POST", "{name=models}:mergeVersionAliases", "*"),
    Route("DeleteModelVersion", "DELETE", "{name=models}:deleteVersion"),
    Route("DeleteModel", "DELETE", "{name=models}"),
    Route("CreateEndpoint", "POST", "{parent}/endpoints", "endpoint"),
    Route("GetEndpoint", "GET", "{name=endpoints}"),
    Route("ListEndpoints", "GET", "{parent}/endpoints"),
    Route("UpdateEndpoint", "PATCH", "{endpoint.name=endpoints}", "endpoint"),
    Route("DeleteEndpoint", "DELETE", "{name=endpoints}"),
    Route("DeployModel", "POST", "{endpoint=endpoints}:deployModel", "*"),
    Route("UndeployModel", "POST", "{endpoint=endpoints}:undeployModel", "*"),
    Route("Predict", "POST", "{endpoint=endpoints}:predict", "*"),
    Route("RawPredict", "POST", "{endpoint=endpoints}:rawPredict", "*"),
    Route("CreateMetadataStore", "POST", "{parent}/metadataStores", "metadata_store"),
    Route("GetMetadataStore", "GET", "{name=metadataStores}"),
    Route("GetContext", "GET", "{name=metadataStores/contexts}"),
    Route("CreateContext", "POST", "{parent=metadataStores}/contexts", "context"),
    Route("CreateTensorboardExperiment", "POST", "{parent=tensorboards}/experiments", "tensorboard_experiment"),
    Route("CreateTensorboardRun", "POST", "{parent=tensorboards/experiments}/runs", "tensorboard_run"),
    Route(
        "CreateTensorboardTimeSeries",
        "POST",
        "{parent=tensorboards/experiments/runs}/timeSeries",
        "tensorboard_time_series",
    ),
    Route("ListTensorboardTimeSeries", "GET", "{parent=tensorboards/experiments/runs}/timeSeries"),
    Route("WriteTensorboardExperimentData", "POST", "{tensorboard_experiment=tensorboards/experiments}:write", "*"),
    Route("AddContextChildren", "POST", "{context=metadataStores/contexts}:addContextChildren", "*"),
)
#: Before the paths at the address that dedicated endpoints have.
_DEDICATED = "/dedicated"
_OPERATION = re.compile(rf"/(?:v1|ui)/({_IN_REGION}/.+/operations/[^/:]+)")


@dataclass
class VertexServer(VertexService):
    """A `VertexService` with its addresses: what `api_endpoint` takes for REST and for gRPC."""

    rest: str = ""
    grpc: str = ""

    def use_credentials(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
        """Make `google.auth.default` find a service account of the project, whose tokens come from here."""
        return use_service_account(monkeypatch, folder, project=PROJECT, token_uri=f"{self.rest}/token")


@contextmanager
def serve_vertex() -> Iterator[VertexServer]:
    """Serve an empty project, over both transports, until the block ends."""
    vertex = VertexServer()

    class Handler(_RestHandler):
        service = vertex

    key, certificate, path = _certificate()
    pool = futures.ThreadPoolExecutor(4)
    rpc = grpc.server(pool, handlers=[_GrpcHandler(vertex)])
    port = rpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    rpc.start()
    # The library reads it once, before its first channel; the certificate is the same for the whole process.
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(path)
    vertex.grpc = f"127.0.0.1:{port}"
    with served(Handler) as vertex.rest:
        vertex.dedicated_dns = f"{vertex.rest}{_DEDICATED}"
        try:
            yield vertex
        finally:
            rpc.stop(None).wait()
            pool.shutdown()


class _GrpcHandler(grpc.GenericRpcHandler):
    """Takes every unary method by its name: `/google.cloud.aiplatform.v1.PipelineService/GetPipelineJob`."""

    def __init__(self, service: VertexService) -> None:
        self._service = service

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        if method != "GetOperation" and not any(route.method == method for route in ROUTES):
            return None

        def answer(message: bytes, context: grpc.ServicerContext) -> Any:
            headers = {key: str(value) for key, value in context.invocation_metadata()}
            try:
                return self._service.call(method, _decoded(method, message), headers)
            except Refused as error:
                context.abort(grpc.StatusCode[error.status], error.message)
            except ContainerRefused as error:
                context.abort(grpc.StatusCode.INTERNAL, error.reply.body.decode())
            except ConnectionResetError:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=_encoded)


class _RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: VertexService

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/token":
            return self._answer(200, TOKEN)
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            return self._refuse(Refused("UNAUTHENTICATED", "Request is missing required authentication credential."))
        try:
            method, request = self._read(path.removeprefix(_DEDICATED), dict(parse_qsl(url.query)), body)
            if method in ("Predict", "RawPredict"):
                self.service.check_address(request.endpoint, path.startswith(_DEDICATED))
            response = self.service.call(method, request, dict(self.headers))
        except Refused as error:
            return self._refuse(error)
        except ContainerRefused as error:
            return self._reply(error.reply)
        except ConnectionResetError:
            self.close_connection = True
            return None
        except Exception as error:  # a mistake in the tests' own parts: told to the client, to be seen
            return self._refuse(Refused("INTERNAL", repr(error)))
        if isinstance(response, httpbody_pb2.HttpBody):
            return self._reply(Reply(body=response.data, content_type=response.content_type))
        message = response if hasattr(response, "DESCRIPTOR") else type(response).pb(response)
        return self._answer(200, json_format.MessageToJson(message).encode())

    def do_HEAD(self) -> None:
        """Say whether an image is there, as Artifact Registry does; refusals have no body."""
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            return self._answer(401, b"")
        try:
            self.service.call("HeadManifest", self.path, dict(self.headers))
        except Refused as error:
            return self._answer(STATUSES[error.status], b"")
        return self._answer(200, b"")

    do_POST = do_PATCH = do_DELETE = do_GET

    def _read(self, path: str, query: dict[str, str], body: bytes) -> tuple[str, Any]:
        """Return the method and the request that a path, query and body mean."""
        operation = _OPERATION.fullmatch(path)
        if operation and self.command == "GET":
            return "GetOperation", operations_pb2.GetOperationRequest(name=operation[1])
        for route in ROUTES:
            match = route.pattern.fullmatch(path)
            if match and route.verb == self.command:
                break
        else:
            raise Refused("NOT_FOUND", f"The requested URL {path} was not found on this server.")
        kind = getattr(v1, f"{route.method}Request")
        message = kind.pb(kind())
        try:
            if route.method == "RawPredict":  # its body goes to the container as it is
                message.http_body.data = body
                message.http_body.content_type = self.headers.get("Content-Type", "")
            elif route.body:
                json_format.Parse(body or b"{}", message if route.body == "*" else getattr(message, route.body))
            settings = {key: json.loads(value) if value in ("true", "false") else value for key, value in query.items()}
            json_format.ParseDict({k: v for k, v in settings.items() if not k.startswith("$")}, message)
        except json_format.ParseError as error:
            raise Refused("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None
        for field, value in match.groupdict().items():
            *outer, last = field.split("__")
            setattr(functools.reduce(getattr, outer, message), last, value)
        return route.method, kind.wrap(message)

    def _refuse(self, error: Refused) -> None:
        told = {"code": STATUSES[error.status], "message": error.message, "status": error.status}
        self._answer(STATUSES[error.status], json.dumps({"error": told}).encode())

    def _reply(self, reply: Reply) -> None:
        self._answer(reply.status, reply.body, reply.content_type)

    def _answer(self, status: int, body: bytes, content_type: str = "application/json; charset=UTF-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _decoded(method: str, message: bytes) -> Any:
    if method == "GetOperation":
        return operations_pb2.GetOperationRequest.FromString(message)
    return getattr(v1, f"{method}Request").deserialize(message)


def _encoded(response: Any) -> bytes:
    message = response if hasattr(response, "DESCRIPTOR") else type(response).pb(response)
    return bytes(message.SerializeToString())


@functools.cache
def _certificate() -> tuple[bytes, bytes, Path]:
    """Return a key, a certificate of 127.0.0.1 that it signed, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = Path(tempfile.mkdtemp(prefix="vertex-server-")) / "certificate.pem"
    path.write_bytes(pem)
    return private_key_pem(key), pem, path
