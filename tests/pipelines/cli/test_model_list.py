import json
from pathlib import Path

from rlhf_pipelines.cli.model_list import as_json, as_table
from rlhf_tuning.registry import ModelVersion


def model(version: int, manifest: dict[str, object], aliases: tuple[str, ...] = ()) -> ModelVersion:
    return ModelVersion(
        name="plantation",
        version=version,
        aliases=aliases,
        path=Path("/models/plantation"),
        manifest=manifest,
        created="2026-01-02T03:04:05+00:00",
        fingerprint="sha256:0",
    )


EVALUATION = {"true_win_rate": 0.73, "true_win_rate_low": 0.65, "true_win_rate_high": 0.8, "reward_win_rate": 0.9}


def test_table_shows_base_model_and_win_rate() -> None:
    table = as_table(
        [
            model(1, {"display_name": "Сад"}),
            model(
                2,
                {"display_name": "plantation", "base_model": "smollm2", "evaluation": EVALUATION},
                ("default", "champion"),
            ),
        ]
    )
    assert [line.split() for line in table.split("\n")[1:]] == [
        ["plantation", "(Сад)", "1", "-", "2026-01-02", "03:04", "-", "-"],
        [
            "plantation",
            "2",
            "default,",
            "champion",
            "2026-01-02",
            "03:04",
            "smollm2",
            "73%",
            "(65%",
            "to",
            "80%)",
            "by",
            "scorer",
        ],
    ]


def test_win_rate_by_reward_stands_in_where_there_is_no_true_score() -> None:
    evaluation = {"reward_win_rate": 0.6, "reward_win_rate_low": 0.5, "reward_win_rate_high": 0.7}
    assert as_table([model(1, {"evaluation": evaluation})]).endswith("60% (50% to 70%) by the optimised reward")


def test_what_waits_for_approval_or_did_is_shown_where_there_is_such_a_model() -> None:
    waits, rejected = {"status": "pending"}, {"status": "rejected", "by": "anna"}
    table = as_table([model(1, {}), model(2, {"approval": rejected}), model(3, {"approval": waits})]).split("\n")
    assert table[0].endswith("APPROVAL")
    assert [line.split()[6:] for line in table[1:]] == [["-"], ["-", "rejected", "by", "anna"], ["-", "waits"]]
    assert "APPROVAL" not in as_table([model(1, {})])


def test_empty_registry_says_how_to_fill_it() -> None:
    assert "rlhf run" in as_table([])


def test_json_holds_the_whole_manifest() -> None:
    (found,) = json.loads(as_json([model(3, {"evaluation": EVALUATION}, ("default",))]))
    assert found["resource_name"] == "models/plantation@3"
    assert found["manifest"]["evaluation"]["true_win_rate"] == 0.73
    assert found["aliases"] == ["default"]
