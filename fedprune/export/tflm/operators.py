"""Which operators a model needs, and what the resolver of TensorFlow Lite Micro calls them."""

from typing import Any


def operators(model: bytes) -> tuple[str, ...]:
    """Return the operators of a .tflite file, each once, in the order of its table: ``CONV_2D``, ``TFLM_DECODE``."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    root: Any = schema.Model.GetRootAs(model, 0)
    codes = [root.OperatorCodes(position) for position in range(root.OperatorCodesLength())]
    found = (code.CustomCode().decode() if code.CustomCode() else names[code.BuiltinCode()] for code in codes)
    return tuple(dict.fromkeys(found))


def registration(operator: str) -> str:
    """Return the method of ``MicroMutableOpResolver`` that registers an operator: ``AddConv2D``, ``AddDecode``."""
    parts = _CALLED.get(operator, operator).split("_")
    return "Add" + "".join(part if part[0].isdigit() else part.capitalize() for part in parts)


_CALLED = {"TFLM_DECODE": "DECODE", "PADV2": "PAD_V2"}
