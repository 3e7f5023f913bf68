"""Import Preference Dataset, run as its step runs it."""

import json

from kfp import dsl

from rlhf_components.import_preference_dataset import import_preference_dataset


def test_preferences_that_a_step_has_made_are_told_like_those_of_a_dataset(tmp_path, capsys):
    row = {"candidate_0": "Sun.", "candidate_1": "Gulls call.", "choice": 1}
    rows = [json.dumps({"input_text": f"Describe place {n}.", **row}) + "\n" for n in range(20)]
    (tmp_path / "labels").write_text("".join(rows))
    names = ("preferences", "eval_preferences", "preference_rows", "evaluation_prompts")
    written = {name: dsl.Dataset(uri=str(tmp_path / name)) for name in names}
    labels = dsl.Dataset(uri=str(tmp_path / "labels"))
    import_preference_dataset.python_func(**written, labelled_preferences=labels)
    assert "18 preferences to learn from, 2 held out" in capsys.readouterr().out
    assert written["preferences"].metadata["rows"] == 18
