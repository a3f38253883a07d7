"""What ``fedprune methods`` shows: every method, or one in detail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.experiment import ExperimentError

if TYPE_CHECKING:
    from fedprune.methods.axes import Axes
    from fedprune.methods.describing import Described, Parameter

console = Console(highlight=False)


def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method, or a dotted name such as my_package.methods:mine.", metavar="[NAME]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
) -> None:
    """Every method that an experiment can name: its paper, its keys, what it asks of devices. NAME is one in detail."""
    from fedprune.methods import MethodError, catalogue
    from fedprune.methods.describing import described

    try:
        found = [described(each) for each in ([name] if name else catalogue())]
    except MethodError as error:
        raise ExperimentError(str(error).removeprefix("method.name: ")) from error
    if as_json:
        tables = [
            {**each._asdict(), "axes": each.axes._asdict(), "parameters": [key._asdict() for key in each.parameters]}
            for each in found
        ]
        print(json.dumps(tables[0] if name else tables))
    elif name:
        _show(found[0])
    else:
        _show_all(found)


def _show_all(found: Iterable[Described]) -> None:
    table = Table(box=None, padding=(0, 2, 1, 0))
    for head in ("method", "family, axes", "paper", "acts and asks", "keys"):
        table.add_column(head, overflow="fold", no_wrap=head in ("method", "family, axes"))
    for each in sorted(found, key=lambda each: each.family):
        asks = "\n".join([f"starts {each.starts}", *_acts(each), *each.trains])
        keys = "\n".join(map(_key, each.parameters))
        family = "\n".join([each.family, *_axes(each.axes)])
        table.add_row(*map(escape, (each.name, family, each.paper, asks, keys)))
    console.print(table)


def _show(found: Described) -> None:
    lines = [
        f"[bold]{escape(found.name)}[/bold], {escape(found.family)}",
        escape(found.paper),
        "",
        escape(found.says),
        "",
        *_listed("axes", _axes(found.axes)),
        f"starts    {found.starts}",
        *_listed("acts", _acts(found) or ["never"]),
        *_listed("asks", [f"{kind}: {cost}" for kind, cost in found.asks.items()] or ["nothing"]),
        *_listed("trains", found.trains or ["plain masked SGD"]),
        *_listed("keys", [_key(each) for each in found.parameters] or ["none"]),
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _axes(axes: Axes) -> list[str]:
    return [f"prunes {axes.prunes}", axes.when, axes.often, axes.how, axes.data]


def _acts(found: Described) -> list[str]:
    return [f"{when}: {'asks ' + ', '.join(asked) if asked else 'acts'}" for when, asked in found.acts.items()]


def _listed(head: str, lines: Iterable[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield f"{'' if index else head:<10}{escape(line)}"


def _key(parameter: Parameter) -> str:
    if parameter.default is None:
        return f"{parameter.name}: {parameter.type}, required"
    value = json.dumps(parameter.default)  # which is TOML as well
    return f"{parameter.name}: {parameter.type} = {value}"
