"""Matrix products with the step after them in their epilogue, by cuBLASLt through ctypes.

PyTorch reaches cuBLASLt's epilogues only in part: it does not keep GELU's input, cannot multiply a
product by GELU's gradient, and copies the residual before it accumulates into it. These functions
call the library that PyTorch has already loaded. At 82,000 tokens a pass over the perceptron's
activations costs more than a third of the product beside it, so an epilogue is worth having.

cuBLASLt's GELU is the tanh form: it differs from the exact one by less than 5e-4, below bfloat16's
rounding of the activations that matter. Forward and backward agree with each other. It is
used in half precision alone; float32 keeps the exact form.

How row-major tensors map to the library's column-major matrices: the memory of a contiguous
(r, c) tensor is that of a column-major (c, r) matrix with leading dimension c, its transpose. So
D = op(left) op(right) is asked for as D^T = op(right)^T op(left)^T: A is `right`, B is `left`, both
with the transposition they have in the row-major formula, as transposing twice cancels:

    x (T, K) weight (N, K)^T    A = weight, a (K, N) matrix, transposed; B = x; m, n, k = N, T, K
    dy (T, N) weight (N, K)     A = weight, a (K, N) matrix, as it is; B = dy; m, n, k = K, T, N
    dy (T, N)^T x (T, K)        A = x, B = dy, an (N, T) matrix, transposed;   m, n, k = K, N, T

D's column-major rows are the row-major columns, so a bias or bias gradient over the rows of D is
one over features, and the auxiliary matrix is a row-major tensor shaped like D.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Values from cublasLt.h, cublas_api.h and library_types.h; they have not changed since CUDA 11.
_COMPUTE_32F = 68
_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_DESC = {
    "transa": (3, c_int),
    "transb": (4, c_int),
    "epilogue": (7, ctypes.c_uint32),
    "bias": (8, c_void_p),
    "aux": (11, c_void_p),
    "aux_ld": (12, c_int64),
    "bias_type": (26, c_int),
}
_PREFERENCE_WORKSPACE = 1
_BIAS, _BIAS_GRADIENT, _AUX, _GELU, _GELU_GRADIENT, _GRADIENT_OF_B = 4, 16, 128, 32, 64, 512
EPILOGUES = {
    "none": 1,
    "bias": _BIAS,
    "gelu": _GELU | _AUX | _BIAS,
    "dgelu": _GELU_GRADIENT | _AUX,
    "dgelu_bias": _GELU_GRADIENT | _AUX | _BIAS_GRADIENT,
    "left_sum": _GRADIENT_OF_B,
}
"""Epilogues by name, `left_sum` being the sum of op(left) over what the product sums over."""

WORKSPACE = 32 << 20
"""Bytes that an algorithm may ask for; NVIDIA's advice for Hopper."""

CANDIDATES = 8
"""Algorithms of the library's heuristic that are timed at a product's first use."""

ALIGNMENT = 256
"""Bytes; what the heuristic assumes of every pointer, and PyTorch's allocations have."""


class Unsupported(RuntimeError):
    """The library has no algorithm for a product, or refuses it."""


class _Algorithm(ctypes.Structure):
    _fields_ = [("data", c_uint64 * 8)]


class _HeuristicResult(ctypes.Structure):
    _fields_ = [
        ("algorithm", _Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


_HANDLE, _OUT, _DATA = c_void_p, POINTER(c_void_p), c_void_p
_SIGNATURES: dict[str, list[Any]] = {
    "cublasLtCreate": [_OUT],
    "cublasLtMatmulDescCreate": [_OUT, c_int, c_int],
    "cublasLtMatmulDescSetAttribute": [_HANDLE, c_int, c_void_p, c_size_t],
    "cublasLtMatrixLayoutCreate": [_OUT, c_int, c_uint64, c_uint64, c_int64],
    "cublasLtMatmulPreferenceCreate": [_OUT],
    "cublasLtMatmulPreferenceSetAttribute": [_HANDLE, c_int, c_void_p, c_size_t],
    "cublasLtMatmulAlgoGetHeuristic": [
        *[_HANDLE] * 7, c_int, POINTER(_HeuristicResult), POINTER(c_int),
    ],
    "cublasLtMatmul": [
        _HANDLE, _HANDLE, POINTER(c_float), _DATA, _HANDLE, _DATA, _HANDLE, POINTER(c_float),
        _DATA, _HANDLE, _DATA, _HANDLE, POINTER(_Algorithm), _DATA, c_size_t, c_void_p,
    ],
}  # fmt: skip
_ONE, _ZERO = c_float(1.0), c_float(0.0)


@functools.cache
def _library() -> ctypes.CDLL:
    """The library of PyTorch's CUDA version, with typed functions.

    Raises:
        OSError: it is not there.
    """
    version = torch.version.cuda
    if version is None:
        raise OSError("this PyTorch has no CUDA")
    # PyTorch has loaded it, so its name alone finds it, wherever it is installed.
    library = ctypes.CDLL(f"libcublasLt.so.{version.split('.')[0]}")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    library.cublasLtGetStatusName.argtypes = [c_int]
    library.cublasLtGetStatusName.restype = c_char_p
    return library


def _call(name: str, *arguments: Any) -> None:
    library = _library()
    status = getattr(library, name)(*arguments)
    if status != 0:
        text = library.cublasLtGetStatusName(status)
        raise Unsupported(f"{name}: {text.decode() if text else status}")


def _create(name: str, *arguments: Any) -> c_void_p:
    out = c_void_p()
    _call(name, byref(out), *arguments)
    return out


@functools.cache
def _handle(device: int) -> c_void_p:
    with torch.cuda.device(device):
        return _create("cublasLtCreate")


def _layout(tensor: Tensor) -> c_void_p:
    rows, columns = tensor.shape
    kind = _TYPES[tensor.dtype]
    return _create("cublasLtMatrixLayoutCreate", kind, columns, rows, columns)


@dataclass
class _Plan:
    """Descriptors and algorithm of one kind of product; kept for the process's life."""

    description: c_void_p
    layouts: list[c_void_p]
    results: list[_HeuristicResult]
    beta: c_float
    chosen: int | None = None

    def set(self, attribute: str, value: int) -> None:
        number, kind = _DESC[attribute]
        data = kind(value)
        _call(
            "cublasLtMatmulDescSetAttribute",
            self.description, number, byref(data), ctypes.sizeof(data),
        )  # fmt: skip

    def find_algorithms(self, handle: c_void_p) -> None:
        preference = _create("cublasLtMatmulPreferenceCreate")
        most = c_size_t(WORKSPACE)
        _call(
            "cublasLtMatmulPreferenceSetAttribute",
            preference, _PREFERENCE_WORKSPACE, byref(most), ctypes.sizeof(most),
        )  # fmt: skip
        found, count = (_HeuristicResult * CANDIDATES)(), c_int()
        _call(
            "cublasLtMatmulAlgoGetHeuristic",
            handle, self.description, *self.layouts, preference, CANDIDATES, found, byref(count),
        )  # fmt: skip
        self.results = [result for result in found[: count.value] if result.state == 0]
        if not self.results:
            raise Unsupported("cublasLtMatmulAlgoGetHeuristic: no algorithm")


_PLANS: dict[tuple[Any, ...], _Plan] = {}


def multiply(
    left: Tensor,
    right: Tensor,
    *,
    transpose_left: bool = False,
    transpose_right: bool = False,
    out_dtype: torch.dtype | None = None,
    add: Tensor | None = None,
    bias: Tensor | None = None,
    aux: Tensor | None = None,
    epilogue: str = "none",
) -> Tensor:
    """epilogue(op(left) op(right) + add) on the current CUDA stream.

    Algorithms are timed at the first use of every shape, except while a CUDA graph is captured,
    where the library's first choice is taken.

    Args:
        left: float16 or bfloat16, two dimensions, contiguous.
        right: likewise.
        transpose_left: whether op transposes `left`.
        transpose_right: whether op transposes `right`.
        out_dtype: of the result; `left`'s if None.
        add: shaped like the result and of its dtype; never changed.
        bias: one number a column of the result, in its dtype: read by `bias` and `gelu`, written
            by `dgelu_bias`; one a row of the result: written by `left_sum`.
        aux: GELU's input, shaped like the result: written by `gelu`, read by `dgelu`.
        epilogue: a name from `EPILOGUES`.

    Raises:
        Unsupported: the library refuses, with its reason.
        ValueError: a tensor is not contiguous or not aligned, or sizes do not fit.
    """
    n_rows, summed = left.T.shape if transpose_left else left.shape
    again, width = right.T.shape if transpose_right else right.shape
    out = torch.empty(n_rows, width, device=left.device, dtype=out_dtype or left.dtype)
    _check(left, right, out, add, bias, aux)
    if summed != again or any(t is not None and t.shape != out.shape for t in (add, aux)):
        raise ValueError(f"cannot multiply {tuple(left.shape)} and {tuple(right.shape)}")
    if bias is not None and len(bias) != (n_rows if epilogue == "left_sum" else width):
        raise ValueError(f"{len(bias)} biases do not fit a product of {tuple(out.shape)}")
    handle = _handle(left.device.index)
    key = (
        left.device, left.shape, right.shape, transpose_left, transpose_right, left.dtype,
        right.dtype, out.dtype, add is not None, epilogue,
    )  # fmt: skip
    plan = _PLANS.get(key)
    if plan is None:
        plan = _make_plan(left, right, out, transpose_left, transpose_right, add, epilogue)
    # Descriptors hold the addresses; a captured graph keeps those that they had at its capture.
    if bias is not None:
        plan.set("bias", bias.data_ptr())
    if aux is not None:
        plan.set("aux", aux.data_ptr())
    if not plan.results:
        plan.find_algorithms(handle)
        _PLANS[key] = plan

    def run(number: int) -> None:
        result = plan.results[number]
        room = torch.empty(max(1, result.workspace), device=left.device, dtype=torch.uint8)
        _call(
            "cublasLtMatmul",
            handle, plan.description, byref(_ONE), right.data_ptr(), plan.layouts[0],
            left.data_ptr(), plan.layouts[1], byref(plan.beta),
            (out if add is None else add).data_ptr(), plan.layouts[2], out.data_ptr(),
            plan.layouts[3], byref(result.algorithm), room.data_ptr(), result.workspace,
            torch.cuda.current_stream(left.device).cuda_stream,
        )  # fmt: skip

    if plan.chosen is None and not torch.cuda.is_current_stream_capturing():
        plan.chosen = _fastest(run, len(plan.results))
    run(plan.chosen or 0)
    return out


def _check(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None and not (
            tensor.is_cuda and tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0
        ):
            raise ValueError("products take contiguous CUDA tensors aligned to 256 bytes")


def _make_plan(
    left: Tensor, right: Tensor, out: Tensor, transpose_left: bool, transpose_right: bool,
    add: Tensor | None, epilogue: str,
) -> _Plan:  # fmt: skip
    plan = _Plan(
        _create("cublasLtMatmulDescCreate", _COMPUTE_32F, _TYPES[torch.float32]),
        [_layout(right), _layout(left), _layout(out), _layout(out)],
        [],
        _ZERO if add is None else _ONE,
    )
    plan.set("transa", int(transpose_right))
    plan.set("transb", int(transpose_left))
    plan.set("epilogue", EPILOGUES[epilogue])
    if epilogue in ("bias", "gelu", "dgelu_bias", "left_sum"):
        plan.set("bias_type", _TYPES[out.dtype])
    if EPILOGUES[epilogue] & _AUX:
        plan.set("aux_ld", out.shape[1])
    return plan


def _fastest(run: Callable[[int], None], count: int) -> int:
    """The number of the algorithm whose better of 2 bursts is least."""
    times = []
    for number in range(count):
        try:
            run(number)
        except Unsupported:  # the heuristic may name what this driver cannot run
            times.append(float("inf"))
            continue
        bursts = []
        for _ in range(2):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(number)
            run(number)
            stop.record()
            stop.synchronize()
            bursts.append(start.elapsed_time(stop))
        times.append(min(bursts))
    if min(times) == float("inf"):
        raise Unsupported("cublasLtMatmul: no algorithm of the heuristic's runs")
    return times.index(min(times))


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T: (T, K), (N, K) -> (T, N)."""
    return multiply(x, weight, transpose_right=True)


def linear_backward(dy: Tensor, weight: Tensor) -> Tensor:
    """dy weight: (T, N), (N, K) -> (T, K)."""
    return multiply(dy, weight)


def linear_add(y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x + y weight^T + bias: (T, K), (N, K), (N,), (T, N) -> (T, N)."""
    epilogue = "none" if bias is None else "bias"
    return multiply(y, weight, transpose_right=True, add=x, bias=bias, epilogue=epilogue)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """h = x weight^T + bias and GELU(h), tanh form: (T, K), (N, K), (N,) -> twice (T, N)."""
    h = torch.empty(len(x), len(weight), device=x.device, dtype=x.dtype)
    out = multiply(x, weight, transpose_right=True, bias=bias, aux=h, epilogue="gelu")
    return h, out


def linear_gelu_backward(dy: Tensor, weight: Tensor, h: Tensor) -> Tensor:
    """Gradient of h where y = GELU(h) weight^T: (T, N), (N, K), (T, K) -> (T, K)."""
    return multiply(dy, weight, aux=h, epilogue="dgelu")


def linear_gelu_bias_backward(dy: Tensor, weight: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Also that of h's bias, (K,), which the library rounds to `dy`'s dtype at the end."""
    bias = torch.empty(weight.shape[1], device=dy.device, dtype=dy.dtype)
    return multiply(dy, weight, aux=h, bias=bias, epilogue="dgelu_bias"), bias


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """dy^T x in float32: (T, N), (T, K) -> (N, K)."""
    return multiply(dy, x, transpose_left=True, out_dtype=torch.float32)


def weight_and_bias_gradient(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """dy^T x and the sum of dy over rows, both float32: (N, K), (N,)."""
    bias = torch.empty(dy.shape[1], device=dy.device, dtype=torch.float32)
    gradient = multiply(
        dy, x, transpose_left=True, out_dtype=torch.float32, bias=bias, epilogue="left_sum"
    )
    return gradient, bias


def compare_with_torch(device: torch.device, dtype: torch.dtype) -> dict[str, float | str]:
    """Relative error of every function against float32 torch, or why it cannot be used.

    Shapes differ in all dimensions, so that a transposition too many cannot go unseen.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator).to(dtype)

    x, residual, h = draw(640, 192), draw(640, 384), draw(640, 192)
    dy, weight, bias = draw(640, 384), draw(384, 192) / 8, draw(384)
    exact = [t.double() for t in (x, residual, h, dy, weight, bias)]
    ex, er, eh, edy, ew, eb = exact
    forward = ex @ ew.T
    leaf = eh.requires_grad_()
    with torch.enable_grad():  # the first use may be inside an autograd function
        (dh,) = torch.autograd.grad(functional.gelu(leaf, approximate="tanh"), leaf, edy @ ew)
    active = functional.gelu(forward + eb, approximate="tanh")
    cases: dict[str, tuple[Callable[[], Any], list[Tensor]]] = {
        "linear": (lambda: linear(x, weight), [forward]),
        "linear_backward": (lambda: linear_backward(dy, weight), [edy @ ew]),
        "linear_add": (
            lambda: (linear_add(x, weight, bias, residual), linear_add(x, weight, None, residual)),
            [er + forward + eb, er + forward],
        ),
        "linear_gelu": (lambda: linear_gelu(x, weight, bias), [forward + eb, active]),
        "linear_gelu_backward": (lambda: linear_gelu_backward(dy, weight, h), [dh]),
        "linear_gelu_bias_backward": (
            lambda: linear_gelu_bias_backward(dy, weight, h),
            [dh, dh.sum(0)],
        ),
        "weight_gradient": (lambda: weight_gradient(dy, x), [edy.T @ ex]),
        "weight_and_bias_gradient": (
            lambda: weight_and_bias_gradient(dy, x),
            [edy.T @ ex, edy.sum(0)],
        ),
    }
    errors: dict[str, float | str] = {}
    for name, (call, expected) in cases.items():
        try:
            result = call()
        except (OSError, AttributeError, Unsupported) as error:
            errors[name] = str(error)
            continue
        got = [result] if isinstance(result, Tensor) else list(result)
        errors[name] = max(
            float((g.double() - e).norm() / e.norm()) for g, e in zip(got, expected, strict=True)
        )
    return errors


@functools.cache
def usable_products(device: torch.device, dtype: torch.dtype) -> frozenset[str]:
    """Names of the functions above that work here: found, and close to torch on a trial."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return frozenset()
    errors = compare_with_torch(device, dtype)
    return frozenset(n for n, e in errors.items() if not isinstance(e, str) and e < TOLERANCE)


TOLERANCE = 8e-3
"""Relative error allowed on the trial: bfloat16's rounding and the hardware's approximate tanh."""
