import os

import pytest
import torch

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import processor


@pytest.mark.parametrize(
    ("has", "onednn", "native", "callable"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True}, True, True, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True, True, True),
        # ONEDNN_MAX_CPU_ISA=AVX2
        ({"architecture": "x86_64", "avx512_bf16": True}, False, False, False),
        # AVX512 without BF16: oneDNN takes it, and works it out slowly.
        ({"architecture": "x86_64", "avx512_bf16": False}, True, False, True),
        ({"architecture": "x86_64", "avx2": True}, False, False, False),
        ({"architecture": "arm64", "bf16": True}, True, False, False),
    ],
)
def test_bfloat16_is_fast_where_the_processor_has_it_and_onednn_may_use_it(has, onednn, native, callable, monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert processor.multiplies_bfloat16() == native
    assert processor.has_onednn(torch.bfloat16) == callable


def test_what_onednn_is_said_to_have_it_has():
    for dtype in (torch.float32, torch.bfloat16):
        if processor.has_onednn(dtype):
            torch.ops.mkldnn._reorder_linear_weight(torch.ones(8, 8, dtype=dtype), 16)
    assert not processor.has_onednn(torch.float64)


@pytest.mark.skipif(os.environ.get("ONEDNN_MAX_CPU_ISA") != "AVX2", reason="`make test` also runs it held to AVX2")
def test_a_processor_held_to_avx2_has_no_more():
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    assert not processor.has_onednn(torch.bfloat16)
    assert not processor.onednn_is_faster()
    assert base_model.choose_dtype("auto") == torch.float32
