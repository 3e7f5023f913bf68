"""The teacher of a distillation: which model answers the prompts, and where it is. Needs no torch."""

from dataclasses import asdict, dataclass

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges import check_cost, check_endpoint
from rlhf_tuning.evaluation.judges.role import TEACHER
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models.model_reference import ResolvedModel
from rlhf_tuning.models.registered import resolve_registered
from rlhf_tuning.models.tokenizer import same_tokens
from rlhf_tuning.step import counted

#: The teacher that is loaded by the step itself; the others are behind a server.
LOCAL = "local_model"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Settings of the labelling, named as the pipeline's parameters are.

    `large_model_reference` is the student, whose tokens `target_sequence_length` counts. `teacher_max_calls` counts requests
    to a server, repeated ones included, and `teacher_max_cost` what their tokens cost, at `teacher_price` for a million.
    `temperature` 0 takes the teacher's likeliest token each time. `keep_answers` keeps
    the answers that rows bring.
    """

    teacher_model_reference: str
    large_model_reference: str
    teacher: str = LOCAL
    teacher_endpoint: str = ""
    teacher_key_secret: str = ""
    teacher_max_calls: int = 10_000
    teacher_max_cost: float = 0.0
    teacher_price: float = 0.0
    keep_answers: bool = True
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 0.0
    batch_size: int = 64
    seed: int = 0
    dtype: str = "auto"
    inference_engine: str = "auto"

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        check_teacher(
            teacher=self.teacher,
            teacher_endpoint=self.teacher_endpoint,
            teacher_key_secret=self.teacher_key_secret,
            teacher_max_cost=self.teacher_max_cost,
            teacher_price=self.teacher_price,
        )


def check_teacher(
    *,
    teacher: str,
    teacher_endpoint: str,
    teacher_key_secret: str,
    teacher_max_cost: float = 0.0,
    teacher_price: float = 0.0,
) -> None:
    """Check where the teacher is to be found, and that what it may cost can be counted. No secret is read.

    Raises:
        ParameterError: Naming the parameter that is missing or cannot be used.
    """
    if teacher == LOCAL:
        for name, value in ((TEACHER.endpoint, teacher_endpoint), (TEACHER.key_secret, teacher_key_secret)):
            if value:
                raise ParameterError(
                    f"{name} is {value[:80]!r}, but teacher is '{LOCAL}', which the step loads itself. Leave it empty, or "
                    "set teacher to 'language_model' or 'gemini'."
                )
    elif teacher == "language_model" and not teacher_endpoint:
        raise ParameterError(
            "teacher is 'language_model', but teacher_endpoint is empty. Give the base URL of an OpenAI-compatible server, "
            "such as https://api.openai.com/v1 or http://localhost:8000/v1."
        )
    if teacher_endpoint:
        check_endpoint(teacher_endpoint, TEACHER)
    check_cost(teacher_max_cost, teacher_price, asked=teacher != LOCAL, role=TEACHER)


def check_calls(to_label: int, teacher_max_calls: int) -> None:
    """Check that a server may be asked about every prompt.

    Raises:
        ParameterError: If it may not: nothing is asked then.
    """
    if to_label > teacher_max_calls:
        raise ParameterError(
            f"{counted(to_label, 'prompt')} would be put to the teacher, and teacher_max_calls is {teacher_max_calls:,}, so "
            "it could not answer all of them. Raise it if you want to pay for so many, or give fewer prompts."
        )


def resolve_teacher(teacher_model_reference: str, *, teacher: str, registry_dir: str) -> ResolvedModel:
    """Check that a teacher which is loaded here exists, and say which model exactly it is.

    Args:
        teacher_model_reference: A base model reference, or a model of the local registry; of a server, its name there.
        teacher: Where it is.
        registry_dir: Folder of the registry; its default place when empty.

    Raises:
        ModelError: If there is no such model.
    """
    if teacher != LOCAL or not teacher_model_reference:
        return ResolvedModel(reference=teacher_model_reference, fingerprint=teacher_model_reference)
    return resolve_registered(teacher_model_reference, parameter=TEACHER.model, registry_dir=registry_dir)


def check_same_tokens(student: str, teacher: str) -> None:
    """Check that a student and its teacher have the same tokens: probabilities of these are compared.

    Args:
        student: A base model reference.
        teacher: Likewise.

    Raises:
        ParameterError: If they have others.
        ModelError: If a tokenizer cannot be loaded.
    """
    if not same_tokens(student, teacher):
        raise ParameterError(
            f"on_policy is true, but the tokens of the student {student!r} and of the teacher {teacher!r} are not the same, "
            "so that their probabilities cannot be compared. Choose two models of one family, or leave on_policy out: the "
            "teacher's answers alone are learnt then."
        )
