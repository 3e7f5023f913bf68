"""The rows of well-known public datasets. To add one: a line in `WELL_KNOWN`, a function, and its rows in the test.

Names of fields alone do not make a row one of these: a layout is taken where it makes rows of what there is.

Margins are shares of the widest difference that could be expressed: "much better" of HelpSteer is 1, "slightly better" a
third, as the small margins of Touvron et al. 2023 (https://arxiv.org/abs/2307.09288). Ranks and votes have no degree, so
rows made of them have no margin.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rlhf_tuning.data.layout import (
    TIES,
    Layout,
    LeftOutError,
    Made,
    Record,
    check_scores,
    choice,
    common_prompt,
    margin,
    pair,
    plain_turns,
    ranked,
    transcript,
)
from rlhf_tuning.data.rows import Conversation, Kind

#: Of UltraFeedback, by which a model scored: 1 to 10 as a whole, 1 to 5 by aspect.
_OVERALL_SPAN, _ASPECT_SPAN = 9, 4
#: Of HelpSteer 2 and 3: -3 and 3 are "much better".
_STRONGEST = 3

_HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_OASST_ROLES = {"prompter": "user", "assistant": "assistant"}


class WellKnown(NamedTuple):
    """A dataset's rows.

    Attributes:
        name: Of the dataset.
        kind: What they become.
        fields: That each has, among others.
        taken: What is taken for what, in words.
        rows: Returns the rows that one is made into.
        together: As of `Layout`.
    """

    name: str
    kind: Kind
    fields: tuple[str, ...]
    taken: str
    rows: Callable[[Record], Iterable[Made]]
    together: str = ""

    def layout(self, names: set[str]) -> Layout | None:
        """Return the layout of rows that have fields of these names, where they may be of this dataset."""
        if not names.issuperset(self.fields):
            return None
        return Layout(self.kind, f"rows as {self.name} has them: {self.taken}", self.rows, together=self.together)


def _hh_rlhf(record: Record) -> Iterator[Made]:
    yield pair(*common_prompt(transcript(record["chosen"]), transcript(record["rejected"])))


def _shp(record: Record) -> Iterator[Made]:
    first_is_better = {1: True, 0: False}[record["labels"]]
    scores = (record.get("score_A"), record.get("score_B"))
    check_scores(*(scores if first_is_better else scores[::-1]))
    yield choice(record["history"], (record["human_ref_A"], record["human_ref_B"]), int(not first_is_better))


def _strength(value: int) -> tuple[int, float | None]:
    """Return the place of the preferred answer, and the margin, by a strength that is below 0 for the first one."""
    if not value:
        raise LeftOutError(TIES)
    return int(value > 0), margin(abs(value), 0, _STRONGEST)


def _helpsteer_preference(record: Record) -> Iterator[Made]:
    yield choice(
        _helpsteer_turns(record["prompt"]),
        (record["response_1"], record["response_2"]),
        *_strength(record["preference_strength"]),
    )


def _helpsteer3(record: Record) -> Iterator[Made]:
    yield choice(
        plain_turns(record["context"]),
        (record["response1"], record["response2"]),
        *_strength(record["overall_preference"]),
    )


def _helpsteer_ratings(record: Record) -> Iterator[Made]:
    answer = [{"role": "assistant", "content": record["response"]}]
    rating = record["helpfulness"]
    if record["coherence"] is None or rating is None:
        raise LeftOutError("they have no rating")
    yield {"prompt": _helpsteer_turns(record["prompt"]), "completion": answer, "rating": rating}


def _helpsteer_turns(prompt: str) -> Conversation:
    """Return the turns of a prompt that begins with the user and goes on behind marks."""
    first, *parts = _HELPSTEER_TURN.split(prompt)
    roles = {"User": "user", "Assistant": "assistant"}
    later = [{"role": roles[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]
    return [{"role": "user", "content": first}, *later]


def _nectar(record: Record) -> Iterable[Made]:
    turns = [{"role": "user", "content": record["prompt"]}]
    if record["prompt"].lstrip().startswith("Human:"):
        turns = transcript(record["prompt"])
        # The prompt ends with the mark behind which the answer is to come.
        turns = turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
    return ranked(turns, [(answer["answer"], -answer["rank"]) for answer in record["answers"]])


def _ultrafeedback(record: Record) -> Iterable[Made]:
    answers = record["completions"]
    # The mean of four aspects, where there is one: some overall scores of the first version were ten times too high.
    field, span = ("fine-grained_score", _ASPECT_SPAN)
    if not all(field in answer for answer in answers):
        field, span = ("overall_score", _OVERALL_SPAN)
    return ranked(record["instruction"], [(answer["response"], answer[field]) for answer in answers], span)


def _ultrafeedback_ratings(record: Record) -> Iterable[Made]:
    ratings = [None if rating is None else float(rating) for rating in record["ratings"]]
    answers = list(zip(record["generations"], ratings, strict=True))
    return ranked(record["instruction"], answers, _ASPECT_SPAN)


def _scored_conversations(better: str, worse: str, span: float) -> Callable[[Record], Iterator[Made]]:
    def rows(record: Record) -> Iterator[Made]:
        check_scores(record[better], record[worse])
        prompt, chosen, rejected = common_prompt(record["chosen"], record["rejected"])
        yield pair(prompt, chosen, rejected, margin(record[better], record[worse], span))

    return rows


def _argilla_texts(record: Record) -> Iterator[Made]:
    scores = record["chosen_avg_rating"], record["rejected_avg_rating"]
    check_scores(*scores)
    texts = record["chosen_response"], record["rejected_response"]
    yield pair(record["instruction"], *texts, margin(*scores, _ASPECT_SPAN))


def _arena(record: Record) -> Iterator[Made]:
    preferred = {"model_a": 0, "model_b": 1, "tie": None, "tie (bothbad)": None}[record["winner"]]
    if preferred is None:
        raise LeftOutError(TIES)
    prompt, *answers = common_prompt(record["conversation_a"], record["conversation_b"])
    yield choice(prompt, answers, preferred)


def _arena_texts(record: Record) -> Iterator[Made]:
    if record["winner_tie"]:
        raise LeftOutError(TIES)
    preferred = [record["winner_model_a"], record["winner_model_b"]].index(1)
    prompts, *answers = (_texts(record[field]) for field in ("prompt", "response_a", "response_b"))
    if len(prompts) > 1:
        raise LeftOutError("they judge several answers of each model together")
    yield choice(prompts[0], [answer for [answer] in answers], preferred)


def _texts(value: Any) -> list[str]:
    """Return the texts of an array, which may be written as JSON into a text."""
    value = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
    return [value] if isinstance(value, str) else list(value)


def _webgpt(record: Record) -> Iterator[Made]:
    strength = record["score_0"] - record["score_1"]
    if not strength:
        raise LeftOutError(TIES)
    # Each score is from -1 to 1, and one is the other with its sign changed.
    answers = record["answer_0"], record["answer_1"]
    yield choice(record["question"]["full_text"], answers, int(strength < 0), margin(abs(strength), 0, 2))


def _summaries(record: Record) -> Iterator[Made]:
    first, second = (summary["text"] for summary in record["summaries"])
    yield choice(record["info"]["post"], (first, second), record["choice"])


def _openai(record: Record) -> Iterator[Made]:
    [chosen], [rejected] = record["preferred_output"], record["non_preferred_output"]
    yield pair(plain_turns(record["input"]["messages"]), chosen["content"], rejected["content"])


def _oasst_tree(record: Record) -> Iterator[Made]:
    """Walk a tree of messages: wherever people ranked several answers to what was said so far, it has preferences."""
    found = False
    waiting: list[tuple[Conversation, Any]] = [([], record["prompt"])]
    while waiting:
        before, node = waiting.pop()
        said = [*before, {"role": _OASST_ROLES[node["role"]], "content": node["text"]}]
        replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
        if node["role"] == "prompter" and sum(reply.get("rank") is not None for reply in replies) > 1:
            answers = [(reply["text"], None if reply.get("rank") is None else -reply["rank"]) for reply in replies]
            with contextlib.suppress(LeftOutError):
                yield from ranked(said, answers)
                found = True
        waiting += [(said, reply) for reply in reversed(replies)]
    if not found:
        raise LeftOutError("nobody ranked answers in them")


def _oasst_messages(record: Record) -> Iterator[Made]:
    """Put a tree together whose messages stand in rows of their own."""
    nodes = {row["message_id"]: {**row, "replies": []} for row in record["gathered"]}
    [root] = [node for node in nodes.values() if node["parent_id"] is None]
    for node in nodes.values():
        # The root is nobody's reply, its own neither where it has no name.
        if node is not root and node["parent_id"] in nodes:
            nodes[node["parent_id"]]["replies"].append(node)
    yield from _oasst_tree({"prompt": root})


def _alpaca(record: Record) -> Iterator[Made]:
    parts = (record["instruction"], record["input"])
    yield {"prompt": "\n\n".join(filter(str.strip, parts)), "completion": record["output"]}


def _ultrachat(record: Record) -> Iterator[Made]:
    yield {"messages": plain_turns(record["messages"])}


def _ultrachat_texts(record: Record) -> Iterator[Made]:
    roles = ("user", "assistant")
    texts = record["data"] if len(record["data"]) % 2 == 0 else record["data"][:-1]
    yield {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]}


_BEST = "the best answer is taken for chosen, and each worse one for rejected, in a row of its own"
_TWO_CONVERSATIONS = (
    "what both conversations have in common is taken for prompt, and their last messages for the answers"
)

#: The first that makes rows of what there is, is taken.
WELL_KNOWN: tuple[WellKnown, ...] = (
    WellKnown("HH-RLHF", "preference", ("chosen", "rejected"), _TWO_CONVERSATIONS, _hh_rlhf),
    WellKnown(
        "SHP",
        "preference",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        "labels 1 is taken for human_ref_A, and 0 for human_ref_B",
        _shp,
    ),
    WellKnown(
        "HelpSteer2",
        "preference",
        ("prompt", "response_1", "response_2", "preference_strength"),
        "preference_strength below 0 is taken for response_1, above 0 for response_2, and a third of it for the margin",
        _helpsteer_preference,
    ),
    WellKnown(
        "HelpSteer3",
        "preference",
        ("context", "response1", "response2", "overall_preference"),
        "overall_preference below 0 is taken for response1, above 0 for response2, and a third of it for the margin",
        _helpsteer3,
    ),
    WellKnown(
        "HelpSteer",
        "feedback",
        ("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity"),
        "helpfulness is taken for rating",
        _helpsteer_ratings,
    ),
    WellKnown("Nectar", "preference", ("prompt", "answers"), f"of the lowest rank, {_BEST}", _nectar),
    WellKnown(
        "UltraFeedback",
        "preference",
        ("instruction", "completions"),
        f"by fine-grained_score, else overall_score, {_BEST}; the difference of the scores is the margin",
        _ultrafeedback,
    ),
    WellKnown(
        "Argilla's UltraFeedback",
        "preference",
        ("instruction", "generations", "ratings"),
        f"by ratings, {_BEST}; the difference of the ratings is the margin",
        _ultrafeedback_ratings,
    ),
    WellKnown(
        "UltraFeedback in pairs",
        "preference",
        ("chosen", "rejected", "score_chosen", "score_rejected"),
        f"{_TWO_CONVERSATIONS}; the difference of the scores is the margin",
        _scored_conversations("score_chosen", "score_rejected", _OVERALL_SPAN),
    ),
    WellKnown(
        "Argilla's UltraFeedback in pairs",
        "preference",
        ("chosen", "rejected", "chosen-rating", "rejected-rating"),
        f"{_TWO_CONVERSATIONS}; the difference of the ratings is the margin",
        _scored_conversations("chosen-rating", "rejected-rating", _ASPECT_SPAN),
    ),
    WellKnown(
        "Argilla's first UltraFeedback in pairs",
        "preference",
        ("instruction", "chosen_response", "rejected_response", "chosen_avg_rating", "rejected_avg_rating"),
        "the difference of the ratings is the margin",
        _argilla_texts,
    ),
    WellKnown(
        "Chatbot Arena",
        "preference",
        ("conversation_a", "conversation_b", "winner"),
        f"{_TWO_CONVERSATIONS}; winner says which is preferred",
        _arena,
    ),
    WellKnown(
        "Chatbot Arena on Kaggle",
        "preference",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        "winner_model_a and winner_model_b say which response is preferred",
        _arena_texts,
    ),
    WellKnown(
        "WebGPT's comparisons",
        "preference",
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        "the answer of the higher score is preferred, and the score is the margin",
        _webgpt,
    ),
    WellKnown(
        "OpenAI's summaries",
        "preference",
        ("info", "summaries", "choice"),
        "info.post is taken for input_text, and the two summaries for candidate_0 and candidate_1",
        _summaries,
    ),
    WellKnown(
        "OpenAI's fine-tuning",
        "preference",
        ("input", "preferred_output", "non_preferred_output"),
        "input.messages is taken for prompt, preferred_output for chosen and non_preferred_output for rejected",
        _openai,
    ),
    WellKnown(
        "OpenAssistant's trees",
        "preference",
        ("message_tree_id", "prompt"),
        f"wherever answers were ranked, {_BEST}",
        _oasst_tree,
    ),
    WellKnown(
        "OpenAssistant's messages",
        "preference",
        ("message_id", "parent_id", "message_tree_id", "role", "text", "rank"),
        f"wherever answers were ranked, {_BEST}",
        _oasst_messages,
        together="message_tree_id",
    ),
    WellKnown(
        "Alpaca",
        "demonstration",
        ("instruction", "input", "output"),
        "instruction and input together are taken for prompt, and output for completion",
        _alpaca,
    ),
    WellKnown(
        "UltraChat",
        "demonstration",
        ("prompt", "prompt_id", "messages"),
        "the messages are taken as they stand",
        _ultrachat,
    ),
    WellKnown(
        "UltraChat's texts",
        "demonstration",
        ("id", "data"),
        "the texts of data are taken for what user and assistant say in turn",
        _ultrachat_texts,
    ),
)
