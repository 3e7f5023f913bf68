"""A Kubeflow Pipelines API server for tests: what `kfp.Client` needs of the v2beta1 API over HTTP.

It keeps to what the real server does where clients can tell: error bodies as its gateway writes them, text where a proxy
stands before it, times in whole seconds, the beginning of 1970 for a time that has not been, pages, sorting, filters,
what a single-user installation refuses. Every request is recorded. With a folder to execute in, a submitted run runs.
"""

import base64
import json
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

Body = dict[str, Any]

#: gRPC's codes for what the gateway answers as HTTP.
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}
NEVER = "1970-01-01T00:00:00Z"

_FILTERED = {
    "experiments": {"display_name", "experiment_id", "created_at", "namespace", "storage_state"},
    "runs": {"display_name", "run_id", "created_at", "description", "storage_state", "state", "finished_at"},
    "recurringruns": {"display_name", "recurring_run_id", "created_at", "updated_at", "description", "status"},
}
_KEYS = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}
_ANSWERS = {"experiments": "experiments", "runs": "runs", "recurringruns": "recurringRuns"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Body
    authorization: str


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the next requests.

    Args:
        method: Of the requests.
        path: Regular expression that their path must match.
        times: How many of them.
        status: Answered; 0 closes the connection instead.
        text: Body of the answer, in Latin-1 as a proxy may write it; the gateway's JSON when empty.
        content_type: Of `text`.
        after: Whether the request is acted on first, so that its answer is what is lost.
        until: What the server waits for before it acts and answers.
    """

    method: str = "GET"
    path: str = ""
    times: int = 1
    status: int = 0
    text: str = ""
    content_type: str = "text/plain"
    after: bool = False
    until: threading.Event | None = None


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class KubeflowServer:
    """The server.

    Args:
        multi_user: Whether every call needs a namespace; otherwise none may have one.
        token: What must be in the Authorization header; none is asked for when empty.
        namespaces: Where the token's owner may do something, when there are several users.
        tag_name: Version of the installation, as it was built.
        execute_in: Folder in which submitted runs run; they stay pending when None.
    """

    multi_user: bool = False
    token: str = ""
    namespaces: tuple[str, ...] = ("team-a",)
    tag_name: str = "2.17.0"
    execute_in: Path | None = None
    stored: dict[str, dict[str, Body]] = field(default_factory=lambda: {kind: {} for kind in _KEYS})
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.stop = threading.Event()
        self._clock = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        self._executions: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kubeflow": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "KubeflowServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for execution in self._executions:
            execution.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def runs(self) -> list[Body]:
        return list(self.stored["runs"].values())

    def recurring_runs(self) -> list[Body]:
        return list(self.stored["recurringruns"].values())

    def experiments(self) -> list[Body]:
        return list(self.stored["experiments"].values())

    def received(self, method: str, path: str) -> list[Request]:
        """Return the requests of a method whose path ends so."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def now(self) -> str:
        """Return a time later than every one before it, in whole seconds as the API has them."""
        with self.lock:
            self._clock += timedelta(seconds=1)
            return self._clock.strftime("%Y-%m-%dT%H:%M:%SZ")

    # What the services do.

    def act(self, request: Request) -> Body:
        self._authenticate(request)
        path = request.path.removeprefix("/apis/v2beta1/")
        if path == "healthz":
            told = {"commit_sha": "006adf8", "tag_name": self.tag_name, "multi_user": self.multi_user}
            return told | {"pipeline_store": "kubernetes"}
        kind, _, rest = path.partition("/")
        if kind not in _KEYS or path == request.path:
            raise Refused(404, "Not Found")
        with self.lock:
            if not rest:
                return self._list(kind, request) if request.method == "GET" else self._create(kind, request)
            identity, _, verb = unquote(rest).partition(":")
            found = self.stored[kind].get(identity)
            if found is None:
                what = {"experiments": "Experiment", "runs": "Run", "recurringruns": "Recurring run"}[kind]
                raise Refused(
                    404, f"Failed to get a {what.lower()}: ResourceNotFoundError: {what} {identity} not found."
                )
            self._authorize(found.get("namespace", ""))
            if request.method == "DELETE":
                del self.stored[kind][identity]
                return {}
            if request.method == "GET":
                return found
            return self._change(kind, found, verb)

    def _authenticate(self, request: Request) -> None:
        if self.token and request.authorization != f"Bearer {self.token}":
            raise Refused(
                401,
                "Failed to authorize with API: Unauthenticated: Request header error: there is no user identity header.",
            )

    def _authorize(self, namespace: str) -> None:
        if self.multi_user and namespace not in self.namespaces:
            raise Refused(
                403,
                "Failed to authorize with API: PermissionDenied: User 'me@example.com' is not authorized with reason:  "
                f"(request: &ResourceAttributes{{Namespace:{namespace},Verb:list,Group:pipelines.kubeflow.org}})",
            )

    def _namespace(self, namespace: str, doing: str) -> str:
        if not self.multi_user and namespace:
            raise Refused(400, f"Invalid input error: In single-user mode, {doing} cannot filter by namespace.")
        if self.multi_user and not namespace:
            raise Refused(400, f"Invalid input error: {doing} must filter by namespace in multi-user mode.")
        self._authorize(namespace)
        return namespace

    def _create(self, kind: str, request: Request) -> Body:
        body = dict(request.body)
        if not body.get("display_name"):
            raise Refused(400, "Invalid input error: The display name must not be empty.")
        if kind == "experiments":
            body["namespace"] = self._namespace(body.get("namespace", ""), "CreateExperiment")
            same = [one for one in self.experiments() if one["display_name"] == body["display_name"]]
            if any(one["namespace"] == body["namespace"] for one in same):
                raise Refused(409, f"Already exist error: Experiment {body['display_name']} already exists.")
        else:
            experiment = self.stored["experiments"].get(body.get("experiment_id", ""))
            if experiment is None:
                raise Refused(400, f"Invalid input error: Experiment {body.get('experiment_id')} not found.")
            self._authorize(experiment["namespace"])
            body["namespace"] = experiment["namespace"]
            self._check_spec(body)
        body |= {_KEYS[kind]: str(uuid.uuid4()), "created_at": self.now()}
        if kind == "recurringruns":
            self._check_recurring(body)
            mode = body.get("mode", "MODE_UNSPECIFIED")
            body |= {"status": "ENABLED" if mode == "ENABLE" else "DISABLED", "updated_at": body["created_at"]}
        if kind == "runs":
            del body["namespace"]  # a run has none of its own
            body |= {
                "state": "PENDING",
                "storage_state": "AVAILABLE",
                "finished_at": NEVER,
                "run_details": {"task_details": []},
            }
        self.stored[kind][body[_KEYS[kind]]] = body
        if kind == "runs" and self.execute_in:
            execution = threading.Thread(target=self._execute, args=(body, self.execute_in / body["run_id"]))
            self._executions.append(execution)
            execution.start()
        return body

    def _check_spec(self, body: Body) -> None:
        spec = body.get("pipeline_spec") or {}
        pipeline = spec.get("pipeline_spec", spec)
        try:
            json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
            json_format.ParseDict(spec.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
        except json_format.ParseError as error:
            raise Refused(400, f"Invalid input error: unknown template format: {error}") from None
        if "root" not in pipeline:
            raise Refused(400, "Invalid input error: unknown template format: pipeline spec is invalid")
        declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in body.get("runtime_config", {}).get("parameters", {}):
            if name not in declared:
                raise Refused(400, f"Invalid input error: parameter {name} is not a valid pipeline input.")

    def _check_recurring(self, body: Body) -> None:
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Refused(
                400,
                "Invalid input error: Max concurrency of a recurring run must be at least 1 and at most 10. Received "
                f"{body.get('max_concurrency')}",
            )
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
        if cron and not cron.startswith("@") and len(cron.split()) not in (5, 6):
            raise Refused(
                400,
                "Invalid input error: Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). "
                f"Error: Expected 5 to 6 fields, found {len(cron.split())}: {cron}",
            )
        body["max_concurrency"] = str(body["max_concurrency"])  # 64 bits travel as text

    def _change(self, kind: str, found: Body, verb: str) -> Body:
        if kind == "recurringruns" and verb in ("enable", "disable"):
            found |= {"status": f"{verb.upper()}D", "mode": verb.upper(), "updated_at": self.now()}
        elif kind == "runs" and verb == "terminate":
            if found["state"] not in ("PENDING", "RUNNING"):
                raise Refused(400, f"Invalid input error: Failed to cancel run {found['run_id']}. Row not found.")
            found["state"] = "CANCELING"
        elif kind == "runs" and verb == "retry":
            if found["state"] not in ("FAILED", "CANCELED"):
                raise Refused(400, f"Invalid input error: Run {found['run_id']} has not failed.")
            found |= {"state": "PENDING", "error": None}
        elif kind == "runs" and verb in ("archive", "unarchive"):
            found["storage_state"] = "ARCHIVED" if verb == "archive" else "AVAILABLE"
        else:
            raise Refused(501, "Method Not Allowed")
        return {}

    def _list(self, kind: str, request: Request) -> Body:
        query = request.query
        found = list(self.stored[kind].values())
        if query.get("experiment_id"):  # which has a namespace
            experiment = self.stored["experiments"].get(query["experiment_id"], {})
            self._authorize(experiment.get("namespace", ""))
            found = [one for one in found if one.get("experiment_id") == query["experiment_id"]]
        elif namespace := self._namespace(query.get("namespace", ""), f"List{kind.capitalize()}"):
            found = [one for one in found if self._namespace_of(one) == namespace]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["key"] not in _FILTERED[kind]:
                raise Refused(
                    400, f"Invalid input error: no support for filtering on unrecognized field {predicate['key']!r}"
                )
            found = [one for one in found if _matches(one, predicate)]
        by, _, direction = (query.get("sort_by") or "created_at").partition(" ")
        if by not in _FILTERED[kind]:
            raise Refused(400, f"Invalid input error: Invalid sorting field: {by!r}")
        found.sort(key=lambda one: (one.get(by, ""), one[_KEYS[kind]]), reverse=direction == "desc")
        start = 0
        if query.get("page_token"):
            try:
                start = int(base64.b64decode(query["page_token"], validate=True))
            except ValueError:
                raise Refused(400, "Invalid input error: Invalid package token.") from None
        size = int(query.get("page_size") or 20)
        answer: Body = {"total_size": len(found)}
        if found[start : start + size]:
            answer[_ANSWERS[kind]] = found[start : start + size]
        if start + size < len(found):
            answer["next_page_token"] = base64.b64encode(str(start + size).encode()).decode()
        return answer

    def _namespace_of(self, one: Body) -> str:
        return str(one.get("namespace") or self.stored["experiments"][one["experiment_id"]]["namespace"])

    # What the cluster does.

    def _execute(self, run: Body, folder: Path) -> None:
        """Run a pipeline, and keep the run's tasks as far as kfp's log says."""
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(run))
        tasks: dict[str, Body] = {}
        with self.lock:
            workflow = (
                f"{(run['pipeline_spec'].get('pipeline_spec') or run['pipeline_spec'])['pipelineInfo']['name']}-x7k2p"
            )
            around = [self._task(name, "RUNNING") for name in ("root", workflow)]
            run |= {"state": "RUNNING", "run_details": {"task_details": [*around]}}
        command = [sys.executable, str(Path(__file__).with_name("kubeflow_execution.py")), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            with (folder / "log.txt").open("w") as log:
                for line in process.stdout:
                    log.write(line)
                    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
                    with self.lock:
                        self._follow(run, tasks, plain)
                        if run["state"] == "CANCELING" or self.stop.is_set():
                            process.terminate()
            status = process.wait()
        with self.lock:
            state = "CANCELED" if run["state"] == "CANCELING" else "FAILED" if status else "SUCCEEDED"
            run |= {"finished_at": self.now(), "state": state}
            for node in around:
                node |= {"state": state, "end_time": run["finished_at"]}
            if state == "FAILED":
                run["error"] = {"code": 2, "message": "Error (exit code 1)"}

    def _follow(self, run: Body, tasks: dict[str, Body], line: str) -> None:
        started = re.search(r"Executing task '([^']+)'", line)
        ended = re.search(r"Task '([^']+)' finished with status (\w+)", line)
        if started:
            driver = self._task(f"{started[1]}-driver", "SUCCEEDED")
            tasks[started[1]] = self._task(started[1], "RUNNING")
            executor = self._task("executor", "RUNNING")
            run["run_details"]["task_details"] += [driver, tasks[started[1]], executor]
        if ended:
            state = {"SUCCESS": "SUCCEEDED", "FAILURE": "FAILED"}[ended[2]]
            tasks[ended[1]] |= {"state": state, "end_time": self.now()}

    def _task(self, name: str, state: str) -> Body:
        now = self.now()
        return {
            "display_name": name,
            "task_id": str(uuid.uuid4()),
            "state": state,
            "create_time": now,
            "start_time": now,
        }


def _matches(one: Body, predicate: Body) -> bool:
    wanted = predicate.get("string_value", predicate.get("stringValue"))
    operations: dict[object, Callable[[Any, Any], bool]] = {
        "EQUALS": lambda a, b: a == b,
        "NOT_EQUALS": lambda a, b: a != b,
        "IS_SUBSTRING": lambda a, b: b in a,
    }
    names = {1: "EQUALS", 2: "NOT_EQUALS", 9: "IS_SUBSTRING"}
    operation = predicate["operation"]
    return operations[names.get(operation, operation)](one.get(predicate["key"], ""), wanted)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer, in two packets, waits 40 ms for an acknowledgement
    kubeflow: KubeflowServer

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        url = urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            body=json.loads(sent) if sent else {},
            authorization=self.headers.get("Authorization", ""),
        )
        with self.kubeflow.lock:
            self.kubeflow.requests.append(request)
            fault = self._fault(request)
        if fault and fault.until:
            fault.until.wait(60)
        if fault and not fault.after:
            return self._fail(fault)
        try:
            body = self.kubeflow.act(request)
        except Refused as refused:
            return self._refuse(refused.status, str(refused))
        if fault:
            return self._fail(fault)
        self._answer(200, json.dumps(body).encode(), "application/json")

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.kubeflow.faults:
            if fault.times and fault.method == request.method and re.search(fault.path, request.path):
                fault.times -= 1
                return fault
        return None

    def _fail(self, fault: Fault) -> None:
        if not fault.status:
            self.close_connection = True
        elif fault.text:
            self._answer(fault.status, fault.text.encode("latin-1"), fault.content_type)
        else:
            self._refuse(
                fault.status, "InternalServerError: the database is away" if fault.status == 500 else "refused"
            )

    def _refuse(self, status: int, message: str) -> None:
        details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": CODES[status], "message": message}]
        body = {"error": message, "code": CODES[status], "message": message, "details": details}
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
