"""Tiny random models of many architectures: two layers, each with the oddities of the real ones' configs."""

from pathlib import Path
from typing import Any, NamedTuple

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    # Wider than usual, so that what a layer does wrong shows.
    "initializer_range": 0.15,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.15}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.15}
MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
DROPOUT = {"attention_dropout": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
#: Longer than any text of the tests, and shorter.
WIDE, NARROW = 256, 16


class Architecture(NamedTuple):
    """A config's class in transformers, its settings, and what is odd about it."""

    config: str
    settings: dict[str, Any]
    oddity: str = ""


ARCHITECTURES = {
    # Dense, with rotary positions.
    "Llama": Architecture("LlamaConfig", GROUPED | {"tie_word_embeddings": True}, "tied embeddings"),
    "Mistral": Architecture("MistralConfig", GROUPED | {"sliding_window": WIDE}, "a window"),
    "Mistral, narrow": Architecture(
        "MistralConfig", GROUPED | {"sliding_window": NARROW}, "a window shorter than the text"
    ),
    "Ministral": Architecture(
        "MinistralConfig",
        HEADS | {"sliding_window": NARROW, "layer_types": ["sliding_attention", "full_attention"]},
        "a window in every other layer",
    ),
    "Qwen 2": Architecture("Qwen2Config", GROUPED, "biases in attention"),
    "Qwen 3": Architecture("Qwen3Config", HEADS, "norms of queries and keys"),
    "Gemma": Architecture("GemmaConfig", HEADS, "scaled embeddings, tied"),
    "Gemma 2": Architecture(
        "Gemma2Config", HEADS | {"sliding_window": WIDE}, "capped scores and logits, no fused attention"
    ),
    "Gemma 3": Architecture(
        "Gemma3TextConfig",
        HEADS | {"sliding_window": NARROW, "layer_types": ["sliding_attention", "full_attention"]},
        "a window shorter than the text, two rotary bases",
    ),
    "Gemma 3, with vision": Architecture("Gemma3Config", {}, "a text model inside a multimodal one"),
    "Phi": Architecture("PhiConfig", SIZES | DROPOUT, "biased output head, dropout, half rotary"),
    "Phi 3": Architecture(
        "Phi3Config", GROUPED | DROPOUT | {"original_max_position_embeddings": 512}, "fused products, dropout"
    ),
    "OLMo 2": Architecture("Olmo2Config", GROUPED, "norms after the layers"),
    "SmolLM 3": Architecture("SmolLM3Config", GROUPED | {"no_rope_layer_interval": 2}, "layers without positions"),
    "StarCoder 2": Architecture(
        "Starcoder2Config", GROUPED | {"residual_dropout": 0.1, "embedding_dropout": 0.1}, "biases, dropout"
    ),
    "StableLM": Architecture("StableLmConfig", GROUPED | {"partial_rotary_factor": 0.5}, "half rotary"),
    "Nemotron": Architecture("NemotronConfig", GROUPED, "an MLP of two products"),
    "Cohere": Architecture("CohereConfig", GROUPED, "scaled logits, parallel layers, no classifier"),
    "Cohere 2": Architecture(
        "Cohere2Config", GROUPED | {"sliding_window": WIDE}, "scaled logits, a window, no classifier"
    ),
    "Granite": Architecture(
        "GraniteConfig",
        GROUPED
        | {
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
        },
        "divided logits, no classifier",
    ),
    "GLM 4": Architecture("Glm4Config", HEADS | {"partial_rotary_factor": 0.5}, "four norms a layer"),
    "EXAONE 4": Architecture(
        "Exaone4Config",
        GROUPED | {"sliding_window": WIDE, "sliding_window_pattern": 2},
        "a window and no positions elsewhere",
    ),
    "ERNIE 4.5": Architecture("Ernie4_5Config", HEADS, "no classifier"),
    "MiniCPM 3": Architecture(
        "MiniCPM3Config",
        SIZES | LATENT | {"num_key_value_heads": 4, "dim_model_base": 16},
        "latent attention, scaled states",
    ),
    # Older ones.
    "GPT-2": Architecture(
        "GPT2Config", GPT | DROPOUT | {"attn_pdrop": 0.1}, "learnt positions, transposed weights, dropout"
    ),
    "GPT-NeoX": Architecture("GPTNeoXConfig", SIZES | {"hidden_dropout": 0.1}, "parallel layers"),
    "GPT-Neo": Architecture(
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 512,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 32,
            "initializer_range": 0.15,
        },
        "masks of its own, no fused attention",
    ),
    "GPT-J": Architecture("GPTJConfig", GPT | {"rotary_dim": 4}, "biased output head, no fused attention"),
    "CodeGen": Architecture("CodeGenConfig", GPT | {"rotary_dim": 4}, "no fused attention, no classifier"),
    "StarCoder": Architecture("GPTBigCodeConfig", GPT | DROPOUT | {"attn_pdrop": 0.1}, "one head of keys, dropout"),
    "OPT": Architecture(
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            "init_std": 0.15,
        },
        "embeddings narrower than the layers, dropout",
    ),
    "BLOOM": Architecture(
        "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}, "ALiBi"
    ),
    "MPT": Architecture(
        "MptConfig",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512, "initializer_range": 0.15},
        "ALiBi, no biases",
    ),
    "Falcon": Architecture(
        "FalconConfig", SIZES | {"alibi": True, "new_decoder_architecture": False}, "ALiBi, one head of keys"
    ),
    # Mixtures of experts.
    "Mixtral": Architecture("MixtralConfig", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}, "experts"),
    "Qwen 3 MoE": Architecture("Qwen3MoeConfig", HEADS | EXPERTS | {"moe_intermediate_size": 16}, "experts"),
    "OLMoE": Architecture("OlmoeConfig", GROUPED | EXPERTS, "experts, no classifier"),
    "gpt-oss": Architecture(
        "GptOssConfig",
        HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WIDE},
        "experts, sinks, a window, no fused attention",
    ),
    "DeepSeek V3": Architecture(
        "DeepseekV3Config",
        SIZES
        | LATENT
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        "latent attention, experts in groups",
    ),
    "Llama 4": Architecture(
        "Llama4TextConfig",
        HEADS
        | {
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "attention_chunk_size": NARROW,
            "no_rope_layer_interval": 2,
        },
        "attention in chunks, experts, no classifier",
    ),
    # State spaces and other layers that are not attention.
    "Mamba": Architecture("MambaConfig", MAMBA, "no attention, no classifier"),
    "Mamba 2": Architecture(
        "Mamba2Config",
        MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
        "no attention, no classifier",
    ),
    "Falcon Mamba": Architecture("FalconMambaConfig", MAMBA, "no attention, no classifier"),
    "RWKV": Architecture(
        "RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 512}, "no attention, no classifier"
    ),
    "Jamba": Architecture(
        "JambaConfig",
        GROUPED
        | EXPERTS
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
        "Mamba, attention and experts",
    ),
    "Bamba": Architecture("BambaConfig", GROUPED | MAMBA_2 | {"attn_layer_indices": [1]}, "Mamba 2 and attention"),
    "Falcon-H1": Architecture(
        "FalconH1Config",
        GROUPED | MAMBA_2 | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
        "Mamba 2 beside attention, scaled logits",
    ),
    "Granite 4": Architecture(
        "GraniteMoeHybridConfig",
        GROUPED
        | MAMBA_2
        | {
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
            "logits_scaling": 4.0,
        },
        "Mamba 2, attention, experts, divided logits",
    ),
    "Qwen 3 Next": Architecture(
        "Qwen3NextConfig",
        HEADS
        | EXPERTS
        | LINEAR
        | {
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "linear attention, experts",
    ),
    "Qwen 3.5": Architecture(
        "Qwen3_5TextConfig",
        HEADS | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
        "linear attention",
    ),
    "LFM 2": Architecture(
        "Lfm2Config", GROUPED | {"layer_types": ["conv", "full_attention"]}, "short convolutions, no classifier"
    ),
    "RecurrentGemma": Architecture(
        "RecurrentGemmaConfig",
        SIZES
        | {
            "num_key_value_heads": 1,
            "lru_width": 32,
            "block_types": ["recurrent", "attention"],
            "attention_window_size": WIDE,
        },
        "linear recurrence, capped logits",
    ),
    "Zamba 2": Architecture(
        "Zamba2Config",
        SIZES
        | {
            "layers_block_type": ["mamba", "hybrid"],
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "chunk_size": 16,
            "adapter_rank": 4,
            "use_mamba_kernels": False,
        },
        "Mamba 2, one attention shared by layers",
    ),
}


def make_config(name: str, *, vocabulary: int = 96, **ids: int | None) -> Any:
    """Return an architecture's config."""
    import transformers

    architecture = ARCHITECTURES[name]
    settings: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1} | ids
    if name == "Gemma 3, with vision":
        text = HEADS | {"sliding_window": WIDE} | settings
        vision = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        settings = {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 1} | ids
    return getattr(transformers, architecture.config)(**settings | architecture.settings)


def make_network(name: str, **settings: Any) -> Any:
    """Return an architecture's model with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from rlhf_tuning.models.scoring_model import name_trunk

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config(name, **settings))
    name_trunk(model)
    return model.eval()


def save_network(name: str, folder: Path, tokenizer: Any) -> Path:
    """Save an architecture's model with a tokenizer."""
    model = make_network(
        name,
        vocabulary=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
