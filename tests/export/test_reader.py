"""Reading .tflite files back: what was written comes out the same, and other writers' files compute the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from export_files import changed, net, on_tensor, small, written
from export_nets import NETS, SMALL, shipped
from torch import nn

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, Sparsity, pack
from fedprune.export.litert.reader import ModelError, operator_name, read

_FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("name", SMALL)
def test_a_shipped_model_comes_back(name: str) -> None:
    model, inputs = shipped(name, 4)
    contents = written(model, inputs)
    assert "TFLM_DECODE" in {operator_name(operator) for operator in read(contents[2]).operators}
    for content in contents:
        assert pack(read(content)) == content


@pytest.mark.parametrize("kind", NETS)
def test_every_operation_comes_back(kind: type[nn.Module]) -> None:
    for content in small(kind):
        assert pack(read(content)) == content


def same(one: File, other: File) -> None:
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    for a, b in zip(one.tensors, other.tensors, strict=True):
        for key in ("shape", "dtype", "zero_point", "axis", "name"):
            assert getattr(a, key) == getattr(b, key)
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.scales, b.scales)
    for c, d in zip(one.operators, other.operators, strict=True):
        assert {**vars(c), "options": None} == {**vars(d), "options": None}
        assert type(c.options) is type(d.options)
        assert getattr(c.options, "__dict__", None) == getattr(d.options, "__dict__", None)


def test_every_field_comes_back() -> None:
    same(read(pack(net())), net())
    assert [operator_name(operator) for operator in read(pack(net())).operators] == ["CONV_2D", "RELU"]


def test_vectors_among_options_come_back_as_lists() -> None:
    options = schema.ReshapeOptionsT(newShape=[1, 12])
    flat = replace(net().tensors[3], shape=(1, 12))
    reshape = FileOperator(schema.BuiltinOperator.RESHAPE, 1, (2,), 3, options, schema.BuiltinOptions.ReshapeOptions)
    file = replace(net(), tensors=[*net().tensors[:3], flat], operators=[net().operators[0], reshape])
    assert vars(read(pack(file)).operators[1].options) == {"newShape": [1, 12]}


def test_constants_share_memory_where_the_file_shares_bytes() -> None:
    twice = replace(net(), tensors=[*net().tensors, net().tensors[1]])
    one, other = (tensor.data for tensor in read(pack(twice)).tensors if tensor.data is not None)
    assert np.shares_memory(one, other)
    assert not one.flags.writeable


def test_a_file_of_another_writer_computes_the_same() -> None:
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro brings the file")
    content = (Path(micro.__file__).parent / "sine_float.tflite").read_bytes()
    file = read(content)
    assert [operator_name(operator) for operator in file.operators] == ["FULLY_CONNECTED"] * 3
    assert file.tensors[file.inputs[0]].shape == (1, 1)  # its batch may grow, and is one
    outputs = []
    for model in (content, pack(file)):
        interpreter = Interpreter(model_content=model)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array([[0.7]], np.float32))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(*outputs)


def test_rows_of_a_sparse_tensor_come_back() -> None:
    sparsity = Sparsity(np.array([0, 1, 1, 3]), np.array([2, 0, 1]))  # of (3, 4): the second row is empty
    packed = FileTensor((3, 4), _FLOAT, np.array([1, 2, 3], np.float32), sparsity=sparsity)
    dense = FileTensor((3, 4), _FLOAT, name="out")
    densify = FileOperator(schema.BuiltinOperator.DENSIFY, 1, (1,), 2, None, 0)
    file = File([FileTensor((1,), _FLOAT, name="in"), packed, dense], [densify], (0,), (2,))
    found = read(pack(file)).tensors[1]
    assert found.sparsity is not None
    np.testing.assert_array_equal(found.sparsity.starts, [0, 1, 1, 3])
    np.testing.assert_array_equal(found.sparsity.columns, [2, 0, 1])
    np.testing.assert_array_equal(found.data, [1, 2, 3])
    assert pack(read(pack(file))) == pack(file)
    wrongs = (
        ("add up", Sparsity(np.array([0, 1, 1, 2]), sparsity.columns)),
        ("add up", Sparsity(np.array([0, 2, 1, 3]), sparsity.columns)),
        ("add up", Sparsity(np.array([0, 1, 3]), sparsity.columns)),
        ("columns", Sparsity(sparsity.starts, np.array([4, 0, 1]))),
        ("columns", Sparsity(sparsity.starts, np.array([2, 1, 1]))),
    )
    for line, wrong in wrongs:
        with pytest.raises(ModelError, match=line):
            read(pack(replace(file, tensors=[file.tensors[0], replace(packed, sparsity=wrong), dense])))


def test_a_batch_that_may_grow_is_one() -> None:
    content = changed(on_tensor(0, shapeSignature=[-1, 3, 3, 1]))
    assert read(content).tensors[0].shape == (1, 3, 3, 1)


def behind(offset: int, size: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.buffers[1] = schema.BufferT(offset=offset, size=size)

    return change


def test_data_behind_the_tables_are_read_if_they_are_inside() -> None:
    weight = net().tensors[1].data
    assert weight is not None
    end = len(changed(behind(99, 12)))
    content = changed(behind(end, 12)) + weight.tobytes()
    np.testing.assert_array_equal(read(content).tensors[1].data, weight)
    for offset, size in ((end + 1, 12), (end, 2**63), (2**64 - 1, 12)):
        with pytest.raises(ModelError, match="outside"):
            read(changed(behind(offset, size)) + weight.tobytes())
