"""`rlhf plan`, as people call it."""

import json
import subprocess
import sys

import pytest

from rlhf_pipelines.cli.rlhf import main

LLAMA = ["plan", "--large-model-reference", "meta-llama/Llama-3.1-8B-Instruct"]


def test_a_run_that_fits_is_forecast_with_its_cost_and_how_sure_it_is(capsys):
    assert main([*LLAMA, "--machine", "a100-80gb-x8", "--price-per-hour", "40"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Llama 3.1 8B, 8.03 billion weights, bfloat16, on a100-80gb-x8 (80 GB each)" in printed
    for row in ("reward model 1,000", "held-out reward model 333", "reinforcement learning 1,000", "in all"):
        assert row in printed
    assert "Memory: fits" in printed
    assert "at 40 an hour" in printed
    assert "Not measured on this GPU" in printed
    assert "Error of the forecast, measured on small models on a CPU (benchmarks/scale.py)" in printed
    assert "all 8 GPUs train together" in printed


def test_a_run_that_does_not_fit_ends_with_1_and_what_would(capsys):
    assert main([*LLAMA, "--machine", "l4"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Memory: does NOT fit" in printed
    assert "24.0 GB" in printed
    assert "It would fit with any of: " in printed
    assert "--machine" in printed.split("any of:")[1]


def test_json_says_the_same(capsys):
    assert main([*LLAMA, "--machine", "l4", "--json", "--price-per-hour", "2"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False
    assert found["peak_bytes"] > found["machine"]["memory_bytes"] == 24 * 10**9
    assert found["instead"]
    assert found["cost"] == pytest.approx(2 * found["hours"])
    assert [phase["name"] for phase in found["phases"]] == [
        "reward model",
        "held-out reward model",
        "reinforcement learning",
    ]
    assert set(found["phases"][-1]["seconds"]) == {"sampling", "reward", "reference", "update"}
    assert found["error"]["memory"]["median"] < 1


def test_the_sample_takes_no_data_and_no_weights(capsys, monkeypatch, tmp_path):
    from rlhf_tuning import environment

    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path)
    assert main(["plan", "--sample", "--machine", "l4"]) == 0
    assert "SmolLM2 135M, 134 million weights" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_this_machine_is_measured(capsys, monkeypatch, tiny_model):
    from rlhf_tuning.planning import calibration

    monkeypatch.setattr(calibration, "_SECONDS", 0.02)
    command = ["plan", "--large-model-reference", str(tiny_model), "--dtype", "float32"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Measured here just now, beside whatever else was running: products of" in printed
    assert "Not measured" not in printed
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["measured"] is True
    assert found["model"]["name"] == str(tiny_model)


def test_takes_the_flags_and_files_of_a_run(capsys, tmp_path):
    file = tmp_path / "values.json"
    values = {"large_model_reference": "meta-llama/Llama-3.2-1B", "kl_coeff": 0, "max_kl": 0, "warm_start": True}
    file.write_text(json.dumps(values))
    command = ["plan", "--parameter-values", str(file), "--preference-dataset", "gs://nowhere/p.jsonl", "--json"]
    assert main([*command, "--reinforcement-learning-train-steps", "7", "--machine", "h100"]) == 0
    phase = json.loads(capsys.readouterr().out)["phases"][-1]
    assert phase["steps"] == 7
    assert phase["seconds"]["reference"] == 0


def test_mean_lengths_shorten_the_hours(capsys):
    hours = []
    for flags in ([], ["--mean-prompt-tokens", "50", "--mean-answer-tokens", "20"]):
        assert main([*LLAMA, "--machine", "h100", "--json", *flags]) == 0
        hours.append(json.loads(capsys.readouterr().out)["hours"])
    assert hours[1] < hours[0] / 2


def test_a_reward_model_of_another_base_counts(capsys):
    peaks = []
    for flags in ([], ["--reward-model-reference", "meta-llama/Llama-3.1-70B"]):
        main([*LLAMA, "--machine", "h200-x8", "--json", *flags])
        peaks.append(json.loads(capsys.readouterr().out)["peak_bytes"])
    assert peaks[1] > peaks[0]


def test_a_machine_named_as_on_vertex_is_known(capsys):
    assert main([*LLAMA, "--machine", "a2-ultragpu-1g", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["name"] == "a100-80gb"


def test_without_a_price_that_of_the_list_is_taken_and_a_spot_machine_has_its_own(capsys):
    flags = [*LLAMA, "--machine", "a100-80gb"]
    for more, price in ((["--location", "us-central1"], "5.0688"), (["--location", "us-central1", "--spot"], "2.9279")):
        assert main([*flags, *more]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert f"at {price} an hour" in printed
        assert f"Price: {price} USD an hour: a2-ultragpu-1g" in printed
        assert "list price of 2026-08-20 (Google's Cloud Billing API" in printed
    assert main(flags) == 0
    assert "Cost:" not in capsys.readouterr().out


def test_a_run_beyond_its_budget_is_forecast_all_the_same_and_refused_with_what_would_fit(capsys):
    flags = [*LLAMA, "--machine", "a100-80gb", "--location", "us-central1"]
    assert main([*flags, "--max-hours", "100000", "--max-cost", "1000000"]) == 0
    assert not capsys.readouterr().err
    assert main([*flags, "--max-cost", "20"]) == 2
    printed = capsys.readouterr()
    assert "Memory: fits" in printed.out
    assert "The budget is 20.00 at 5.0688 an hour, 3 h 56 min, and this run is forecast to take " in printed.err
    assert "It would fit with any of: --reward-model-train-steps " in printed.err
    assert main([*flags[:-2], "--max-cost", "20"]) == 2
    assert "max_cost is given, and no price_per_hour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--machine", "v100"], "--machine is 'v100'. A forecast needs one that is known: here (this machine), l4, "),
        (["--machine", "gpu"], "--machine is 'gpu'."),
        (["--machine", "l4", "--price-per-hour", "-1"], "price_per_hour is -1.0; it must be at least 0."),
        (["--machine", "l4", "--price-per-hour", "nan"], "price_per_hour is nan; it must be a finite number."),
        (
            ["--machine", "l4", "--mean-answer-tokens", "65"],
            "answer_tokens is 65; it must be between 1 and the limit, 64",
        ),
        (["--machine", "l4", "--batch-size", "0"], "batch_size is 0"),
        (["--machine", "l4", "--preferences", "0"], "--preferences is 0; it must be at least 1."),
        (
            ["--machine", "l4", "--beta", "0.2"],
            "Only preference_tuning_pipeline has beta. To forecast it, say on how many",
        ),
        (
            ["--machine", "l4", "--preferences", "9", "--kl-coeff", "0.1"],
            "kl_coeff is no parameter of plan --preferences, only of rlhf_pipeline",
        ),
        (["--machine", "l4", "--machines", "2"], "unrecognized arguments: --machines"),
    ],
)
def test_mistakes_end_with_2_and_say_what_is_accepted(capsys, flags, words):
    assert main([*LLAMA, *flags]) == 2
    assert words in capsys.readouterr().err


def test_texts_longer_than_the_model_reads_are_refused(capsys, tiny_model):
    command = [
        "plan",
        "--large-model-reference",
        str(tiny_model),
        "--machine",
        "l4",
        "--prompt-sequence-length",
        "1000",
    ]
    assert main(command) == 2
    assert "are more than the 1024 positions of" in capsys.readouterr().err


def test_a_model_that_is_here_and_cannot_be_tuned_is_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    assert main(["plan", "--large-model-reference", str(tmp_path), "--machine", "l4"]) == 2
    assert "It is an encoder (modernbert)" in capsys.readouterr().err


def test_a_model_that_cannot_be_read_is_named_with_what_to_give_instead(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--large-model-reference", "./nothing", "--machine", "l4"]) == 2
    message = capsys.readouterr().err
    assert "large_model_reference is './nothing', a folder without config.json, or none at all." in message
    assert "meta-llama/Llama-3.1-8B" in message


def test_a_forecast_for_gpus_of_a_known_model_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from rlhf_pipelines.cli.rlhf import main; "
        f"status = main({[*LLAMA, '--machine', 'h100']!r}); "
        "sys.exit(status or ' '.join({'torch', 'transformers', 'kfp'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_preference_tuning_is_forecast_by_the_flags_of_its_run(capsys):
    for source in (LLAMA[1:], ["--sample"]):
        assert main(["plan", *source, "--machine", "a100-80gb", "--preferences", "3200", "--epoch-count", "2"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "A step of preference tuning, in seconds: update" in printed
        assert "reinforcement" not in printed


def test_tuning_on_feedback_asks_about_another_answer_too(capsys):
    command = ["plan", *LLAMA[1:], "--machine", "a100-80gb", "--preferences", "3200", "--loss-type", "kto"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "A step of preference tuning, in seconds: update" in printed
    assert ", reference point " in printed


@pytest.mark.parametrize(
    ("pipeline", "more", "phases"),
    [
        ("rlhf_pipeline", [], "supervised tuning, reward model, reinforcement learning"),
        ("reward_tuning_pipeline", [], "reinforcement learning"),
        ("rlaif_pipeline", [], "reward model, reinforcement learning"),
        ("reward_model_pipeline", [], "reward model"),
        ("supervised_tuning_pipeline", [], "supervised tuning"),
        ("distillation_pipeline", [], "supervised tuning"),
        ("preference_tuning_pipeline", ["--preferences", "3200"], "supervised tuning, preference tuning"),
    ],
)
def test_the_run_of_a_pipeline_that_is_named_is_forecast(capsys, pipeline, more, phases):
    command = ["plan", "--sample", "--machine", "l4", "--pipeline", pipeline, *more, "--json"]
    assert main(command) == 0
    assert ", ".join(phase["name"] for phase in json.loads(capsys.readouterr().out)["phases"]) == phases


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--pipeline", "reward_model_pipeline", "--kl-coeff", "1"],
            "kl_coeff is no parameter of plan --pipeline reward_m",
        ),
        (["--pipeline", "preference_tuning_pipeline"], "Say with --preferences N"),
        (["--pipeline", "rlhf_pipeline", "--preferences", "9"], "--preferences is of preference_tuning_pipeline"),
    ],
)
def test_what_the_named_pipeline_does_not_have_is_refused(capsys, flags, words):
    assert main(["plan", "--sample", "--machine", "l4", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "student",
    [
        ["--pipeline", "distillation_pipeline", "--student-model-reference", "smollm2-135m-instruct"],
        ["--dataset-uri", "rows.jsonl", "--large-model-reference", "smollm2-135m-instruct"],
    ],
)
def test_a_teacher_that_is_loaded_beside_the_student_is_named(capsys, student):
    assert main(["plan", *student, "--on-policy", "--machine", "l4"]) == 2
    assert "teacher_model_reference is missing" in capsys.readouterr().err


def test_supervised_tuning_is_forecast_by_the_flags_of_its_run(capsys):
    assert main([*LLAMA, "--machine", "a100-80gb", "--dataset-uri", "d.jsonl", "--train-steps", "50"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "supervised tuning 50" in printed
    assert "A step of supervised tuning, in seconds: update" in printed
    assert "reinforcement" not in printed
