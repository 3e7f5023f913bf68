import random

from rlhf_tuning.sample.house_style import place_name
from rlhf_tuning.sample.places import make_places, setting_of


def test_every_place_has_a_name_of_its_own_that_the_scorer_finds_in_the_prompt() -> None:
    places = make_places(random.Random(1), 2000)
    assert len({place.name for place in places}) == 2000
    assert [place_name(place.prompt) for place in places] == [place.name for place in places]


def test_prompts_are_short_and_no_two_alike() -> None:
    places = make_places(random.Random(1), 1000)
    assert len({place.prompt for place in places}) == 1000
    assert all(4 <= len(place.prompt.split()) <= 20 for place in places)


def test_the_same_seed_gives_the_same_places() -> None:
    assert make_places(random.Random(3), 50) == make_places(random.Random(3), 50)
    assert make_places(random.Random(3), 50) != make_places(random.Random(4), 50)


def test_the_name_of_a_place_tells_its_setting() -> None:
    places = make_places(random.Random(1), 1000)
    assert [setting_of(place.name) for place in places] == [place.setting for place in places]
    assert setting_of("Teal Towers") == setting_of("") == ""
