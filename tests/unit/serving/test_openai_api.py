import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from local_http import served

from rlhf_tuning.errors import ParameterError, RunError, UserError
from rlhf_tuning.serving import openai_api

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Describe it."}]
#: In vLLM's words.
NO_TEMPLATE = {
    "error": {
        "message": "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
        "template if the tokenizer does not define one.",
        "code": 400,
    }
}
SETTINGS = {"model": "m", "max_tokens": 9, "temperature": 0.5, "seed": 3}


@contextmanager
def server(**replies):
    """Serve these replies by path, each a status and a body; yields the base URL and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.answer(None)

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body):
            path = self.path.removeprefix("/v1/").replace("/", "_")
            asked.append((path, body))
            status, content = replies[path]
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with served(Handler) as address:
        yield openai_api.base_url(address), asked


def ask(url):
    return openai_api.ask(url, "m", QUESTION, max_tokens=9, temperature=0.5, seed=3)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("https://palms.example.org/openai", "https://palms.example.org/openai/v1"),
        ("https://palms.example.org/openai/v1/chat/completions", "https://palms.example.org/openai/v1"),
    ],
)
def test_an_address_may_be_given_with_and_without_its_path(address, url):
    assert openai_api.base_url(address) == url


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "", "host:99999", "["])
def test_an_address_that_no_server_can_have_is_a_mistake_of_the_user(host):
    with pytest.raises(ParameterError, match="names a host that there can be"):
        openai_api.base_url(f"http://{host}")


def test_a_model_with_a_template_is_sent_the_turns():
    reply = {"choices": [{"message": {"role": "assistant", "content": " An answer.\n"}}]}
    with server(chat_completions=(200, reply)) as (url, asked):
        assert ask(url) == "An answer."
    assert asked == [("chat_completions", {"messages": QUESTION, **SETTINGS})]


def test_a_model_without_a_template_is_sent_our_plain_text():
    replies = {"chat_completions": (400, NO_TEMPLATE), "completions": (200, {"choices": [{"text": "An answer."}]})}
    with server(**replies) as (url, asked):
        assert ask(url) == "An answer."
    assert asked[1] == ("completions", {"prompt": "Be brief.\n\nDescribe it.\n\n", **SETTINGS})


def test_of_a_model_and_its_adapters_the_model_is_asked():
    listed = {"data": [{"id": "adapter", "parent": "palms@3"}, {"id": "palms@3", "parent": None}]}
    with server(models=(200, listed)) as (url, _):
        assert openai_api.served_model(url) == "palms@3"


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ((400, {"error": {"message": "The prompt\nis too long."}}), UserError, "status 400: The prompt is too long."),
        ((401, ""), UserError, "status 401: nothing"),
        ((500, {"error": "EngineCore died"}), RunError, "failed with status 500: EngineCore died"),
        ((200, "<html>It works!</html>"), RunError, "answers no JSON, so that is no OpenAI-compatible server"),
        ((200, "[" * 9999), RunError, "answers no JSON"),
        ((500, "[" * 9999), RunError, r"failed with status 500: \[{500}$"),
        ((400, {"error": {}}), UserError, 'status 400: {"error": {}}'),
        ((200, {"choices": []}), RunError, "in a form that is not OpenAI's"),
        ((200, {"choices": [{"message": "hello"}]}), RunError, "in a form that is not OpenAI's"),
    ],
)
def test_a_server_that_does_not_answer_is_explained(reply, kind, words):
    with server(chat_completions=reply) as (url, _), pytest.raises(kind, match=words):
        ask(url)


def test_what_lists_no_model_is_no_such_server():
    with server(models=(200, {"hello": 1})) as (url, _), pytest.raises(RunError, match="lists no model"):
        openai_api.served_model(url)


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(RunError, match=r"http://127.0.0.1:9/v1 cannot be asked: .*refused\. Check the address"):
        openai_api.served_model("http://127.0.0.1:9/v1")


def test_what_runs_here_is_not_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with server(models=(200, {"data": [{"id": "palms"}]})) as (url, _):
        assert openai_api.served_model(url) == "palms"


def test_a_number_beyond_its_limits_is_refused():
    with pytest.raises(ParameterError, match="target_sequence_length is 5000"):
        openai_api.ask("http://127.0.0.1:9/v1", "m", QUESTION, max_tokens=5000)
