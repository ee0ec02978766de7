"""The contestants of `benchmarks.block_products` compute what float64 does, as far as they can."""

from __future__ import annotations

import pytest
import torch

from benchmarks.block_contestants import Inputs, Narrow, PlainProducers, in_fp8, todays
from benchmarks.pretrain_step import relative_error
from myna_plugin.pretraining.step.operations import PlainOperations

TASKS = ("a", "b", "c")


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(64, torch.device("cpu"))


def errors(calls, inputs, task):
    found = calls[task]()
    assert {name.removesuffix("8") for name in found} == set(inputs.wanted[task])
    wanted = inputs.wanted[task]
    return {
        name: relative_error(value.double(), wanted[name.removesuffix("8")])
        for name, value in found.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_todays_tasks_are_those_of_float64_to_bfloat16(task, inputs):
    assert max(errors(todays(inputs, PlainOperations()), inputs, task).values()) < 0.01


@pytest.mark.parametrize("narrow_results", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_tasks_in_fp8_are_those_of_float64_to_its_three_bits(task, narrow_results, inputs):
    calls = in_fp8(inputs, PlainProducers, narrow_results)
    assert max(errors(calls, inputs, task).values()) < 0.07


def test_a_narrow_tensor_is_its_numbers_to_three_bits():
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    narrow = Narrow.of(numbers)
    assert narrow.data.dtype == torch.float8_e4m3fn
    assert narrow.data.float().abs().max() == 448
    assert relative_error(narrow.double(), numbers) < 0.03
