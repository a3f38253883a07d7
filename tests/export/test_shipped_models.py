"""Every shipped model, from torch to the int8 file: traced exactly, and the same integers in both interpreters."""

import numpy as np
import pytest
import torch

from fedprune import models
from fedprune.export import litert, microcontroller
from fedprune.graph import inference, trace

_SHAPES = {
    "digits_cnn": ((1, 8, 8), 10),
    "dscnn": ((1, 49, 10), 12),
    "har_cnn": ((9, 128), 6),
    "mobilenet": ((3, 32, 32), 2),
    "resnet8": ((3, 32, 32), 10),
    "resnet18": ((3, 32, 32), 10),
    "resnet20": ((3, 32, 32), 10),
    "vgg11": ((3, 32, 32), 10),
}


def test_no_shipped_model_is_left_out() -> None:
    assert _SHAPES.keys() == models.CATALOGUE.keys()


@pytest.mark.parametrize("name", _SHAPES)
def test_a_shipped_model_runs_alike_as_torch_and_as_a_file(name: str) -> None:
    shape, classes = _SHAPES[name]
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32)
    model = models.build(name, shape, classes)
    with torch.no_grad():
        model(torch.from_numpy(inputs))  # running statistics that are not those of a fresh net
        wanted = model.eval()(torch.from_numpy(inputs)).numpy()
    graph = inference(trace(model, inputs[:1]))
    some = inputs[:2]
    assert np.allclose(litert.run(litert.write_float(graph), some), wanted[:2], atol=1e-3 * np.abs(wanted).max())
    file = litert.write_int8(graph, litert.calibrate(graph, inputs))
    outputs, arena_bytes = microcontroller.run(file, some)
    assert np.array_equal(outputs, litert.run(file, some, reference=True))
    assert arena_bytes > np.prod(shape)
