"""`--image light=REFERENCE`: what stands in the place of the images that the components name.

A component names the image of its package version, which is right where the images were built. Elsewhere, in a registry
or pinned by digest, another reference takes its place: in compiled YAML, and in a run with containers.
"""

import re
from collections.abc import Mapping, Sequence

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.images import IMAGES

_REFERENCE = re.compile(
    r"[a-z0-9]+(?:[._:/-]+[a-z0-9]+)*"  # host:port/repository/name
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)


def read_choices(flags: Sequence[str]) -> dict[str, str]:
    """Return the components' image to the one that takes its place, from flags such as `light=REFERENCE`.

    Raises:
        ParameterError: If a flag is not of that form.
    """
    choices: dict[str, str] = {}
    for flag in flags:
        name, _, reference = flag.partition("=")
        if name not in IMAGES or not _REFERENCE.fullmatch(reference):
            raise ParameterError(
                f"--image is {flag!r}; give {' or '.join(f'{kind}=REFERENCE' for kind in IMAGES)}, where REFERENCE is "
                "an image's name, best with its digest: REGISTRY/light@sha256:..."
            )
        choices[IMAGES[name]] = reference
    return choices


def as_environment(choices: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variable by which a step knows the images of the run, for the report."""
    return {"RLHF_IMAGES": ",".join(f"{name}={choices.get(image, image)}" for name, image in IMAGES.items())}


def unpullable(choices: Mapping[str, str]) -> list[str]:
    """Return the images that no choice replaces: they have no registry, so only the engine that built them has them."""
    return [image for image in IMAGES.values() if image not in choices]
