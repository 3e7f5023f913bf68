from pathlib import Path

import pytest

from rlhf_pipelines.cli.parameter_values import gather_values, read_values, sample_values
from rlhf_pipelines.parameters import PIPELINES, check_parameters
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.sample.house_style import SAMPLE_DIR


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ParameterError) as caught:
        read_values(path)
    return str(caught.value)


def test_reads_json_and_yaml_alike(tmp_path: Path) -> None:
    text = '{"kl_coeff": 1e-4, "seed": 3, "deploy_model": false, "x": null}'
    from_json = read_values(write(tmp_path / "a.json", text))
    from_yaml = read_values(write(tmp_path / "a.yaml", "kl_coeff: 1e-4\nseed: 3\ndeploy_model: false\nx: None\n"))
    assert from_json == from_yaml == {"kl_coeff": 0.0001, "seed": 3, "deploy_model": False, "x": None}
    assert read_values(write(tmp_path / "b.yaml", "x: 'None'\ny: None of it\n")) == {"x": "None", "y": "None of it"}


def test_reads_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"seed": 3}')
    assert read_values(path) == {"seed": 3}


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.json")


def test_refuses_a_folder(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path)


DEEP = "[" * 20_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("a.json", '{"seed": }'), ("a.yaml", "seed: [1"), ("a.yaml", "[1, 2]: 3"), ("a.yaml", "? {a: 1}\n: 2")),
        *(("a.json", DEEP), ("a.yaml", DEEP)),
    ],
    ids=range(6),
)
def test_refuses_malformed_text_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    message = refusal(write(tmp_path / name, text))
    assert "is malformed" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"seed": 1, "seed": 2}'), ("a.yaml", "seed: 1\nseed: 2\n")])
def test_refuses_a_name_given_twice(tmp_path: Path, name: str, text: str) -> None:
    assert "gives seed more than once" in refusal(write(tmp_path / name, text))


@pytest.mark.parametrize(("name", "text"), [("a.json", "[1]"), ("a.yaml", ""), ("a.yaml", "just text")])
def test_refuses_anything_but_an_object(tmp_path: Path, name: str, text: str) -> None:
    assert "must hold one object" in refusal(write(tmp_path / name, text))


@pytest.mark.parametrize("file", [Path("/dev/zero"), None])
def test_refuses_what_is_too_large(tmp_path: Path, file: Path | None) -> None:
    assert "more than 1 MiB" in refusal(file or write(tmp_path / "a.yaml", "#" * 2_000_000))


@pytest.mark.parametrize("number", ["1:30", "010", "0x10", "1:30.5", ".inf", "0b1"])
def test_numbers_are_those_that_a_flag_takes(tmp_path: Path, number: str) -> None:
    values = read_values(write(tmp_path / "a.yaml", f"a: {number}\nb: [1_000, -2, 0, 1e-4, 1.5, .5, 2.]"))
    assert values == {"a": number, "b": [1000, -2, 0, 1e-4, 1.5, 0.5, 2.0]}


@pytest.mark.parametrize("name", ["seed", "rewards"])
def test_a_short_file_that_stands_for_an_endless_list_is_refused_at_once(tmp_path: Path, name: str) -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)), f"{name}: *a11"]
    values = read_values(write(tmp_path / "a.yaml", "\n".join(lines)))
    with pytest.raises(ParameterError, match=f"{name} (must be a whole number, not|is 32,769 characters long)"):
        check_parameters("rlhf_pipeline", {name: values[name]})


def test_refuses_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe{")
    assert "not UTF-8" in refusal(path)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    assert "malformed" in refusal(write(tmp_path / "a.yaml", "seed: !!python/object/apply:os.getpid []"))


def sample(folder: Path) -> Path:
    write(folder / "parameters.json", '{"batch_size": 4, "reinforcement_learning_train_steps": 7}')
    return folder


def test_flag_overrides_the_file_and_the_file_overrides_the_sample(tmp_path: Path) -> None:
    file = write(tmp_path / "values.json", '{"batch_size": 8, "seed": 1}')
    values = gather_values("rlhf_pipeline", sample_dir=sample(tmp_path), file=file, flags={"seed": "2"})
    assert values["reinforcement_learning_train_steps"] == 7
    assert values["batch_size"] == 8
    assert values["seed"] == 2


@pytest.mark.parametrize("pipeline", [*PIPELINES, "label"])
def test_sample_alone_is_enough_for_every_pipeline(tmp_path: Path, pipeline: str) -> None:
    values = check_parameters(pipeline, gather_values(pipeline, sample_dir=sample(tmp_path), file=None, flags={}))
    assert values.get("large_model_reference", "smollm2-135m-instruct") == "smollm2-135m-instruct"


def test_the_supervised_pipeline_takes_the_sample_s_settings_of_the_supervised_phase(tmp_path: Path) -> None:
    write(tmp_path / "parameters.json", '{"supervised_train_steps": 5, "supervised_learning_rate_multiplier": 3}')
    values = sample_values("supervised_tuning_pipeline", tmp_path)
    assert (values["train_steps"], values["learning_rate_multiplier"]) == (5, 3)
    values = sample_values("compare-methods", tmp_path)
    assert values["train_steps"] == 5
    assert "learning_rate_multiplier" not in values


def test_the_sample_s_file_of_settings_can_be_given_to_a_run() -> None:
    given = {parameter.name: "x" for parameter in PIPELINES["rlhf_pipeline"] if parameter.required}
    check_parameters("rlhf_pipeline", given | read_values(SAMPLE_DIR / "parameters.json"))


def test_flag_that_is_no_number_is_refused_by_name() -> None:
    values = gather_values("infer_pipeline", sample_dir=None, file=None, flags={"seed": "x"})
    with pytest.raises(ParameterError, match="seed must be a whole number, not the text 'x'"):
        check_parameters("infer_pipeline", values)
