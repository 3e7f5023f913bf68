import json
import os
import subprocess
import sys
from pathlib import Path

import process_phases
import pytest
import torch
from process_phases import Config

from rlhf_tuning import environment
from rlhf_tuning.distributed import memory, processes
from rlhf_tuning.errors import ModelError, ParameterError, RunError
from rlhf_tuning.step import running_step
from rlhf_tuning.training.reinforcement import ReinforcementConfig


@pytest.fixture
def two(monkeypatch):
    """Two processes are started."""
    monkeypatch.setattr(environment, "PROCESSES", "2")


def test_alone_a_phase_runs_in_this_process(capsys):
    assert processes.run(process_phases.introduce, Config(), greeting="hello") == [[row, 0] for row in range(5)]
    assert capsys.readouterr().out == "hello from 0\n"


def test_each_process_does_its_share_the_main_one_speaks_and_an_error_in_one_ends_all_and_the_step(two, capfd):
    with pytest.raises(SystemExit) as ended, running_step("Reinforcer"):
        processes.run(process_phases.fail_in_the_second, Config(), how="error")
    assert ended.value.code == 2
    said = capfd.readouterr()
    assert said.out.count("hello from") == 1
    assert "Training in 2 processes\nhello from 0\n[[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]]\n" in said.out
    assert said.out.endswith("ERROR in step Reinforcer: There is no such model.\n")
    assert "Traceback" not in said.out + said.err


@pytest.mark.slow
def test_a_bug_in_one_process_comes_with_its_traceback(two):
    with pytest.raises(RuntimeError, match=r"Process 2 of 2 failed:(.|\n)*ZeroDivisionError: nothing to share"):
        processes.run(process_phases.fail_in_the_second, Config(), how="bug")


@pytest.mark.slow
def test_a_gpu_that_is_full_in_one_process_makes_all_begin_anew_once(two, capfd):
    with pytest.raises(RunError, match="memory has run out twice"):
        processes.run(process_phases.fail_in_the_second, Config(), how="full")
    assert capfd.readouterr().out.count("hello from 0") == 2


def test_memory_that_runs_out_twice_ends_it_and_names_what_to_lower(capsys):
    halves = []

    def phase(config):
        halves.append(memory.at_a_time(8))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(RunError, match=r"Lower num_generations \(4\) or prompt_sequence_length \(512\) or target_seq"):
        processes.run(phase, ReinforcementConfig(large_model_reference="a/model"))
    assert halves == [8, 4]
    assert capsys.readouterr().out.count("Once more from the beginning") == 1
    assert not memory.has_run_out()


@pytest.mark.slow
def test_a_process_that_was_killed_is_a_failure_of_the_machine(two):
    with pytest.raises(RunError, match=r"Process 2 of 2 was ended from outside .*SIGKILL.*Lower batch_size"):
        processes.run(process_phases.fail_in_the_second, Config(), how="killed")


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(two, capfd):
    with pytest.raises(
        ParameterError, match=r"batch_size is 9, which 2 .* multiple of 2, such as 10, .*RLHF_PROCESSES to 1\."
    ):
        processes.run(process_phases.introduce, Config(batch_size=9), greeting="")
    assert "Training" not in capfd.readouterr().out


def test_a_component_takes_every_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.wanted() == 4
    monkeypatch.setattr(environment, "PROCESSES", "2")
    assert processes.wanted() == 2
    monkeypatch.setattr(environment, "PROCESSES", "8")
    with pytest.raises(ParameterError, match="RLHF_PROCESSES is 8, but there are 4 GPUs"):
        processes.wanted()


@pytest.mark.parametrize("value", ["0", "many", "-1"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setattr(environment, "PROCESSES", value)
    with pytest.raises(ParameterError, match=f"RLHF_PROCESSES is '{value}'"):
        processes.wanted()


def adapter(folder):
    """Return all weights of a saved adapter in one vector, those that start at 0 alone: what was learnt."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    return torch.cat([weight.flatten() for name, weight in sorted(weights.items()) if "lora_B" in name])


def metrics(folder):
    """Return the metrics of every step, without those of time."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if "second" not in name} for record in records]


def files(folder):
    """Return the files of a run, those of the same kind by the same name."""
    return sorted(
        str(path.relative_to(folder).with_name("events") if "tfevents" in path.name else path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
    )


def learnt(folder, model):
    """Return how far all weights of a saved model are from the base model's, in one vector."""
    from safetensors.torch import load_file

    weights, base = load_file(folder / "model.safetensors"), load_file(model / "model.safetensors")
    shared = sorted(weights.keys() & base.keys())
    assert shared
    return torch.cat([(weights[name] - base[name]).flatten() for name in shared])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "rank"), [("", 8), ("1", 8), ("1", 0)], ids=["whole", "sharded", "sharded-all-weights"]
)
def test_two_processes_under_accelerate_launch_learn_what_one_does(tiny_model, tmp_path, shard, rank):
    """From the same batches: what was learnt within 0.1%, the metrics within 0.1%.

    Means over tokens are rougher: TRL takes the mean of those of its passes, and two processes have half as many of these.
    """
    script = Path(process_phases.__file__)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launched = subprocess.run(
        [*launch, str(script), str(tiny_model), str(tmp_path / "two"), str(rank)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"RLHF_SHARD": shard},
    )
    assert launched.returncode == 0, launched.stderr
    assert ("The model's layers are divided over 2 processes" in launched.stdout) == bool(shard)
    process_phases.train_on_given_answers(tiny_model, tmp_path / "one", rank)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    for place in ("supervised/adapter", "preference/adapter", "reward", "rloo/adapter", "grpo/adapter"):
        if rank:
            one, two = adapter(tmp_path / "one" / place), adapter(tmp_path / "two" / place)
        else:
            saved = place.replace("adapter", "model")
            one, two = learnt(tmp_path / "one" / saved, tiny_model), learnt(tmp_path / "two" / saved, tiny_model)
        assert one.norm() > 0.01
        assert (two - one).norm() < 1e-3 * one.norm(), place
        for alone, together in zip(metrics(tmp_path / "one" / place), metrics(tmp_path / "two" / place), strict=True):
            rough = {"kl", "kl_per_token", "entropy"} & alone.keys()
            if place.startswith("preference") and alone["step"] == 1:
                # Neither answer has gained anything yet, and rounding says which gained more.
                del alone["accuracy"]
            for name, value in alone.items():
                # All weights move little in these steps, and KL is near 0.
                near = 5e-4 if name in rough and not rank else 1e-5
                assert together[name] == pytest.approx(value, rel=0.5 if name in rough else 1e-3, abs=near), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "rank"), [("", 8), ("1", 8), ("1", 0)], ids=["whole", "sharded", "sharded-all-weights"]
)
def test_both_phases_in_two_processes_leave_what_they_leave_in_one(
    tiny_model, tmp_path, monkeypatch, capfd, shard, rank
):
    from transformers import AutoModelForCausalLM

    watch = {"watch_prompts": 8, "watch_interval": 2, "rollout_engine": "lean"}
    said = {}
    monkeypatch.setenv("RLHF_SHARD", shard)
    for name, count in (("one", "1"), ("two", "2")):
        monkeypatch.setattr(environment, "PROCESSES", count)
        process_phases.write_data(tmp_path / name)
        evaluation = process_phases.train_rewards(tiny_model, tmp_path / name, reward_lora_dim=rank, centring_prompts=5)
        final = process_phases.train_policy(tiny_model, tmp_path / name, "rl", lora_dim=rank, **watch)
        assert evaluation == json.loads((tmp_path / name / "reward" / "evaluation.json").read_text())
        # Where the watch returns the start, it measured the reward alone.
        assert final.get("reward_std", 1.0) > 0
        assert [look["n"] for look in json.loads((tmp_path / name / "rl/adapter/watch.json").read_text())["looks"]] == [
            8
        ] * 3
        said[name] = [line.split(":")[0] for line in capfd.readouterr().out.splitlines() if line.startswith("Watch at")]
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert [record.keys() for record in metrics(tmp_path / "two" / "rl/adapter")] == [
        record.keys() for record in metrics(tmp_path / "one" / "rl/adapter")
    ]
    assert said["two"] == said["one"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "rl/model")


@pytest.mark.slow
def test_two_processes_answer_and_evaluate_as_one_does(tiny_model, tmp_path, monkeypatch, capfd):
    process_phases.write_data(tmp_path)
    process_phases.train_rewards(tiny_model, tmp_path, centring_prompts=0)
    process_phases.train_policy(tiny_model, tmp_path, "rl", watch_prompts=0)
    alone = process_phases.evaluate(tiny_model, tmp_path)
    answers = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ("base", "tuned")}
    monkeypatch.setattr(environment, "PROCESSES", "2")
    # The base and the tuned model answer, are compared with each other, and the base carries the reward model.
    for shard, sharded in (("", 0), ("1", 5)):
        capfd.readouterr()
        monkeypatch.setenv("RLHF_SHARD", shard)
        together = process_phases.evaluate(tiny_model, tmp_path)
        said = capfd.readouterr().out
        assert said.count("Working in 2 processes") == 4
        assert said.count("The model's layers are divided over 2 processes") == sharded
        assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in answers} == answers
        assert list((tmp_path / "kept").iterdir()) == []
        for one, two in zip(alone, together, strict=True):
            assert two.tuned.reward == pytest.approx(one.tuned.reward, abs=1e-4)
            assert two.tuned.kl == pytest.approx(one.tuned.kl, abs=1e-4)
            assert (two.base.text, two.tuned.text) == (one.base.text, one.tuned.text)


@pytest.mark.slow
def test_a_phase_that_fails_in_two_processes_says_what_it_says_in_one(tiny_model, tmp_path, two):
    process_phases.write_data(tmp_path)
    with pytest.raises(ModelError, match="holds no reward model"):
        process_phases.train_policy(tiny_model, tmp_path, "rl")
