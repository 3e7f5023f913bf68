import json
import random

import pytest

from rlhf_tuning.training.over_optimisation import Look, OverOptimisationWatch, look_steps, set_aside

N = 64


def watched(rewards, held_out, *, spread=1.0, seed=0):
    """Return a watch that has looked at steps 0, 10, 20, ...; a prompt's luck is half its own and half the look's."""
    draw = random.Random(seed)
    own = [draw.gauss(0, 0.7 * spread) for _ in range(N)]
    watch = OverOptimisationWatch(planned_looks=len(rewards) - 1)
    for index, reward in enumerate(rewards):
        values = [
            None if mean is None else [mean + mine + draw.gauss(0, 0.7 * spread) for mine in own]
            for mean in (reward, held_out[index])
        ]
        watch.add(Look(step=10 * index, reward=values[0], held_out_reward=values[1], kl=[0.1 * index] * N))
        if watch.over_optimised:
            break
    return watch


def test_a_run_whose_held_out_reward_falls_while_the_optimised_one_climbs_is_stopped_and_its_best_is_returned():
    outcome = watched([0, 1, 2, 3, 4, 5], [0, 1, 2, 1.8, 0.5, -1]).outcome()
    assert (outcome.stopped, outcome.best_step, outcome.last_step) == (True, 20, 40)
    assert outcome.reason.startswith("Stopped at step 40: since step 20 the optimised reward climbed by ")
    assert "n = 64" in outcome.reason


def test_a_run_in_which_both_rise_is_not_stopped_and_its_last_is_returned():
    outcome = watched([0, 1, 2, 3, 4, 5], [0, 0.5, 1, 1.5, 2, 2.5]).outcome()
    assert (outcome.stopped, outcome.best_step, outcome.last_step) == (False, 50, 50)


def test_a_run_that_only_gets_worse_is_not_called_over_optimised_but_its_best_is_returned():
    outcome = watched([5, 4, 3, 2, 1, 0], [0, 1, 2, 1, 0, -1]).outcome()
    assert (outcome.stopped, outcome.best_step, outcome.last_step) == (False, 20, 50)
    assert "had fallen beyond noise" in outcome.reason


def test_a_fall_at_the_end_that_is_too_small_to_stop_the_run_still_returns_the_best():
    for seed in range(20):
        outcome = watched([0, 1, 2, 3, 4, 5], [0, 0.5, 1, 1, 1, 0.55], seed=seed).outcome()
        if "Over-optimised" not in outcome.reason:
            assert outcome.best_step in (20, 30, 40)
            assert "not so that the run had to be stopped" in outcome.reason
            break
    else:
        pytest.fail("every run was stopped")


def test_what_is_found_at_the_last_look_stops_nothing_but_returns_the_best():
    outcome = watched([0, 1, 2, 3], [0, 1, 2, 0]).outcome()
    assert (outcome.stopped, outcome.best_step, outcome.last_step) == (False, 20, 30)
    assert outcome.reason.startswith("Over-optimised at step 30")


def test_a_last_look_within_noise_of_the_best_is_returned():
    watch = OverOptimisationWatch(planned_looks=1)
    noise = [(-1.0) ** index for index in range(N)]
    watch.add(Look(step=0, reward=[0.0] * N, held_out_reward=[0.0] * N))
    watch.add(Look(step=5, reward=[1.0] * N, held_out_reward=[value - 0.05 for value in noise]))
    assert watch.outcome().best_step == 5
    assert "within one standard error" in watch.outcome().reason


def test_without_a_held_out_reward_nothing_is_stopped_and_the_last_is_returned():
    watch = watched([0, 1, 2, 3], [None] * 4)
    outcome = watch.outcome()
    assert (outcome.stopped, outcome.best_step) == (False, 30)
    assert "no held-out reward model looked on" in outcome.reason  # an untrusted one does not either
    assert watch.as_json()["looks"][0]["held_out_reward"] is None


def test_a_run_that_does_not_get_worse_is_hardly_ever_stopped():
    runs = 400
    stops = sum(watched(range(11), [0] * 11, seed=seed).over_optimised for seed in range(runs))
    assert stops / runs <= 0.03


def test_what_is_written_is_json_that_the_report_reads():
    written = json.loads(json.dumps(watched([0, 1, 2], [0, 1, 2]).as_json()))
    assert set(written) == {"looks", "best_step", "last_step", "stopped", "reason"}
    look = written["looks"][1]
    assert (look["step"], look["n"]) == (10, N)
    for name in ("reward", "held_out_reward", "kl"):
        assert look[name]["low"] <= look[name]["mean"] <= look[name]["high"]


def test_looks_are_at_the_first_and_the_last_step_and_about_ten_between():
    assert look_steps(1000, 0) == list(range(0, 1001, 100))
    assert look_steps(16, 0) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert look_steps(3, 0) == [0, 1, 2, 3]
    assert look_steps(10, 4) == [0, 4, 8, 10]
    assert look_steps(5, 100) == [0, 5]


def prompts(count):
    return [{"prompt": [{"role": "user", "content": f"Create {number}."}]} for number in range(count)]


def test_prompts_that_are_watched_are_not_learnt_from_even_where_they_stand_twice():
    learnt, aside = set_aside(prompts(400) + prompts(400), watch_prompts=64, seed=0)
    assert len(aside) == 64
    assert len(learnt) == 2 * 336
    assert not [row for row in learnt if row in aside]
    assert aside == set_aside(prompts(400) + prompts(400), watch_prompts=64, seed=0)[1]


def test_with_few_prompts_fewer_are_watched_and_it_is_said(capsys):
    learnt, aside = set_aside(prompts(100), watch_prompts=64, seed=0)
    assert (len(learnt), len(aside)) == (75, 25)
    assert "takes 25 of 100 prompts, not 64" in capsys.readouterr().out


def test_with_very_few_prompts_there_is_no_watch_and_it_is_said(capsys):
    assert set_aside(prompts(12), watch_prompts=64, seed=0) == (prompts(12), [])
    assert "No watch" in capsys.readouterr().out


def test_no_watch_is_asked_for_by_0_prompts(capsys):
    assert set_aside(prompts(400), watch_prompts=0, seed=0) == (prompts(400), [])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("loophole", [True, False])
def test_a_planted_loophole_is_caught_and_a_healthy_run_is_not_stopped(tiny_model, tmp_path, loophole):
    from benchmarks.over_optimisation import real_run

    found = real_run(str(tiny_model), tmp_path, seed=0, loophole=loophole)
    assert found["stopped"] is loophole, found["reason"]
    if loophole:
        assert found["best_step"] < found["last_step"] < 40
        assert found["returned"] > found["last"]
    else:
        assert found["last_step"] == 40
        assert found["returned"] > found["base"]
