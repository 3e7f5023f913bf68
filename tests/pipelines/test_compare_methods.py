"""A comparison of methods with a tiny real model, from data to page."""

import json

import pytest
from html_page import Page
from tests.pipelines.test_rlhf_pipeline import job, rlhf  # noqa: F401  a fixture

from rlhf_pipelines.parameters import PIPELINES

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


def test_the_same_is_one_run_of_a_pipeline_for_clusters(job):  # noqa: F811
    values = json.loads((job / "values.json").read_text())
    values |= {
        "supervised_train_steps": 15,
        "supervised_learning_rate_multiplier": 20.0,
        "learning_rate_multiplier": 50.0,
        "adapter_size": 8,
        "reinforcement_learning_train_steps": 5,
        "reward_model_train_steps": 15,
        "watch_prompts": 0,
        "best_of": 3,
        "scorer": "house_style",
    }
    taken = {parameter.name for parameter in PIPELINES["method_comparison_pipeline"]}
    (job / "methods-values.json").write_text(json.dumps({k: v for k, v in values.items() if k in taken}))
    _, output = rlhf(
        *("run", "--pipeline", "method_comparison_pipeline", "--parameter-values", "methods-values.json"),
        *("--pipeline-root", "cluster"),
        cwd=job,
    )
    (run,) = (job / "cluster").glob("method-comparison-pipeline-*")
    found = json.loads((run / "compare-methods" / "results").read_text())
    methods = found["methods"]
    assert [each["label"] for each in methods.values()] == [
        *("the base model", "supervised tuning", "DPO", "RLHF", "best of 3"),
    ]
    assert (found["seeds"], found["prompts"]) == ([0], 100)
    assert [judge["measure"] for judge in found["judges"]] == ["true_score", "held_out_reward", "reward"]
    assert {duel["win_rate"]["n"] for judge in found["judges"] for duel in judge["duels"]} == {100}
    assert (methods["supervised"]["steps"], methods["rlhf"]["steps"]) == (15, 5)
    assert methods["dpo"]["steps"] > 1
    assert methods["rlhf"]["training_seconds"]["0"] > methods["best_of_n"]["training_seconds"]["0"] > 0
    assert methods["best_of_n"]["reward"]["mean"] > methods["base"]["reward"]["mean"]
    assert all(methods[name]["kl"]["mean"] > 0 for name in ("supervised", "dpo", "rlhf"))
    assert found["advice"] in output
    assert Page((job / "cluster" / "methods.html").read_text()).count("table", "heat") == 3

    def asked(file):
        return {json.dumps(json.loads(line)["prompt"]) for line in file.read_text().splitlines()}

    divided = run / "divide-method-data"
    judged_by = (
        asked(divided / "evaluation_prompts") | asked(divided / "judge_preferences") | asked(divided / "choices")
    )
    for learnt in ("demonstrations", "preferences", "eval_preferences"):
        assert asked(divided / learnt)
        assert not asked(divided / learnt) & judged_by
