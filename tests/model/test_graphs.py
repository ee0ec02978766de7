"""CUDA graphs; what is captured when is tested on any machine, with a graph that is none."""

from types import SimpleNamespace

import pytest
import torch

from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.graphs import Graphs

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recorded(Graphs):
    """Replays by calling the function again on the graph's own tensors."""

    n_captured = 0

    def _capture(self, function, inputs):
        self.n_captured += 1
        own = [given.clone() for given in inputs]
        outputs = function(own)

        def replay():
            for output, now in zip(outputs, function(own), strict=True):
                output.copy_(now)

        return SimpleNamespace(graph=SimpleNamespace(replay=replay), inputs=own, outputs=outputs)


def test_a_shape_is_captured_when_it_comes_again_and_results_are_the_callers():
    weight, graphs = torch.tensor(2.0), Recorded(most=2)

    def call(size, value, key=None):
        given = torch.full((size,), float(value))
        (result,) = graphs.call(lambda tensors: [tensors[0] * weight], [given], [weight], key)
        assert result.tolist() == [value * weight.item()] * size
        return result

    kept = call(1, 1)
    assert graphs.n_captured == 0
    kept = [kept, call(1, 2), call(1, 3)]
    assert graphs.n_captured == 1
    assert [result.item() for result in kept] == [2, 4, 6]
    call(2, 1)  # another shape
    call(1, 1, "other")  # and what else the function depends on
    assert graphs.n_captured == 1
    call(2, 5)
    call(1, 5, "other")  # there are as many as there may be
    call(1, 6, "other")
    assert graphs.n_captured == 2
    weight.mul_(2)  # in place: read where it was
    call(1, 7)
    assert graphs.n_captured == 2
    weight = torch.tensor(3.0)
    call(1, 1)
    call(1, 2)
    assert graphs.n_captured == 3


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"tokens": 0.25, "scene_pooling": "mean-std"}])
def test_graphs_give_what_eager_calls_give(sound, precision, options):
    options = {"precision": precision, **options}
    config = EncoderConfig(embed_dim=64, depth=2, num_heads=1, mlp_dim=128)
    model, eager = (
        Embedder(initialise(MynaEncoder(config), 0).eval(), config.patchings, **options)
        for _ in range(2)
    )
    model.to("cuda").cuda_graphs = True
    eager.to("cuda")
    with torch.no_grad():
        for round_ in range(4):
            for n_samples in (20_000, 110_000, 49_151):
                waveform = sound[:, round_ * 1000 :][:, :n_samples].cuda()
                actual, expected = model.embed_scenes(waveform), eager.embed_scenes(waveform)
                assert ((actual - expected).norm() / expected.norm()).item() < 1e-5
            if round_ == 2:
                for parameter in (*model.parameters(), *eager.parameters()):
                    parameter.data = parameter.data * 1.5  # it lies elsewhere now
