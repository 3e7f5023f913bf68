#!/usr/bin/env python3
"""Stands where a Python that has vLLM would: says its version, and serves OpenAI's API or answers a file, or fails as told.

The environment variable FAKE_VLLM says how: `{"import": "reason"}`, `{"start": "text and exit status 1"}`,
`{"first": "reason"}`: well until it is asked, `{"chat": "the answer"}`, `{"answers": 5}`: so many, then it dies. A
completion is answered with its own arguments; a prompt of a file, which it copies to FAKE_VLLM_REQUESTS, with its first two
tokens and a seven.
"""

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = json.loads(os.environ.get("FAKE_VLLM", "{}"))


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.reply(200, {"data": [{"id": "served", "parent": None}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if "first" in FAULTS:
            print(FAULTS["first"], flush=True)
            return self.reply(500, {"error": {"message": "EngineCore encountered an issue."}})
        if self.path == "/v1/chat/completions":
            tokens = {"token_ids": [5], "logprobs": {"content": [{"logprob": -1.0}]}}
            return self.reply(200, {"choices": [{"message": {"content": FAULTS["chat"]}, **tokens}]})
        self.reply(200, {"choices": [{"text": json.dumps(sys.argv[3:])}]})

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer_file(path):
    assert "MASTER_PORT" not in os.environ  # that of our own processes
    lines = path.read_text().splitlines()
    if copy := os.environ.get("FAKE_VLLM_REQUESTS"):
        Path(copy).write_text("\n".join(lines))
    print("null", flush=True)
    for count, line in enumerate(lines[1:]):
        if count == FAULTS.get("answers"):
            sys.exit("[x.py:1] torch.OutOfMemoryError: CUDA out of memory.")
        row, tokens, _ = json.loads(line)
        print(json.dumps([row, [*tokens[:2], 7]]), flush=True)


def main():
    if sys.argv[1] == "-c":
        if "import" in FAULTS:
            sys.exit(f"Traceback (most recent call last):\n{FAULTS['import']}")
        return print("INFO a line that vLLM prints", os.environ.get("FAKE_VERSION", "0.32.0 cpu"), sep="\n")
    if "start" in FAULTS:
        print(FAULTS["start"], flush=True)
        sys.exit(1)
    if sys.argv[1].endswith("vllm_worker.py"):
        return answer_file(Path(sys.argv[2]))
    # As its workers may, this one does not heed that it is asked to end.
    subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 60 & wait; wait"])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--port="))
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
