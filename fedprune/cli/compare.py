"""What ``fedprune compare`` does: a table of methods, run where it is not complete, and a page of it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedprune.cli.experiments import DataDir
from fedprune.experiment import ExperimentError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def compare(
    file: Annotated[Path, typer.Argument(help="The comparison: a TOML file.", metavar="FILE")],
    seeds: Annotated[int | None, typer.Option(help="Seeds of every cell.", min=1, show_default="the file's")] = None,
    only: Annotated[
        str | None, typer.Option(help="Methods to run, e.g. --only fedtiny,rigl.", show_default="all of the file")
    ] = None,
    experiments: Annotated[
        str | None, typer.Option(help="Experiments to run, e.g. --experiments digits.", show_default="all of the file")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The file's quick part, within minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the table.", show_default="runs/compare/NAME")] = None,
    cells: Annotated[
        Path | None,
        typer.Option(help="File of cells that were run before, and are added.", show_default="OUT/cells.jsonl"),
    ] = None,
    data_dir: DataDir = None,
    jobs: Annotated[int | None, typer.Option(help="Processes, each a cell.", min=1, show_default="one a core")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster to run the cells on.", metavar="ADDRESS")
    ] = None,
) -> None:
    """Compare methods by density and seed: one page, one JSON. What is complete is not run again. FILE is in TOML."""
    from fedprune.federated.link.local_grid import cores
    from fedprune.runs.compare import asked as files
    from fedprune.runs.compare import result
    from fedprune.runs.compare.running import FAILED, Where, run

    asked = files.read(file, quick=quick, seeds=seeds, only=_names(only), experiments=_names(experiments))
    folder = out or Path("runs/compare") / (file.stem + "_quick" * quick)
    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("cells", total=None)

        def say(text: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            progress.console.print(escape(text), highlight=False, soft_wrap=True)

        try:
            where = Where(jobs or cores(), ray or "")
            ran = run(file, asked, folder, str(data_dir) if data_dir else None, where, say, cells)
        except KeyboardInterrupt:
            progress.stop()
            again = shlex.join(["fedprune", *sys.argv[1:]])
            errors.print(f"\nStopped. What is complete lies in {cells or folder}; go on with:\n  {again}", markup=False)
            raise typer.Exit(130) from None
    written = result.write(folder, file.stem, asked, ran)
    if not written.lines:
        failed = next(told[FAILED] for told in ran.cells.values())
        raise ExperimentError(f"{file}: no cell could be run: {failed}")
    from fedprune.runs.compare.page import interval, ranked, spread
    from fedprune.runs.compare.summary import unmet

    metrics = {line.metric for line in written.lines}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in (
        "experiment",
        "density",
        "method",
        next(iter(metrics)).label if len(metrics) == 1 else "result",
        f"against {files.reference(asked)}",
        "seeds",
    ):
        table.add_column(head, justify="left" if head in ("experiment", "method") else "right")
    for line in sorted(ranked(written.lines), key=lambda line: (line.experiment, -line.density)):
        name = f"{line.metric.label} " * (len(metrics) > 1)
        table.add_row(
            line.experiment,
            f"{line.density:g}",
            line.method,
            name + spread(line.final, line.metric),
            interval(line.against, line.metric),
            str(line.final.seeds),
        )
    console.print(table)
    for text in unmet(written.lines):
        console.print(text, markup=False, soft_wrap=True)
    for path in (written.page, written.table):
        console.print(str(path), markup=False, soft_wrap=True)
    if lost := [(cell, told[FAILED]) for cell, told in ran.cells.items() if FAILED in told]:
        errors.print(
            f"{len(lost)} of {len(ran.cells)} cells failed, such as {lost[0][0].name()}: {lost[0][1]}", markup=False
        )
        raise typer.Exit(1)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []
