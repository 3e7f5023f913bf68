"""Preprocess Inputs: find out which base models exactly the run will use."""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def preprocess_inputs(
    large_model_reference: str,
    reward_model_reference: str = "",
    warm_start_adapter: str = "",
    lora_dim: int = 16,
    adapter_size: int = 16,
    registry_dir: str = "",
    supervised_dataset: str = "",
    supervise_on_preferred: bool = False,
    model_display_name: str = "",
    method: str = "rlhf",
    teacher_model_reference: str = "",
    teacher: str = "local_model",
    on_policy: bool = False,
    large_model_a_reference: str = "",
    large_model_b_reference: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("large_model_reference", str),
        ("large_model_fingerprint", str),
        ("reward_model_reference", str),
        ("reward_model_fingerprint", str),
        ("warm_start_adapter", str),
        ("warm_start_fingerprint", str),
        ("base_model_reference", str),
        ("base_model_fingerprint", str),
        ("supervises", bool),
        ("model_display_name", str),
        ("teacher_model_reference", str),
        ("teacher_fingerprint", str),
        ("large_model_a_reference", str),
        ("large_model_a_fingerprint", str),
        ("large_model_b_reference", str),
        ("large_model_b_fingerprint", str),
    ],
):
    """Check that the base models can be tuned and that the adapter to start from fits, and fingerprint them.

    Never cached: the weights behind a path or a hub id may change.

    Args:
        large_model_reference: Base model of the policy: a hub id, a folder, a gs:// folder or an alias.
        reward_model_reference: Base model of the reward model; empty for the policy's own.
        warm_start_adapter: LoRA adapter that the tuned model starts from: a registered model or a folder; empty for none.
        lora_dim: Rank that the adapter must have.
        adapter_size: The same, where the method is preference.
        registry_dir: Folder of the local model registry; its default place when empty.
        supervised_dataset: What a supervised phase is to learn first; empty for none.
        supervise_on_preferred: Whether it is to learn the preferred answers.
        model_display_name: Name in the registry.
        method: How the base model is tuned, in a word, for the name that is made where none is given.
        teacher_model_reference: The teacher of a distillation: a base model reference or a registered model; behind a server
            its name there; empty for none.
        teacher: Where the teacher is: local_model, language_model or gemini.
        on_policy: Whether the teacher must have the student's tokens.
        large_model_a_reference: The first model whose answers a judge compares; the policy's base when empty.
        large_model_b_reference: The second one, likewise.

    Returns:
        large_model_reference: The same; a hub id with the commit that it stands for now, which every later step loads.
        large_model_fingerprint: Changes when the weights do.
        reward_model_reference: The reward model's base, filled in, likewise.
        reward_model_fingerprint: Changes when the weights do.
        warm_start_adapter: The adapter's folder; empty for none.
        warm_start_fingerprint: Changes when the adapter does.
        base_model_reference: The same as large_model_reference, whose place a supervised model may take afterwards.
        base_model_fingerprint: The same as large_model_fingerprint.
        supervises: Whether there is a supervised phase.
        model_display_name: The same; made from the base model's and the method's where it is empty.
        teacher_model_reference: The same; a hub id with its commit, a registered model as its folder.
        teacher_fingerprint: Changes when the teacher's weights do, as far as they are seen.
        large_model_a_reference: The first model to be compared, filled in; a registered model as its folder.
        large_model_a_fingerprint: Changes when its weights do.
        large_model_b_reference: The second one, likewise.
        large_model_b_fingerprint: Changes when its weights do.
    """
    from rlhf_tuning.labelling.teacher import check_same_tokens, resolve_teacher
    from rlhf_tuning.limits import check_on_policy, check_supervised_phase
    from rlhf_tuning.models.base_model_check import check_base_model
    from rlhf_tuning.models.model_reference import resolve_reference
    from rlhf_tuning.models.registered import resolve_registered
    from rlhf_tuning.models.warm_start import resolve_adapter
    from rlhf_tuning.promotion.upload import generated_name
    from rlhf_tuning.step import running_step

    with running_step("Preprocess Inputs"):
        supervises = check_supervised_phase(
            supervised_dataset=supervised_dataset,
            supervise_on_preferred=supervise_on_preferred,
            warm_start_adapter=warm_start_adapter,
        )
        check_base_model(large_model_reference)
        policy = resolve_reference(large_model_reference)
        reward = policy
        if reward_model_reference:
            check_base_model(reward_model_reference, parameter="reward_model_reference")
            reward = resolve_reference(reward_model_reference, parameter="reward_model_reference")
        named, rank = ("adapter_size", adapter_size) if method == "preference" else ("lora_dim", lora_dim)
        answering = resolve_teacher(teacher_model_reference, teacher=teacher, registry_dir=registry_dir)
        check_on_policy(on_policy=on_policy, teacher=teacher)
        if on_policy:
            check_same_tokens(policy.reference, answering.reference)
        first, second = (
            resolve_registered(reference, parameter=parameter, registry_dir=registry_dir) if reference else policy
            for parameter, reference in (
                ("large_model_a_reference", large_model_a_reference),
                ("large_model_b_reference", large_model_b_reference),
            )
        )
        adapter = resolve_adapter(
            warm_start_adapter,
            large_model_reference=policy.reference,
            large_model_fingerprint=policy.fingerprint,
            rank=rank,
            rank_parameter=named,
            registry_dir=registry_dir,
        )
    return (
        policy.reference,
        policy.fingerprint,
        reward.reference,
        reward.fingerprint,
        adapter.folder,
        adapter.fingerprint,
        policy.reference,
        policy.fingerprint,
        supervises,
        model_display_name or generated_name(policy.reference, method),
        answering.reference,
        answering.fingerprint,
        first.reference,
        first.fingerprint,
        second.reference,
        second.fingerprint,
    )
