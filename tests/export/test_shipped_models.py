"""Every shipped model, from torch to the int8 file: traced exactly, and the same integers in both interpreters."""

import numpy as np
import pytest
import torch
from export_nets import SHIPPED, shipped

from fedprune import models
from fedprune.export import litert, tflm
from fedprune.graph import inference, trace


def test_no_shipped_model_is_left_out() -> None:
    # what TensorFlow Lite Micro runs to the last step otherwise than LiteRT, or not at all, is in test_examples
    assert SHIPPED.keys() | {"char_gru", "har_gru", "keyword_transformer", "swin", "vit"} == models.CATALOGUE.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_runs_alike_as_torch_and_as_a_file(name: str) -> None:
    model, inputs = shipped(name, 16)
    with torch.no_grad():
        wanted = model(torch.from_numpy(inputs)).numpy()
    graph = inference(trace(model, inputs[:1]))
    some = inputs[:2]
    assert np.allclose(litert.run(litert.write_float(graph), some), wanted[:2], atol=1e-3 * np.abs(wanted).max())
    file = litert.write_int8(graph, litert.calibrate(graph, inputs))
    outputs, arena_bytes = tflm.run(file, some)
    assert np.array_equal(outputs, litert.run(file, some, reference=True))
    assert arena_bytes > np.prod(SHIPPED[name][0])
