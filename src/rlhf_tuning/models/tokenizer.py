"""Loading tokenizers, repaired so that padding can be told from the end of an answer. Needs no torch."""

from typing import Any

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.model_reference import model_source

#: The byte 0xFF, which UTF-8 never uses, as vocabularies of bytes have it.
_UNUSED_BYTES = ("<0xFF>", "\u00ff")


def load_tokenizer(reference: str) -> Any:
    """Load a model's tokenizer, repaired so that padding can be told from the end of an answer.

    Raises:
        ModelError: If there is no tokenizer, or none that ends a sequence.
    """
    from transformers import AutoTokenizer

    source = model_source(reference, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except Exception as error:  # the tokenizers library has no class of its own, and converters want packages
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"Cannot load the tokenizer of {reference!r}: {reason[0].rstrip('.')}.") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {reference!r} has no end-of-sequence token, so an answer could never end. Name it as "
            "eos_token in tokenizer_config.json."
        )
    tokenizer.pad_token = _pad_token(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def same_tokens(one: str, other: str) -> bool:
    """Say whether two models have the same tokens.

    Raises:
        ModelError: If a tokenizer cannot be loaded.
    """
    ours, theirs = load_tokenizer(one).get_vocab(), load_tokenizer(other).get_vocab()
    return bool(ours == theirs)


#: What is in the names of tokens that nothing uses.
_SET_ASIDE = ("pad", "reserved", "unused")


def _pad_token(tokenizer: Any) -> str:
    """Return a token for padding that is not the end of an answer.

    Where both are one token, whatever masks padding also masks the end, and a policy never learns to stop. Masks are
    passed everywhere, so any other special token will do.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return str(tokenizer.pad_token)
    for token in (tokenizer.unk_token, *tokenizer.all_special_tokens, tokenizer.bos_token):
        if token is not None and token not in (tokenizer.eos_token, tokenizer.bos_token):
            return str(token)
    # Llama 3 has neither, but tokens set aside for uses like this one.
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and any(word in token.content for word in _SET_ASIDE):
            return str(token.content)
    if tokenizer.bos_token is not None and tokenizer.bos_token_id != tokenizer.eos_token_id:
        return str(tokenizer.bos_token)
    # A tokenizer with a single special token. Once saved it calls the ordinary token that pads special too, and leaves it
    # out of every answer; so the best is a byte that no text in UTF-8 has.
    ordinary = [str(tokenizer.convert_ids_to_tokens(index)) for index in (0, 1) if index != tokenizer.eos_token_id]
    vocabulary = tokenizer.get_vocab()
    return next(
        (byte for byte in _UNUSED_BYTES if byte in vocabulary and byte not in tokenizer.tokenize("\u00ff")), ordinary[0]
    )
