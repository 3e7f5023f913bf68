import pytest

from rlhf_components.images import LIGHT_IMAGE, TRAINER_IMAGE
from rlhf_pipelines.image_choice import put_in_place, read_choices
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


def test_only_the_lines_that_name_an_image_are_changed():
    compiled = f"a:\n    image: {LIGHT_IMAGE}\n    text: image {LIGHT_IMAGE}\nb:\n    image: {TRAINER_IMAGE}\n"
    changed = put_in_place(compiled, {LIGHT_IMAGE: f"r/light@{DIGEST}"})
    assert changed == compiled.replace(f"image: {LIGHT_IMAGE}", f"image: r/light@{DIGEST}")
