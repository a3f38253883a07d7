"""From a torch model to a graph: the model is exported by torch, and each aten operation is read into a typed one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedprune.graph.operations import Graph, Operation, Pad, Parameter, Shape, UnsupportedOperation
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch.fx import Node


@dataclass(frozen=True)
class Call:
    """One aten call as a reader sees it: named arguments with their defaults, tensors by name."""

    name: str
    """Of the aten operation, without its overload."""
    output: str
    arguments: Mapping[str, Any]
    """As in the operation's schema; nodes of the exported program where it takes tensors."""
    shape: Shape
    """Of the result, spatial dimensions made two."""
    rank: int
    """Of the first input in the model, where a one-dimensional map has rank 3."""
    shapes: Mapping[str, Shape]
    where: str
    tensors: Mapping[str, str]
    constants: Mapping[str, tuple[str, "torch.Tensor"]]

    def tensor(self, key: str) -> str:
        """Return the name of the tensor passed as ``key``; raise if it is a constant of the model."""
        return self.named(self.arguments[key])

    def named(self, node: Any) -> str:
        """Return the name of the tensor that ``node`` stands for; raise if it is none."""
        found = self.tensors.get(getattr(node, "name", ""))
        if found is None:
            raise self.unsupported(f"takes {node!r}, which is not an activation")
        return found

    def parameter(self, key: str) -> Parameter | None:
        """Return the constant passed as ``key``, or None where nothing is passed; raise if it is computed."""
        node = self.arguments[key]
        if node is None:
            return None
        if node.name not in self.constants:
            raise self.unsupported(f"has a {key} that depends on the input")
        name, value = self.constants[node.name]
        return Parameter(name, value.detach().cpu().float().numpy().copy())

    def weight(self, key: str = "weight") -> Parameter:
        """Return the constant passed as ``key``; raise if there is none."""
        found = self.parameter(key)
        if found is None:
            raise self.unsupported(f"has no {key}")
        return found

    def unsupported(self, why: str) -> UnsupportedOperation:
        """Return the error that names the aten operation and the model's line."""
        return UnsupportedOperation(f"aten.{self.name} {why}: {self.where}")


Read = Callable[[Call], Operation | tuple[Operation, ...] | str]
"""A call -> its operations, the last of which makes the call's output; or the tensor that it leaves as it is."""


def trace(model: "torch.nn.Module", example: "Tensor | torch.Tensor") -> Graph:
    """Return the graph of ``model`` in evaluation mode; the model itself is left as it was.

    ``example`` is a batch, channels first, of which the first sample is used: only its shape matters. Names of
    parameters are those of ``state_dict``. Dropout, copies and reshapes to the same shape leave no trace.

    Raises ``UnsupportedOperation``, naming the aten operation and the line of the model, for what no operation covers.
    """
    import torch

    from fedprune.graph.readers import READERS

    like = next(model.parameters(), torch.zeros(()))
    sample = torch.as_tensor(example[:1]).detach().to(like.device, like.dtype)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            return _read(torch.export.export(model.eval(), (sample,)), READERS)
    finally:
        for module, training in modes:
            module.training = training


def _read(program: "torch.export.ExportedProgram", readers: Mapping[str, Read]) -> Graph:
    constants = _constants(program)
    tensors: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    modules: dict[str, str] = {}
    operations: list[Operation] = []
    (source,) = program.graph_signature.user_inputs
    outputs: tuple[str, ...] = ()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == source:
            tensors[node.name] = node.name
            shapes[node.name] = canonical(tuple(node.meta["val"].shape))
        elif node.op == "output":
            outputs = tuple(tensors[result.name] for result in node.args[0])
        elif node.op == "call_function":
            if _fold_constant(node, constants):
                continue
            call = _call(node, tensors, constants, shapes)
            if call is None:  # several results: whoever takes one of them reads it
                continue
            read = readers.get(call.name)
            if read is None:
                raise call.unsupported("is not covered")
            result = read(call)
            if isinstance(result, str):
                tensors[node.name] = result
                continue
            for op in result if isinstance(result, tuple) else (result,):
                operations.append(op)
                shapes[op.output] = call.shape if op.output == call.output else _between(op, shapes)
                modules[op.output] = _module(node)
            tensors[node.name] = call.output
    assert isinstance(source, str)
    return Graph(source, outputs, tuple(operations), shapes, modules)


def _module(node: "Node") -> str:
    # The stack goes from the model, whose name is empty, to the innermost module.
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    return str(stack[-1][0]).removeprefix("L['self']").lstrip(".")


def canonical(shape: Shape) -> Shape:
    """Return the shape with a batch and with two spatial dimensions: (C,) -> (1, C), (1, C, L) -> (1, C, 1, L)."""
    if len(shape) == 1:  # a squeeze took the batch of one as well
        return (1, *shape)
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


def _between(op: Operation, shapes: Mapping[str, Shape]) -> Shape:
    # Shape of a step inside a call: a Pad grows its input, every other keeps its shape.
    before = shapes[op.inputs[0]]
    if isinstance(op, Pad):
        return tuple(size + sum(sides) for size, sides in zip(before, op.padding, strict=True))
    return before


def _constants(program: "torch.export.ExportedProgram") -> dict[str, tuple[str, "torch.Tensor"]]:
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for node, name in named.items():
        value = program.state_dict.get(name, program.constants.get(name))
        assert value is not None
        found[node] = (name, value)
    for node, name in signature.inputs_to_lifted_tensor_constants.items():
        found[node] = (name, program.constants[name])
    return found


def _fold_constant(node: "Node", constants: dict[str, tuple[str, "torch.Tensor"]]) -> bool:
    # A weight that the model computes from parameters alone (a mask times a weight, say) is a constant of the graph.
    sources = node.all_input_nodes
    if not sources or any(source.name not in constants for source in sources):
        return False
    from torch.fx.node import map_arg

    arguments = map_arg(node.args, lambda source: constants[source.name][1])
    keywords = map_arg(node.kwargs, lambda source: constants[source.name][1])
    assert callable(node.target)
    constants[node.name] = (constants[sources[0].name][0], node.target(*arguments, **keywords))
    return True


def _call(
    node: "Node",
    tensors: Mapping[str, str],
    constants: Mapping[str, tuple[str, "torch.Tensor"]],
    shapes: Mapping[str, Shape],
) -> Call | None:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return None
    target: Any = node.target
    keywords = dict(node.kwargs)
    if hasattr(target, "_schema"):
        name = target._schema.name.removeprefix("aten::").rstrip("_")
        names = [argument.name for argument in target._schema.arguments]
        defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
        arguments = {**defaults, **dict(zip(names, node.args, strict=False)), **keywords}
    else:
        name, arguments = target.__name__, dict(zip(("source", "index"), node.args, strict=False))
    shape = tuple(getattr(value, "shape", ()))
    sources = node.all_input_nodes
    first: Any = sources[0].meta.get("val") if sources else None
    return Call(
        name=name,
        output=node.name,
        arguments=arguments,
        shape=canonical(shape),
        rank=len(getattr(first, "shape", ())),
        shapes=shapes,
        where=_line(node.meta.get("stack_trace") or ""),
        tensors=tensors,
        constants=constants,
    )


def _line(stack: str) -> str:
    # The innermost frame outside torch: the line that its author can change.
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)', stack)
    own = [frame for frame in frames if "/torch/" not in frame[0].replace("\\", "/")] or frames
    if not own:
        return "(no source line recorded)"
    file, line, function, code = own[-1]
    return f"{file}, line {line}, in {function}: {code.strip()}"
