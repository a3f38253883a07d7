"""Models on microcontrollers: without their zeros, run in TensorFlow Lite Micro, and as C sources with a card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert import quantisation
from fedprune.export.microcontroller.card import facts, page
from fedprune.export.microcontroller.decode import flash_bytes
from fedprune.export.microcontroller.interpreter import run
from fedprune.export.microcontroller.operators import operators
from fedprune.export.microcontroller.sources import sources
from fedprune.export.microcontroller.sparse import decoded, sram_bytes, write_sparse

__all__ = ["Written", "decoded", "flash_bytes", "operators", "run", "sram_bytes", "write_c", "write_sparse"]


class Written(NamedTuple):
    """Where the files of a model lie."""

    source: Path
    header: Path
    card_json: Path
    card_page: Path


def write_c(model: bytes, directory: Path | str, card: Mapping[str, Any]) -> Written:
    """Write an int8 model as C sources, and its card as JSON and Markdown; return their paths.

    Args:
        model: the .tflite bytes.
        directory: made if it is not there.
        card: ``labels`` of the outputs; ``mean`` and ``std`` by which inputs were normalised in training, in turn for
            the input's elements, channels last: usually one a channel. Optional: ``accuracy`` in [0, 1], ``name``,
            ``arena_bytes`` (else measured in TensorFlow Lite Micro), ``size_bytes`` (form -> bytes, of other forms of
            the model). All else it holds goes into the card.

    Raises:
        ValueError: a key is missing, the model is not int8, or the card does not fit it.
        RuntimeError: ``arena_bytes`` is not given and TensorFlow Lite Micro is not installed.
    """
    missing = [key for key in ("labels", "mean", "std") if key not in card]
    if missing:
        raise ValueError(f"the card of a model needs {', '.join(missing)}")
    ports = quantisation(model)
    arena_bytes = int(card["arena_bytes"]) if "arena_bytes" in card else _measured(model, ports.input.shape)
    plain = {**card, **{key: list(card[key]) for key in ("labels", "mean", "std")}}
    texts = sources(model, ports, arena_bytes=arena_bytes, labels=plain["labels"], mean=plain["mean"], std=plain["std"])
    full = facts(model, ports, arena_bytes, plain)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    contents = (texts.source, texts.header, json.dumps(full, indent=2, ensure_ascii=False) + "\n", page(full))
    paths = Written(*(folder / name for name in _NAMES))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


_NAMES = ("model_data.c", "model_data.h", "model_card.json", "model_card.md")


def _measured(model: bytes, shape: tuple[int, ...]) -> int:
    # Any input will do: the arena depends on shapes alone.
    zeros = np.zeros((1, shape[-1], *shape[1:-1]), np.float32)
    return run(model, zeros)[1]
