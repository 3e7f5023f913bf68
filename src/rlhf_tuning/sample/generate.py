"""Write the sample's prompts and preferences: `python -m rlhf_tuning.sample.generate`.

The files are a function of this code, of `supervised_answers.jsonl` and of the seed, byte for byte.

A pair is two answers of the supervised model to one prompt that differ in their house-style score. The label follows the
score through noise like a person's: the closer two answers are, the more often the worse one is preferred.

Length gives nothing away. Pairs are sorted by the rule that tells their answers apart the most. Of each sort a pair is taken
only if thereafter the preferred answers are the longer ones as often as not, and as long as the others on average.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from rlhf_tuning.sample.house_style import SAMPLE_DIR, breakdown, score
from rlhf_tuning.sample.places import make_places

SEED = 20240607
PREFERENCES, PREFERENCE_PLACES, PROMPTS, EVAL_PROMPTS = 1400, 600, 600, 200

#: Scale of the label noise: the worse answer of a pair that is `margin` apart wins with 1 / (1 + exp(margin / scale)).
NOISE_SCALE = 0.25
#: Closer pairs are left out: nobody could tell them apart.
LEAST_MARGIN = 0.25
#: By how many characters all preferred answers of a sort of pairs may be longer or shorter, together, than the others.
MOST_EXCESS = 200

Row = dict[str, str | int]


def main() -> None:
    """Rewrite the files in place."""
    for name, rows in make_files().items():
        (SAMPLE_DIR / name).write_text(rows, encoding="utf-8")


def make_files() -> dict[str, str]:
    """Return the content of each file by its name."""
    rng = random.Random(SEED)
    # The first of the places are those that `supervised_answers.jsonl` is about.
    places = make_places(rng, PREFERENCE_PLACES + PROMPTS + EVAL_PROMPTS)
    prompts: list[Row] = [{"input_text": place.prompt} for place in places[PREFERENCE_PLACES:]]
    # The example of the original tuning job is among the held-out prompts.
    prompts[-1] = {"input_text": "Create a description for Plantation Palms."}
    return {
        "preferences.jsonl": _json_lines(make_preferences(read_answers(), rng)),
        "prompts.jsonl": _json_lines(prompts[:PROMPTS]),
        "eval_prompts.jsonl": _json_lines(prompts[PROMPTS:]),
    }


def read_answers() -> dict[str, list[str]]:
    """Return the supervised model's answers to each prompt."""
    lines = (SAMPLE_DIR / "supervised_answers.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["input_text"]: row["answers"] for row in map(json.loads, lines)}


def make_preferences(answers: Mapping[str, Sequence[str]], rng: random.Random) -> list[Row]:
    """Return preference rows, from pairs of answers in a random order, until there are enough."""
    pairs = [(prompt, pair) for prompt, some in answers.items() for pair in combinations(some, 2)]
    rng.shuffle(pairs)
    rows: list[Row] = []
    # Of each sort of pairs: in how many more the preferred answer is the longer one, and by how many characters in all.
    longer: Counter[str] = Counter()
    excesses: Counter[str] = Counter()
    for prompt, pair in pairs:
        worse, better = sorted(pair, key=lambda answer: score(prompt, answer))
        margin = score(prompt, better) - score(prompt, worse)
        if margin < LEAST_MARGIN:
            continue
        mistaken = rng.random() < 1 / (1 + math.exp(margin / NOISE_SCALE))
        preferred, other = (worse, better) if mistaken else (better, worse)
        excess, sort = len(preferred) - len(other), telling_rule(prompt, *pair)
        if excess * longer[sort] > 0 or abs(excesses[sort] + excess) > MOST_EXCESS:
            continue
        longer[sort] += (excess > 0) - (excess < 0)
        excesses[sort] += excess
        choice = rng.randrange(2)
        candidates = (preferred, other) if choice == 0 else (other, preferred)
        rows.append(
            {"input_text": prompt, "candidate_0": candidates[0], "candidate_1": candidates[1], "choice": choice}
        )
        if len(rows) == PREFERENCES:
            break
    return rows


def telling_rule(prompt: str, first: str, second: str) -> str:
    """Return the rule of the house style that tells two answers apart the most."""
    rules, others = breakdown(prompt, first), breakdown(prompt, second)
    return max(rules, key=lambda rule: abs(rules[rule] - others[rule]))


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
