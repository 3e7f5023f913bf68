"""What preference tuning does to preferences that it does not learn from, and to the model's own answers.

Of held-out pairs: the loss, which decides when to stop and what to return (see `held_out_loss`); how often the chosen
answer has gained more than the rejected one; and what became of either. A loss of differences is content where both become
less likely, the rejected one faster. Then the probability goes to what nobody compared, which a sentence of its own says.

Of the model's own answers to some prompts: how far from the base model they show it, and how long they have become, which no
pair says. Where all weights learn the base model is gone by then, and with it the KL.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhf_tuning.distributed import processes
from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.statistics import MeanEstimate, clustered_mean, clustered_share, mean_interval
from rlhf_tuning.step import Progress
from rlhf_tuning.training.held_out_loss import check_finite
from rlhf_tuning.training.own_answers import kl_to_reference, own_answers
from rlhf_tuning.training.preference_loss import Pairs, losses

#: Answers whose log-probabilities are asked for at a time.
_TOGETHER = {"cpu": 8, "cuda": 32}
#: Nats within which margins are ties: rounding, where the policy still is the reference.
_TIE = 1e-4


def log_probabilities_of(
    model: Any, rows: Sequence[Mapping[str, Any]], *, share: bool, compute: torch.dtype, label: str = ""
) -> list[tuple[float, float]]:
    """Return log p of the chosen and of the rejected answer of each row, in nats, known to every process.

    Args:
        model: A causal language model, with the adapter that is on.
        rows: `prompt_ids`, `chosen_ids` and `rejected_ids`; those of like length beside each other.
        share: Whether the answers of a pair share their prompt.
        compute: Of matrix products, as in training.
        label: Under which progress is told; empty for none.
    """

    def ask(some: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
        progress = Progress(label, 2 * len(some), unit="answer") if label else None
        with torch.autocast(base_model.device().type, dtype=compute, enabled=compute != torch.float32):
            found = answer_log_probabilities(
                model,
                [row["prompt_ids"] for row in some for _ in range(2)],
                [row[name] for row in some for name in ("chosen_ids", "rejected_ids")],
                batch_size=_TOGETHER[base_model.device().type],
                share=share,
                on_progress=progress.update if progress else lambda done: None,
            )
        return list(zip(found[::2], found[1::2], strict=True))

    training = model.training
    model.eval()
    found = processes.spread(ask, rows)
    model.train(training)
    return found


def of_pairs(
    model: Any, rows: Sequence[Mapping[str, Any]], *, share: bool, compute: torch.dtype, loss: Mapping[str, Any]
) -> dict[str, MeanEstimate]:
    """Return what became of held-out pairs.

    `loss`; `accuracy`, how often the chosen answer has gained more than the rejected one, a tie half; `margin`, by how much
    more, times beta; `chosen` and `rejected`, the log-probabilities of the answers in nats; `chosen_change` and
    `rejected_change`, by how much these have risen. Intervals take the pairs of a prompt as one: prompts are what is
    independent.

    Args:
        model: The model that learns.
        rows: As for `log_probabilities_of`, with `ref_chosen_logps` and `ref_rejected_logps`.
        share: Likewise.
        compute: Likewise.
        loss: The settings of `preference_loss.losses`.

    Raises:
        ParameterError: If a loss is not finite.
    """
    now = torch.tensor(log_probabilities_of(model, rows, share=share, compute=compute), dtype=torch.float64)
    before = torch.tensor([[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in rows], dtype=torch.float64)
    pairs = Pairs(
        chosen=now[:, 0],
        rejected=now[:, 1],
        reference_chosen=before[:, 0],
        reference_rejected=before[:, 1],
        chosen_tokens=torch.tensor([float(len(row["chosen_ids"])) for row in rows]),
        rejected_tokens=torch.tensor([float(len(row["rejected_ids"])) for row in rows]),
    )
    margin = pairs.margin.where(pairs.margin.abs() > _TIE, 0.0)
    found = losses(pairs, **loss)
    check_finite(found.tolist())
    prompts = [tuple(row["prompt_ids"]) for row in rows]
    means = {
        "loss": found,
        "margin": loss["beta"] * margin,
        "chosen": pairs.chosen,
        "rejected": pairs.rejected,
        "chosen_change": pairs.chosen_change,
        "rejected_change": pairs.rejected_change,
    }
    return {name: clustered_mean(values.tolist(), prompts)._replace(n=len(rows)) for name, values in means.items()} | {
        "accuracy": clustered_share(((margin.sign() + 1) / 2).tolist(), prompts)
    }


def of_own_answers(
    model: Any, text_format: TextFormat, conversations: Sequence[Conversation], *, temperature: float, seed: int
) -> dict[str, MeanEstimate]:
    """Return what the model's own answers show: `answer_tokens`, and `kl` in nats where it is known. Nothing of no prompts.

    Args:
        model: The model that learns.
        text_format: Of prompts and answers.
        conversations: The prompts.
        temperature: Of the samples.
        seed: Of the samples.
    """
    if not conversations:
        return {}

    def answer(some: Sequence[Conversation]) -> list[tuple[float, float | None]]:
        answers = own_answers(model, text_format, some, temperature=temperature, seed=seed)
        ids = [answer.ids for answer in answers]
        nats = kl_to_reference(model, None, text_format, some, ids, temperature=temperature)
        return [(float(answer.tokens), nats[place] if nats else None) for place, answer in enumerate(answers)]

    found = processes.spread(answer, conversations)
    kl = [nats for _, nats in found if nats is not None]
    return {"answer_tokens": mean_interval([tokens for tokens, _ in found])} | ({"kl": mean_interval(kl)} if kl else {})


def warning(curve: Mapping[str, Any]) -> str:
    """Return what a person should know of the chosen answers, by what `held_out_loss.json` has; empty where nothing.

    Of feedback it is the liked ones.
    """
    returned = next(look for look in curve["looks"] if look["step"] == curve["best_step"])
    if "chosen_change" not in returned:
        return _of_feedback(returned.get("desirable_change"))
    chosen, rejected = returned["chosen_change"], returned["rejected_change"]
    if chosen["high"] >= 0:
        return ""
    return (
        f"The answers that people chose have become less likely, by {-chosen['mean']:.1f} nats [{-chosen['high']:.1f}, "
        f"{-chosen['low']:.1f}] each, and the rejected ones by {-rejected['mean']:.1f}: the loss asks for the difference "
        "alone, so the model may now say something that nobody compared. Read its answers. rpo_alpha 1 holds the chosen "
        "ones up; so do a higher beta and fewer epochs."
    )


def _of_feedback(liked: Mapping[str, float] | None) -> str:
    if liked is None or liked["high"] >= 0:
        return ""
    return (
        f"The answers that people liked have become less likely, by {-liked['mean']:.1f} nats [{-liked['high']:.1f}, "
        f"{-liked['low']:.1f}] each. Read the model's own answers. A higher desirable_weight holds the liked ones up; so do "
        "a higher beta and fewer epochs."
    )
