"""From a torch model to a graph: the model is exported by torch, and each aten operation is read into a typed one."""

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedprune.graph import shapes as _shapes
from fedprune.graph.calls import Call, Read, canonical
from fedprune.graph.operations import Graph, Operation, Shape
from fedprune.graph.readers import READERS
from fedprune.graph.reading_moves import DROPPING
from fedprune.graph.shared import second_names
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch.fx import Node


def trace(model: "torch.nn.Module", example: "Tensor | torch.Tensor", *, dropout: bool = False) -> Graph:
    """Return the graph of ``model`` in evaluation mode; the model itself is left as it was.

    ``example`` is a batch, channels first, of which the first sample is used: only its shape matters, and whether it
    is of integers. Names of parameters are those of ``state_dict``, a shared one's the first of its. Copies, reshapes
    to the same shape and what no output needs leave no trace, nor does ``dropout`` unless it is asked for.

    Raises ``UnsupportedOperation``, naming the aten operation and the line of the model, for what no operation covers.
    """
    import torch

    like = next(model.parameters(), torch.zeros(()))
    given = torch.as_tensor(example[:1]).detach().to(like.device)
    sample = given.to(like.dtype) if given.is_floating_point() else given.long()
    modes = [(module, module.training) for module in model.modules()]
    attention = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque call, where no gradient is asked for
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a recurrent layer's own list of its weights
            program = _known(torch.export.export(model.eval(), (sample,)))
            program.graph.eliminate_dead_code()
            return _read(program, {**READERS, **DROPPING} if dropout else READERS, second_names(model))
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        for module, training in modes:
            module.training = training


def _known(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """The program with what is defined by other operations, such as einsum, written in those."""
    import torch

    composed = [torch.ops.aten.einsum.default, torch.ops.aten.var.dim, torch.ops.aten.std.dim]
    if not any(node.target in composed for node in program.graph.nodes):
        return program
    known = torch.export.default_decompositions()
    written: torch.export.ExportedProgram = program.run_decompositions({op: known[op] for op in composed})
    return written


def _read(program: "torch.export.ExportedProgram", readers: Mapping[str, Read], second: Mapping[str, str]) -> Graph:
    constants = {node: (second.get(name, name), value) for node, (name, value) in _constants(program).items()}
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
            if not node.users or _fold_constant(node, constants):
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
            for step in result if isinstance(result, tuple) else (result,):
                op, shape = step if isinstance(step, tuple) else (step, ())
                operations.append(op)
                before = [shapes[name] for name in op.inputs]
                shapes[op.output] = call.shape if op.output == call.output else shape or _shapes.of(op, before)
                modules[op.output] = _module(node)
            tensors[node.name] = call.output
    assert isinstance(source, str)
    return used(Graph(source, outputs, tuple(operations), shapes, modules))


def used(graph: Graph) -> Graph:
    """Return the graph without operations whose results nothing reads."""
    needed, kept = {graph.input, *graph.outputs}, list[Operation]()
    for op in reversed(graph.operations):
        if op.output in needed:
            needed.update(op.inputs)
            kept.append(op)
    shapes = {name: shape for name, shape in graph.shapes.items() if name in needed}
    modules = {name: module for name, module in graph.modules.items() if name in needed}
    return Graph(graph.input, graph.outputs, tuple(reversed(kept)), shapes, modules)


def _module(node: "Node") -> str:
    # The stack goes from the model, whose name is empty, to the innermost module.
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    return str(stack[-1][0]).removeprefix("L['self']").lstrip(".")


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
    import torch
    from torch.fx.node import map_arg

    sources = node.all_input_nodes
    if any(source.name not in constants for source in sources) or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    arguments = map_arg(node.args, lambda source: constants[source.name][1])
    keywords = map_arg(node.kwargs, lambda source: constants[source.name][1])
    assert callable(node.target)
    name = constants[sources[0].name][0] if sources else node.name
    constants[node.name] = (name, node.target(*arguments, **keywords))
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
        plain_shape=shape,
        rank=len(getattr(first, "shape", ())),
        shapes=shapes,
        where=_line(node.meta.get("stack_trace") or "") or _layer(node),
        tensors=tensors,
        constants=constants,
    )


def _layer(node: "Node") -> str:
    # Of a module of torch's in a plain sequence no line of its author's is in the history.
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    kind = str(stack[-1][1]).rpartition(".")[2] if stack else ""
    return f"layer {_module(node)!r}, a {kind}" if kind else "(no source line recorded)"


def _line(stack: str) -> str:
    # The innermost frame outside torch: the line that its author can change.
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)', stack)
    own = [frame for frame in frames if "/torch/" not in frame[0].replace("\\", "/")]
    if not own:
        return ""
    file, line, function, code = own[-1]
    return f"{file}, line {line}, in {function}: {code.strip()}"
