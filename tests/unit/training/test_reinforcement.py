import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from reward_server import reward_server

from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError, MachineError, ModelError, ParameterError, RunError
from rlhf_tuning.generation import rollout
from rlhf_tuning.models import base_model
from rlhf_tuning.models.reward_model import RewardModel, check_accuracy
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.rewards import Answer
from rlhf_tuning.rewards.reward_model import ModelScorer
from rlhf_tuning.training import reinforcement, reward_model, tuned_model
from rlhf_tuning.training.algorithms import ALGORITHMS, load_algorithm
from rlhf_tuning.training.trainer_settings import check_steps, shared_settings

PROMPTS = [[{"role": "user", "content": f"Create {number}."}] for number in range(12)]


@pytest.fixture(scope="module")
def prompts_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return str(path)


@pytest.fixture(scope="module")
def reward_dirs(tiny_model, tiny_plain_model, tmp_path_factory):
    """Reward models: LoRA on the policy's base, and, hardly trained, all weights and LoRA on another base."""
    folder = tmp_path_factory.mktemp("rewards")
    rows = [
        {"prompt": prompt, "chosen": "salt and gulls " * (1 + index % 3), "rejected": "0 1 2 3 " * (1 + index % 2)}
        for index, prompt in enumerate(PROMPTS)
    ]
    data = folder / "preferences.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    directories = {}
    for name, base, dim, steps in (
        ("shared", tiny_model, 8, 25),
        ("full", tiny_model, 0, 1),
        ("other", tiny_plain_model, 8, 1),
    ):
        config = reward_model.RewardModelConfig(
            large_model_reference=str(base),
            reward_model_train_steps=steps,
            reward_model_max_epochs=0.0,
            reward_model_learning_rate_multiplier=50.0 if dim else 300.0,
            reward_lora_dim=dim,
            batch_size=6,
            prompt_sequence_length=32,
            target_sequence_length=16,
            dtype="float32",
        )
        directories[name] = str(folder / name)
        reward_model.train_reward_model(
            config,
            preferences_path=str(data),
            eval_preferences_path=str(data),
            output_dir=directories[name],
            tensorboard_dir=str(folder / "tensorboard"),
        )
    return directories


def tune(tiny_model, prompts_path, reward_dir, folder, held_out_reward_model_dir="", **settings):
    config = reinforcement.ReinforcementConfig(
        large_model_reference=str(tiny_model),
        **{
            "reinforcement_learning_train_steps": 3,
            "reinforcement_learning_rate_multiplier": 100.0,
            "batch_size": 4,
            "num_generations": 4,
            "lora_dim": 8,
            "prompt_sequence_length": 32,
            "target_sequence_length": 12,
            "kl_coeff": 0.01,
            "dtype": "float32",
            "min_reward_model_accuracy": 0.0,
        }
        | settings,
    )
    final = reinforcement.train_policy(
        config,
        prompts_path=prompts_path,
        reward_model_dir=reward_dir,
        adapter_dir=str(folder / "adapter"),
        model_dir=str(folder / "model"),
        tensorboard_dir=str(folder / "tensorboard"),
        held_out_reward_model_dir=held_out_reward_model_dir,
    )
    lines = (folder / "adapter" / "metrics.jsonl").read_text().splitlines()
    return final, [json.loads(line) for line in lines]


def test_a_disk_without_room_for_the_tuned_model_is_found_out_before_it_is_tuned(
    tiny_model, prompts_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(base_model, "load_causal_lm", pytest.fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    for settings in ({}, {"lora_dim": 0}):
        with pytest.raises(
            MachineError, match=r"^The tuned model needs [\d.]+ MB in .*/model, and its disk has 0\.0 MB left"
        ):
            tune(tiny_model, prompts_path, "no reward model", tmp_path, **settings)


def test_a_reward_model_that_is_not_shown_to_be_better_than_chance_teaches_no_policy(
    tiny_model, prompts_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(base_model, "load_causal_lm", pytest.fail)
    measured = {"n": 20, "accuracy": 0.65, "accuracy_low": 0.42, "accuracy_high": 0.84}
    (tmp_path / "evaluation.json").write_text(json.dumps(measured))
    words = r"on 65.0% \[42.0%, 84.0%\] of 20 held-out preferences, which is not shown to be more than 50%"
    with pytest.raises(ModelError, match=words):
        tune(tiny_model, prompts_path, str(tmp_path), tmp_path, min_reward_model_accuracy=0.5)


def test_of_too_few_held_out_preferences_it_is_only_said(tmp_path, capsys):
    measured = {"n": 19, "accuracy": 0.5, "accuracy_low": 0.3, "accuracy_high": 0.7}
    (tmp_path / "evaluation.json").write_text(json.dumps(measured))
    check_accuracy(str(tmp_path), least=0.5)
    assert "of 19 held-out preferences: too few to tell" in capsys.readouterr().out


def test_fewer_prompts_than_a_batch_are_repeated_until_every_step_is_taken(
    tiny_model, prompts_path, reward_dirs, tmp_path
):
    settings = {"batch_size": 16, "num_generations": 2, "reinforcement_learning_train_steps": 2}
    _, metrics = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert [record["step"] for record in metrics] == [1, 2]


def test_steps_that_were_not_taken_are_an_error():
    check_steps(3, asked=3, label="Training")
    with pytest.raises(RunError, match=r"Training took 0 of the 1,000 steps"):
        check_steps(0, asked=1000, label="Training")


def test_a_score_that_is_not_finite_ends_the_run():
    scorer = ModelScorer(nullcontext)
    scorer.model = SimpleNamespace(score=lambda prompts, answers: [0.5, float("nan"), 1.0])
    with pytest.raises(ModelError, match="gives 1 of 3 answers a score that is not finite"):
        scorer.score([{"prompt": prompt} for prompt in PROMPTS[:3]], [Answer("a", 1, True)] * 3, step=1)


def records(count, **values):
    return [
        {"step": step, "reward_std": 1.0, "frac_reward_zero_std": 0.0, "kl": 1.0} | values
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frac_reward_zero_std": 1.0, "reward_std": 0.0}, "up to step 3, .* everything is scored alike"),
        ({"frac_reward_zero_std": 1.0}, "up to step 3, .* the policy has come to give each prompt one answer"),
        ({"kl": 51.0}, "At step 1 the policy is 51 nats an answer from the base model, more than max_kl 50"),
    ],
)
def test_a_training_that_cannot_come_to_good_is_ended(values, words):
    check = reinforcement._Check(max_kl=50.0)
    for record in records(2) + records(2, frac_reward_zero_std=1.0) + records(9):
        check(record)
    with pytest.raises(ModelError, match=words):
        list(map(check, records(9, **values)))


def test_without_max_kl_a_policy_may_go_anywhere():
    reinforcement._Check(max_kl=0.0)({"step": 1, "frac_reward_zero_std": 0.0, "kl": 1e9})


#: Many answers to few prompts: fewer passes a step.
LONG = {"batch_size": 2, "num_generations": 16, "reinforcement_learning_rate_multiplier": 150.0}


@pytest.fixture(scope="module", params=["rloo", "grpo"])
def long_run(request, tiny_model, prompts_path, reward_dirs, tmp_path_factory):
    """The algorithm of a run of 40 steps, and its metrics."""
    folder = tmp_path_factory.mktemp("long")
    settings = LONG | {"rl_algorithm": request.param, "reinforcement_learning_train_steps": 40}
    return request.param, tune(tiny_model, prompts_path, reward_dirs["shared"], folder, **settings)[1]


def test_reward_rises(long_run):
    _, metrics = long_run
    assert [record["step"] for record in metrics] == list(range(1, 41))
    first, last = (sum(record["reward"] for record in part) / 10 for part in (metrics[:10], metrics[-10:]))
    assert last > first + 0.5 * metrics[0]["reward_std"]
    expected = {"reward", "kl", "entropy", "answer_tokens", "ended", "learning_rate", "tokens_per_second"}
    assert expected | {"grad_norm", "frac_reward_zero_std"} <= set(metrics[0])
    assert metrics[-1]["kl"] > metrics[0]["kl"]


@pytest.mark.parametrize("long_run", ["rloo"], indirect=True)  # `test_objective` has both algorithms
def test_a_larger_kl_coeff_keeps_the_policy_nearer(long_run, tiny_model, prompts_path, reward_dirs, tmp_path):
    algorithm, metrics = long_run
    settings = LONG | {"rl_algorithm": algorithm, "kl_coeff": 3.0, "reinforcement_learning_train_steps": 10}
    final, _ = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert final["kl"] < 0.5 * metrics[9]["kl"]


class ShortRun(NamedTuple):
    """A run of three steps: its folder and metrics, its trainers, what was scored, and what the sampler was given."""

    folder: Path
    metrics: list
    trainers: list
    scored: list
    given: list


@pytest.fixture(scope="module")
def short_run(tiny_model, prompts_path, reward_dirs, tmp_path_factory):
    from transformers import Trainer

    run = ShortRun(tmp_path_factory.mktemp("short"), [], [], [], [])
    train, sample, score = Trainer.train, rollout.sample, RewardModel.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", lambda self: run.trainers.append(self) or train(self))
        patch.setattr(
            rollout,
            "sample",
            lambda model, prompts, **options: run.given.extend(prompts) or sample(model, prompts, **options),
        )
        patch.setattr(
            RewardModel,
            "score",
            lambda self, prompts, answers, **options: (
                run.scored.extend(prompts) or score(self, prompts, answers, **options)
            ),
        )
        run.metrics.extend(tune(tiny_model, prompts_path, reward_dirs["shared"], run.folder)[1])
    return run


def test_the_merged_model_loads_in_plain_transformers_and_is_the_adapter_on_the_base(tiny_model, short_run):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = AutoModelForCausalLM.from_pretrained(short_run.folder / "model")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = str(short_run.folder / "adapter")
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    ids = torch.tensor([AutoTokenizer.from_pretrained(short_run.folder / "model")("The harbour smells")["input_ids"]])
    assert torch.allclose(merged(ids).logits, tuned(ids).logits, atol=1e-5)
    assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-3)
    assert merged.dtype == base.dtype
    assert not (short_run.folder / "adapter" / "reward").exists()


@pytest.fixture
def arguments(tmp_path):
    """TRL's configuration for each algorithm."""
    settings = shared_settings(output_dir=str(tmp_path), steps=1, learning_rate=1e-4, seed=0, compute=torch.float32)
    return {name: load_algorithm(name).build_arguments(kl_coeff=0.3, **settings) for name in ALGORITHMS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_samples_are_drawn_at_the_temperature_alone(arguments, name):
    found = arguments[name]
    assert (found.top_p, found.top_k, found.min_p, found.repetition_penalty) == (1.0, 0, None, 1.0)


def test_every_algorithm_may_be_named():
    assert set(ALGORITHMS) == set(PARAMETERS["rl_algorithm"].choices)


def test_policy_reference_and_reward_model_hold_one_copy_of_the_base(tiny_model, short_run):
    from peft import PeftModel

    (trainer,) = short_run.trainers
    assert isinstance(trainer.model, PeftModel)
    assert trainer.ref_model is None
    assert set(trainer.model.peft_config) == {"default", "reward"}
    own = sum(value.numel() for name, value in trainer.model.named_parameters() if "lora_" not in name)
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    assert own == sum(value.numel() for value in base.parameters())


def test_samples_that_serve_two_steps_are_drawn_for_the_first(tiny_model, prompts_path, reward_dirs, tmp_path):
    settings = {"num_iterations": 2, "target_kl": 1.0, "normalize_advantages": True, "dynamic_sampling": 1}
    _, metrics = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert [record["step"] for record in metrics] == [1, 2, 3]
    assert metrics[0]["reward"] == metrics[1]["reward"] != metrics[2]["reward"]
    assert metrics[0]["kl_coeff"] == metrics[1]["kl_coeff"] != metrics[2]["kl_coeff"]
    assert metrics[0]["clip_ratio"] == 0 < metrics[1]["clip_ratio"]
    assert metrics[0]["sampled_anew"] == 0.0  # no two answers to a prompt score the same here


def test_a_target_for_the_kl_needs_a_coefficient_to_adapt():
    with pytest.raises(ParameterError, match="kl_coeff is 0; with a target_kl it must be greater than 0"):
        reinforcement.ReinforcementConfig(large_model_reference="x", kl_coeff=0.0, target_kl=5.0)


def test_a_policy_that_runs_away_is_seen_where_kl_costs_nothing(tiny_model, prompts_path, reward_dirs, tmp_path):
    settings = {"kl_coeff": 0.0, "max_kl": 1e-3, "reinforcement_learning_rate_multiplier": 100.0}
    with pytest.raises(ModelError, match=r"more than max_kl 0\.001: it has run away"):
        tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)


def test_no_reference_pass_and_no_kl_where_nobody_asks_for_it(tiny_model, prompts_path, reward_dirs, tmp_path):
    settings = {"kl_coeff": 0.0, "max_kl": 0.0, "reinforcement_learning_train_steps": 1}
    _, metrics = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert all("kl" not in record for record in metrics)


def test_where_memory_runs_out_it_learns_the_same_by_half_as_many_rows_at_a_time(
    short_run, tiny_model, prompts_path, reward_dirs, tmp_path, monkeypatch, full_gpu, two_lanes
):
    monkeypatch.setattr(reinforcement, "train_policy", partial(processes.run, reinforcement.train_policy))
    settings = {"reinforcement_learning_train_steps": 2}
    _, metrics = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert full_gpu == [8] * 3 + [4] * 8
    for name in ("reward", "kl", "grad_norm"):
        expected = [record[name] for record in short_run.metrics[:2]]
        assert [record[name] for record in metrics] == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("reward", ["full", "other"])
def test_a_reward_model_that_shares_no_base_works_too(tiny_model, prompts_path, reward_dirs, tmp_path, reward):
    final, _ = tune(tiny_model, prompts_path, reward_dirs[reward], tmp_path)
    assert final["reward_std"] > 0


def test_full_fine_tuning_moves_the_weights(tiny_model, prompts_path, reward_dirs, tmp_path):
    _, metrics = tune(
        tiny_model,
        prompts_path,
        reward_dirs["shared"],
        tmp_path,
        lora_dim=0,
        reinforcement_learning_rate_multiplier=1000.0,
    )
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).state_dict()
    tuned = base_model.load_causal_lm(str(tmp_path / "model"), dtype=torch.float32).state_dict()
    assert any(not torch.equal(base[name], tuned[name]) for name in base)
    assert metrics[-1]["kl"] != 0


def test_the_policy_is_prompted_with_the_tokens_that_the_text_format_makes(tiny_model, short_run):
    text_format = TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=32, target_sequence_length=12)
    assert short_run.given == [text_format.prompt_ids(prompt) for prompt in short_run.scored]
    assert len(short_run.given) == 3 * 16


def test_the_same_seed_gives_the_same_policy(tiny_model, prompts_path, reward_dirs, tmp_path, short_run):
    _, again = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path / "again")
    assert [record["reward"] for record in again] == [record["reward"] for record in short_run.metrics]
    settings = {"seed": 1, "reinforcement_learning_train_steps": 1}
    _, other = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path / "other", **settings)
    assert other[0]["reward"] != again[0]["reward"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("reinforcement_learning_train_steps", 0), ("rl_algorithm", "ppo"), ("kl_coeff", -0.1), ("num_generations", 1)],
)
def test_rejects_settings_beyond_their_limits(name, value):
    with pytest.raises(ParameterError, match=name):
        reinforcement.ReinforcementConfig(large_model_reference="x", **{name: value})


def test_a_warm_start_begins_at_the_adapter_and_measures_kl_to_the_base(
    tiny_model, prompts_path, reward_dirs, short_run, tmp_path, monkeypatch
):
    from peft import PeftModel

    adapter = str(short_run.folder / "adapter")
    sampled = []
    score = reinforcement._RewardFunction.__call__

    def recording(self, row, **columns):
        sampled.extend(zip(columns["prompts"], columns["completion_ids"], strict=True))
        return score(self, row=row, **columns)

    monkeypatch.setattr(reinforcement._RewardFunction, "__call__", recording)
    settings = {"reinforcement_learning_train_steps": 1, "kl_coeff": 0.01}
    _, cold = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path / "cold", **settings)
    assert cold[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    sampled.clear()
    _, warm = tune(
        tiny_model, prompts_path, reward_dirs["shared"], tmp_path / "warm", warm_start_adapter=adapter, **settings
    )
    # The same samples, by hand: log-probability under base and adapter, less that under the base alone.
    model = PeftModel.from_pretrained(base_model.load_causal_lm(str(tiny_model), dtype=torch.float32), adapter).eval()
    estimates = []
    for prompt, answer in sampled:
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            policy = model(ids).logits.log_softmax(-1)
            with model.disable_adapter():
                reference = model(ids).logits.log_softmax(-1)
        places, tokens = torch.arange(len(prompt) - 1, ids.shape[1] - 1), torch.tensor(answer)
        estimates.append(float((policy - reference)[0, places, tokens].sum()))
    assert len(estimates) == 16
    assert warm[0]["kl"] > 0.01
    assert warm[0]["kl"] == pytest.approx(sum(estimates) / len(estimates), rel=1e-3)


MANY = [[{"role": "user", "content": f"Create {number}."}] for number in range(48)]


@pytest.fixture(scope="module")
def many_prompts_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in MANY))
    return str(path)


class FallingReward:
    """A held-out reward model that likes every look less than the one before, and says what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, conversations, answers):
        self.asked.append((list(conversations), list(answers)))
        return [0.01 * index - 10.0 * len(self.asked) for index in range(len(answers))]


@pytest.mark.parametrize("lora_dim", [8, 0])
def test_the_best_checkpoint_by_the_held_out_reward_is_saved_not_the_last(
    tiny_model, many_prompts_path, reward_dirs, tmp_path, monkeypatch, lora_dim
):
    held_out, seen = FallingReward(), []
    reward_for = reinforcement._reward_model_for
    monkeypatch.setattr(
        reinforcement,
        "_reward_model_for",
        lambda policy, config, directory, **name: (
            seen.append(policy)
            or (held_out if directory == "held out" else reward_for(policy, config, directory, **name))
        ),
    )
    multiplier = 100.0 if lora_dim else 1000.0
    final, metrics = tune(
        tiny_model,
        many_prompts_path,
        reward_dirs["shared"],
        tmp_path,
        held_out_reward_model_dir="held out",
        lora_dim=lora_dim,
        reinforcement_learning_rate_multiplier=multiplier,
    )
    watched = json.loads((tmp_path / "adapter" / "watch.json").read_text())
    assert (watched["best_step"], watched["looks"][0]["n"]) == (0, 12)
    assert [look["step"] for look in watched["looks"]] == list(range(watched["last_step"] + 1))
    assert len(metrics) == watched["last_step"]
    # What is told of the policy is what was measured of the checkpoint that is returned, not of those after it.
    assert final == {name: watched["looks"][0][name]["mean"] for name in ("reward", "kl")}
    assert watched["looks"][0]["kl"]["mean"] == pytest.approx(0.0, abs=1e-5)
    assert abs(watched["looks"][-1]["kl"]["mean"]) > 1e-4
    assert held_out.asked[0][0] == held_out.asked[1][0]
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).state_dict()
    tuned = base_model.load_causal_lm(str(tmp_path / "model"), dtype=torch.float32).state_dict()
    assert all(torch.allclose(base[name], tuned[name], atol=1e-6) for name in base)


class WatchedRun(NamedTuple):
    """A run that was watched: its folder, its reward at every step, the prompts that it learnt from."""

    folder: Path
    rewards: list
    learnt: set


@pytest.fixture(scope="module")
def watched_run(tiny_model, many_prompts_path, reward_dirs, tmp_path_factory):
    """A run with a look at every step, by a held-out reward model too."""
    run = WatchedRun(tmp_path_factory.mktemp("watched"), [], set())
    score = reinforcement._RewardFunction.__call__

    def recording(self, row, **columns):
        run.learnt.update(str(self._examples[index]) for index in row)
        return score(self, row=row, **columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcement._RewardFunction, "__call__", recording)
        settings = {"held_out_reward_model_dir": reward_dirs["shared"]}
        _, metrics = tune(tiny_model, many_prompts_path, reward_dirs["shared"], run.folder, **settings)
    run.rewards.extend(record["reward"] for record in metrics)
    return run


def test_the_watch_changes_nothing_of_what_is_learnt_and_its_prompts_are_not_learnt_from(
    tiny_model, many_prompts_path, reward_dirs, tmp_path, capsys, watched_run
):
    capsys.readouterr()
    _, metrics = tune(tiny_model, many_prompts_path, reward_dirs["shared"], tmp_path, watch_interval=100)
    assert [record["reward"] for record in metrics] == watched_run.rewards
    assert len(watched_run.learnt) <= 36
    looks = json.loads((tmp_path / "adapter" / "watch.json").read_text())["looks"]
    assert [(look["step"], look["held_out_reward"]) for look in looks] == [(0, None), (3, None)]
    assert "Watch at step 3 of 3: reward " in capsys.readouterr().out


def test_the_held_out_reward_model_shares_the_base_and_only_the_policy_is_saved(watched_run):
    from safetensors.torch import load_file

    adapter = watched_run.folder / "adapter"
    looks = json.loads((adapter / "watch.json").read_text())["looks"]
    assert [look["step"] for look in looks] == [0, 1, 2, 3]
    for look in looks:
        assert look["held_out_reward"] == look["reward"]
    names = list(load_file(adapter / "adapter_model.safetensors"))
    assert names
    assert not [name for name in names if "reward" in name or "score" in name]
    assert {path.name for path in adapter.iterdir() if path.is_dir()} == set()


def test_without_watch_prompts_there_is_no_watch(tiny_model, many_prompts_path, reward_dirs, tmp_path):
    settings = {"watch_prompts": 0, "reinforcement_learning_train_steps": 1}
    tune(tiny_model, many_prompts_path, reward_dirs["shared"], tmp_path, **settings)
    assert not (tmp_path / "adapter" / "watch.json").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}])
def test_an_adapter_on_embeddings_that_are_the_output_head_too_is_merged_into_them_alone(
    tiny_model, tmp_path, settings
):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False} | settings)
    adapted = get_peft_model(base_model.load_causal_lm(str(tiny_model), dtype=torch.float32), config)
    for name, weight in adapted.named_parameters():
        if "modules_to_save" in name:
            weight.data += 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    again = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    expected = PeftModel.from_pretrained(again, tmp_path / "adapter")(ids).logits
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    tuned_model.merged(base, str(tmp_path / "adapter")).save_pretrained(tmp_path / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.allclose(merged(ids).logits, expected, atol=1e-4)


LISTED = {
    "python": {"code": "def evaluate(example, response):\n    return response['parts'][0]['text'].count('a') / 5"},
    "service": {},
    "string_match": {"expression": "(?i)e", "operation": "regex_contains"},
    "json_schema": {"schema": {"type": "integer"}, "extract": "[0-9]"},
}


def learnt(metrics, *names):
    """Return of some rewards how far they rose, in spreads of the first step."""
    means = [
        [sum(record[f"reward_of_{name}"] for record in part) / 10 for name in names]
        for part in (metrics[:10], metrics[-10:])
    ]
    return [
        (last - first) / metrics[0][f"reward_spread_of_{name}"] for name, first, last in zip(names, *means, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LISTED)
def test_a_policy_learns_each_reward_of_ones_own_without_a_reward_model(kind, tiny_model, prompts_path, tmp_path):
    def vowels(body):
        return {"reward": body["response"]["parts"][0]["text"].count("o") / 5}

    with reward_server(vowels) as server:
        listed = [
            {"kind": kind, "name": "wanted", **LISTED[kind], **({"url": server.url} if kind == "service" else {})}
        ]
        settings = LONG | {"reinforcement_learning_train_steps": 40, "rewards": json.dumps(listed), "kl_coeff": 0.0}
        _, metrics = tune(tiny_model, prompts_path, "", tmp_path, **settings)
    assert learnt(metrics, "wanted") > [0.5]


@pytest.mark.slow
def test_a_policy_learns_length_and_form(tiny_model, prompts_path, tmp_path):
    listed = [
        {"kind": "length", "low": 1, "high": 4, "falloff": 20},
        {"kind": "near_limit", "margin": 20},
        {"kind": "unfinished"},
    ]
    # A tiny model hardly ever ends an answer: all its weights learn, those that make the end likely among them.
    settings = {
        "rewards": json.dumps(listed),
        "lora_dim": 0,
        "reinforcement_learning_rate_multiplier": 10000.0,
        "kl_coeff": 0.0,
        "max_kl": 0.0,
        "batch_size": 2,
        "num_generations": 32,
        "target_sequence_length": 24,
        "reinforcement_learning_train_steps": 40,
    }
    _, metrics = tune(tiny_model, prompts_path, "", tmp_path, **settings)
    assert min(learnt(metrics, "length", "near_limit", "unfinished")) > 0.5


def test_answers_that_no_longer_differ_are_no_failure_where_a_reward_can_be_had_in_full(capsys):
    check = reinforcement._Check(max_kl=0.0, may_be_solved=True)
    for record in records(2) + records(9, frac_reward_zero_std=1.0, reward_std=0.0):
        check(record)
    assert capsys.readouterr().out.count("have nothing more to teach") == 1
    with pytest.raises(ModelError, match="everything is scored alike"):
        list(
            map(
                reinforcement._Check(max_kl=0.0, may_be_solved=True),
                records(3, frac_reward_zero_std=1.0, reward_std=1e-8),
            )
        )


def test_a_reward_model_with_another_reward_beside_it_is_one_of_the_parts(
    tiny_model, prompts_path, reward_dirs, tmp_path
):
    listed = [{"kind": "reward_model", "weight": 0.5}, {"kind": "unfinished", "weight": 2}]
    final, metrics = tune(tiny_model, prompts_path, reward_dirs["shared"], tmp_path, rewards=json.dumps(listed))
    for record in metrics:
        parts = 0.5 * record["reward_of_reward_model"] + 2 * record["reward_of_unfinished"]
        assert record["reward"] == pytest.approx(parts, abs=1e-5)
        assert record["reward_of_unfinished"] == pytest.approx(record["ended"] - 1, abs=1e-5)
    assert "reward_spread_of_reward_model" in final


def test_a_row_that_lacks_references_ends_the_run_before_a_model_is_loaded(
    tiny_model, prompts_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(base_model, "load_causal_lm", pytest.fail)
    listed = [{"kind": "string_match", "expression": "{{references.answer}}"}]
    with pytest.raises(DataError, match=r"references\.answer, which prompt 1 of 12 does not have"):
        tune(tiny_model, prompts_path, "", tmp_path, rewards=json.dumps(listed))
