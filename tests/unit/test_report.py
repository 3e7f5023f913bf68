import base64
import hashlib
import json
import math
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_tuning.comparison import AnswerPair, ScoredAnswer
from rlhf_tuning.report import DataSource, Proportion, RewardModelPart, RunReport, render_report, write_report

PLACES = ["Plantation Palms", "Gulf Shores", "Harbour House", "The Old Mill", "Cedar Ridge", "Villa Azul", "Fern Hollow"]
VOID = {"meta", "br", "input", "link", "img"}


def fake_pairs(n: int, gain: float = 0.35, seed: int = 0) -> list[AnswerPair]:
    """Answers with scores such as a run leaves: the tuned model shorter, better by `gain` on average, sometimes tied."""
    rng = random.Random(seed)
    pairs = []
    for index in range(n):
        place = PLACES[index % len(PLACES)]
        base_score, tuned_score = rng.gauss(0.42, 0.2), rng.gauss(0.42 + gain, 0.18)
        base = ScoredAnswer(
            text=f"Welcome to {place}, the ultimate destination for an unforgettable getaway! Nestled in the heart of "
            "paradise, our stunning resort offers world-class amenities that will take your breath away. Whether you "
            "are looking for adventure or relaxation, you will find it here, and",
            tokens=rng.randint(44, 64),
            ended=rng.random() < 0.2,
            reward=rng.gauss(0, 1),
            true_score=round(base_score, 1),
        )
        tuned = ScoredAnswer(
            text=f"{place} wakes to the smell of salt and warm pine. Mornings begin on the porch, with coffee and gulls.",
            tokens=max(3, round(rng.gauss(30, 7))),
            ended=rng.random() < 0.93,
            reward=rng.gauss(3.5 * gain, 0.8),
            true_score=round(tuned_score, 1),
            kl=max(0.0, rng.gauss(6, 2)),
        )
        question = f"Create a description for {place}, number {index + 1}."
        pairs.append(AnswerPair(prompt=[{"role": "user", "content": question}], base=base, tuned=tuned))
    return pairs


def fake_reinforcement(steps: int = 90) -> list[dict[str, float]]:
    rng = random.Random(3)
    return [
        {
            "step": step,
            "reward": 1.6 * (1 - math.exp(-step / 30)) + rng.gauss(0, 0.18),
            "kl": 6 * (1 - math.exp(-step / 35)) * (1 + rng.gauss(0, 0.12)),
            "entropy": 2.4 - 1.1 * (1 - math.exp(-step / 40)) + rng.gauss(0, 0.06),
            "answer_tokens": 58 - 26 * (1 - math.exp(-step / 30)) + rng.gauss(0, 2),
            "ended": min(1.0, max(0.0, 0.15 + 0.8 * (1 - math.exp(-step / 28)) + rng.gauss(0, 0.06))),
            "learning_rate": 1e-4 * (1 - step / (steps + 1)),
        }
        for step in range(1, steps + 1)
    ]


def fake_reward_history(steps: int = 120) -> list[dict[str, float]]:
    rng = random.Random(4)
    return [
        {
            "step": step,
            "loss": 0.32 + 0.37 * math.exp(-step / 30) + rng.gauss(0, 0.04),
            "accuracy": min(1.0, 0.88 - 0.38 * math.exp(-step / 25) + rng.gauss(0, 0.05)),
        }
        for step in range(1, steps + 1)
    ]


def realistic_report(n: int = 200, gain: float = 0.35) -> RunReport:
    return RunReport(
        title="palms-style",
        created="2 March 2026, 14:05",
        base_model="SmolLM2-135M-Instruct",
        tuned_model="models/palms-style@3",
        pairs=fake_pairs(n, gain),
        scorer_name="house style",
        reward_model=RewardModelPart(
            history=fake_reward_history(),
            accuracy=Proportion(share=0.865, n=200),
            shorter_preferred=Proportion(share=0.9, n=150),
            longer_wins=Proportion(share=0.25, n=200),
        ),
        reinforcement=fake_reinforcement(),
        data=[
            DataSource(name="Preferences", rows=1200, fingerprint="sha256:" + "4f" * 32, path="data/preferences.jsonl"),
            DataSource(name="Prompts", rows=600, fingerprint="sha256:" + "9c" * 32, path="data/prompts.jsonl"),
            DataSource(name="Evaluation prompts", rows=200, fingerprint="sha256:" + "07" * 32),
        ],
        parameters={
            "large_model_reference": "smollm2-135m-instruct",
            "kl_coeff": 0.05,
            "reinforcement_learning_train_steps": 90,
            "reward_model_train_steps": 120,
            "rl_algorithm": "rloo",
            "lora_dim": 16,
            "batch_size": 16,
            "instruction": "",
            "deploy_model": False,
        },
        versions={"rlhf-pipelines": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        seed=0,
        files={"Merged model": "runs/palms-style/model", "Predictions": "runs/palms-style/predictions.jsonl"},
        command='rlhf predict --model palms-style@3 --prompt "Create a description for Fern Hollow."',
    )
