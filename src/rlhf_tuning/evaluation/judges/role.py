"""Whose language model a server has, the judge's or the teacher's: what its parameters are called, and its key."""

from typing import NamedTuple

from rlhf_tuning import environment
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.secret_manager import read_secret


class Role(NamedTuple):
    """Whose server it is.

    Attributes:
        name: `judge` or `teacher`.
        model: The parameter that names the language model there.
        endpoint: The parameter that says where the server is.
        key_secret: The parameter that names the secret with the key.
        key_variable: The environment variable that holds the key.
        max_calls: The parameter that limits the requests.
        max_cost: The parameter that limits what they cost.
        price: The parameter that says what a million tokens cost.
    """

    name: str
    model: str
    endpoint: str
    key_secret: str
    key_variable: str
    max_calls: str
    max_cost: str
    price: str

    def key_place(self, secret: str) -> str:
        """Return where the key comes from, in words; `secret` is the name of a secret, or empty."""
        return f"the secret {secret}" if secret else f"the environment variable {self.key_variable}"

    def key(self, secret: str) -> str:
        """Return the key: what the secret holds, or else the environment; empty for none.

        Raises:
            UserError: If the secret cannot be read, or what is there can be no key.
            RunError: If Secret Manager gives no answer.
        """
        key = (environment.JUDGE_API_KEY if self.name == JUDGE.name else environment.TEACHER_API_KEY).strip()
        if secret:
            key = read_secret(secret, parameter=self.key_secret)
        if not (key.isascii() and key.isprintable()):
            # Not left to the client: its error would show the key.
            raise ParameterError(
                f"What {self.key_place(secret)} holds can be no key: it has several lines, or characters other than "
                "letters, digits and signs. Store the key alone there."
            )
        return key


def _role(name: str, model: str) -> Role:
    """Return a role whose parameters all begin with its name."""
    parameters = ("endpoint", "key_secret", "max_calls", "max_cost", "price")
    names = {parameter: f"{name}_{parameter}" for parameter in parameters}
    return Role(name=name, model=model, key_variable=f"RLHF_{name.upper()}_API_KEY", **names)


JUDGE = _role("judge", "judge_model")
TEACHER = _role("teacher", "teacher_model_reference")
