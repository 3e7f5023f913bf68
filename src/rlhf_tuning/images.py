"""The container images, tagged with the package version."""

from rlhf_tuning import __version__

#: Data import, validation, upload: no torch.
LIGHT_IMAGE = f"rlhf-pipelines/light:{__version__}"

#: Training, inference, evaluation.
TRAINER_IMAGE = f"rlhf-pipelines/trainer:{__version__}"

#: The same by the names of their folders in `containers/`, by which commands call them.
IMAGES = {"light": LIGHT_IMAGE, "trainer": TRAINER_IMAGE}
