"""Operations of people's nets: read into the graph, sent, written as a file, and what is needless removed."""

import numpy as np
import pytest
import torch
from export_nets import signal_to_noise_db
from operation_nets import NETS, OPERATIONS
from torch import nn

from fedprune import graph as graphs
from fedprune.export import litert
from fedprune.graph import compaction, message, shapes, units
from fedprune.types import Tensor


def made(name: str, count: int = 4) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = OPERATIONS[name]
    model = build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model, torch.randn(count, *shape)


def output(graph: graphs.Graph, inputs: torch.Tensor) -> Tensor:
    (name,) = graph.outputs
    result: Tensor = graphs.run(graph, inputs.numpy())[name]
    return result.reshape(len(inputs), -1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_graph_is_the_model_sent_and_written(name: str) -> None:
    model, inputs = made(name)
    with torch.no_grad():
        wanted = model(inputs).flatten(1).numpy()
    traced = graphs.trace(model, inputs)
    sent = message.from_message(*message.to_message(traced))
    deployed = graphs.inference(sent)
    shapes.check(deployed)
    for graph in (traced, deployed):
        np.testing.assert_allclose(output(graph, inputs), wanted, atol=1e-5, rtol=1e-5)
    file = litert.write_float(deployed)
    np.testing.assert_allclose(litert.run(file, inputs.numpy()).reshape(wanted.shape), wanted, atol=1e-4, rtol=1e-4)
    integers = litert.write_int8(deployed, litert.calibrate(deployed, inputs.numpy()))
    assert signal_to_noise_db(wanted, litert.run(integers, inputs.numpy()).reshape(wanted.shape)) > 25


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("name", NETS)
def test_what_nobody_reads_is_removed_exactly(name: str, share: float) -> None:
    model, inputs = made(name)
    graph = graphs.fold_batch_norm(graphs.trace(model, inputs))
    told = units.units(graph)
    known = sorted({int(label) for reader in compaction.readers(graph, told) for label in reader.labels} - {0})
    dead = np.random.default_rng(0).choice(known, round(share * len(known)), replace=False)
    for reader in compaction.readers(graph, told):
        reader.op.weight.value[:] = reader.without(np.isin(reader.labels, dead))
    before = output(graph, inputs)
    smaller = compaction.compact(graph)
    shapes.check(smaller)
    np.testing.assert_allclose(output(smaller, inputs), before, atol=1e-5)
    gone = sum(int(np.isin(reader.labels, dead).sum()) for reader in compaction.readers(graph, told))
    assert gone
    assert read(smaller) == read(graph) - gone


def read(graph: graphs.Graph) -> int:
    return sum(len(reader.labels) for reader in compaction.readers(graph, units.units(graph)))


def test_heads_are_units_where_a_product_follows_them() -> None:
    model, inputs = made("attention")
    graph = graphs.trace(model, inputs)
    told = units.units(graph)
    (out,) = (reader for reader in compaction.readers(graph, told) if reader.op.weight.name == "out.weight")
    assert len(set(out.labels.tolist())) == 4
    assert [len(set(part.tolist())) for part in np.split(out.labels, 4)] == [1] * 4


def test_a_constant_that_no_input_can_change_goes_into_the_bias_that_reads_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight[:5] = 0
    inputs = torch.randn(4, 6)
    graph = graphs.trace(model, inputs)
    smaller = compaction.compact(graph)
    assert [op.weight.value.shape for op in smaller.operations if isinstance(op, graphs.Linear)] == [(3, 6), (3, 3)]
    np.testing.assert_allclose(output(smaller, inputs), model(inputs).detach(), atol=1e-6)


def test_a_net_of_which_nothing_can_go_is_left_as_it_is() -> None:
    model, inputs = made("norms")
    graph = graphs.fold_batch_norm(graphs.trace(model, inputs))
    assert compaction.compact(graph) is graph


def test_tokens_are_integers_in_the_file() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    tokens = torch.randint(0, 11, (5, 6))
    graph = graphs.inference(graphs.trace(model, tokens))
    wanted = model(tokens).detach().flatten(1).numpy()
    np.testing.assert_allclose(output(graph, tokens), wanted, atol=1e-6)
    for file in (litert.write_float(graph), litert.write_int8(graph, litert.calibrate(graph, tokens.numpy()))):
        found = litert.run(file, tokens.numpy()).reshape(wanted.shape)
        assert signal_to_noise_db(wanted, found) > 30
