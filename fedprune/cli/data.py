"""Commands about a folder of recordings: what is in it, and one folder a person to try it with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.cli.experiments import DataDir
from fedprune.experiment import Data, ExperimentError, load

if TYPE_CHECKING:
    from fedprune.data.examples import IntArray
    from fedprune.data.own.splitting import Split

console = Console(highlight=False)
data = typer.Typer(no_args_is_help=True, help="A folder of recordings: what is in it; one folder a person to try with.")

_SHOWN = 20


class Layout(StrEnum):
    """What a data set's examples are written as."""

    arrays = "arrays"
    pictures = "pictures"


class Dealt(StrEnum):
    """How a set without people is dealt to devices."""

    iid = "iid"
    dirichlet = "dirichlet"


Like = Annotated[
    Path | None, typer.Option(help='An experiment with data.partition = "own": a TOML file.', metavar="FILE")
]


def mount(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.add_typer(data, name="data")


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a device's own recordings.", metavar="DIR")],
    like: Like = None,
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set data.tables.label=activity.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    all: Annotated[bool, typer.Option("--all", help="Every line on what cannot be used.")] = False,
    name: Annotated[str, typer.Option(help="Of the device, as it is enrolled.", show_default="DIR's")] = "",
) -> None:
    """What a device's folder holds, by class and part, and every file of it that cannot be used, and why.

    Without --like what is in it is guessed, and an experiment to begin with comes last.
    """
    from fedprune.cli.data_check import fitting, guessed, show
    from fedprune.data import DataError
    from fedprune.data.own import read

    try:
        settings = _of(like, set) if like else guessed(folder, set)
        recorded = read(settings, folder)
    except DataError as error:
        raise ExperimentError(str(error)) from error
    show(console, folder, settings, recorded, None if all else _SHOWN, name or folder.resolve().name)
    if not len(recorded):
        raise typer.Exit(2)
    if not like:
        console.print(f"\n{fitting(settings)}", markup=False, soft_wrap=True)


@data.command()
def split(
    what: Annotated[
        str,
        typer.Argument(
            help="Folder of tables, or a set: digits, shapes, cifar10, ucihar, keywords, plays.", metavar="DIR|NAME"
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder, of one folder a person or device.")],
    by: Annotated[str, typer.Option(help="person, or any column of the tables.", metavar="COLUMN|person")] = "",
    like: Like = None,
    data_dir: DataDir = None,
    devices: Annotated[
        int | None, typer.Option(help="Of a set: deal it to so many devices, whosever it is.", min=1)
    ] = None,
    partition: Annotated[Dealt, typer.Option(help="How it is dealt.")] = Dealt.iid,
    alpha: Annotated[float, typer.Option(help="Concentration of the Dirichlet; the smaller, the more skewed.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of how it is dealt.", min=0)] = 0,
    layout: Annotated[Layout, typer.Option("--as", help="What a set's examples become.")] = Layout.arrays,
) -> None:
    """Make one folder a person, of tables or of a set that this library knows, to simulate devices with."""
    from fedprune.data import NAMES, DataError

    a_set = what in NAMES or ":" in what
    try:
        if a_set:
            done = _split_set(what, by, out, data_dir, layout, _partition(devices, partition, alpha, seed))
        elif Path(what).is_dir():
            done = _split_tables(Path(what), by, out, like)
        else:
            raise DataError(f"{what}: no such folder, and no set; sets are {', '.join(NAMES)}")
    except DataError as error:
        raise ExperimentError(str(error)) from error
    for problem in done.problems:
        console.print(problem, markup=False, soft_wrap=True)
    shown = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    for name, size in done.sizes.items():
        shown.add_row(escape(name), f"{size:,}")
    console.print(shown)
    total = f"{sum(done.sizes.values()):,} {'examples' if a_set else 'rows'}"
    console.print(f"{len(done.sizes)} folders in {out}, {total} in all", markup=False, soft_wrap=True)


def _of(like: Path, set: list[str]) -> Data:
    settings = load(like, set).data
    if settings.partition != "own":
        raise ExperimentError(f'{like}: data.partition: {settings.partition!r}; expected "own"')
    return settings


def _split_tables(folder: Path, by: str, out: Path, like: Path | None) -> Split:
    from fedprune.data import DataError
    from fedprune.data.own.guessing import people_in
    from fedprune.data.own.splitting import tables_by

    tables = _of(like, []).tables if like else None
    column = tables.person if tables and by == "person" else by
    if not column:
        raise DataError("--by: missing; give a column, or person")
    if column == "person":
        return tables_by(folder, lambda names: people_in(names) or column, out)
    return tables_by(folder, lambda names: column, out)


def _split_set(
    name: str,
    by: str,
    out: Path,
    data_dir: Path | None,
    layout: Layout,
    deal: Callable[[IntArray], list[IntArray]] | None,
) -> Split:
    from fedprune.data import DataError, load
    from fedprune.data.own.splitting import as_arrays, as_pictures, numbered, people, set_by
    from fedprune.data.parts import Pool

    if (by != "person") == (deal is None):
        raise DataError(f"{name}: give --by person, or --devices N for so many devices of a set without people")
    dataset = load(name, data_dir)
    if deal and dataset.overlap:
        raise DataError(f"{name}: its examples overlap, and only people are apart: give --by person, not --devices")
    groups = numbered(deal(Pool(dataset.train, dataset.test).labels)) if deal else people(dataset)
    return set_by(dataset, groups, out, as_pictures if layout is Layout.pictures else as_arrays)


def _partition(
    devices: int | None, partition: Dealt, alpha: float, seed: int
) -> Callable[[IntArray], list[IntArray]] | None:
    from fedprune.data import dirichlet, iid

    if devices is None:
        return None
    rule = iid if partition is Dealt.iid else functools.partial(dirichlet, alpha=alpha)
    return lambda labels: rule(labels, devices, seed)
