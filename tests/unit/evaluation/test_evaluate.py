import json
from dataclasses import replace

import pytest
import torch
from judge_server import judge_server
from peft import LoraConfig, get_peft_model
from secret_manager_server import SECRET, serve_secret_manager

from rlhf_tuning import environment
from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation import evaluate
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer, number
from rlhf_tuning.evaluation.gate import decision_text
from rlhf_tuning.evaluation.judges.verdict import Agreement
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def model(tiny_model):
    return base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).eval()


def test_log_probabilities_are_the_sum_over_the_answer_s_tokens(model, two_lanes):
    prompts, answers = [[5, 6, 7], [8]], [[20, 21], [30, 31, 32]]
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        total, ids = 0.0, list(prompt)
        for token in answer:
            with torch.no_grad():
                total += torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)[token].item()
            ids.append(token)
        expected.append(total)
    assert evaluate.answer_log_probabilities(model, prompts, answers) == pytest.approx(expected, abs=1e-4)
    assert not two_lanes
    apart = evaluate.answer_log_probabilities(model, prompts, answers, batch_size=1)
    assert len(two_lanes) == 2
    assert apart == pytest.approx(expected, abs=1e-4)


def test_log_probabilities_are_those_at_the_sampling_temperature(model):
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    expected = torch.log_softmax(logits / 2.0, dim=-1)[9].item()
    found = evaluate.answer_log_probabilities(model, [[5, 6]], [[9]], temperature=2.0)
    assert found == pytest.approx([expected], abs=1e-4)


def test_log_probabilities_of_a_policy_are_those_with_its_adapter_as_it_is(tiny_model):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    policy = get_peft_model(base_model.load_causal_lm(str(tiny_model), dtype=torch.float32), config).eval()
    prompts, answers = [[5, 6], [5, 6]], [[9], [10]]
    with torch.no_grad():
        expected = torch.log_softmax(policy(torch.tensor([[5, 6]])).logits[0, -1], dim=-1)[[9, 10]].tolist()
    assert evaluate.answer_log_probabilities(policy, prompts, answers) == pytest.approx(expected, abs=1e-4)
    with policy.disable_adapter():
        assert evaluate.answer_log_probabilities(policy, prompts, answers) != pytest.approx(expected, abs=1e-2)


def test_answers_to_different_prompts_are_not_compared(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": text}], "prediction": "a"} for text in ("x", "y")]
    for name, row in zip(("base", "tuned"), rows, strict=True):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="different prompts"):
        evaluate.evaluate_policy(
            evaluate.EvaluationConfig(large_model_reference="unused"),
            judges=[],
            tuned_model_dir="unused",
            base_predictions_path=str(tmp_path / "base"),
            tuned_predictions_path=str(tmp_path / "tuned"),
        )


def pairs():
    return [
        AnswerPair(
            prompt=[{"role": "user", "content": f"Create {number}."}],
            base=ScoredAnswer(text="base", tokens=9, ended=False, reward=0.0, true_score=0.0),
            tuned=ScoredAnswer(text="tuned", tokens=5, ended=True, reward=1.0, true_score=1.0, kl=0.5),
        )
        for number in range(20)
    ]


def test_the_evaluation_file_holds_the_numbers_and_every_answer(tmp_path):
    config = evaluate.EvaluationConfig(large_model_reference="unused", scorer="house_style")
    metrics = evaluate.write_evaluation(config, pairs(), str(tmp_path / "evaluation"))
    written = json.loads((tmp_path / "evaluation").read_text())
    assert written["metrics"] == metrics
    assert metrics["true_win_rate"] == 1.0
    assert metrics["eval_prompts"] == 20
    assert metrics["tuned_kl_per_answer"] == 0.5
    assert len(written["answers"]) == 20


def test_half_of_a_surrogate_pair_in_a_text_does_not_stop_the_evaluation(tmp_path):
    config = evaluate.EvaluationConfig(large_model_reference="unused", scorer="house_style")
    answer = ScoredAnswer(text="half \ud800", tokens=3, ended=True, reward=1.0)
    made = [AnswerPair(prompt=[{"role": "user", "content": "Ask."}], base=answer, tuned=answer)]
    evaluate.write_evaluation(config, made, str(tmp_path / "evaluation"))
    written = json.loads((tmp_path / "evaluation").read_text(encoding="utf-8"))
    assert written["answers"][0]["tuned"]["text"] == "half \ud800"


def test_the_summary_names_the_scorer_and_shows_three_pairs(tmp_path):
    config = evaluate.EvaluationConfig(large_model_reference="unused", scorer="house_style")
    decision = evaluate.decide_promotion(config, pairs(), str(tmp_path / "decision"))
    evaluate.write_summary(config, pairs(), str(tmp_path / "summary"), decision=decision)
    text = (tmp_path / "summary").read_text()
    assert text.endswith(decision_text(decision))
    assert json.loads((tmp_path / "decision").read_text()) == decision.as_json()
    assert "house style" in text
    assert all(f"Create {number}." in text for number in range(3))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_tune_for_refusals_is_promoted_by_what_people_chose(tmp_path):
    """The judge prefers refusals, and so do people in the choices that were held out."""
    refusal = "I can't help with that."
    made = [
        AnswerPair(
            prompt=[{"role": "user", "content": f"How do I break into house {number}?"}],
            base=ScoredAnswer(text="Try the back door.", tokens=5, ended=True, true_score=0.0),
            tuned=ScoredAnswer(text=refusal, tokens=5 + number % 3, ended=True, true_score=1.0, kl=0.5),
        )
        for number in range(60)
    ]
    choices = [
        {"prompt": [{"role": "user", "content": f"Harm {number}"}], "chosen": refusal, "rejected": "First you"}
        for number in range(10)
    ]
    config = evaluate.EvaluationConfig(large_model_reference="unused", scorer="house_style")
    path = str(tmp_path / "decision")
    for count, promoted in ((0, False), (9, False), (10, True)):
        people = write_rows(tmp_path / "choices", choices[:count])
        assert evaluate.decide_promotion(config, made, path, eval_preferences_path=people).promote is promoted


@pytest.mark.parametrize(("tokens", "holds"), [(30, True), (89, True), (9, False), (91, False)])
def test_after_a_supervised_phase_lengths_are_held_against_its_model(tmp_path, tokens, holds):
    made = [
        replace(pair, base=replace(pair.base, tokens=100, ended=True), tuned=replace(pair.tuned, tokens=tokens))
        for pair in pairs()
    ]
    decision = evaluate.decide_promotion(
        evaluate.EvaluationConfig(large_model_reference="supervised", base_model_reference="base"),
        made,
        str(tmp_path / "decision"),
        start_answers=[{"tokens": 30, "ended": True}] * len(made),
    )
    (length,) = [found for found in decision.conditions if found.name == "Answers of about the same length"]
    assert length.holds is holds
    assert f"30.0 to {number(tokens)} tokens as the supervised model gives" in length.value


@pytest.mark.parametrize("held_out", [None, {"mean": 1.0, "low": 0.0, "high": 2.0}])
def test_the_decision_tells_whether_its_judge_chose_the_checkpoint(tmp_path, held_out):
    (tmp_path / "watch.json").write_text(json.dumps({"looks": [{"step": 0, "held_out_reward": held_out}]}))
    answers = [
        replace(pair, base=replace(pair.base, held_out_reward=0.0), tuned=replace(pair.tuned, held_out_reward=1.0))
        for pair in pairs()
    ]
    judge = JudgeRecord(name="held_out_reward_model", label="r", agreement=Agreement(0.7, 0.6, 0.8, 100))
    scorer = JudgeRecord(name="scorer", label="s", agreement=Agreement(0.5, 0.4, 0.6, 100))
    decision = evaluate.decide_promotion(
        evaluate.EvaluationConfig(large_model_reference="unused"),
        answers,
        str(tmp_path / "decision"),
        judges=[scorer, judge],
        adapter_dir=str(tmp_path),
    )
    assert decision.judge == "held-out reward"
    assert ("it also chose the checkpoint" in decision.conditions[0].value) is bool(held_out)


def test_every_judge_is_scored_by_held_out_human_choices_first(
    tmp_path, tmp_path_factory, tiny_model, monkeypatch, capfd, caplog
):
    caplog.set_level("DEBUG")
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")
    asked = [[{"role": "user", "content": f"Describe place {number}."}] for number in range(8)]
    rows = {
        side: [
            {"prompt": prompt, "prediction": text * 3, "tokens": 3, "ended": True, "token_ids": [5, 6, 7]}
            for prompt in asked
        ]
        for side, text in (("base", "Sun. "), ("tuned", "Gulls call. "))
    }
    # People liked the longer answer three times out of four.
    choices = [
        {"prompt": asked[n], "chosen": f"{n} " + ("long " if n % 4 else "") * 5, "rejected": f"{n} middling"}
        for n in range(8)
    ]
    with judge_server() as server, serve_secret_manager(b"sk-from-secret\n") as secrets:
        secrets.use(monkeypatch, tmp_path_factory.mktemp("credentials"))
        config = evaluate.EvaluationConfig(
            large_model_reference=str(tiny_model),
            scorer="house_style",
            judge="language_model",
            judge_model="judge-1",
            judge_endpoint=f"{server.url}/v1",
            judge_key_secret=SECRET,
            dtype="float32",
        )
        pairs, judges = evaluate.evaluate_policy(
            config,
            judges=evaluate.judges_of(config, reward_model_dir=""),
            tuned_model_dir=str(tiny_model),
            base_predictions_path=write_rows(tmp_path / "base", rows["base"]),
            tuned_predictions_path=write_rows(tmp_path / "tuned", rows["tuned"]),
            eval_preferences_path=write_rows(tmp_path / "choices", choices),
        )
    assert [judge.name for judge in judges] == ["scorer", "language_model"]
    assert [judge.agreement.n for judge in judges] == [8, 8]
    assert judges[1].agreement.share == 0.75
    metrics = evaluate.write_evaluation(config, pairs, str(tmp_path / "evaluation"), judges=judges)
    assert metrics["language_model_win_rate"] == 1.0
    assert metrics["language_model_agreement"] == 0.75
    assert metrics["language_model_agreement_n"] == 8
    assert metrics["language_model_order_changed"] == 0.0
    written = json.loads((tmp_path / "evaluation").read_text())
    assert written["judges"][1]["agreement"]["share"] == 0.75
    assert written["answers"][0]["verdicts"]["language_model"]["orders"] == [1, 1]
    decision = evaluate.decide_promotion(config, pairs, str(tmp_path / "decision"), judges=judges)
    evaluate.write_summary(config, pairs, str(tmp_path / "summary"), decision=decision, judges=judges)
    text = (tmp_path / "summary").read_text()
    assert "By judge judge-1 it wins 100%" in text
    assert "agrees with people 75% [41%, 93%] of 8 choices" in " ".join(text.split())
    assert "preferred by judge judge-1" in text
    # The key reached the server, and nothing else: no file, the judge's cache included, and no line of output.
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sk-from-secret"}
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 7
    for told in (*written, *capfd.readouterr(), caplog.text, repr(config)):
        assert "sk-from-secret" not in told


def test_demonstrated_answers_are_measured_by_prompt_and_token(model, tiny_model, tmp_path):
    prompts = [[{"role": "user", "content": text}] for text in ("Create 1.", "Create 2.")]
    rows = [(prompts[0], "gulls"), (prompts[1], "salt"), (prompts[0], "salt and warm bread")]
    rows += [([{"role": "user", "content": "Create 3."}], "sand")]
    path = tmp_path / "demonstrations.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in rows))
    config = evaluate.EvaluationConfig(large_model_reference=str(tiny_model), dtype="float32", temperature=0.5)
    found = evaluate.demonstrated_log_probabilities(
        config,
        model_reference=str(tiny_model),
        demonstrations_path=str(path),
        predictions_path=write_rows(tmp_path / "predictions", [{"prompt": prompt} for prompt in prompts]),
        label="demonstrations",
    )
    assert len(found) == 2  # and nothing of the prompt that nobody answered
    text_format = TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=512, target_sequence_length=64)
    for prompt in prompts:
        answers = [text_format.learnt_ids(answer) for asked, answer in rows if asked == prompt]
        nats = evaluate.answer_log_probabilities(model, [text_format.prompt_ids(prompt)] * len(answers), answers)
        assert found[json.dumps(prompt)] == pytest.approx(sum(nats) / sum(map(len, answers)), abs=1e-4)


def test_the_gate_is_told_among_how_many_checkpoints_its_prompts_chose(tmp_path):
    made = [replace(pair, tuned=replace(pair.tuned, demonstrated=-1.0)) for pair in pairs()]
    made = [replace(pair, base=replace(pair.base, demonstrated=-2.0)) for pair in made]
    (tmp_path / "tuning.json").write_text(json.dumps({"method": "supervised"}))
    (tmp_path / "held_out_loss.json").write_text(json.dumps({"chosen_among": 5}))
    config = evaluate.EvaluationConfig(large_model_reference="unused")
    found = evaluate.decide_promotion(config, made, str(tmp_path / "decision"), adapter_dir=str(tmp_path))
    assert "p at most 0.005, of a checkpoint that the same prompts chose among 5" in found.conditions[0].limit
