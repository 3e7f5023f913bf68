"""Secrets of Google Cloud, against a server that behaves like Secret Manager."""

import logging

import pytest
from secret_manager_server import NUMBER, PROJECT, SECRET, Version, serve_secret_manager

from rlhf_tuning import environment, google_errors
from rlhf_tuning.errors import ParameterError, RunError, UserError
from rlhf_tuning.limits import check_limits
from rlhf_tuning.secret_manager import read_secret

KEY = "sk-secret-77aa"


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    with serve_secret_manager(b"sk-old", KEY.encode()) as server:
        server.use(monkeypatch, tmp_path)
        yield server


def read(name=SECRET):
    return read_secret(name, parameter="judge_key_secret")


def refusal(kind, name=SECRET):
    """Return what reading a secret is refused with; it names the parameter and its value, and never the key."""
    with pytest.raises(kind) as caught:
        read(name)
    assert f"judge_key_secret is {name!r}" in str(caught.value)
    assert "sk-" not in str(caught.value)
    return str(caught.value)


def test_the_newest_version_is_read_unless_one_is_named(secrets):
    assert read() == read(f"{SECRET}/versions/latest") == read(f"{SECRET}/versions/2") == KEY
    assert read(f"{SECRET}/versions/1") == "sk-old"
    assert secrets.asked[0] == f"/v1/{SECRET}/versions/latest:access"


@pytest.mark.parametrize("data", [f"{KEY}\n", f"{KEY}\r\n", f" {KEY}\t\n", f"\ufeff{KEY}"])
def test_what_an_editor_or_echo_put_around_the_key_is_taken_away(secrets, data):
    secrets.versions.append(Version(data.encode()))
    assert read() == KEY


@pytest.mark.parametrize(
    "name",
    [
        "judge-key",
        "projects/p/secrets/s/versions/",
        "projects/p/secrets/s/versions/1:access",
        "projects/p/secrets/s ",
        "projects/p/secrets/s/versions/1\n",
        "projects/p/locations/us-central1/secrets/s/versions/1",
        "https://secretmanager.googleapis.com/v1/projects/p/secrets/s",
        KEY,
    ],
)
def test_what_names_no_secret_is_refused_without_asking_anyone(secrets, name):
    with pytest.raises(
        ParameterError, match=r"judge_key_secret.*projects/PROJECT/secrets/SECRET/versions/VERSION"
    ) as one:
        read(name)
    with pytest.raises(ParameterError) as other:
        check_limits(judge_key_secret=name)
    assert str(one.value) == str(other.value)
    # Some will take the parameter for the key.
    assert (name in str(one.value) or repr(name) in str(one.value)) == name.startswith("projects/")
    assert secrets.asked == []


def test_a_missing_role_is_named_with_the_command_that_grants_it(secrets):
    secrets.permitted = False
    told = refusal(UserError)
    assert "Permission 'secretmanager.versions.access' denied" in told
    assert (
        f"gcloud secrets add-iam-policy-binding judge-key --project {PROJECT} --member serviceAccount:RUNNER "
        "--role roles/secretmanager.secretAccessor"
    ) in told
    assert len(secrets.asked) == 1


def test_an_api_that_is_not_enabled_is_no_missing_role(secrets):
    secrets.enabled = False
    told = refusal(UserError)
    assert f"gcloud services enable secretmanager.googleapis.com --project {NUMBER}" in told
    assert "secretAccessor" not in told


def test_a_secret_or_version_that_is_not_there_is_named(secrets):
    assert "not found or has no versions" in refusal(UserError, f"projects/{PROJECT}/secrets/other")
    told = refusal(UserError, f"{SECRET}/versions/9")
    assert "there is no such secret or version" in told
    assert f"gcloud secrets versions list judge-key --project {PROJECT}" in told


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_version_that_is_disabled_or_destroyed_is_named(secrets, state):
    secrets.versions[-1].state = state
    told = refusal(UserError)
    assert f"is in {state} state" in told
    assert "Name an enabled version" in told
    assert read(f"{SECRET}/versions/1") == "sk-old"


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "is empty"), (b" \n", "is empty"), (b"sk-\xff\xfe", "not UTF-8 text")]
)
def test_what_can_be_no_text_is_refused(secrets, data, words):
    secrets.versions.append(Version(data))
    assert words in refusal(UserError)


def test_what_may_pass_is_asked_again(secrets, caplog):
    caplog.set_level(logging.DEBUG)
    for faults in (["UNAVAILABLE", "INTERNAL"], ["RESOURCE_EXHAUSTED"], ["checksum"]):
        secrets.faults += faults
        assert read() == KEY
    assert len(secrets.asked) == 3 + 4
    assert "Asking again" in caplog.text
    assert "sk-" not in caplog.text


@pytest.mark.parametrize("fault", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "checksum"])
def test_what_does_not_pass_is_no_mistake_of_the_person(secrets, fault):
    secrets.faults += [fault] * 3
    assert "Secret Manager failed" in refusal(RunError)


def test_a_service_that_cannot_be_reached_is_named(secrets, monkeypatch):
    monkeypatch.setattr(environment, "SECRET_MANAGER_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(google_errors, "DELAYS", ())
    assert "http://127.0.0.1:1 cannot be reached" in refusal(RunError)


def test_missing_credentials_are_explained(secrets, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    assert "gcloud auth application-default login" in refusal(UserError)


def test_refused_credentials_are_explained(secrets):
    secrets.faults += ["UNAUTHENTICATED"] * 9
    assert "takes no credentials" in refusal(UserError)
