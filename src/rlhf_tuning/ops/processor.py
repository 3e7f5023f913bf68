"""What the CPU at hand multiplies, and whose products it can call: asked of torch, which both depend on.

bfloat16 pays only where the processor has instructions for it. Measured on one core of an AMD EPYC with AVX512-BF16, held
to less with `ONEDNN_MAX_CPU_ISA`, in GFLOP/s: products of a layer (512 x 576 x 1536), and in brackets those of attention.

| instructions | float32 | bfloat16 |
|---|---|---|
| AVX512-BF16 | 102 (85) | 193 (190) |
| AVX512 | 103 (95) | 37 (36) |
| AVX2 | 96 (90) | 19 (3) |
"""

import torch


def multiplies_bfloat16() -> bool:
    """Say whether this CPU has instructions for products of bfloat16, and oneDNN, whose products they are, may use them.

    Of arm64 only some processors have any, and what torch gains from them was not measured: False there.
    """
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16")) and has_onednn(torch.bfloat16)


def has_onednn(dtype: torch.dtype) -> bool:
    """Say whether oneDNN's own products, and its layout of weights, can be called for numbers of this type.

    It refuses bfloat16 where there is neither AVX512 nor AVX-NE-CONVERT. On arm64 torch chooses between oneDNN and others
    by itself, so it is left to torch there.
    """
    if not torch._C._has_mkldnn or torch.cpu.get_capabilities()["architecture"] != "x86_64":
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def onednn_is_faster() -> bool:
    """Say whether this CPU works out a float32 product of a training pass faster by oneDNN than by MKL, torch's choice.

    With AVX512 they are alike on some processors of AMD and oneDNN twice as fast on others, where MKL uses AVX2 alone.
    Held to AVX2, a pass takes 13% longer by oneDNN, most of it in the backward half.
    """
    return has_onednn(torch.float32) and torch.backends.cpu.get_cpu_capability() == "AVX512"
