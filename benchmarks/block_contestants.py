"""What `block_products` compares: three parts of a block, as they are and with other products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.pretraining.step.operations import Operations

WIDTH, HIDDEN = 384, 1536
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Narrow:
    """A tensor in fp8: `data` times `scale` (1,)."""

    data: Tensor
    scale: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Narrow:
        """Its largest magnitude becomes the largest of e4m3."""
        scale = (tensor.abs().amax().float() / 448).reshape(1)
        return cls((tensor.float() / scale).clamp(-448, 448).to(FP8), scale)

    def double(self) -> Tensor:
        return self.data.double() * self.scale


Results = dict[str, Tensor | Narrow]
"""By name; what is named like another with an 8 behind it is its fp8 copy."""

Call = Callable[[], Results]


def multiply(
    a: Narrow, b: Narrow, bias: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """a b^T + bias."""
    return torch._scaled_mm(
        a.data, b.data.T, a.scale, b.scale, bias=bias, out_dtype=dtype, use_fast_accum=True
    )


class PlainProducers:
    """What `fp8_kernels` does, in plain torch; it also keeps maxima."""

    @staticmethod
    def gelu(h: Tensor, h_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        out = functional.gelu(h.float() * h_scale, approximate="tanh")
        return out.bfloat16(), _narrow(out, scale)

    @staticmethod
    def gelu_backward(
        dout: Tensor, dout_scale: Tensor, h: Tensor, h_scale: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dh = torch.ops.aten.gelu_backward(
            dout.float() * dout_scale, h.float() * h_scale, approximate="tanh"
        )
        return dh.bfloat16(), _narrow(dh, scale), dh.sum(0)

    @staticmethod
    def add_norm(
        x: Tensor, y: Tensor, y_scale: Tensor, y_bias: Tensor, weight: Tensor, bias: Tensor,
        eps: float, scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        total = (x.float() + y.float() * y_scale + y_bias.float()).to(x.dtype)
        out = functional.layer_norm(total.float(), (x.shape[1],), weight, bias, eps)
        return total, out.to(x.dtype), _narrow(out, scale)


def _narrow(value: Tensor, scale: Tensor) -> Tensor:
    return (value / scale).clamp(-448, 448).to(FP8)


class Inputs:
    """Random tensors of one block, in bfloat16 and fp8, and its results in float64."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int, deviation: float = 1.0) -> Tensor:
            numbers = torch.randn(*shape, device=device, generator=generator) * deviation
            return numbers.bfloat16()

        self.x, self.normed = draw(tokens, WIDTH), draw(tokens, WIDTH)
        self.up, self.up_bias = draw(HIDDEN, WIDTH, deviation=0.05), draw(HIDDEN, deviation=0.1)
        self.down, self.down_bias = draw(WIDTH, HIDDEN, deviation=0.05), draw(WIDTH, deviation=0.1)
        self.dx = draw(tokens, WIDTH, deviation=1e-3)
        self.norm = nn.LayerNorm(WIDTH).to(device).requires_grad_(False)
        nn.init.normal_(self.norm.weight, 1, 0.1, generator=generator)
        nn.init.normal_(self.norm.bias, 0, 0.1, generator=generator)
        self.one = torch.ones(1, device=device)
        self._work_out()
        names = ("normed", "up", "down", "dx", "h", "active")
        self.narrow = {name: Narrow.of(getattr(self, name)) for name in names}
        self.narrow["down_t"] = Narrow.of(self.down.T.contiguous())

    def _work_out(self) -> None:
        """Results in float64, each from bfloat16 inputs, and those for later tasks."""
        h = torch.addmm(self.up_bias.double(), self.normed.double(), self.up.double().T)
        self.h = h.bfloat16()
        self.wanted = {"a": {"h": h, "GELU": functional.gelu(h)}}
        self.active = self.wanted["a"]["GELU"].bfloat16()
        dactive = self.dx.double() @ self.down.double()
        dh = torch.ops.aten.gelu_backward(dactive, self.h.double())
        self.wanted["b"] = {"dh": dh, "bias": dh.sum(0)}
        total = self.x.double() + self.down_bias.double()
        total += self.active.double() @ self.down.double().T
        weight, bias = self.norm.weight.double(), self.norm.bias.double()
        out = functional.layer_norm(total, (WIDTH,), weight, bias, self.norm.eps)
        self.wanted["c"] = {"total": total, "norm": out}
        # The last step's largest values, from which delayed scales come.
        most = {"h": h, "dactive": dactive, "dh": dh, "norm": out, "GELU": functional.gelu(h)}
        most["y"] = total - self.x.double()
        self.scales = {k: (v.abs().amax().float() / 448).reshape(1) for k, v in most.items()}


def todays(inputs: Inputs, ops: Operations) -> dict[str, Call]:
    """The step's own operations."""

    def up() -> Results:
        h, active = ops.linear_gelu(inputs.normed, inputs.up, inputs.up_bias)
        return {"h": h, "GELU": active}

    def gradient() -> Results:
        dh, bias = ops.linear_gelu_backward(inputs.dx, inputs.down, inputs.h)
        return {"dh": dh, "bias": bias}

    def down() -> Results:
        total, out, _, _ = ops.linear_add_norm(
            inputs.active, inputs.down, inputs.down_bias, inputs.x, inputs.norm
        )
        return {"total": total, "norm": out}

    return {"a": up, "b": gradient, "c": down}


def in_fp8(inputs: Inputs, producers: Any, narrow_results: bool) -> dict[str, Call]:
    """cuBLASLt's fp8 products, whose results are bfloat16 or fp8, and kernels that write fp8."""
    narrow, scales, one = inputs.narrow, inputs.scales, inputs.one

    # A result in fp8 is one over its scale, which goes to the first factor and the bias.
    results = {"h": "normed", "dactive": "dx", "y": "active"}
    firsts = {
        name: Narrow(narrow[a].data, narrow[a].scale / scales[name]) for name, a in results.items()
    }
    up_bias8 = (inputs.up_bias / scales["h"]).bfloat16()

    def product(name: str, b: str, bias: Tensor | None = None) -> Narrow:
        if narrow_results:
            bias8 = None if bias is None else up_bias8
            return Narrow(multiply(firsts[name], narrow[b], bias8, FP8), scales[name])
        return Narrow(multiply(narrow[results[name]], narrow[b], bias), one)

    def up() -> Results:
        h = product("h", "up", inputs.up_bias)
        active, active8 = producers.gelu(h.data, h.scale, scales["GELU"])
        return {"h": h, "GELU": active, "GELU8": Narrow(active8, scales["GELU"])}

    def gradient() -> Results:
        dactive = product("dactive", "down_t")
        h = narrow["h"] if narrow_results else Narrow(inputs.h, one)
        dh, dh8, bias = producers.gelu_backward(
            dactive.data, dactive.scale, h.data, h.scale, scales["dh"]
        )
        return {"dh": dh, "bias": bias, "dh8": Narrow(dh8, scales["dh"])}

    def down() -> Results:
        y = product("y", "down")
        norm, bias = inputs.norm, inputs.down_bias
        total, out, out8 = producers.add_norm(
            inputs.x, y.data, y.scale, bias, norm.weight, norm.bias, norm.eps, scales["norm"]
        )
        return {"total": total, "norm": out, "norm8": Narrow(out8, scales["norm"])}

    return {"a": up, "b": gradient, "c": down}


def by_quack(inputs: Inputs, kernels: ModuleType, narrow: bool, config: Any) -> dict[str, Call]:
    """quack-kernels' products, bfloat16 or fp8, for one of its tiles."""
    from benchmarks import quack_products as quack

    names = ("normed", "up", "dx", "down_t", "active", "down")
    one = inputs.one
    if narrow:
        of = {name: inputs.narrow[name] for name in names}
    else:
        of = {name: Narrow(getattr(inputs, name), one) for name in names if name != "down_t"}
        of["down_t"] = Narrow(inputs.down.T, one)
    up_scale, down_scale = (
        of[a].scale * of[b].scale if narrow else 1.0
        for a, b in (("normed", "up"), ("active", "down"))
    )

    def up() -> Results:
        h, active = quack.up_gelu(
            of["normed"].data, of["up"].data, inputs.up_bias, up_scale, config
        )
        return {"h": h, "GELU8" if narrow else "GELU": active}

    def gradient() -> Results:
        dh, bias = quack.gelu_gradient(of["dx"].data, of["down_t"].data, inputs.h, config)
        if not narrow:
            return {"dh": dh, "bias": bias}
        # The epilogue has no scale; both are linear in it.
        scale = of["dx"].scale * of["down_t"].scale
        return {"dh": Narrow(dh, scale), "bias": Narrow(bias, scale)}

    def down() -> Results:
        y, x, bias, norm = of["active"].data, inputs.x, inputs.down_bias, inputs.norm
        total = quack.down_residual(y, of["down"].data, bias, down_scale, x, config)
        found = kernels.add_norm(total, None, None, norm.weight, norm.bias, norm.eps)
        return {"total": found[0], "norm": found[1]}

    return {"a": up, "b": gradient, "c": down}
