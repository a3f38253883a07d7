"""Write a model for a microcontroller: C sources, a file for TensorFlow Lite Micro, a card, a program around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedprune.export.chip.card import facts, page
from fedprune.export.litert import ports
from fedprune.export.litert.reader import read
from fedprune.export.tflm.interpreter import arena_bytes
from fedprune.export.tflm.sources import initialisers, sources
from fedprune.files import write_atomically

if TYPE_CHECKING:
    from fedprune.export.c99 import Optimise, Sources


class Written(NamedTuple):
    """Where the files of a model lie."""

    source: Path | None
    """For TensorFlow Lite Micro: the bytes of ``tflite`` as a C array. None where that cannot run the model."""
    header: Path | None
    tflite: Path
    c99_source: Path
    """The model itself in C99, to be compiled into a program: no runtime is needed."""
    c99_header: Path
    card_json: Path
    card_page: Path
    firmware: tuple[Path, ...]
    """A program around the C99 sources, with its makefile."""

    def paths(self) -> list[Path]:
        """All of them, the model's before the program's."""
        return [*(path for path in self[:-1] if isinstance(path, Path)), *self.firmware]


def write_c(
    model: bytes,
    directory: Path | str,
    card: Mapping[str, Any],
    *,
    plain: bytes | None = None,
    optimise: Optimise | None = None,
) -> Written:
    """Write the `c_files` of an int8 model, and a program around them; return their paths.

    Raises as `c_files` and `write_files`.
    """
    return write_files(c_files(model, card, plain=plain, optimise=optimise), directory)


_FILE = "model.tflite"


_ARRAY = ("model_data.c", "model_data.h")
_NAMES = ("model.c", "model.h", "model_card.json", "model_card.md")


def c_files(
    model: bytes,
    card: Mapping[str, Any],
    *,
    plain: bytes | None = None,
    optimise: Optimise | None = None,
    made: Sources | None = None,
) -> dict[str, bytes]:
    """Return an int8 model for microcontrollers, and its card as JSON and Markdown: name of a file -> its bytes.

    Args:
        model: the .tflite bytes for TensorFlow Lite Micro.
        card: ``labels`` of the outputs; ``mean`` and ``std`` by which inputs were normalised in training, in turn for
            the input's elements, channels last: usually one a channel; tokens need none. Optional: ``vocabulary``, the
            names of tokens, ``accuracy`` in [0, 1] or what
            `tasks.entry` has of another metric, ``target_mean`` and ``target_std`` that outputs are normalised by,
            ``name``, ``arena_bytes`` (else measured in TensorFlow Lite Micro; None where that cannot run the model, for
            which there is no C array then), ``size_bytes`` (form -> bytes, of other forms of the model), ``warnings``,
            ``signal_to_noise_db`` (layer -> dB, the noisiest first). All else it holds goes into the card.
        plain: the model of which the C99 sources are made, where it is not the same.
        optimise: `fedprune.export.c99.smallest`, the default, or `fastest`.
        made: the C99 sources, where they are made already.

    Raises:
        ValueError: a key is missing, the model is not int8 or holds what no C kernel covers, or the card does not fit.
        RuntimeError: ``arena_bytes`` is not given and TensorFlow Lite Micro is not installed, refuses the model or ends
            over it; or this copy of fedprune came without its C files.
    """
    from fedprune.export import c99

    ends = ports(read(model))
    needed = ("labels",) if ends.input.vocabulary else ("labels", "mean", "std")
    missing = [key for key in needed if key not in card]
    if missing:
        raise ValueError(f"the card of a model needs {', '.join(missing)}")
    numbers = {key: list(card[key]) for key in needed}
    listed = {**{key: value for key, value in card.items() if key not in ("mean", "std")}, **numbers}
    # the library's own checks, then the interpreter's
    made = made or c99.generate(plain or model, optimise or c99.smallest, initialisers(**numbers))
    arena: int | None = card["arena_bytes"] if "arena_bytes" in card else arena_bytes(model)
    contents = dict[str, str]()
    if arena is not None:
        texts = sources(model, ends, arena_bytes=int(arena), **numbers)
        contents |= {_ARRAY[0]: texts.source, _ARRAY[1]: texts.header}
    c99_costs = {
        "c99_arena_bytes": made.arena_bytes,
        "c99_constants_bytes": made.constants_bytes,
        "c99_flash_bytes_predicted": made.flash_bytes_predicted,
    }
    full = facts(model, ends, arena, {**listed, **c99_costs})
    described = (json.dumps(full, indent=2, ensure_ascii=False) + "\n", page(full))
    contents |= dict(zip(_NAMES, (made.source, made.header, *described), strict=True))
    return {**{name: each.encode(errors="replace") for name, each in contents.items()}, _FILE: model}


def write_files(contents: Mapping[str, bytes], directory: Path | str) -> Written:
    """Write `c_files` and a program around them into a directory, made if it is not there; return their paths.

    Each file is whole or as it was before, and a link in its place is replaced. Raises ``OSError`` where one cannot be
    written.
    """
    from fedprune.export.c99.boards import copy_firmware

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    for name in {*_ARRAY} - contents.keys():  # of an earlier model
        (folder / name).unlink(missing_ok=True)
    c_array, c_header = (folder / name if name in contents else None for name in _ARRAY)
    source, header, card_json, card_page = (folder / name for name in _NAMES)
    firmware = tuple(copy_firmware(folder))
    return Written(c_array, c_header, folder / _FILE, source, header, card_json, card_page, firmware)
