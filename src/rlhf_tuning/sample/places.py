"""The invented places of the sample task, and the prompts that ask for a description of each.

Every place has its own name, and each of the three sets of prompts gets its own places, so nothing about a held-out
place can have been learnt by heart.
"""

import random
from dataclasses import dataclass
from itertools import product

_FIRST_WORDS = """
Alder Amber Anchor Ash Barley Beech Bell Birch Bracken Bramble Brass Cedar Chalk Clover Cobble Copper Coral Crane
Cypress Damson Dune Elder Elm Ember Fern Finch Flint Fox Gannet Gorse Gull Hazel Heather Heron Holly Ivory Ivy Juniper
Kestrel Kite Lantern Larch Laurel Linden Linnet Mallow Maple Marsh Moss Mulberry Myrtle Nettle Oak Olive Osprey Otter
Pebble Pelican Pepper Pine Plover Plum Poplar Quail Quince Raven Reed Robin Rowan Saffron Sage Salt Sorrel Sparrow
Starling Swallow Swan Sycamore Tamarind Teal Thistle Thorn Thyme Walnut Willow Wren Yarrow
"""

#: Setting -> the second words of names there, and the kinds of place found there.
_SETTINGS = {
    "sea": (
        "Cove Point Landing Shore Wharf Quay Palms Sands Harbour",
        [
            "a beach house",
            "a harbour inn",
            "a seaside apartment",
            "a seafront cafe",
            "a fishing cottage",
            "a small lighthouse",
        ],
    ),
    "water": (
        "Creek Bend Mere Ford Weir Bridge Springs",
        [
            "a lakeside cabin",
            "a riverside cottage",
            "a houseboat",
            "an old mill house",
            "a lake campsite",
            "a river inn",
        ],
    ),
    "farm": (
        "Farm Orchard Fields Barn Acre Grange",
        ["an apple orchard", "a farm stay", "a cider barn", "a small vineyard", "a herb garden", "a farm shop"],
    ),
    "hills": (
        "Ridge Hollow Hill Lodge Grove Bluff Glen",
        [
            "a mountain hut",
            "a forest cabin",
            "a hillside inn",
            "a woodland campsite",
            "a stone cottage",
            "a walkers' hostel",
        ],
    ),
    "town": (
        "Court Row Terrace Corner Lane Gate Square",
        ["a top-floor apartment", "a town house", "a corner bakery", "a bookshop", "a tea room", "a guest house"],
    ),
}

_REGIONS = (
    "Orrin Vale|Tessaly|Port Marlow|Lower Wick|Carrow|Sandhaven|Eastmere|Old Brannock|Dunlow|Pell Island|Highmoor|"
    "Calder Bay|Farrow|Saint Odel|Millbrook|Northey|Upper Tarn|Wexley|Lorne County|Bellamy"
)

_PHRASINGS = (
    "Create a description for {name}.",
    "Create a description for {name}, {kind}.",
    "Create a description for {name}, {kind} in {region}.",
    "Write a short listing for {name}, {kind} in {region}.",
    "Write a short description of {name}, {kind}.",
    "Write a description of {name} in {region}.",
    "Describe {name}, {kind} near {region}.",
    "Describe {name}, {kind}, for our website.",
    "Please describe {name}, {kind} in {region}.",
    "Introduce {name}, {kind}, to our guests.",
    "What should our brochure say about {name}, {kind}?",
    "We look after {name}, {kind} in {region}. Please describe it.",
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """An invented place and the prompt that asks for its description."""

    name: str
    kind: str
    setting: str
    region: str
    prompt: str


def setting_of(name: str) -> str:
    """Return the setting of a place by the last word of its name; empty where no place of the sample has it."""
    last = name.rpartition(" ")[2]
    return next((setting for setting, (seconds, _) in _SETTINGS.items() if last in seconds.split()), "")


def make_places(rng: random.Random, count: int) -> list[Place]:
    """Return `count` places, no two of one name, in a random order."""
    names = [
        (first, second, setting)
        for setting, (seconds, _) in _SETTINGS.items()
        for first, second in product(_FIRST_WORDS.split(), seconds.split())
    ]
    rng.shuffle(names)
    places = []
    for first, second, setting in names[:count]:
        name, kind, region = f"{first} {second}", rng.choice(_SETTINGS[setting][1]), rng.choice(_REGIONS.split("|"))
        prompt = rng.choice(_PHRASINGS).format(name=name, kind=kind, region=region)
        places.append(Place(name=name, kind=kind, setting=setting, region=region, prompt=prompt))
    return places
