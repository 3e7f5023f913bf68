"""Linear layers with a LoRA adapter, computed with less moving of data than PEFT's.

PEFT works an adapter out beside its layer: the input is cast to the adapter's precision and back, and the result scaled
and added, each a pass over all activations. Here a layer and its adapter are one function with the gradient written out,
in the precision of the products; the adapter's part is added in place. The numbers are PEFT's up to rounding
(`tests/unit/test_linear.py`).

On a CPU with AVX512, float32 products are oneDNN's; torch takes MKL's, which are half as fast on some of these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rlhf_tuning.ops import processor


def linear_layers(model: Any) -> list[Any]:
    """Return the linear layers of a model; one with an adapter is one layer."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[Any] = []
    within: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(within) and within:
            continue
        if isinstance(module, BaseTunerLayer):
            within = (*within, name + ".")
            if type(module) is Linear and type(module.get_base_layer()) is nn.Linear and not module.lora_variant:
                found.append(module)
        elif type(module) is nn.Linear:
            found.append(module)
    return found


def left_alone(model: Any) -> list[str]:
    """Return the names of linear layers that an adapter must not be put on.

    Kernels for state spaces read the weight of their last product past its layer, and a router returns more than a product.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "Router" in type(module).__name__:
            names.append(name)
        if "D" in dict(module.named_parameters(recurse=False)):
            names += [f"{name}.{part}" for part, _ in module.named_children() if part == "out_proj"]
    return names


def quicken(model: Any) -> None:
    """Have the layers of a model that carry a LoRA adapter compute it as described above, from now on.

    Args:
        model: With PEFT's LoRA layers; without any, nothing changes.
    """
    for layer in linear_layers(model):
        plain = isinstance(layer, nn.Linear) or layer.get_base_layer().weight.requires_grad
        if not plain and "forward" not in vars(layer):
            layer.forward = partial(_forward, layer, layer.forward)


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Have the layers of a model leave out their adapters for a while.

    For passes that record no gradients. PEFT's `disable_adapter` also has every adapter's weights stop learning and start
    again, which takes many times as long.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer) and not layer.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def active_adapters(layer: Any) -> list[str]:
    """Return the adapters that a layer applies now."""
    if isinstance(layer, nn.Linear) or layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _forward(layer: Any, plain: Any, input: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
    adapters = active_adapters(layer)
    unknown = len(adapters) > 1 or args or settings or (layer.disable_adapters and layer.merged)
    if unknown or any(type(layer.lora_dropout[name]) is not nn.Identity for name in adapters):
        return plain(input, *args, **settings)  # type: ignore[no-any-return]
    base = layer.get_base_layer()
    kind = input.device.type
    if torch.is_autocast_enabled(kind):
        compute = torch.get_autocast_dtype(kind)
    elif input.dtype == base.weight.dtype:
        compute = input.dtype
    else:
        return plain(input)  # type: ignore[no-any-return]
    with torch.autocast(kind, enabled=False):
        rows = input.reshape(-1, input.shape[-1]).to(compute)
        weight = base.weight.to(compute)
        bias = None if base.bias is None else base.bias.to(compute)
        if not adapters:
            product = _Frozen.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        else:
            (name,) = adapters
            product = _LowRank.apply(  # type: ignore[no-untyped-call]
                rows, weight, bias, layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
            )
        output: torch.Tensor = product.view(*input.shape[:-1], -1)
        return output


def multiply(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return rows x the transpose of weight (+ bias)."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and processor.onednn_is_faster():
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return product
    return nn.functional.linear(rows, weight, bias)


class _Frozen(torch.autograd.Function):
    """The product with a weight that does not learn."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return multiply(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return multiply(gradients[0].contiguous(), weight.t()), None, None


class _LowRank(torch.autograd.Function):
    """rows W' + s (rows A') B', of which A and B learn and W does not; a prime is the transpose.

    rows (n, inputs), W (outputs, inputs), A (rank, inputs), B (outputs, rank).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        small, large = a.to(rows.dtype), (b * scaling).to(rows.dtype)
        inner = nn.functional.linear(rows, small)  # (n, rank)
        product = multiply(rows, weight, bias).addmm_(inner, large.t())
        ctx.save_for_backward(rows, weight, small, large, inner)
        ctx.scaling, ctx.dtypes = scaling, (a.dtype, b.dtype)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, small, large, inner = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_inner = gradient @ large  # (n, rank)
        of_a = of_b = of_rows = None
        if ctx.needs_input_grad[3]:
            of_a = (of_inner.t() @ rows).to(ctx.dtypes[0])
        if ctx.needs_input_grad[4]:
            of_b = (gradient.t() @ inner).to(ctx.dtypes[1]) * ctx.scaling
        if ctx.needs_input_grad[0]:
            of_rows = multiply(gradient, weight.t()).addmm_(of_inner, small)
        return of_rows, None, None, of_a, of_b, None
