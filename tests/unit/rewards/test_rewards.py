import functools
import json
import math
from contextlib import nullcontext

import pytest
from tests.unit.rewards.scoring import EXAMPLE, answer, loaded, scores

from rlhf_tuning import patterns
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.rewards import REWARDS, NothingToClose, load_rewards, read_rewards


class Model(NothingToClose):
    """A reward model that likes length."""

    def score(self, examples, answers, *, step):
        return [float(len(answer.text)) for answer in answers]


LENGTH = {"kind": "length", "low": 4, "high": 4}


def test_the_sum_is_weighted_and_each_part_is_normalised_then_clipped():
    rewards = loaded(
        {"kind": "unfinished", "weight": 0.5},
        {"kind": "reward_model", "weight": 2, "mean": 1, "std": 2, "clip": [-1, 3]},
        reward_model=Model(),
    )
    assert [part.name for part in rewards.parts] == ["reward_model", "unfinished"]
    answers = [answer("abc"), answer("a" * 40), answer("", ended=False)]
    assert rewards.score([EXAMPLE] * 3, answers, step=1) == [2.0, 6.0, 2 * -0.5 - 0.5]


def test_the_reward_model_is_the_only_one_where_nothing_else_is_named_and_its_scores_stay_as_they_are():
    rewards = load_rewards("", most_tokens=8, reward_model=Model())
    assert [(part.name, part.weight) for part in rewards.parts] == [("reward_model", 1.0)]
    assert rewards.score([EXAMPLE], [answer("abc")], step=1) == [3.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "rewards is no JSON"),
        ("[" * 3000, "rewards is no JSON"),
        ("[" * 3000 + "]" * 3000, "it is nested too deep"),
        ('[{"kind": "unfinished", "kind": "length"}]', "an object has kind twice"),
        ("{}", "rewards must be a list of objects"),
        ("[]", "rewards must be a list of objects"),
        (json.dumps([LENGTH] * 17), "lists 17 rewards; at most 16"),
        (json.dumps([LENGTH] * 2), "two rewards called length"),
        ('[{"kind": "lenght"}]', "number 1: its kind is 'lenght'; it must be one of reward_model, python"),
        ('[{"kind": "length", "low": 1}]', r"number 1 \(length\): high is missing; its options are kind, name, .*"),
        (
            json.dumps([{**LENGTH, "wieght": 1}]),
            "it has no option wieght; its options are kind, name, weight, .*, falloff",
        ),
        (
            '[{"kind": "string_match", "expression": "x", "operation": "contains"}]',
            "operation is 'contains'; it must be one of 'exact_match', 'partial_match', 'regex_contains'",
        ),
        (
            '[{"kind": "string_match", "expression": "x", "operation": "a - at `$.b"}]',
            r"operation is 'a - at `\$.b'; it must be one of",
        ),
        (json.dumps([{**LENGTH, "a - at `$.b": 1}]), r"it has no option a - at `\$.b; its options are kind"),
        (json.dumps([{**LENGTH, "a`b": 1}]), "it has no option a`b; its options are kind"),
        (json.dumps([{**LENGTH, "weight": 1e308}]), r"weight is 1e\+308; no number may be beyond 1e\+12"),
        (json.dumps([{**LENGTH, "weight": 10**400}]), "weight is 10*, which is too large"),
        (json.dumps([{**LENGTH, "low": 10**400}]), "low is 10*; no number may be beyond"),
        (json.dumps([{**LENGTH, "weight": "1"}]), 'weight must be a number, which "1" is not'),
        (json.dumps([{**LENGTH, "clip": 4}]), "clip must be a list or null, which 4 is not"),
        (json.dumps([{**LENGTH, "clip": [1]}]), r"clip must be a list of length 2, which \[1\] is not"),
        (json.dumps([{**LENGTH, "kind": ["length"]}]), r"number 1: its kind is \['length'\]; it must be one of"),
        ('[{"low": 1}]', "number 1: kind is missing; it must be one of"),
        (json.dumps([{**LENGTH, "low": 5}]), "low must be at least 0 and at most high"),
        (json.dumps([{**LENGTH, "std": 0}]), "std is 0; it must be greater than 0"),
        (json.dumps([{**LENGTH, "clip": [1, 1]}]), "its first number must be the lower one"),
        (json.dumps([{**LENGTH, "name": "A b"}]), "name is 'A b'; it must be a small letter"),
        (json.dumps([{**LENGTH, "extract": "("}]), "extract is no regular expression"),
        (json.dumps([{**LENGTH, "extract": "(" * 5000 + ")" * 5000}]), "extract is nested too deep"),
        (json.dumps([{**LENGTH, "weight": 0}]), "no reward with a weight other than 0"),
        ('[{"kind": "reward_model"}]', "this run trains none"),
        ('[{"kind": "near_limit", "margin": 8}]', "an answer has at most 8 tokens"),
        ('[{"kind": "service", "url": "http://me:key@host"}]', "user name or a password"),
        ('[{"kind": "service", "url": "ftp://host"}]', "must be a URL that begins with http"),
        (f'[{{"kind": "service", "url": "http://{"a" * 64}"}}]', "names a host that there can be"),
        ('[{"kind": "service", "url": "http://host:99999"}]', "names a host that there can be"),
        ('[{"kind": "service", "url": "http://host", "timeout_s": 1e10}]', r"timeout_s is 1e\+10; .* at most 86,400"),
        ('[{"kind": "python", "code": "x", "timeout_s": 1e10}]', r"timeout_s is 1e\+10; .* at most 86,400"),
        ('[{"kind": "python", "function": "a\\u0000.py"}]', "which cannot be read: embedded null byte"),
        ('[{"kind": "python"}]', "give FILE.py, FILE.py:FUNCTION or MODULE:FUNCTION"),
        ('[{"kind": "python", "function": "a.py", "code": "x"}]', "Give one of them"),
        ('[{"kind": "json_schema", "schema": {"type": "objekt"}}]', "schema is no JSON schema: 'objekt' is not valid"),
        (
            '[{"kind": "json_schema", "schema": {"$defs": {"a": {"$schema": "http://json-schema.org/draft-07/schema"}}}}]',
            "below its top",
        ),
        (
            '[{"kind": "json_schema", "schema": {"patternProperties": {"a": {}}, "unevaluatedProperties": false}}]',
            "Take additionalProperties",
        ),
        *(
            (json.dumps([{"kind": "json_schema", "schema": schema}]), words)
            for schema, words in [
                ({"$schema": 3}, r"the \$schema '3', which is no draft"),
                ({"$schema": "http://x/y"}, r"the \$schema 'http://x/y', which is no draft"),
                ({"items": {"$ref": "#/nope"}}, "refers to '#/nope', which it lacks"),
                ({"$ref": "#/a/x", "a": {"b": 1}}, "refers to '#/a/x', which it lacks"),
                ({"$ref": "http://127.0.0.1:1/schema"}, "refers to 'http://127.0.0.1:1/schema', which it lacks"),
                ({"$dynamicRef": "#x"}, "refers to '#x', which it lacks"),
                ({"$ref": "#/x", "x": {"type": "objekt"}}, "schema is no JSON schema: 'objekt'"),
                ({"$ref": "#"}, "refers to itself for one and the same value"),
                ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}}, "refers to itself for one"),
                (functools.reduce(lambda below, _: {"not": below}, range(300), {}), "schema is nested too deep"),
            ]
        ),
        ('[{"kind": "string_match", "expression": " "}]', "expression is empty"),
        ("no such file.json", "file 'no such file.json', which cannot be read: No such file"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_place_and_reason(text, words):
    with pytest.raises(ParameterError, match=words):
        load_rewards(read_rewards(text), most_tokens=8)


def test_a_file_with_the_files_that_it_names_becomes_one_text(tmp_path):
    (tmp_path / "fit.py").write_text("def fit(example, response):\n    return 1\n")
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    listed = [
        {"kind": "python", "function": "fit.py:fit", "weight": 2},
        {"kind": "json_schema", "schema": "schema.json"},
        {"kind": "python", "name": "elsewhere", "function": "gs://bucket/fit.py"},
    ]
    (tmp_path / "rewards.json").write_text(json.dumps(listed))
    text = read_rewards(str(tmp_path / "rewards.json"), remote=False)
    assert json.loads(text) == [
        {"kind": "python", "function": "fit", "code": "def fit(example, response):\n    return 1\n", "weight": 2.0},
        {"kind": "json_schema", "schema": {"type": "object"}},
        listed[2],
    ]
    assert read_rewards(text, remote=False) == text
    assert read_rewards("gs://bucket/rewards.json", remote=False) == "gs://bucket/rewards.json"
    assert read_rewards("") == ""


def test_the_source_of_a_module_is_part_of_a_reward_that_names_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "our_package").mkdir()
    files = [tmp_path / "our_module.py", tmp_path / "our_package/__init__.py", tmp_path / "our_package/words.py"]
    for file in files:
        file.write_text("raise RuntimeError('it is read, not run')")
    listed = [
        {"kind": "python", "name": name, "function": function}
        for name, function in (("a", "our_module:f"), ("b", "our_package:f"), ("c", "our_package.words:f"))
    ]
    digests = []
    for _ in range(2):
        text = read_rewards(json.dumps(listed))
        assert read_rewards(text) == text
        digests.append([item["source"] for item in json.loads(text)])
        for file in (files[0], files[2]):
            file.write_text("VALUE = 2")
    assert all(before != after for before, after in zip(*digests, strict=True))
    elsewhere = [{"kind": "python", "function": "of_the_image:f"}]
    assert json.loads(read_rewards(json.dumps(elsewhere))) == elsewhere


def test_of_an_answer_only_the_last_match_of_extract_is_scored():
    reward = {"kind": "string_match", "expression": "{{references.answer}}", "extract": "<a>(.*?)</a>"}
    texts = ["<a>41</a> no, <a> 42 </a> it is", "42", "<a>42"]
    assert scores(reward, *map(answer, texts)) == [1.0, 0.0, 0.0]


def test_a_prompt_without_the_references_that_a_reward_needs_is_found_before_anything_is_spent():
    rewards = loaded({"kind": "string_match", "expression": "{{ references.year }}"})
    with pytest.raises(DataError, match=r"references.year, which prompt 1 of 1 does not have: '6 x 7\?'"):
        rewards.check_references([EXAMPLE])
    loaded({"kind": "string_match", "expression": "{{references.answer}}"}).check_references([EXAMPLE])


def test_what_is_too_large_to_be_learnt_from_is_never_a_reward():
    rewards = loaded({"kind": "unfinished", "weight": 1e6})
    for worth, words in ((-1e308, r"unfinished gives an answer -1e\+308"), (1e7, r"All rewards .* an answer 1e\+13")):
        rewards.parts[0].scorer.score = lambda examples, answers, step, worth=worth: [0.0, worth]
        with pytest.raises(ParameterError, match=words):
            rewards.score([EXAMPLE] * 2, [answer("a")] * 2, step=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_finite_number_is_never_a_reward(bad):
    rewards = loaded({"kind": "unfinished"})
    rewards.parts[0].scorer.score = lambda examples, answers, step: [0.0, bad]
    with pytest.raises(ParameterError, match="gives 1 of 2 answers a score that is not finite"):
        rewards.score([EXAMPLE] * 2, [answer("a")] * 2, step=1)


def test_every_kind_is_named_as_its_file_is():
    assert all(module == f"rlhf_tuning.rewards.{kind}" for kind, module in REWARDS.items())


@pytest.mark.parametrize(
    ("operation", "expression", "text", "matches"),
    [
        ("exact_match", "{{references.answer}}", " 42\n", True),
        ("exact_match", "{{references.answer}}", "It is 42", False),
        ("partial_match", "is {{references.answer}}", "It is 42.", True),
        ("partial_match", "is {{references.answer}}", "It is 4.", False),
        ("regex_contains", r"\b{{references.answer}}\b", "It is 42.", True),
        ("regex_contains", r"\b{{references.answer}}\b", "It is 421.", False),
        ("regex_contains", "(?i)yes", "YES", True),
    ],
)
def test_a_string_matches_as_google_has_it(operation, expression, text, matches):
    reward = {"kind": "string_match", "expression": expression, "operation": operation, "correct": 5, "wrong": -0.5}
    assert scores(reward, answer(text)) == [1.0 if matches else -0.5]  # clipped


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"n": "42"}', 1.0),
        ('{"n": 42}', 1.0),
        ('{"n": "41"}', 0.0),
        ('{"m": "42"}', 0.0),
        ("42", 0.0),
        ("[" * 10**5, 0.0),
    ],
)
def test_a_string_may_be_matched_in_the_field_of_a_json_answer(text, found):
    assert scores({"kind": "string_match", "expression": "{{references.answer}}", "key": "n"}, answer(text)) == [found]


def test_a_regular_expression_that_never_ends_fails_the_run(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    endless, text = "(a|aa)+$", answer("a" * 60 + "b")
    reward = {"kind": "string_match", "expression": endless, "operation": "regex_contains"}
    with pytest.raises(ParameterError, match="The expression of the reward string_match took more than"):
        scores(reward, text)
    with pytest.raises(ParameterError, match="The extract of the reward unfinished took more than"):
        scores({"kind": "unfinished", "extract": endless}, text)
    own = json.dumps({"a" * 60 + "b": "a" * 60 + "b"})
    for schema in (
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": {"pattern": endless}},
        {"patternProperties": {endless: {}}},
        {"additionalProperties": False, "patternProperties": {endless: {}}},
    ):
        with pytest.raises(ParameterError, match=r"pattern '\(a\|aa\)\+\$' in the schema of .* took more than"):
            scores({"kind": "json_schema", "schema": schema}, answer(own))


@pytest.mark.parametrize(
    ("operation", "given", "words"),
    [
        (
            "regex_contains",
            "(",
            r"prompt 2 of 2 of prompt_dataset, '6 x 7\?': the expression becomes '\(', which is no regular",
        ),
        ("regex_contains", " ", "the expression becomes empty, which every answer contains"),
        ("partial_match", "", "the expression becomes empty, which every answer contains"),
        ("exact_match", "", ""),
    ],
)
def test_references_that_a_match_cannot_be_held_against_are_told_with_their_prompt(operation, given, words):
    rewards = loaded({"kind": "string_match", "expression": "{{references.answer}}", "operation": operation})
    examples = [EXAMPLE, {**EXAMPLE, "references": {"answer": given}}]
    with pytest.raises(DataError, match=words) if words else nullcontext():
        rewards.check_references(examples)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"city": "Bath"}', True),
        ('{"city": "Bath", "x-1": 1}', True),
        ('{"city": "Bath", "x-1": "1"}', False),
        ('{"city": "Bath", "y": 1}', False),
        ('{"city": "bath"}', False),
        ('{"city": 3}', False),
        ("{}", False),
        ("city", False),
        ("[" * 10**5, False),
    ],
)
def test_json_fits_a_schema_or_not(text, fits):
    schema = {
        "type": "object",
        "required": ["city"],
        "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}},
        "patternProperties": {"^x-": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert scores({"kind": "json_schema", "schema": schema, "wrong": -1}, answer(text)) == [1.0 if fits else -1.0]


def test_a_schema_that_refers_to_itself_for_what_is_inside_holds_only_answers_to_account():
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}}
    deep = '{"left": ' * 500 + "{}" + "}" * 500
    assert scores({"kind": "json_schema", "schema": tree}, answer('{"left": {}}'), answer(deep)) == [1.0, 0.0]
    steps = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(999)}
    schema = {"$ref": "#/$defs/a0", "$defs": {**steps, "a999": {}}}
    with pytest.raises(ParameterError, match="leads from one reference to the next too often"):
        scores({"kind": "json_schema", "schema": schema}, answer("1"))


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "NaN"])
def test_a_number_beyond_reckoning_does_not_fit_a_schema(number):
    assert scores({"kind": "json_schema", "schema": {"multipleOf": 0.5}}, answer(number)) == [0.0]


def test_length_and_form():
    def of(reward, *tokens):
        return scores(reward, *(answer("a", count, count < 32) for count in tokens))

    band = {"kind": "length", "low": 10, "high": 20, "falloff": 3}
    assert of(band, 6, 8, 10, 20, 21, 24, 32) == [0.0, 0.5, 1.0, 1.0, 0.75, 0.0, 0.0]
    assert of({"kind": "near_limit", "margin": 8}, 1, 24, 26, 32) == [0.0, 0.0, -0.25, -1.0]
    assert of({"kind": "unfinished"}, 31, 32) == [0.0, -1.0]
