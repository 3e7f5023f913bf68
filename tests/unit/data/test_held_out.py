import random

import pytest

from rlhf_tuning.data.held_out import HeldOut


def watch(keys: list[bytes], *, limit: int, seed: int = 0) -> HeldOut:
    held_out = HeldOut(limit=limit, seed=seed)
    for key in keys:
        held_out.add(key)
    return held_out


def distinct(count: int) -> list[bytes]:
    return [f"prompt {number}".encode() for number in range(count)]


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (19, 1), (20, 2), (199, 19), (200, 20), (1000, 20)])
def test_holds_out_a_tenth_of_the_prompts_up_to_the_limit(count: int, expected: int) -> None:
    first_rows, all_rows = watch(distinct(count), limit=20).prompts()
    assert len(first_rows) == expected
    assert all_rows == first_rows


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_depends_on_content_and_seed_never_on_order(seed: int) -> None:
    keys = distinct(300) * 2
    shuffled = random.Random(seed).sample(keys, len(keys))

    def chosen(order: list[bytes], salt: int) -> set[bytes]:
        return {order[row] for row in watch(order, limit=7, seed=salt).prompts()[1]}

    assert chosen(keys, seed) == chosen(shuffled, seed)
    assert chosen(keys, seed) != chosen(keys, seed + 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_copy_of_a_held_out_prompt_is_held_out_and_its_first_is_known(seed: int) -> None:
    random_source = random.Random(seed)
    keys = random_source.choices(distinct(400), k=1000)
    first_rows, all_rows = watch(keys, limit=5, seed=seed).prompts()
    chosen = {keys[row] for row in all_rows}
    assert len(chosen) == 5
    assert all_rows == {row for row, key in enumerate(keys) if key in chosen}
    assert first_rows == {keys.index(key) for key in chosen}


@pytest.mark.parametrize("seed", range(20))
def test_groups_hold_out_at_most_a_tenth_of_the_rows_and_split_no_prompt(seed: int) -> None:
    random_source = random.Random(seed)
    keys = random_source.choices(distinct(300), k=2000)
    for limit in (20, 500):
        rows = watch(keys, limit=limit, seed=seed).groups()
        chosen = {keys[row] for row in rows}
        assert rows == {row for row, key in enumerate(keys) if key in chosen}
        assert 0.9 * min(limit, 200) <= len(rows) <= min(limit, 200)


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (19, 1), (20, 2)])
def test_groups_hold_out_at_least_one_row(count: int, expected: int) -> None:
    assert len(watch(distinct(count), limit=500).groups()) == expected


def test_groups_take_the_smallest_prompt_when_none_fits() -> None:
    keys = [b"a"] * 5 + [b"b"] * 3 + [b"c"] * 4
    assert watch(keys, limit=500).groups() == {5, 6, 7}


def test_memory_does_not_grow_with_the_number_of_prompts() -> None:
    held_out = watch(distinct(5000), limit=3)
    assert len(held_out._rows) == len(held_out._largest) == 30


def test_one_prompt_alone_cannot_be_split() -> None:
    assert not watch([], limit=1).can_split
    assert not watch([b"a", b"a"], limit=1).can_split
    assert watch([b"a", b"b"], limit=1).can_split
