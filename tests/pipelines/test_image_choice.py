import pytest

from rlhf_components.images import LIGHT_IMAGE, TRAINER_IMAGE
from rlhf_pipelines.image_choice import read_choices, unpullable
from rlhf_tuning.errors import ParameterError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "reference",
    ["trainer", "europe-docker.pkg.dev/p/r/trainer", "localhost:5000/trainer:1.0_rc.1", f"r/trainer:1@{DIGEST}"],
)
def test_a_flag_names_the_image_and_what_takes_its_place(reference):
    assert read_choices([f"trainer={reference}", "light=x"]) == {TRAINER_IMAGE: reference, LIGHT_IMAGE: "x"}


@pytest.mark.parametrize("flag", ["trainer", "trainer=", "heavy=x", "x", "light=a b", "light=x@sha256:12", "light=X/y"])
def test_other_flags_are_refused_with_the_right_form(flag):
    with pytest.raises(ParameterError, match=r"--image is .*; give light=REFERENCE or trainer=REFERENCE"):
        read_choices([flag])


def test_an_image_without_a_choice_cannot_be_pulled():
    assert unpullable({}) == [LIGHT_IMAGE, TRAINER_IMAGE]
    assert unpullable({LIGHT_IMAGE: f"r/light@{DIGEST}"}) == [TRAINER_IMAGE]
