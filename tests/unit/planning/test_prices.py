import pytest

from rlhf_tuning import environment
from rlhf_tuning.accelerators import GPUS
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.planning.prices import list_price, list_prices

HEAD = "machine,region,on_demand,spot,currency,date,source\n"


@pytest.fixture
def own(monkeypatch, tmp_path):
    """Name a list of one's own, of these lines."""
    file = tmp_path / "prices.csv"
    monkeypatch.setattr(environment, "PRICES", str(file))

    def write(text):
        file.write_text(text)
        return list_prices()

    return write


def test_each_price_of_the_list_is_of_a_machine_that_can_be_asked_for_and_has_a_date_and_a_source():
    offered = {machine for gpu in GPUS.values() for machine in gpu.machine_types.values()}
    found = list_prices()
    assert len({(price.machine, price.region) for price in found}) == len(found) > 40
    for price in found:
        assert price.machine in offered
        assert price.date.startswith("20")
        assert price.source
        assert price.on_demand > price.spot > 0


def test_a_spot_machine_has_a_price_of_its_own_and_a_region_without_prices_none():
    found = list_price(("a100-80gb", "a2-ultragpu-1g"), "us-central1")
    assert found.of(spot=False) > found.of(spot=True)
    assert found.told(spot=True).startswith(
        "2.9279 USD an hour: a2-ultragpu-1g Spot in us-central1, list price of 2026-"
    )
    assert list_price(("a100-80gb", "a2-ultragpu-1g"), "") is None


def test_a_list_of_ones_own_takes_the_place_of_all(own):
    own(HEAD + "h200-x8,here,60,,EUR,2027-01-01,our contract\n")
    assert list_price(("h200-x8", "a3-ultragpu-8g"), "here").on_demand == 60
    assert list_price(("h200-x8", "a3-ultragpu-8g"), "here", spot=True) is None
    assert list_price(("a100-80gb", "a2-ultragpu-1g"), "us-central1") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("machine,region\nl4,here\n", "line 2, has no on_demand and no spot"),
        (HEAD + "l4,here,dear,,EUR,2027-01-01,us\n", "line 2, on_demand is 'dear'; it must be a number, at least 0"),
        (HEAD + "l4,here,-1,,EUR,2027-01-01,us\n", "on_demand is '-1'"),
    ],
)
def test_what_is_wrong_with_it_is_said_with_its_line(own, text, words):
    with pytest.raises(ParameterError, match=words):
        own(text)


def test_a_list_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(environment, "PRICES", "nowhere.csv")
    with pytest.raises(ParameterError, match=r"RLHF_PRICES is 'nowhere\.csv', which cannot be read: No such file"):
        list_prices()
