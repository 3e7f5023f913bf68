"""What is in the images: our wheel and what it needs, for any user, and no more."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from gcs_server import serve_cloud_storage

import rlhf_components
import rlhf_tuning
from rlhf_tuning.images import IMAGES, LIGHT_IMAGE, TRAINER_IMAGE

ROOT = Path(__file__).parents[2]
COMPONENTS = sorted(name for _, name, _ in pkgutil.iter_modules(rlhf_components.__path__) if name != "images")


@pytest.fixture(scope="module")
def inside(engine):
    """Run a command in an image without a network and return what it prints; fail when it does."""

    def inside(image, *command, user=None):
        return engine.containers.run(image, list(command), network_mode="none", remove=True, user=user).decode()

    return inside


def component(name):
    return getattr(importlib.import_module(f"rlhf_components.{name}"), name)


@pytest.mark.docker
@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_finds_what_it_imports(inside, name):
    shipped = component(name)
    body = ast.parse(textwrap.dedent(inspect.getsource(shipped.python_func)))
    imports = [node for node in ast.walk(body) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    code = "\n".join(["from kfp.dsl import executor_main", *map(ast.unparse, imports)])
    inside(shipped.component_spec.implementation.container.image, "python3", "-W", "error", "-c", code)


@pytest.mark.docker
def test_the_light_image_has_no_torch_and_is_small(inside, engine):
    found = (
        "import importlib.util as u, json; print(json.dumps([n for n in ('torch', 'trl', 'pip') if u.find_spec(n)]))"
    )
    assert json.loads(inside(LIGHT_IMAGE, "python3", "-c", found)) == []
    assert engine.images.get(LIGHT_IMAGE).attrs["Size"] < 450e6


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_no_package_lacks_another(inside, image):
    # The base image's pip looks at the environment: the light image has none of its own.
    check = 'PATH=$(echo "$PATH" | cut -d: -f2-) pip --python /opt/rlhf/bin/python check'
    assert "No broken requirements found" in inside(image, "sh", "-c", check)


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_packages_have_the_versions_of_the_constraints_file(inside, image):
    listed = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(inside(image, "python3", "-c", listed))
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    plain = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in installed.items()}
    plain.pop("rlhf-pipelines"), plain.pop("pip", None), plain.pop("setuptools", None)
    assert {name: version.partition("+")[0] for name, version in plain.items()} == {
        name: locked.get(name.lower().replace("_", "-").replace(".", "-")) for name in plain
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree: name of each file to its checksum."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_our_package_is_the_wheel_built_from_this_tree(inside, image, wheel):
    code = (
        "import importlib.metadata as m, hashlib, json\n"
        "files = [f for f in m.files('rlhf-pipelines') if f.suffix != '.pyc']\n"
        "print(json.dumps({str(f): hashlib.sha256(f.locate().read_bytes()).hexdigest() for f in files}))"
    )
    installed = json.loads(inside(image, "python3", "-c", code))
    by_pip = {name for name in installed if Path(name).name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    (command,) = (name for name in installed if name.endswith("bin/rlhf"))
    ours = {name: digest for name, digest in installed.items() if name not in by_pip | {command}}
    assert ours == {name: digest for name, digest in wheel.items() if not name.endswith("RECORD")}


@pytest.mark.docker
@pytest.mark.parametrize(("kind", "image"), IMAGES.items(), ids=IMAGES)
def test_labels_say_what_it_is(engine, kind, image):
    config = engine.images.get(image).attrs["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == f"rlhf-pipelines {kind}"
    assert labels["version"] == rlhf_tuning.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"]
    assert not config["Entrypoint"]


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("user", [None, "4711:4712", "0:0"])
def test_any_user_can_work_in_it(inside, image, user):
    code = (
        "import getpass, pathlib; print(getpass.getuser()); [pathlib.Path(p, 'x').touch() for p in ('/gcs', '/minio')]"
    )
    script = f'[ "$(id -u)" = {"10001" if user is None else user.split(":")[0]} ] && touch ~/x && python3 -c "{code}"'
    assert inside(image, "sh", "-ec", script, user=user).strip() == "rlhf"


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_a_pod_of_openshift_can_work_in_it(engine, image):
    """Any user of root's group, a file system that is read-only, and the empty volumes that Kubeflow mounts."""
    code = (
        "import os, pathlib\n"
        "from rlhf_tuning import environment\n"
        "from rlhf_tuning.data.sources import read_object\n"
        "environment.CACHE_DIR.mkdir(parents=True)\n"
        "pathlib.Path('/gcs/bucket').mkdir()\n"
        "print(os.getuid(), environment.CACHE_DIR, read_object('gs://bucket/a', parameter='judge_rubric'))\n"
    )
    with serve_cloud_storage() as storage:
        storage.put("a", b"one")
        told = engine.containers.run(
            image,
            ["python3", "-c", code],
            user="12345:0",
            read_only=True,
            tmpfs={"/tmp": "mode=1777", "/gcs": "mode=1777"},
            network_mode="host",
            environment={"STORAGE_EMULATOR_HOST": storage.address},
            remove=True,
        ).decode()
    assert re.fullmatch(r"12345 /tmp/rlhf-home-\w+/\.cache/rlhf-pipelines b'one'\n", told)


@pytest.mark.docker
def test_the_driver_is_looked_for_where_vertex_and_gke_put_it(engine):
    variables = engine.images.get(TRAINER_IMAGE).attrs["Config"]["Env"]
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64" in variables


@pytest.mark.docker
@pytest.mark.parametrize("init", [True, False])
def test_a_preemption_reaches_the_step_even_as_the_first_process(engine, init):
    code = (
        "import time\n"
        "from rlhf_tuning.step import running_step\n"
        "with running_step('x'):\n"
        "    print('here')\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('told')\n"
    )
    container = engine.containers.run(LIGHT_IMAGE, ["python3", "-c", code], detach=True, init=init)
    try:
        deadline = time.monotonic() + 30
        while b"here" not in container.logs() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert b"here" in container.logs()
        container.kill(signal.SIGTERM)
        assert container.wait()["StatusCode"] == 128 + signal.SIGTERM
        assert b"told" in container.logs()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_build_needs_no_frontend_from_a_registry_and_takes_no_secret(kind):
    text = (ROOT / "containers" / kind / "Dockerfile").read_text()
    assert "syntax=" not in text
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|PASSWORD|SECRET|KEY)", text, re.MULTILINE)


def test_the_extras_that_the_trainer_can_be_built_with_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"train", "vllm"} <= set(project["optional-dependencies"])


def test_cloud_build_uses_the_files_and_arguments_that_there_are():
    text = (ROOT / "containers" / "cloudbuild.yaml").read_text()
    build = yaml.safe_load(text)
    assert build["options"]["requestedVerifyOption"] == "VERIFIED"
    assert [image.split("/")[-1].split(":")[0] for image in build["images"]] == list(IMAGES)
    for name in build["substitutions"]:
        assert f"${name}" in text
    for step in build["steps"]:
        script = step["args"][1]
        # A variable of the shell has two dollars, or Cloud Build takes it for one of its own and refuses the build.
        ours = set(re.findall(r"(?<!\$)\$(?:\$\$)*([^$_A-Z])", script))
        assert not ours, (step["id"], ours)
        subprocess.run(["bash", "-n"], input=script.replace("$$", "$"), text=True, check=True)


def run_build_step(tmp_path, step_id):
    """Run a step's script in an empty folder as Cloud Build would, and return the arguments of each command on the way.

    The commands of other machines print theirs; `docker inspect` prints a digest besides, and gcloud fails.
    """
    build = yaml.safe_load((ROOT / "containers" / "cloudbuild.yaml").read_text())
    (script,) = (step["args"][1] for step in build["steps"] if step["id"] == step_id)
    given = build["substitutions"] | {"PROJECT_ID": "my-project", "BUILD_ID": "b1", "COMMIT_SHA": "c0ffee"}
    substituted = re.sub(r"\$\$|\$(_?[A-Z_]+)", lambda found: given[found[1]] if found[1] else "$", script)
    commands = tmp_path / "commands"
    commands.mkdir(exist_ok=True)
    record = (
        "#!/usr/bin/env python3\nimport json, sys\nname = sys.argv[0].rpartition('/')[2]\n"
        f"open({str(tmp_path / 'record')!r}, 'a').write(json.dumps([name, *sys.argv[1:]]) + '\\n')\n"
        "if sys.argv[1] == 'inspect': print(sys.argv[-1].rpartition(':')[0] + '@sha256:0')\n"
        "sys.exit(name == 'gcloud')\n"
    )
    for name in ("docker", "gcloud"):
        (commands / name).write_text(record)
        (commands / name).chmod(0o755)
    (tmp_path / "record").unlink(missing_ok=True)
    (tmp_path / "src").exists() or (tmp_path / "src").symlink_to(ROOT / "src")
    ran = subprocess.run(
        ["bash", "-euc", substituted],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()], ran.stdout


def test_cloud_build_gives_each_image_its_file_its_tags_and_its_arguments(tmp_path):
    calls, _ = run_build_step(tmp_path, "build")
    assert len(calls) == len(IMAGES)
    for (kind, image), (_, command, *arguments) in zip(IMAGES.items(), calls, strict=True):
        assert command == "build"
        assert arguments.pop() == "."  # the only one without a flag
        flags, values = arguments[::2], arguments[1::2]
        assert set(flags) == {"--file", "--tag", "--build-arg"}
        by_flag = {flag: [value for name, value in zip(flags, values, strict=True) if name == flag] for flag in flags}
        assert by_flag["--file"] == [f"containers/{kind}/Dockerfile"]
        assert by_flag["--tag"] == [image, f"us-central1-docker.pkg.dev/my-project/rlhf-pipelines/{kind}:b1"]
        given = dict(value.split("=", 1) for value in by_flag["--build-arg"])
        extras = {"EXTRAS": "train gemini"} if kind == "trainer" else {}
        assert given == {"VERSION": rlhf_tuning.__version__, "REVISION": "c0ffee", "RUN_AS": "10001:0"} | extras
        declared = re.findall(r"^ARG ([A-Z_]+)", (ROOT / "containers" / kind / "Dockerfile").read_text(), re.MULTILINE)
        assert set(given) <= set(declared)


def test_cloud_build_says_what_to_pin_when_it_has_pushed_and_does_without_an_sbom(tmp_path):
    calls, told = run_build_step(tmp_path, "push")
    repository = "us-central1-docker.pkg.dev/my-project/rlhf-pipelines"
    assert [call[1:] for call in calls if call[1] == "push"] == [
        ["push", "--quiet", f"{repository}/{kind}:b1"] for kind in IMAGES
    ]
    pinned = [f"--image {kind}={repository}/{kind}@sha256:0" for kind in IMAGES]
    assert told.splitlines()[-1] == f"rlhf compile {' '.join(pinned)}"

    calls, told = run_build_step(tmp_path, "sbom")
    assert [call[:4] for call in calls] == [["gcloud", "artifacts", "sbom", "export"]] * 2
    assert [call[4] for call in calls] == [f"--uri={repository}/{kind}@sha256:0" for kind in IMAGES]
    assert told.count("is Container Scanning enabled?") == 2
