import json
from functools import cache, partial

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from rlhf_tuning.models import base_model
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.rewards import load_rewards
from rlhf_tuning.training import on_policy, reinforcement
from rlhf_tuning.training.algorithms import ALGORITHMS, load_algorithm
from rlhf_tuning.training.trainer_settings import one_device, shared_settings

#: Prompts of unequal length, and three answers of unequal length to each.
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15, 16], [17, 18, 19, 20]]
ANSWERS = [[[30 + (7 * p + 3 * a + t) % 200 for t in range(1 + (p + 2 * a) % 6)] for a in range(3)] for p in range(4)]


class Gradients(TrainerCallback):
    """Keeps the gradients of every step."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def ours_of(algorithm, kl_coeff=0.3, dynamic_sampling=0, **shaping):
    return on_policy.on_policy(
        algorithm,
        shaping=on_policy.Shaping(kl_coeff=kl_coeff, **shaping),
        compute=torch.float32,
        dynamic_sampling=dynamic_sampling,
    )


def stock_of(algorithm, kl_coeff):
    return algorithm.trainer_class()


def reward(completion_ids, **columns):
    return [float(sum(ids) % 7) for ids in completion_ids]


def steps_of(
    wrap, name, tiny_model, folder, *, lora=True, kl_coeff=0.3, rewarded=reward, steps=1, asked=PROMPTS, **settings
):
    """Take steps on the same rollouts, and return the gradients of each and their metrics."""
    torch.manual_seed(0)
    algorithm = load_algorithm(name)
    shared = shared_settings(output_dir=str(folder), steps=steps, learning_rate=1e-2, seed=0, compute=torch.float32)
    arguments = algorithm.build_arguments(
        kl_coeff=kl_coeff,
        **shared | {"max_grad_norm": 0.0, "shuffle_dataset": False},
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        num_generations=3,
        max_completion_length=8,
        temperature=0.7,
        **settings,
    )
    gradients = Gradients()
    trainer_class = wrap(algorithm, kl_coeff)

    class GivenAnswers(trainer_class):
        def _tokenize_prompts(self, prompts):
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids, *rest):
            answers = [ANSWERS[PROMPTS.index(prompt)][row % 3] for row, prompt in enumerate(prompt_ids)]
            return answers if name == "rloo" else (answers, None)

    trainer = GivenAnswers(
        model=base_model.load_causal_lm(str(tiny_model), dtype=torch.float32),
        args=one_device(arguments),
        reward_funcs=rewarded,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in asked]),
        processing_class=load_tokenizer(str(tiny_model)),
        callbacks=[gradients],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if lora else None,
    )
    # A policy that has moved away from the reference.
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    if isinstance(rewarded, LessKl):
        rewarded.policy = trainer.model
    trainer.train()
    return gradients.found, trainer.state.log_history


class LessKl:
    """The reward less 0.3 for each nat of KL, by hand: what TRL's GRPO, which takes no KL off rewards, is to be given."""

    __name__ = "less_kl"

    def __init__(self, tiny_model):
        self.reference = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)

    @torch.no_grad()
    def __call__(self, completion_ids, prompts, **columns):
        kls = []
        for prompt, answer in zip(prompts, completion_ids, strict=True):
            ids = torch.tensor([[*prompt, *answer]])
            places, tokens = torch.arange(len(prompt) - 1, ids.shape[1] - 1), torch.tensor(answer)
            policy, reference = (
                (model(input_ids=ids).logits / 0.7).log_softmax(-1)[0, places, tokens].sum()
                for model in (self.policy, self.reference)
            )
            kls.append(float(policy - reference))
        return [score - 0.3 * kl for score, kl in zip(reward(completion_ids), kls, strict=True)]


def assert_alike(ours, stock, rtol=1e-4):
    assert set(ours) == set(stock)
    largest = max(float(gradient.abs().max()) for gradient in stock.values())
    assert largest > 0.01
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=rtol, atol=0.1 * rtol * largest), parameter


@pytest.fixture(scope="module")
def trl_step(tiny_model, tmp_path_factory):
    """The gradient and metrics of one step of TRL's own trainers, computed once for each of their settings."""

    @cache
    def step(name, lora=True, kl_coeff=0.3):
        settings = {"lora": lora, "kl_coeff": kl_coeff}
        if name == "grpo" and kl_coeff:
            settings |= {"kl_coeff": 0.0, "rewarded": LessKl(tiny_model)}
        [gradient], [log, *_] = steps_of(stock_of, name, tiny_model, tmp_path_factory.mktemp("trl"), **settings)
        return gradient, log

    return step


@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_and_the_metrics_are_those_of_trl(name, lora, kl_coeff, tiny_model, tmp_path, trl_step):
    stock, stock_log = trl_step(name, lora, kl_coeff)
    [ours], [log, *_] = steps_of(ours_of, name, tiny_model, tmp_path, lora=lora, kl_coeff=kl_coeff)
    assert_alike(ours, stock)
    metrics = ["entropy", "completions/mean_length", "completions/clipped_ratio"]
    if name == "rloo" or not kl_coeff:  # the other has the KL among its rewards
        metrics += ["reward", "reward_std", "frac_reward_zero_std", "kl"]
    for metric in metrics:
        assert (metric in log) == (metric in stock_log)
        if metric in log:
            assert log[metric] == pytest.approx(stock_log[metric], rel=1e-4, abs=1e-6), metric


@pytest.mark.parametrize(
    ("name", "kl_coeff", "shaping", "settings"),
    [
        ("grpo", 0.0, {}, {"num_iterations": 2}),
        (
            "rloo",
            0.3,
            {"normalize_advantages": True, "reward_clip_range": 2.5},
            {"num_iterations": 2, "normalize_advantages": True, "reward_clip_range": (-2.5, 2.5)},
        ),
    ],
    ids=["grpo", "rloo"],
)
def test_two_updates_of_a_batch_and_shaped_rewards_are_those_of_trl(
    name, kl_coeff, shaping, settings, tiny_model, tmp_path
):
    stock, stock_log = steps_of(stock_of, name, tiny_model, tmp_path, kl_coeff=kl_coeff, steps=3, **settings)
    iterations = {"num_iterations": settings["num_iterations"]}
    wrap = partial(ours_of, **shaping)
    ours, log = steps_of(wrap, name, tiny_model, tmp_path, kl_coeff=kl_coeff, steps=3, **iterations)
    for step in range(3):
        assert_alike(ours[step], stock[step], rtol=1e-3)
    # Only the second step learns from samples of a policy that it is no more.
    clipped = [record["clip_ratio/region_mean"] for record in log[:3]]
    assert clipped == pytest.approx([record["clip_ratio/region_mean"] for record in stock_log[:3]])
    assert clipped[0] == clipped[2] == 0 < clipped[1]
    assert ["reward" in record for record in log[:3]] == [True, False, True]


def test_scores_are_clipped_and_answers_that_were_cut_off_cost_something():
    scores, ended = torch.tensor([-3.0, 0.5, 3.0, 3.0]), torch.tensor([True, True, True, False])
    plain = on_policy.Shaping(kl_coeff=0.1)
    assert plain.rewards(scores, ended).tolist() == scores.tolist()
    shaping = on_policy.Shaping(kl_coeff=0.1, reward_clip_range=2.0, missing_eos_penalty=1.5)
    assert shaping.rewards(scores, ended).tolist() == [-2.0, 0.5, 2.0, 0.5]


def test_the_coefficient_follows_the_kl_to_its_target():
    shaping = on_policy.Shaping(kl_coeff=0.1, target_kl=10.0)
    assert shaping.adapted(0.1, 10.0) == 0.1
    assert shaping.adapted(0.1, 11.0) == pytest.approx(0.101)
    assert shaping.adapted(0.1, 1000.0) == pytest.approx(0.102)
    assert shaping.adapted(0.1, 0.0) == pytest.approx(0.098)
    assert on_policy.Shaping(kl_coeff=0.1).adapted(0.1, 1000.0) == 0.1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_coefficient_adapts_and_an_answer_without_an_end_is_rewarded_less(name, tiny_model, tmp_path):
    wrap = partial(ours_of, target_kl=100.0)
    _, log = steps_of(wrap, name, tiny_model, tmp_path / "kl", steps=2)
    assert [record["kl_coeff"] for record in log[:2]] == pytest.approx([0.3, 0.3 * 0.98])
    # None of these answers ends by itself, so a penalty changes no advantage; of one that does it would.
    [plain], _ = steps_of(ours_of, name, tiny_model, tmp_path / "plain")
    [alike], _ = steps_of(partial(ours_of, missing_eos_penalty=5.0), name, tiny_model, tmp_path / "penalty")
    assert_alike(alike, plain)


def last_prompt_s(completion_ids, prompts, **columns):
    """Score all answers to a prompt alike, but to the last one, which is neither the longest nor the shortest."""
    scores = reward(completion_ids)
    return [score if prompt == PROMPTS[-1] else 1.0 for score, prompt in zip(scores, prompts, strict=True)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_prompts_that_teach_nothing_are_replaced_until_there_are_none(name, tiny_model, tmp_path):
    [plain], [log, *_] = steps_of(ours_of, name, tiny_model, tmp_path / "plain", rewarded=last_prompt_s)
    assert log["frac_reward_zero_std"] == 0.75
    wrap = partial(ours_of, dynamic_sampling=20)
    [ours], [found, *_] = steps_of(wrap, name, tiny_model, tmp_path / "ours", rewarded=last_prompt_s)
    assert found["frac_reward_zero_std"] == 0
    assert found["sampled_anew"] > 0.75
    # What else is logged is of the prompts whose turn it was.
    for metric in ("reward", "reward_std", "completions/mean_length"):
        assert found[metric] == pytest.approx(log[metric])
    alone = steps_of(
        ours_of, name, tiny_model, tmp_path / "alone", rewarded=last_prompt_s, asked=[PROMPTS[-1]] * len(PROMPTS)
    )
    assert_alike(ours, alone[0][0])
    with pytest.raises(AssertionError):
        assert_alike(ours, plain)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_is_the_same_in_two_lanes(name, tiny_model, tmp_path, two_lanes, trl_step):
    stock, stock_log = trl_step(name)
    assert not two_lanes
    [ours], [log, *_] = steps_of(ours_of, name, tiny_model, tmp_path)
    # Of each of two batches forwards and backwards, and the reference, each in two lanes; and whether sampling works.
    assert len(two_lanes) == 14
    assert len(set(two_lanes)) == 2
    assert log["entropy"] == pytest.approx(stock_log["entropy"], rel=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in stock.values())
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=1e-4, atol=1e-5 * largest), parameter


def test_a_model_whose_answers_cannot_share_a_prompt_is_trained_as_trl_does(
    tiny_model, tmp_path, monkeypatch, capsys, trl_step
):
    stock, _ = trl_step("rloo")
    monkeypatch.setattr(on_policy.packing, "attends_alone", lambda trunk: False)
    [ours], _ = steps_of(ours_of, "rloo", tiny_model, tmp_path)
    assert "each is computed with a prompt of its own" in capsys.readouterr().out
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=1e-4, atol=1e-6)


class OfThis:
    """A reward of this project, as TRL calls it in these tests, whose prompts are tokens."""

    def __init__(self, part):
        self.__name__ = part.name
        self._function = reinforcement._RewardFunction(part, [{"prompt": PROMPT} for PROMPT in WORDS])
        self._function.ends = frozenset()

    def __call__(self, prompts, **columns):
        return self._function(row=[PROMPTS.index(prompt) for prompt in prompts], **columns)


WORDS = [[{"role": "user", "content": f"{prompt}"}] for prompt in PROMPTS]


def evenness(completions, **columns):
    return [len(text) % 5 / 5 for text in completions]


def in_band(completion_ids, **columns):
    return [max(0.0, 1 - max(2 - len(ids), len(ids) - 3, 0) / 2) for ids in completion_ids]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rewards_of_ones_own_give_the_gradient_and_the_metrics_of_trls_reward_funcs(name, tiny_model, tmp_path):
    code = "def evaluate(example, response):\n    return len(response['parts'][0]['text']) % 5 / 5"
    listed = [
        {"kind": "python", "name": "evenness", "code": code, "weight": 0.5},
        {"kind": "length", "name": "in_band", "low": 2, "high": 3, "falloff": 1, "weight": 2},
    ]
    rewards = load_rewards(json.dumps(listed), most_tokens=8)
    settings = {"kl_coeff": 0.0, "reward_weights": [0.5, 2.0]}
    ours, theirs = (
        steps_of(wrap, name, tiny_model, tmp_path / wrap.__name__, rewarded=rewarded, **settings)
        for wrap, rewarded in ((ours_of, [OfThis(part) for part in rewards.parts]), (stock_of, [evenness, in_band]))
    )
    rewards.close()
    assert_alike(ours[0][0], theirs[0][0])
    for metric in (
        "reward",
        "reward_std",
        *(f"rewards/{one}/{of}" for one in ("evenness", "in_band") for of in ("mean", "std")),
    ):
        assert ours[1][0][metric] == pytest.approx(theirs[1][0][metric], abs=1e-6)
    assert ours[1][0]["rewards/evenness/std"] > 0.1
