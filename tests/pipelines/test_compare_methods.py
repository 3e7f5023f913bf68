"""A comparison of methods with a tiny real model, from data to page."""

import json

import pytest
from html_page import Page
from tests.pipelines.test_rlhf_pipeline import job, rlhf  # noqa: F401  a fixture

pytestmark = pytest.mark.slow


def test_methods_are_trained_answer_the_same_prompts_and_are_judged_and_nothing_is_done_twice(job):  # noqa: F811
    values = json.loads((job / "values.json").read_text())
    values |= {"train_steps": 20, "learning_rate_multiplier": 50.0, "reinforcement_learning_train_steps": 10}
    (job / "compared.json").write_text(json.dumps(values))
    command = ("compare-methods", "--parameter-values", "compared.json", "--best-of", 4)
    rlhf(*command, "--methods", "supervised", cwd=job)
    first = json.loads((job / "methods.json").read_text())
    assert list(first["methods"]) == ["base", "supervised"]
    _, output = rlhf(*command, "--price-per-hour", 2, cwd=job)
    assert "Supervised tuning, seed 0: trained before" in output
    assert "Does reinforcement learning pay here?" in output
    assert "FutureWarning" not in output
    found = json.loads((job / "methods.json").read_text())
    methods = found["methods"]
    assert list(methods) == ["base", "supervised", "dpo", "rlhf", "best_of_n"]
    assert methods["dpo"]["steps"] > 1
    assert methods["dpo"]["kl"]["mean"] > 0
    assert [judge["measure"] for judge in found["judges"]] == ["held_out_reward", "reward"]
    # What was answered before is the same.
    assert methods["supervised"]["tokens"] == first["methods"]["supervised"]["tokens"]
    assert methods["supervised"]["training_seconds"] == first["methods"]["supervised"]["training_seconds"]
    assert methods["rlhf"]["training_seconds"]["0"] > methods["best_of_n"]["training_seconds"]["0"] > 0
    assert methods["supervised"]["kl"]["mean"] > 0
    assert methods["best_of_n"]["reward"]["mean"] > methods["base"]["reward"]["mean"]
    assert all(duel["win_rate"]["n"] == 100 for judge in found["judges"] for duel in judge["duels"])
    page = Page((job / "methods.html").read_text())
    assert page.count("table", "heat") == 2
    assert (job / "methods.md").read_text() in output
    answers = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted((job / "runs" / "comparison" / "answers").glob("*-seed-0-*.jsonl"))
    ]
    assert len(answers) == 5
    assert len({json.dumps([row["prompt"] for row in rows]) for rows in answers}) == 1
    _, output = rlhf(*command, "--price-per-hour", 2, cwd=job)
    assert ": started" not in output
    assert "answer 0/100" not in output.replace("scoring answers", "")
    name = next(iter((job / "runs" / "comparison" / "registry").glob("rlhf-*"))).name
    place = ("--registry-dir", job / "runs" / "comparison" / "registry")
    _, output = rlhf("predict", "--model", f"{name}@1", *place, "--prompt", "Create 1.", cwd=job)
    assert output.strip()
