"""Write the sample's four data files: `python -m rlhf_tuning.sample.generate`.

The files are a function of this code, of `base_model_answers.jsonl` and of the seed, byte for byte.

A pair is two answers to one prompt that differ in their house-style score. Their sources are real answers of the base
model, such answers edited for better or worse, and written ones, mixed so that no single habit (length, position,
source) gives the preferred answer away. The label follows the score through noise like a person's: the closer two
answers are, the more often the worse one is preferred.

A demonstration is the best of a few written answers by the house style.
"""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

from rlhf_tuning.sample import edits, wordings
from rlhf_tuning.sample.house_style import SAMPLE_DIR, score
from rlhf_tuning.sample.places import Place, make_places

SEED = 20240607
PREFERENCES, PREFERENCE_PLACES, PROMPTS, EVAL_PROMPTS = 1400, 600, 600, 200

#: Scale of the label noise: the worse answer of a pair that is `margin` apart wins with 1 / (1 + exp(margin / scale)).
NOISE_SCALE = 0.36
#: Closer pairs are left out: nobody could tell them apart.
LEAST_MARGIN = 0.2

Row = dict[str, str | int]
Pair = tuple[str, str]


def main() -> None:
    """Rewrite the data files in place."""
    for name, rows in make_files().items():
        (SAMPLE_DIR / name).write_text(rows, encoding="utf-8")


def make_files() -> dict[str, str]:
    """Return the content of each data file by its name."""
    rng = random.Random(SEED)
    places = make_places(rng, PREFERENCE_PLACES + PROMPTS + EVAL_PROMPTS)
    preference_places, rest = places[:PREFERENCE_PLACES], places[PREFERENCE_PLACES:]
    prompts: list[Row] = [{"input_text": place.prompt} for place in rest]
    # The example of the original tuning job is among the held-out prompts.
    prompts[-1] = {"input_text": "Create a description for Plantation Palms."}
    return {
        "preferences.jsonl": _json_lines(make_preferences(preference_places, read_base_model_answers(), rng)),
        "prompts.jsonl": _json_lines(prompts[:PROMPTS]),
        "eval_prompts.jsonl": _json_lines(prompts[PROMPTS:]),
    }


def read_base_model_answers(path: Path = SAMPLE_DIR / "base_model_answers.jsonl") -> dict[str, list[str]]:
    """Return the answers of the base model by prompt."""
    answers: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers.setdefault(row["input_text"], []).append(row["answer"])
    return answers


def make_preferences(places: list[Place], answers: dict[str, list[str]], rng: random.Random) -> list[Row]:
    """Return preference rows, in turn about each place, until there are enough."""
    rows: list[Row] = []
    seen: set[frozenset[str]] = set()
    longer_won = 0
    while True:
        for place in places:
            if len(rows) == PREFERENCES:
                rng.shuffle(rows)
                return rows
            first, second = _tell_apart(
                place, answers.get(place.prompt, []), rng, wants_longer=2 * longer_won < len(rows)
            )
            if frozenset((first, second)) in seen:
                continue
            seen.add(frozenset((first, second)))
            better, worse = sorted((first, second), key=lambda answer: score(place.prompt, answer), reverse=True)
            margin = score(place.prompt, better) - score(place.prompt, worse)
            preferred, other = (
                (worse, better) if rng.random() < 1 / (1 + math.exp(margin / NOISE_SCALE)) else (better, worse)
            )
            longer_won += len(preferred) > len(other)
            choice = rng.randrange(2)
            candidates = (preferred, other) if choice == 0 else (other, preferred)
            rows.append(
                {
                    "input_text": place.prompt,
                    "candidate_0": candidates[0],
                    "candidate_1": candidates[1],
                    "choice": choice,
                }
            )


def _tell_apart(place: Place, answers: list[str], rng: random.Random, *, wants_longer: bool) -> Pair:
    """Return a pair that differs enough, after a few tries one whose better answer is the longer (or shorter) one."""
    best: Pair | None = None
    tries = 0
    while best is None or tries < 3:
        tries += 1
        pair = _make_pair(place, answers, rng)
        margin = score(place.prompt, pair[0]) - score(place.prompt, pair[1])
        if abs(margin) < LEAST_MARGIN or not all(answer.strip() for answer in pair):
            continue
        best = pair
        if ((len(pair[0]) > len(pair[1])) == (margin > 0)) == wants_longer:
            break
    return best


def _make_pair(place: Place, answers: list[str], rng: random.Random) -> Pair:
    """Return two answers of any of the sources, related or not."""
    if not answers:
        makers: tuple[Callable[[], Pair], ...] = (
            lambda: _edited(written(place, rng), edits.WORSE, place, rng),
            lambda: _edited(written(place, rng), edits.WORSE, place, rng),
            lambda: (written(place, rng), written(place, rng)),
            lambda: (ordinary(place, rng), ordinary(place, rng)),
            lambda: _edited(ordinary(place, rng), edits.BETTER, place, rng),
            lambda: (written(place, rng), ordinary(place, rng)),
        )
        return rng.choice(makers)()
    raw = shorten(rng.choice(answers), rng)
    other = shorten(rng.choice(answers), rng)
    makers = (
        lambda: (raw, other),
        lambda: (raw, other),
        lambda: _edited(raw, edits.BETTER, place, rng),
        lambda: _edited(raw, edits.BETTER, place, rng),
        lambda: (improved(raw, place, rng), other),
        lambda: (improved(raw, place, rng), improved(other, place, rng)),
        lambda: _edited(improved(raw, place, rng), edits.WORSE, place, rng),
        lambda: (raw, written(place, rng)),
        lambda: (improved(raw, place, rng), _edited(written(place, rng), edits.WORSE, place, rng)[1]),
    )
    return rng.choice(makers)()


def _edited(answer: str, kinds: tuple[edits.Edit, ...], place: Place, rng: random.Random) -> Pair:
    """Return an answer and the same after one or two edits."""
    changed = answer
    for edit in rng.sample(kinds, rng.choice([1, 1, 2])):
        changed = edit(changed, place, rng)
    return answer, changed


def improved(answer: str, place: Place, rng: random.Random) -> str:
    """Return an answer of the base model with about half of its faults mended."""
    mending = (
        edits.drop_markup,
        edits.trim,
        edits.close,
        edits.drop_hype,
        edits.add_name,
        edits.add_senses,
        edits.add_sense_words,
    )
    for edit in mending:
        if rng.random() < 0.55:
            answer = edit(answer, place, rng)
    return answer


def shorten(answer: str, rng: random.Random) -> str:
    """Return an answer as it would be under a lower limit of tokens, every other time."""
    words = answer.split(" ")
    return answer if rng.random() < 0.5 or len(words) < 24 else " ".join(words[: rng.randint(24, len(words))])


def written(place: Place, rng: random.Random) -> str:
    """Return a plain description: one to four sentences, with and without things for the senses."""
    sensuous = rng.choice([0.0, 0.4, 1.0, 1.0])

    plain = iter(rng.sample(wordings.PLAIN, len(wordings.PLAIN)))

    def detail() -> str:
        return edits.sense_detail(place, rng) if rng.random() < sensuous else next(plain)

    templates = [rng.choice(wordings.FIRST_SENTENCES)]
    templates += rng.sample(wordings.SECOND_SENTENCES, rng.choice([0, 1, 1, 1, 2, 3]))
    answer = " ".join(edits.sentence(template, place, rng, detail) for template in templates)
    return edits.drop_name(answer, place, rng) if rng.random() < 0.2 else answer


def ordinary(place: Place, rng: random.Random) -> str:
    """Return an answer with the base model's habits: hype, too many sentences, chatter, lists, a missing end."""
    if rng.random() < 0.06:
        return edits.sentence(rng.choice(wordings.STUBS), place, rng)
    templates = [
        rng.choice(rng.choice([wordings.HYPE_FIRST, wordings.FIRST_SENTENCES, wordings.HYPE_FIRST, wordings.OFF_TOPIC]))
    ]
    templates += rng.sample(
        rng.choice([wordings.FILLERS, wordings.FILLERS, wordings.HYPE_MORE, wordings.OFF_TOPIC]), rng.randint(0, 3)
    )
    answer = " ".join(
        edits.sentence(
            template, place, rng, lambda: rng.choice([rng.choice(wordings.PLAIN), edits.sense_detail(place, rng)])
        )
        for template in templates
    )
    if rng.random() < 0.12:
        answer = "\n".join(
            f"- {label}: {rng.choice(wordings.PLAIN)}" for label in rng.sample(wordings.LABELS, rng.randint(2, 5))
        )
    habits: tuple[tuple[edits.Edit, float], ...] = (
        *((edits.drop_name, 0.35), (edits.add_markup, 0.15), (edits.add_chatter, 0.12), (edits.repeat, 0.08)),
        *((edits.drop_hype, 0.2), (edits.add_senses, 0.15)),
    )
    for edit, chance in habits:
        if rng.random() < chance:
            answer = edit(answer, place, rng)
    words = answer.split(" ")
    limit = rng.randint(30, 52)
    return " ".join(words[:limit]) if len(words) > limit else answer


def _json_lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
