"""cuBLASLt's products against torch, on a CUDA device."""

import ctypes

import pytest
import torch
from torch.nn import functional

from myna_plugin.pretraining import products

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_product_equals_torch(dtype):
    errors = products.compare_with_torch(torch.device("cuda", 0), dtype)
    assert all(not isinstance(e, str) and e < products.TOLERANCE for e in errors.values()), errors


@on_gpu
@pytest.mark.gpu
def test_products_in_a_captured_graph_follow_their_inputs():
    x, weight = (torch.randn(256, 64, device="cuda").bfloat16() for _ in range(2))
    bias = torch.randn(256, device="cuda").bfloat16()
    products.linear_gelu(x, weight, bias)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        h, _ = products.linear_gelu(x, weight, bias)
    for _ in range(2):
        x.normal_()
        graph.replay()
        torch.testing.assert_close(h, torch.addmm(bias, x, weight.T), rtol=0.02, atol=0.1)


@on_gpu
@pytest.mark.gpu
def test_wrong_sizes_are_refused():
    x = torch.zeros(32, 64, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="cannot multiply"):
        products.multiply(x, x)
    with pytest.raises(ValueError, match="3 biases do not fit"):
        products.linear_add(x, x, x.new_zeros(3), x.new_zeros(32, 32))


def test_structures_are_as_long_as_the_header_says():
    # cublasLtMatmulAlgo_t: 8 words; cublasLtMatmulHeuristicResult_t: that, a size, 3 and 4 ints.
    assert ctypes.sizeof(products._Algorithm) == 64
    assert ctypes.sizeof(products._HeuristicResult) == 96


def test_nothing_is_used_where_it_cannot_be():
    assert products.usable_products(torch.device("cpu"), torch.bfloat16) == frozenset()
    assert products.usable_products(torch.device("cuda", 0), torch.float32) == frozenset()


def test_tensors_on_the_cpu_are_refused():
    x = torch.zeros(32, 32, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="contiguous CUDA tensors"):
        products.multiply(x, x)


def multiply_by_torch(
    left, right, transpose_left=False, transpose_right=False, out_dtype=None, add=None, bias=None,
    aux=None, epilogue="none",
):  # fmt: skip
    """`products.multiply` in plain torch."""
    left, right = left.double(), right.double()
    left, right = left.T if transpose_left else left, right.T if transpose_right else right
    out = left @ right + (0 if add is None else add)
    if epilogue in ("bias", "gelu"):
        out = out + bias
    if epilogue == "gelu":
        aux.copy_(out)
        out = functional.gelu(out, approximate="tanh")
    if epilogue in ("dgelu", "dgelu_bias"):
        out = torch.ops.aten.gelu_backward(out, aux.double(), approximate="tanh")
    if epilogue == "dgelu_bias":
        bias.copy_(out.sum(0))
    if epilogue == "left_sum":
        bias.copy_(left.sum(1))
    return out.to(out_dtype or left.dtype)


def test_every_function_asks_for_the_product_that_it_names(monkeypatch):
    monkeypatch.setattr(products, "multiply", multiply_by_torch)
    with torch.no_grad():  # as inside an autograd function
        errors = products.compare_with_torch(torch.device("cpu"), torch.bfloat16)
    assert all(error < products.TOLERANCE for error in errors.values()), errors
