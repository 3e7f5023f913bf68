"""The house style of the sample task, and a program that scores an answer by it.

A fictional company lets and shows small places: cottages, inns, orchards, tea rooms. A good description

- says the place's name, once or twice, and no other;
- gives concrete things to see, hear, smell, taste or feel, that the prompt did not already give;
- speaks of what such a place has: boats and tides by the sea, books and stairs in a town;
- is one or two finished sentences, about 12 to 45 words, in plain words;
- is plain: no hype, no lists, headings or markup, no talk about the answer itself ("Sure, here is ..."), no repetition.

The score is the sum of `breakdown`, never below that of an empty answer (-3); a very good answer reaches 3.5. Each rule
gives partial credit, so that a small improvement shows. It is what the sample's preferences were labelled with, and
it measures the true quality of a tuned model beside the learnt reward.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_tuning.sample.places import setting_of

#: The folder of prompts.jsonl, preferences.jsonl and eval_prompts.jsonl.
SAMPLE_DIR = Path(__file__).parent

EMPTY_SCORE = -3.0

_SENSES = """
amber bloom blossom blue bright brown candle candlelight copper crimson dappled dark dim dusk dusky ember firelight
flame flower fog foggy gleam glimmer glint glow glowing golden gray green grey lamplight leafy mist misty moonlight
mossy orange pale pebble petal pink purple red reflection ripple scarlet shade shaded shadow shady shimmer shimmering
silver sparkle sparkling starlight sunlight sunlit sunrise sunset violet wave white yellow birdsong bell buzz chatter
chime chirp clatter creak creaky crackle crackling cricket drip echo footstep gull hum humming hush laughter lapping
loud murmur music patter quiet rattle roar rumble rustle rustling silence silent singing song sound splash tick trickle
whisper whispering whistle aroma aromatic baking coffee earthy fragrance fragrant fresh herb incense jasmine lavender
mint musty perfume resin rosemary scent scented smell smoke smoky thyme woodsmoke apple berries berry bitter bread
butter cake caramel cherry chocolate cider cinnamon cream creamy crisp delicious flavor flavour honey juicy lemon pear
plum ripe salt salty savory spice spicy stew sugar sweet taste tart tea vanilla breeze breezy chill chilly cold cool
damp dew dewy dusty feather fluffy frost frosty gritty heat hot icy polished rain rough sand sandy silky smooth snow
snowy soft softness steam sun sunny velvet warm warmth wet wind windy wool woolen woollen
"""
_COLOURS = """
amber blue bright brown copper crimson dark golden gray green grey orange pale pink purple red scarlet silver violet white
yellow
"""
#: Words of the five senses: sight, sound, smell, taste, touch. A plural counts as its singular.
SENSE_WORDS = frozenset(_SENSES.split())
#: Of which one counts: what is learnt most cheaply is to pile them up, and a place is not seen the better for it.
COLOURS = frozenset(_COLOURS.split())

_BELONGS = {
    "sea": """
anchor barge bay beach boat boatman bow buoy canvas cape captain cliff coast cockle cod cove crab deck dinghy dock driftwood
dune dyke eel ferry fish fisherman fishermen fishing halyard harbour haul herring hull island jetty keel kelp kipper knot
lighthouse lobster mackerel mast mussel net oar ocean oyster pier porthole prawn promenade quay rigging rope rudder sail
sailor sardine sea seagull seal seaweed shell shingle ship shore shoreline shrimp slipway spray squid starfish stern surf
tar tern tide trawler wharf
""",
    "water": """
alder bank barge bend boat bow bridge brook bulrush canal canoe carp coot current deck dragonflies dragonfly duck eel ferry
fish fishing ford frog heron hull island jetty kingfisher lake landing lilies lily lock meadow mill millstone minnow moorhen
mooring mud newt oar otter paddle perch pike pond pool punt race raft reed river riverbank rope rush rushes sallow shallows
spring stern stream swan swim tent towpath trout water waterfall weir wheel willow
""",
    "farm": """
barley barn barrel basil basket bean bed bee beehive bough branch branches calf carrot cart cask cattle cellar cheese
chicken cockerel cow crate crop dairy egg field fig flour fruit garden gate geese goat goose grape hay hedge hen herb hive
horse jam ladder lamb leek loft meadow milk oats onion orchard oregano parsley pasture pea picker pig pony potato potatoes
press pumpkin quince radish sage seed sheep shed soil stable straw strawberries tomato tomatoes tractor tree turnip vine
vineyard wagon walnut wheat windfall wine wool yard
""",
    "hills": """
axe badger beck beech birch blackbird boot bracken bunk buzzard cairn campfire chimney clearing cliff climb cloud cone crag
deer eagle fern fir fire forest fox glen goat gorse hawk heather hedgehog hill hut jay larch lark log moor moss mountain
needle oak owl path peak peat pine rain raven ridge rock root rowan rucksack sheep shepherd sledge slope spring spruce
squirrel star stone stove stream summit tent thrush trail tree valley view walk walker waterfall wood woodpecker
""",
    "town": """
alley arch attic avenue baker balconies balcony banister bench book bookcase bun bus café cakes carpet chair chimney church
clock cobble counter courtyard crumb crust cup curtain door doorbell flour fountain gate gingerbread hall jug key kettle
landing letter library lift loaf loaves market neighbour novel oven page parlour passage pastries pastry pavement piano
pigeon poem pot reader roll roof saucer scone shelf shelves shop sill skylight sofa square stair staircase steeple step
street teapot toast tower tram wall window yard
""",
}
#: What a place of each setting has, see `places`. None of it is a word of the senses, so that nothing counts twice.
BELONGINGS = {setting: frozenset(words.split()) - SENSE_WORDS for setting, words in _BELONGS.items()}

#: Words that the company's texts are written in: those of the demonstrations, and others as common. A small model makes
#: words up, and finds rare ones at the wrong place.
PLAIN_WORDS = frozenset((SAMPLE_DIR / "plain_words.txt").read_text(encoding="utf-8").split())

_TIMES = """
Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September October
November December Christmas Easter
"""

_HYPE = re.compile(
    r"\b(amazing(?:ly)?|award-winning|beautiful(?:ly)?|best|breath-?taking(?:ly)?|bustling|captivating|charming|dream|"
    r"elegant|enchanting|escape|exceptional|exclusive|exquisite|extraordinary|fantastic|finest|gem|gorgeous|haven|"
    r"heart of|iconic|idyllic|incredibl[ey]|luxur(?:y|ious|iously)|magical|magnificent|majestic|mesmerizing|"
    r"must-see|must-visit|nestled|oasis|one-of-a-kind|paradise|perfect(?:ly)?|picturesque|premier|prestigious|pristine|renowned|"
    r"serene|spectacular|state-of-the-art|stunning(?:ly)?|testament|timeless|top-notch|tranquil|ultimate|unforgettable|"
    r"unique|unmatched|unparalleled|vibrant|welcome to|wonderful|wonderland|world-class|world-renowned)\b",
    re.IGNORECASE,
)

_CHATTER = re.compile(
    r"^(sure|certainly|of course|okay)\b|\b(here is|here's|here are|i'd be happy|i'm happy|as an ai|let me|i can help|"
    r"i hope|feel free|(?:description|listing) (?:for|of))\b|\[[^\]]*\]",
    re.IGNORECASE,
)

_MARKUP = re.compile(r"^\s*(?:[-*•#>]|\d+[.)])\s|\*\*|__|\n|^[^.!?\n]{1,60}:\s", re.MULTILINE)

_SMALL = """
a about above across after all along among an and are around as at be been before behind below beneath beside between
but by can could do down each every for from had has have her here his i if in inside into is it its just many may more
most near no not of off on one or our out outside over past so some than that the their them then there these they this
through to under until up was we were what when where which while who will with within without would you your
"""
_SMALL_WORDS = frozenset(_SMALL.split())


def score(prompt: str, answer: str) -> float:
    """Return how well an answer follows the house style; higher is better."""
    return max(EMPTY_SCORE, sum(breakdown(prompt, answer).values()))


def evaluate(example: Mapping[str, Any], response: Mapping[str, Any]) -> float:
    """Return the same as a reward of one's own has it: a function of a row and an answer as Google's tuning hands them."""
    prompt = "".join(part["text"] for part in example["contents"][-1]["parts"])
    return score(prompt, "".join(part["text"] for part in response["parts"]))


def breakdown(prompt: str, answer: str) -> dict[str, float]:
    """Return what each rule adds or takes away. An answer without words has the one entry `empty`."""
    text = answer.strip().replace("’", "'")
    words = _words(text)
    if not words:
        return {"empty": EMPTY_SCORE}
    place = place_name(prompt)
    mentions = len(re.findall(rf"\b{re.escape(place)}\b", text, re.IGNORECASE)) if place else 1
    # Words of the prompt are not the answer's own observations: "Amber Creek" is no colour.
    asked = _words(prompt)
    senses = _new(words, asked, SENSE_WORDS)
    belongings = _new(words, asked, BELONGINGS.get(setting_of(place), frozenset()))
    unusual = [word for word in words if word not in asked and not _is_plain(word)]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(set(triples)) / len(triples) if triples else 0.0
    return {
        "place": min(mentions, 1) - 0.3 * max(0, mentions - 2),
        # A sense word needs company: six words of text for each one that counts.
        "senses": 0.5 * min(len(set(senses) - COLOURS) + bool(set(senses) & COLOURS), 3, len(words) / 6),
        "belongings": 0.5 * min(len(set(belongings)), 2),
        "plain words": -0.3 * min(len(unusual), 4),
        "other names": -0.3 * min(len(_other_names(text, prompt)), 3),
        "stuffing": -4.0 * max(0.0, len(senses) / len(words) - 0.25),
        "sentences": -0.35 * min(max(0, len(_sentences(text)) - 2), 3),
        "finished": 0.0 if re.search(r"[.!?][\"')”]*$", text) else -0.8,
        "length": -1.0 * max(0, 12 - len(words)) / 12 - min(1.0, max(0, len(words) - 45) / 15),
        "hype": -0.25 * min(len(_HYPE.findall(text)), 5),
        "chatter": -0.6 if _CHATTER.search(text) else 0.0,
        "markup": -0.6 if _MARKUP.search(text) else 0.0,
        "repetition": -3.0 * max(0.0, repeated - 0.05),
        # Lists of words are no prose: sentences need their small words.
        "prose": -6.0 * max(0.0, 0.25 - sum(word in _SMALL_WORDS for word in words) / len(words)),
    }


def place_name(prompt: str) -> str:
    """Return the place that a prompt asks about: its first run of capitalised words after the first word, or ''."""
    question = prompt.strip().split("\n\n")[-1].partition(" ")[2]
    match = re.search(r"[A-Z][\w'-]*(?: [A-Z][\w'-]*)*", question)
    return match.group() if match else ""


def _words(text: str) -> list[str]:
    return re.findall(r"[a-zé]+(?:['-][a-zé]+)*", text.lower().replace("’", "'"))


def _new(words: Sequence[str], asked: Sequence[str], known: frozenset[str]) -> list[str]:
    """Return those of the words that are known and were not asked with; a plural counts as its singular."""

    def found(some: Sequence[str]) -> list[str]:
        forms = [(word, word.removesuffix("s"), word.removesuffix("es")) for word in some]
        return [next(form for form in each if form in known) for each in forms if not known.isdisjoint(each)]

    told = found(asked)
    return [word for word in found(words) if word not in told]


def _is_plain(word: str) -> bool:
    """Say whether a word, or each of its parts, is a plain one or a form of such."""
    return all(
        any(stem + end in PLAIN_WORDS for stem in _stems(part) for end in ("", "e", "y"))
        for part in re.sub(r"'\w*", "", word).split("-")
    )


def _stems(word: str) -> list[str]:
    """Return a word with and without its endings: of "ripened" also "ripene", "ripen" and, for "tapped", "tap"."""
    ends = ("s", "es", "ies", "d", "ed", "ied", "ing", "ly", "er", "est")
    stems = [word, *(word.removesuffix(end) for end in ends if word.endswith(end) and len(word) - len(end) > 2)]
    return stems + [stem[:-1] for stem in stems[1:] if len(stem) > 3 and stem[-1] == stem[-2]]


def _other_names(text: str, prompt: str) -> set[str]:
    """Return the capitalised words within sentences that are neither of the prompt nor a day or a month."""
    names = re.findall(r"(?<=[\w,;] )[A-Z]\w+", text)
    return {name for name in names if name not in prompt and name.rstrip("s") not in _TIMES}


def _sentences(text: str) -> list[str]:
    """Split at full stops, exclamation and question marks and at line ends; an unfinished rest counts too."""
    parts = re.split(r"(?<=[.!?])(?<!\b(?:Mr|Ms|Dr|St)\.)[\"')”]*\s+|\n+", text)
    return [part for part in parts if re.search(r"\w", part)]
