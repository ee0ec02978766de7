import literal_pipeline
import pytest
import torch

from myna_plugin.model.vit import patchify, sincos_positions


@pytest.mark.parametrize("patching", ["square", "vertical"])
def test_patchify_equals_cutting_with_loops(patching):
    chunk = torch.randn(128, 96)
    expected = literal_pipeline.cut_patches(chunk, patching)
    actual = patchify(chunk.unsqueeze(0), literal_pipeline.PATCHES[patching])[0]
    assert torch.equal(actual, expected)


def test_patchify_refuses_a_ragged_spectrogram():
    with pytest.raises(ValueError, match="97 frames do not divide"):
        patchify(torch.zeros(1, 128, 97), (16, 16))


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (1, 48), (8, 1)])
def test_positions_equal_the_formula(rows, columns):
    expected = literal_pipeline.position_codes(rows, columns, 64)
    torch.testing.assert_close(sincos_positions(rows, columns, 64), expected, rtol=0, atol=2e-6)


def test_positions_need_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_positions(2, 2, 10)
