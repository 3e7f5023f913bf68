from pathlib import Path
from typing import Any

import pytest

from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.labelling.teacher import check_teacher, resolve_teacher
from rlhf_tuning.registry import register_model


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"teacher_endpoint": "http://a/v1"}, "teacher_endpoint is 'http://a/v1', but teacher is 'local_model'"),
        ({"teacher": "language_model"}, "teacher_endpoint is empty"),
        ({"teacher": "language_model", "teacher_endpoint": "a/v1"}, "teacher_endpoint is 'a/v1'; it must be a URL"),
        ({"teacher": "gemini", "teacher_endpoint": "http://u:p@a"}, "RLHF_TEACHER_API_KEY"),
        ({"teacher": "gemini", "teacher_max_cost": 1.0}, "there is no teacher_price"),
        ({"teacher_max_cost": 1.0, "teacher_price": 1.0}, "no teacher is behind a server, so none is paid"),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_named(values: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"teacher": "local_model", "teacher_endpoint": "", "teacher_key_secret": "", **values}
    with pytest.raises(ParameterError) as caught:
        check_teacher(**given)
    assert words in str(caught.value)


def test_a_teacher_is_a_registered_model_or_a_base_model_reference(tmp_path: Path, tiny_model: Path) -> None:
    version = register_model(
        model_dir=str(tiny_model),
        adapter_dir="",
        name="big",
        manifest={},
        aliases=("champion", "default"),
        registry_dir=tmp_path,
    )
    place = {"teacher": "local_model", "registry_dir": str(tmp_path)}
    found = resolve_teacher("big@champion", **place)
    assert found.reference == str(version.path / "model")
    assert found.fingerprint == resolve_teacher(str(tiny_model), **place).fingerprint
    assert resolve_teacher("smollm2-135m-instruct", **place).reference == "smollm2-135m-instruct"
    assert resolve_teacher("text-unicorn-x", teacher="gemini", registry_dir="").reference == "text-unicorn-x"
    with pytest.raises(ModelError, match="teacher_model_reference"):
        resolve_teacher(str(tmp_path / "none"), **place)
