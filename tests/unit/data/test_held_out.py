import functools
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.unit.data.reading import read_rows

from rlhf_tuning.data.batch import Hashes
from rlhf_tuning.data.held_out import HeldOut, held_out_orders, set_aside


@functools.lru_cache(maxsize=4)
def orders(prompts: tuple[str, ...], seed: int = 0) -> Hashes:
    batches = read_rows({"input_text": prompt} for prompt in prompts)
    return np.concatenate([held_out_orders(batch, seed) for batch in batches] or [np.empty(0, np.uint64)])


def watch(prompts: Sequence[str], *, limit: int, seed: int = 0) -> HeldOut:
    held_out = HeldOut(limit=limit)
    rows = orders(tuple(prompts), seed)
    for start in range(0, len(rows), 7):
        held_out.add(rows[start : start + 7])
    return held_out


def chosen_rows(prompts: Sequence[str], chosen: Hashes, seed: int = 0) -> set[int]:
    return set(np.flatnonzero(np.isin(orders(tuple(prompts), seed), chosen)).tolist())


def distinct(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (19, 1), (20, 2), (199, 19), (200, 20), (1000, 20)])
def test_holds_out_a_tenth_of_the_prompts_up_to_the_limit(count: int, expected: int) -> None:
    chosen = watch(distinct(count), limit=20).prompts()
    assert len(chosen) == expected
    assert len(chosen_rows(distinct(count), chosen)) == expected
    assert chosen.tolist() == sorted(chosen.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_depends_on_content_and_seed_never_on_order(seed: int) -> None:
    prompts = distinct(300) * 2
    shuffled = random.Random(seed).sample(prompts, len(prompts))

    def chosen(order: list[str], salt: int) -> set[str]:
        return {order[row] for row in chosen_rows(order, watch(order, limit=7, seed=salt).prompts(), salt)}

    assert len(chosen(prompts, seed)) == 7
    assert chosen(prompts, seed) == chosen(shuffled, seed)
    assert chosen(prompts, seed) != chosen(prompts, seed + 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_copy_of_a_held_out_prompt_is_held_out(seed: int) -> None:
    prompts = random.Random(seed).choices(distinct(400), k=1000)
    rows = chosen_rows(prompts, watch(prompts, limit=5, seed=seed).prompts(), seed)
    chosen = {prompts[row] for row in rows}
    assert len(chosen) == 5
    assert rows == {row for row, prompt in enumerate(prompts) if prompt in chosen}


@pytest.mark.parametrize("seed", range(20))
def test_groups_hold_out_at_most_a_tenth_of_the_rows_and_split_no_prompt(seed: int) -> None:
    prompts = random.Random(seed).choices(distinct(300), k=2000)
    for limit in (20, 500):
        rows = chosen_rows(prompts, watch(prompts, limit=limit, seed=seed).groups(), seed)
        chosen = {prompts[row] for row in rows}
        assert rows == {row for row, prompt in enumerate(prompts) if prompt in chosen}
        assert 0.9 * min(limit, 200) <= len(rows) <= min(limit, 200)


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (19, 1), (20, 2)])
def test_groups_hold_out_at_least_one_row(count: int, expected: int) -> None:
    chosen = watch(distinct(count), limit=500).groups()
    assert len(chosen) == len(chosen_rows(distinct(count), chosen)) == expected


def test_groups_take_the_smallest_prompt_when_none_fits() -> None:
    prompts = ["a"] * 5 + ["b"] * 3 + ["c"] * 4
    assert chosen_rows(prompts, watch(prompts, limit=500).groups()) == {5, 6, 7}


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_a_dataset_merge_to_the_choice_of_the_whole(seed: int) -> None:
    prompts = random.Random(seed).choices(distinct(400), k=1000)
    whole = watch(prompts, limit=5, seed=seed)
    merged = HeldOut(limit=5)
    for start, end in ((0, 700), (700, 703), (703, 1000)):
        merged.merge(watch(prompts[start:end], limit=5, seed=seed))
    assert merged.prompts().tolist() == whole.prompts().tolist()
    assert merged.groups().tolist() == whole.groups().tolist()


def test_memory_does_not_grow_with_the_number_of_prompts() -> None:
    held_out = watch(distinct(5000), limit=3)
    assert len(held_out._rows) <= 2 * 30 + 7
    held_out.prompts()
    assert len(held_out._rows) == 30


def test_one_prompt_alone_cannot_be_split() -> None:
    assert not watch([], limit=1).can_split
    assert not watch(["a", "a"], limit=1).can_split
    assert watch(["a", "b"], limit=1).can_split


def preferences(count: int, of_a_prompt: int = 1) -> list[dict[str, Any]]:
    return [
        {"prompt": [{"role": "user", "content": str(number // of_a_prompt)}], "chosen": f"{number}", "rejected": "no"}
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "expected"), [(199, 0), (200, 20), (1000, 100), (9000, 250)])
def test_a_tenth_of_the_preferences_is_set_aside_where_that_is_enough_to_measure_by(count: int, expected: int) -> None:
    rows = preferences(count)
    learnt, validated = set_aside(rows, seed=0)
    assert len(validated) == expected
    assert sorted(map(str, learnt + validated)) == sorted(map(str, rows))
    assert set_aside(rows, seed=0) == (learnt, validated)
    assert not expected or set_aside(rows, seed=1)[1] != validated


def test_all_preferences_of_a_prompt_are_on_one_side() -> None:
    learnt, validated = set_aside(preferences(600, of_a_prompt=7), seed=0)
    prompts = [{json.dumps(row["prompt"]) for row in side} for side in (learnt, validated)]
    assert not prompts[0] & prompts[1]
    assert 54 <= len(validated) <= 60
