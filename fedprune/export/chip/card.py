"""The card beside a model: what it takes and gives, what it costs, how good it is; for programs and for people."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedprune.export.litert import Port, Ports, gzip_bytes
from fedprune.export.text import markdown
from fedprune.export.tflm.operators import operators
from fedprune.tasks import metric_in, value_in

C99_FORMS: Mapping[str, str] = {
    "C99, weights and tables": "c99_constants_bytes",
    "C99, all its flash, predicted": "c99_flash_bytes_predicted",
}
"""The C99 sources among the forms of a model -> where a card says what they take: counted; with their code, about."""


def facts(model: bytes, ports: Ports, arena_bytes: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card as plain data, ready for JSON: what is ``given``, and what the model itself says.

    Sizes are in bytes, under ``size_bytes``, one for each form of the model; those given are kept. ``given`` holds
    what `C99_FORMS` names. ``arena_bytes`` is None where TensorFlow Lite Micro cannot run the model. ``operators`` are
    those that a firmware must register.
    """
    in_c = {form: given[key] for form, key in C99_FORMS.items()}
    forms = {**given.get("size_bytes", {}), **in_c, "int8 .tflite": len(model), "int8 .tflite, gzip": gzip_bytes(model)}
    return {
        **given,
        "input": _port(ports.input),
        "output": _port(ports.output),
        "flash_bytes": len(model),
        "arena_bytes": arena_bytes,
        "operators": list(operators(model)),
        "size_bytes": forms,
        "sha256": hashlib.sha256(model).hexdigest(),
    }


def page(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown. Names in it are plain text, whatever they are."""
    result, metric = card["output"], metric_in(card)
    what = "target" if "target_mean" in card else "label"
    rows = [
        *_taken(card),
        ("Output", f"{result['dtype']}, {tuple(result['shape'])}: one number a {what}{_each(result['shape'])}"),
        ("Output numbers", _numbers(result)),
        ("Flash of the C99 sources", _flash(card)),
        ("Arena of the C99 sources", f"{card['c99_arena_bytes']:,} bytes, static"),
        *_tflm(card),
        ("SHA-256 of the model", f"`{card['sha256']}`"),
    ]
    if what == "target":
        meant = f"number × std + mean, mean {card['target_mean']}, std {card['target_std']}"
        rows.insert(next(at for at, row in enumerate(rows) if row[0] == "Output numbers") + 1, ("Targets", meant))
    if (value := value_in(card)) is not None:
        rows.insert(0, (markdown(metric.title), metric.text(value)))
    rows += _compared(card)
    rows[:0] = [("**Warning**", markdown(str(said))) for said in card.get("warnings", ())]
    known = {
        "input",
        "output",
        "mean",
        "std",
        "labels",
        "vocabulary",
        "accuracy",
        "warnings",
        "signal_to_noise_db",
        "metric",
        "value",
        "target_mean",
        "target_std",
        "flash_bytes",
        "arena_bytes",
        "changed",
        "compared",
        "c99_arena_bytes",
        *C99_FORMS.values(),
        "operators",
        "size_bytes",
        "sha256",
    }
    others = {key.replace("_", " ").capitalize(): str(value) for key, value in card.items() if key not in known}
    rows += [(markdown(key), markdown(value)) for key, value in others.items()]
    return "\n".join(
        [
            f"# {markdown(card.get('name', 'Model'))}",
            "",
            *_table(("", ""), rows),
            "",
            "## Sizes",
            "",
            *_table(("Form", "Bytes"), [(markdown(form), f"{size:,}") for form, size in card["size_bytes"].items()]),
            *_noise(card.get("signal_to_noise_db") or {}),
            "",
            f"## {what.title()}s",
            "",
            *(f"{index}. {markdown(_shown(str(label)))}" for index, label in enumerate(card["labels"])),
            "",
        ]
    )


def _compared(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Made of the file", markdown(said)) for said in card.get("changed", ())]
    if seen := card.get("compared"):
        inputs, differing = seen["inputs"], seen["differing"]
        bits = "the same bits" if not differing else f"other bits on {differing}, for its kernels round otherwise"
        said = f"with {seen['beside']} on {inputs} random and extreme inputs: {bits}"
        rows.append(("C99 sources compared", said))
    return rows


def _taken(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    source = card["input"]
    said = f"{source['dtype']}, {tuple(source['shape'])}: a batch of one"
    if "vocabulary" in source:
        named = ", numbered as the labels are" if card.get("vocabulary") == card["labels"] else ""
        return [("Input", said), ("Input numbers", f"tokens, 0 to {source['vocabulary'] - 1}{named}")]
    return [
        ("Input", f"{said}, channels last"),
        ("Input numbers", _numbers(source)),
        ("Input normalisation", f"(value - mean) / std, mean {card['mean']}, std {card['std']}, before quantising"),
    ]


def _each(shape: Sequence[int]) -> str:
    return " and place" if math.prod(shape[1:-1]) > 1 else ""


def _shown(label: str) -> str:
    """A label, as a string where it would not be seen, such as a blank."""
    return label if label.strip() else json.dumps(label)


def _noise(found: Mapping[str, float]) -> list[str]:
    head = ["", "## Signal to noise of each layer, int8 against torch", ""] if found else []
    rows = [(markdown(layer), f"{value:.1f}") for layer, value in found.items()]
    return [*head, *_table(("Layer, the noisiest first", "dB"), rows)] if found else []


def _tflm(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    if card["arena_bytes"] is None:
        return [("TensorFlow Lite Micro", "not measured: it is not there, or does not run this model")]
    return [
        ("Flash, TensorFlow Lite Micro", f"{card['flash_bytes']:,} bytes for the model, besides the runtime"),
        ("Arena, TensorFlow Lite Micro", f"{card['arena_bytes']:,} bytes, measured on 64 bits"),
        ("Operators to register", markdown(", ".join(card["operators"]))),
    ]


def _flash(card: Mapping[str, Any]) -> str:
    constants, whole = card["c99_constants_bytes"], card["c99_flash_bytes_predicted"]
    return f"{constants:,} bytes of weights and tables; about {whole:,} bytes with code and startup, on a Cortex-M4"


def _port(port: Port) -> dict[str, Any]:
    if port.vocabulary:
        return {"shape": list(port.shape), "dtype": "int32", "vocabulary": port.vocabulary}
    if port.grid is None:
        return {"shape": list(port.shape), "dtype": "float32"}
    dtype = "int16" if port.wide else "int8"
    return {"shape": list(port.shape), "dtype": dtype, "scale": port.grid.scale, "zero_point": port.grid.zero_point}


def _numbers(port: Mapping[str, Any]) -> str:
    if "scale" not in port:
        return "as they are"
    return f"real = {port['scale']:.9g} × (integer − {port['zero_point']})".replace("− -", "+ ")


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |" for left, right in (head, ("---", "---"), *rows)]
