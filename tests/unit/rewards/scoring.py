"""What tests of rewards have in common."""

import json
from typing import Any

from rlhf_tuning.rewards import Answer, Rewards, load_rewards, read_rewards

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 x 7?"}]
EXAMPLE = {"prompt": PROMPT, "references": {"answer": "42"}}


def loaded(*rewards: dict[str, Any], most_tokens: int = 32, **given: Any) -> Rewards:
    """Return rewards as a run loads them."""
    return load_rewards(read_rewards(json.dumps(rewards)), most_tokens=most_tokens, **given)


def answer(text: str, tokens: int = 4, ended: bool = True) -> Answer:
    """Return an answer."""
    return Answer(text, tokens, ended)


def scores(reward: dict[str, Any], *answers: Answer, **settings: Any) -> list[float]:
    """Return what a reward alone gives to some answers to one prompt."""
    rewards = loaded(reward, **settings)
    try:
        return rewards.score([EXAMPLE] * len(answers), answers, step=1)
    finally:
        rewards.close()
