"""What stands against a Vertex job that neither Google's client nor its service says, or not before it costs.

Most of it is seen in the submission alone. Whether the bucket and the images exist is asked of Cloud Storage and of the
registries; what a registry that is not Google's holds cannot be known from here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_pipelines.backends.backend import Submission
from rlhf_pipelines.backends.spec_parameters import problems_with_values
from rlhf_tuning.errors import RunError
from rlhf_tuning.evaluation.judges.rubric import rubric_file
from rlhf_tuning.evaluation.regression_suite import suite_file
from rlhf_tuning.images import IMAGES
from rlhf_tuning.machine import gigabytes
from rlhf_tuning.models.model_reference import weight_bytes
from rlhf_tuning.step import say

_PREDEFINED_PAIRS = {
    "ASIA1": ("asia-northeast1", "asia-northeast2"),
    "EUR4": ("europe-north1", "europe-west4"),
    "EUR5": ("europe-west1", "europe-west2"),
    "EUR7": ("europe-west2", "europe-west3"),
    "EUR8": ("europe-west3", "europe-west6"),
    "NAM4": ("us-central1", "us-east1"),
}
#: Multi-region of a bucket to what the names of its regions begin with.
_CONTINENTS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}
_GOOGLE_REGISTRY = re.compile(r"(?:[\w-]+\.)?gcr\.io|[\w-]+\.pkg\.dev")
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_SECONDS = 20.0
#: A warning is not worth a longer wait, where the hub is out of reach.
_HUB_SECONDS = 3
#: The boot disk of a step, which limits cannot change (Google's page on machine types for a pipeline step), and what system
#: and image leave of it.
_DISK_GB, _DISK_FREE_GB = 100, 70


def submission_problems(submission: Submission, location: str) -> list[str]:
    """Return what is wrong with a submission as it stands, without asking any service."""
    if "root" not in submission.spec:
        return ["The pipeline was not compiled for Vertex. Compile it with: rlhf compile --target vertex"]
    return [
        *problems_with_values(submission.spec, submission.values),
        *_folder_problems(submission.values),
        *_setting_problems(submission, location),
        *_label_problems(submission.labels),
        *_default_image_problems(submission.spec),
    ]


def bucket_problems(pipeline_root: str, location: str, client: Any) -> list[str]:
    """Return what is wrong with the bucket of a pipeline root.

    Args:
        pipeline_root: `gs://BUCKET/FOLDER`.
        location: Region of the job.
        client: A `google.cloud.storage.Client`.

    Raises:
        RunError: If Cloud Storage gives no answer.
    """
    from google.api_core import exceptions
    from google.api_core.retry import Retry
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    name = pipeline_root.removeprefix("gs://").partition("/")[0]
    try:
        bucket = client.get_bucket(name, timeout=_SECONDS, retry=Retry(timeout=_SECONDS))
    except exceptions.NotFound:
        return [
            f"--pipeline-root is {pipeline_root}, but there is no bucket {name}. Create it with: gcloud storage buckets "
            f"create gs://{name} --location {location}"
        ]
    except exceptions.Forbidden:
        return [
            f"--pipeline-root is {pipeline_root}, but you may not look at the bucket {name}, or it belongs to someone "
            "else. You need the roles roles/storage.legacyBucketReader and roles/storage.objectViewer on it."
        ]
    except (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError, RequestException) as error:
        raise RunError(
            f"Cloud Storage does not say whether the bucket {name} of --pipeline-root exists: {error}"
        ) from error
    regions = bucket.data_locations or _PREDEFINED_PAIRS.get(bucket.location, (bucket.location,))
    if location in [region.lower() for region in regions]:
        return []
    if not bucket.data_locations and location.startswith(_CONTINENTS.get(bucket.location, "-")):
        return []
    return [
        f"--pipeline-root is {pipeline_root}, a bucket in {' and '.join(regions)}; the job runs in {location}, which "
        "must be the same region. Use another bucket, or another --location."
    ]


def image_problems(spec: Mapping[str, Any], session: Any, serving_image: str = "") -> list[str]:
    """Return which images of a compiled pipeline cannot be pulled, as far as that can be known.

    Args:
        spec: The compiled pipeline.
        session: Sends requests with Google's credentials, as `google.auth.transport.requests.AuthorizedSession` does.
        serving_image: Of an endpoint, if another than the usual one is to serve.
    """
    remedies = dict.fromkeys(_images(spec), "Build it with containers/cloudbuild.yaml, or correct --image.")
    if serving_image:
        remedies[serving_image] = "Correct serving_image."
    return [
        f"The image {image} does not exist. {remedy}"
        for image, remedy in remedies.items()
        if _is_missing(image, session)
    ]


def disk_cautions(values: Mapping[str, Any]) -> Iterator[str]:
    """Find base models of the hub that may not fit on a step's disk, as far as the hub tells their size."""
    models = ["large_model_reference", "reward_model_reference", "student_model_reference"]
    models += ["large_model_a_reference", "large_model_b_reference"]
    models += ["teacher_model_reference"] if values.get("teacher") == "local_model" else []
    for name in models:
        reference = str(values.get(name) or "")
        if not reference or reference.startswith("gs://") or _is_here(reference):
            continue
        size = weight_bytes(reference, timeout=_HUB_SECONDS).stored
        if size > _DISK_FREE_GB * 10**9:
            yield (
                f"{name} is {reference!r}, of {gigabytes(size)}. Each step that loads it fetches it to its disk, which has "
                f"{_DISK_GB} GB on Vertex, some {_DISK_FREE_GB} of them free. Copy the model into the bucket and give its "
                "gs:// folder, which is read where it is."
            )


def manifest_address(host: str, name: str, reference: str) -> str:
    """Return where a registry keeps an image's manifest."""
    return f"https://{host}/v2/{name}/manifests/{reference}"


def _is_missing(image: str, session: Any) -> bool:
    """Say whether an image is certainly not there; what cannot be known is said to the person."""
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    host, _, rest = image.partition("/")
    if not _GOOGLE_REGISTRY.fullmatch(host):
        if image not in IMAGES.values():
            say(f"Whether the image {image} exists cannot be checked from here.")
        return False
    name, at, reference = rest.partition("@")
    if not at:
        name, _, reference = rest.partition(":")
    address = manifest_address(host, name, reference or "latest")
    try:
        status = int(session.head(address, headers={"Accept": _MANIFESTS}, timeout=_SECONDS).status_code)
    except (RequestException, GoogleAuthError) as error:
        say(f"Whether the image {image} exists cannot be checked: {error}")
        return False
    if status in (401, 403):
        # Not refused: the job pulls it as someone else.
        say(
            f"Whether the image {image} exists cannot be checked: you may not read it, or there is no such repository. The "
            "job needs the role roles/artifactregistry.reader on its repository, and so do you for this check."
        )
    return status == 404


def _images(spec: Mapping[str, Any]) -> list[str]:
    executors = spec.get("deploymentSpec", {}).get("executors", {}).values()
    return sorted({executor["container"]["image"] for executor in executors if "container" in executor})


def _folder_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Find what is on this machine alone."""
    for name, value in values.items():
        if not isinstance(value, str) or not value or value.startswith(("gs://", "/gcs/")):
            continue
        if name.endswith(("_dataset", "_uri")) or (name == "regression_suite" and suite_file(value)):
            yield (
                f"{name} is {value!r}, a path of this machine, which a job on Vertex cannot see. Copy it with `gcloud "
                "storage cp` and give its gs:// path."
            )
        elif name == "judge_rubric" and rubric_file(value):
            yield (
                f"{name} is {value!r}, a file of this machine, which a job on Vertex cannot see. Copy it with `gcloud "
                "storage cp` and give its gs:// path, or give its words."
            )
        elif name.endswith("_reference") and _is_here(value):
            yield (
                f"{name} is {value!r}, a folder of this machine, which a job on Vertex cannot see. Copy it with `gcloud "
                "storage cp --recursive` and give its gs:// path, or give a Hugging Face hub id."
            )
        elif name == "warm_start_adapter":
            yield (
                f"{name} is {value!r}, which a job on Vertex cannot see: it has no local registry and no folder of this "
                "machine. Copy the adapter with `gcloud storage cp --recursive` and give its gs:// path."
            )
        elif name == "registry_dir":
            yield (
                f"{name} is {value!r}, but a job on Vertex has no local registry. Leave it away: the model goes to the "
                "Model Registry."
            )


def _is_here(reference: str) -> bool:
    return reference.startswith(("/", "./", "../", "~")) or Path(reference).is_dir()


def _setting_problems(submission: Submission, location: str) -> Iterator[str]:
    if not submission.pipeline_root:
        yield "--pipeline-root is missing: the Cloud Storage folder of the run's files, such as gs://my-bucket/runs."
    elif not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](?:/.*)?", submission.pipeline_root):
        yield f"--pipeline-root is {submission.pipeline_root!r}; on Vertex it must be a folder such as gs://my-bucket/runs."
    if not submission.display_name or len(submission.display_name) > 128:
        yield f"--display-name has {len(submission.display_name)} characters; 1 to 128 are possible."
    yield from _form_problem(
        "--service-account",
        submission.service_account,
        r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com",
        "an address such as rlhf-runner@my-project.iam.gserviceaccount.com",
    )
    yield from _form_problem(
        "--network",
        submission.network,
        r"projects/\d+/global/networks/[a-z](?:[-a-z0-9]*[a-z0-9])?",
        "projects/NUMBER/global/networks/NAME, with the number of the project, not its id",
    )
    if submission.reserved_ip_ranges and not submission.network:
        yield "--reserved-ip-range is part of a network: give --network too."
    yield from _form_problem(
        "--experiment", submission.experiment, r"[a-z0-9][a-z0-9-]{0,127}", "lower-case letters, digits and hyphens"
    )
    project = r"projects/[a-z0-9.:-]+"
    yield from _regional_problem(
        "encryption_spec_key_name",
        submission.encryption_spec_key_name,
        rf"{project}/locations/([a-z0-9-]+)/keyRings/[\w-]+/cryptoKeys/[\w-]+",
        "projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY",
        location,
    )
    yield from _regional_problem(
        "tensorboard_resource_id",
        submission.tensorboard_resource_id,
        rf"{project}/locations/([a-z0-9-]+)/tensorboards/\d+",
        "projects/PROJECT/locations/REGION/tensorboards/NUMBER",
        location,
    )


def _form_problem(flag: str, value: str, pattern: str, form: str) -> Iterator[str]:
    if value and not re.fullmatch(pattern, value):
        yield f"{flag} is {value!r}; it must be {form}."


def _regional_problem(name: str, value: str, pattern: str, form: str, location: str) -> Iterator[str]:
    match = re.fullmatch(pattern, value)
    if value and not match:
        yield f"{name} is {value!r}; it must be {form}."
    elif match and match[1] != location:
        yield f"{name} is in {match[1]}; the job runs in {location}, and both must be the same."


def _label_problems(labels: Mapping[str, str]) -> Iterator[str]:
    if len(labels) > 64:
        yield f"--label is given {len(labels)} times; a job can have 64."
    for key, value in labels.items():
        if not _is_label(key) or not key[:1].isalpha():
            yield (
                f"--label {key}={value}: a key is 1 to 63 lower-case letters, digits, hyphens and underscores, and begins "
                "with a letter."
            )
        if value and not _is_label(value):
            yield f"--label {key}={value}: a value is up to 63 lower-case letters, digits, hyphens and underscores."


def _is_label(text: str) -> bool:
    return re.fullmatch(r"[\w-]{1,63}", text) is not None and text == text.lower()


def _default_image_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for kind, image in IMAGES.items():
        if image in _images(spec):
            yield (
                f"The image {image} is in no registry that Vertex can pull from. Build the images "
                f"(docs/operations/containers.md) and give "
                f"--image {kind}=REGION-docker.pkg.dev/PROJECT/REPOSITORY/{kind}@sha256:..."
            )
