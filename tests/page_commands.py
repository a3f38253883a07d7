"""Commands that pages show: whether the command line understands one, whether it can be run here, and running it."""

import argparse
import ast
import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from page_text import ROOT, Command

from fedprune import experiment as _experiment
from fedprune.cli.main import app, main
from fedprune.experiment import Experiment
from fedprune.methods import catalogue
from fedprune.runs.compare import asked, cells

_ARM = ("arm-none-eabi-gcc", "qemu-system-arm")


def parse(command: Command) -> None:
    """Raises what the command line says of a command that it does not understand."""
    program, *words = command.words
    if program == "fedprune":
        _parse_typer(typer.main.get_command(app), words, command.whole)
        if _of_experiment(command.words):
            _loaded(command.words)
        elif words[0] == "compare" and (ROOT / words[1]).exists():
            comparison = asked.read(ROOT / words[1])
            for cell in {(each.experiment, each.method): each for each in cells.cells(comparison)}.values():
                cells.experiment(ROOT / words[1], comparison, cell)
    elif program == "flwr":
        from flwr.cli.app import app as flwr

        _parse_typer(typer.main.get_command(flwr), words, command.whole)
        given = tomllib.loads(re.sub(r'" (?=\w)', '"\n', words[words.index("--run-config") + 1]))
        assert given.keys() <= project()["tool"]["flwr"]["app"]["config"].keys()
        _experiment.load(Path(given["experiment"]), given["set"].split())
    elif program == "make":
        makefiles = [ROOT / "Makefile", ROOT / "fedprune" / "export" / "c99" / "firmware" / "Makefile"]
        targets = {target for file in makefiles for target in re.findall(r"^([\w-]+):", file.read_text(), re.MULTILINE)}
        assert not {word for word in words if "=" not in word} - targets, "no such target"
    elif words[0] == "-c":
        imports_exist(ast.parse(words[1]), set())
    elif words[0] == "-m":
        _parse_benchmark(words[1], words[2:])
    else:
        assert list(ROOT.glob(f"simulations/**/{words[0]}")), "no such file"


def _parse_typer(command: Any, words: list[str], whole: bool) -> None:
    while isinstance(command, click.Group):
        assert words, "which command?"
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    try:
        command.make_context(command.name, list(words))
    except click.MissingParameter:
        if whole:
            raise


class _Parsed(Exception):
    """Raised in place of what a benchmark would do next."""


def _parse_benchmark(module: str, words: list[str]) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, *_: object) -> None:
        parse(self, words)
        raise _Parsed

    benchmark = importlib.import_module(module)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        with pytest.raises(_Parsed):
            benchmark.main()


def not_run(words: tuple[str, ...]) -> str:
    """Why a command is parsed alone; "" for one that is run."""
    program, does = words[0], words[1]
    if program == "make":
        needs = _ARM if any(word.startswith("TARGET=cortex") for word in words) else ("gcc", "make")
        return "" if "MODEL=" in " ".join(words) and _has(*needs) else "takes minutes, or a compiler is not here"
    if program != "fedprune":
        return "a benchmark, or Flower's own"
    reasons: dict[str, Callable[[], bool]] = {
        "serves until Ctrl-C": lambda: (
            does == "watch"
            or (words[:3] == ("fedprune", "server", "start") and "--print" not in words)
            or (does == "join" and "--install-service" not in words)
        ),
        "wants devices that answer": lambda: (
            does in ("run", "deploy") or (does == "resume" and words[2].startswith("FLEET/"))
        ),
        "wants data that is not here": lambda: (
            "--data-dir" in words and not Path(words[words.index("--data-dir") + 1]).is_dir()
        ),
        "wants a method that is not here": lambda: (
            (_of_experiment(words) and not _method_is_here(words))
            or (does == "methods" and len(words) > 2 and words[2] not in catalogue())
        ),
        "wants an emulator": lambda: "aarch64" in words or ("cortex-m4" in words and not _has(*_ARM)),
        "wants TensorBoard": lambda: "tensorboard" in words and importlib.util.find_spec("tensorboard") is None,
        "takes minutes": lambda: "ray" in words or does == "compare",
    }
    return next((why for why, applies in reasons.items() if applies()), "")


def _of_experiment(words: tuple[str, ...]) -> bool:
    return len(words) > 2 and words[2].endswith(".toml") and words[1] != "compare"


def _method_is_here(words: tuple[str, ...]) -> bool:
    name = _loaded(words).method["name"]
    return name in catalogue() or ":" in name


def run(words: tuple[str, ...]) -> int:
    """The exit code of a command: fedprune's in this process, where torch is loaded once."""
    if words[0] == "make":
        return subprocess.run(words, cwd="clients/microcontroller").returncode
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [*map(os.path.expanduser, words), *_smaller(words)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def _smaller(words: tuple[str, ...]) -> list[str]:
    """Arguments that make an experiment short, and keep it in this process."""
    if not _of_experiment(words):
        return []
    asked = _loaded(words)
    smaller = {"training.epochs": 1} | ({} if asked.pretraining.weights else {"pretraining.epochs": 1})
    smaller |= {"rounds": 1} if asked.rounds else {}
    smaller |= {"method.pool": 1} if asked.method["name"] == "fedtiny" else {}
    smaller |= {"data.examples": 600} if asked.data.name == "digits" else {}
    sets = [word for key, value in smaller.items() for word in ("--set", f"{key}={value}")]
    return [*sets, *(["--workers", "1"] if words[1] == "simulate" else [])]


def _loaded(words: tuple[str, ...]) -> Experiment:
    """The experiment that a command names, with what it sets."""
    sets = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    return _experiment.load(Path(words[2]), sets)


def imports_exist(tree: ast.Module, shown: set[str]) -> None:
    """What is imported of fedprune is there; other modules are the page's own, or somebody else's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names if alias.name.startswith("fedprune")):
                importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("fedprune"):
            if str(node.module).rpartition(".")[2] in shown:
                continue
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@functools.cache
def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _has(*programs: str) -> bool:
    return all(map(shutil.which, programs))
