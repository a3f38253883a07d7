"""What ``fedprune export`` does and shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedprune.cli.bench import WRONG, read_model, show_export, show_files, why
from fedprune.cli.ended import warn
from fedprune.experiment import ExperimentError
from fedprune.tasks import metric_in, value_in


def export_run(console: Console, run: Path, to_microcontroller: bool, fastest: bool, data_dir: Path | None) -> None:
    """Write a run's model again for one kind of device, those of its tiers too, and what the first one costs."""
    from fedprune.runs.folder import RunFolder
    from fedprune.runs.outcome import export as write

    _list(console, write(run, to_microcontroller, str(data_dir) if data_dir else None, fastest))
    result = RunFolder(run).read_result()
    if to_microcontroller:
        show_export(console, run / "microcontroller", metric_in(result), value_in(result, "int8"))
    else:
        names = {"model.tflite": "int8", "model_float.tflite": "float"}
        files = {name: (run / name).read_bytes() for name in names}
        show_files(console, files, metric_in(result), {name: value_in(result, end) for name, end in names.items()})
    warn(console, result)


def export_file(
    console: Console, file: Path, to_microcontroller: bool, fastest: bool, out: Path | None, data: Path | None = None
) -> None:
    """Write a .tflite as C, or as an int8 .tflite; one of floats is quantised by the examples in ``data``.

    ExperimentError for one that cannot be, and nothing is written.
    """
    from fedprune.export import c99
    from fedprune.export.chip import foreign

    content = read_model(file)
    if not to_microcontroller:
        _export_lite(console, file, content, out, data)
        return
    folder = out or file.with_name(f"{file.stem}_microcontroller")
    try:
        optimise = c99.fastest if fastest else c99.smallest
        written = foreign.write(content, folder, file.stem, optimise=optimise, data=data)
    except WRONG as error:
        raise ExperimentError(f"{file}: {why(error)}") from error
    _list(console, written.paths())
    _say(console, json.loads(written.card_json.read_text(encoding="utf-8")))
    if written.source is None:
        said = "TensorFlow Lite Micro lacks an operator of this model: no C array for it; model.c needs no runtime"
        console.print(said, soft_wrap=True)
    show_export(console, folder)


def _say(console: Console, card: Mapping[str, Any]) -> None:
    """Print what was changed of a file, and with what its C was compared."""
    seen = card.get("compared")
    how = "not compared with TensorFlow Lite Micro, for which a C compiler and a runtime are needed"
    if seen:
        bits = "with the same bits" if not seen["differing"] else f"with other bits on {seen['differing']} of them"
        how = f"compared with {seen['beside']} on {seen['inputs']} random and extreme inputs, {bits}"
    for said in (*card.get("changed", ()), f"the C was {how}"):
        console.print(said, markup=False, soft_wrap=True)


def _export_lite(console: Console, file: Path, content: bytes, out: Path | None, data: Path | None) -> None:
    from fedprune.export.chip import foreign
    from fedprune.files import write_atomically

    folder = out or file.with_name(f"{file.stem}_litert")
    try:
        made = foreign.lite(content, data)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "model.tflite", made.content)
    except WRONG as error:
        raise ExperimentError(f"{file}: {why(error)}") from error
    _list(console, [folder / "model.tflite"])
    for said in made.said:
        console.print(said, markup=False, soft_wrap=True)


def _list(console: Console, paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(f"{path}  {path.stat().st_size:,} bytes", markup=False, soft_wrap=True)
