"""Devices with data of their own against one holder of all of it, and each alone; and against a data set that is dealt.

    python -m simulations.benchmarks.own_data watch                         # ten people's smartwatches, three seeds
    python -m simulations.benchmarks.own_data pictures --data-dir DATA      # CIFAR-10 as folders of pictures
    python -m simulations.benchmarks.own_data watch --write people          # only write the people's folders
    python -m simulations.benchmarks.own_data --quick                       # three people, three rounds, one seed

watch: the recordings of the package seglearn (140, of ten people doing seven exercises), one .csv a recording, as
simulations/watch.toml reads them. The same net, method, rounds and epochs train on all devices, centrally on all
recordings, and on each person's alone; the test parts are the same, whole recordings that nobody trains on.

pictures: what simulations/cifar10.toml deals to ten devices and to its server, written out as PNG files in a folder a
class, and read as devices' own: parts by a hash of a file's name, constants measured by the devices. As many pictures
are tested on as there, but not the same ones. Beside it the dealt run of the same seed; six seeds, since which pictures
are tested on is worth a point by itself.

Each run is kept in results/own_data.json when it is done, and one that is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from fedprune.data.loading import agreed_here, federation, load_dataset
from fedprune.experiment import Data, Experiment, load
from fedprune.experiment.own_data import Pictures
from fedprune.runs.run import simulate, train
from simulations.benchmarks._report import RESULTS, Figure, write

_HERE = Path(__file__).resolve().parents[1]
_SEEDS, _PICTURE_SEEDS = range(3), range(6)
_COMMAND = "python -m simulations.benchmarks.own_data"
Result = tuple[int, int]
"""(hits of the int8 file on test parts, examples)."""


def main() -> None:
    """Run what is missing, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["watch", "pictures"], default="watch")
    parser.add_argument("--data-dir", type=Path, help="folder that holds cifar10/")
    parser.add_argument("--write", type=Path, help="write the people's folders here, and nothing else")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.write:
        write_people(given.write)
        print(given.write)
        return
    name = "own_data_quick" if given.quick else "own_data"
    figures = _before(RESULTS / f"{name}.json")
    with tempfile.TemporaryDirectory() as folder:
        for key, run in _runs(given.what, given.data_dir, Path(folder), quick=given.quick):
            if key not in figures:
                hits, examples = run()
                figures[key] = Figure(100 * hits / examples, "%, accuracy of the int8 file", "higher")
                write(name, {**figures, **_means(figures)}, _COMMAND, ["torch", "flwr"])
    _show(_means(figures))
    print(write(name, {**figures, **_means(figures)}, _COMMAND, ["torch", "flwr"]))


def write_people(root: Path) -> None:
    """A folder a person of the smartwatch's recordings, a .csv each."""
    spec = find_spec("seglearn")
    if spec is None or spec.origin is None:
        raise SystemExit("seglearn is not installed: pip install --no-deps seglearn")
    file = Path(spec.origin).parent / "data" / "watch_dataset.npy"
    found = np.load(file, allow_pickle=True).item()  # of an installed package, whose code would run as well
    for index, (signals, label) in enumerate(zip(found["X"], found["y"], strict=True)):
        name = str(found["y_labels"][label])
        side = "right" if found["side"][index] else "left"
        folder = root / f"person_{found['subject'][index]:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}_{side}.csv").open("w", newline="") as lines:
            table = csv.writer(lines)
            table.writerow([*found["X_labels"], "exercise"])
            table.writerows([*map(float, row), name] for row in signals.tolist())


def _runs(what: str, data_dir: Path | None, folder: Path, *, quick: bool) -> Iterator[tuple[str, Callable[[], Result]]]:
    if what == "pictures":
        if data_dir is None:
            raise SystemExit("pictures: give --data-dir, a folder that holds cifar10/")
        for seed in _PICTURE_SEEDS:
            dealt = load(_HERE / "cifar10.toml", seed=seed)
            yield f"pictures, dealt, seed {seed}", lambda dealt=dealt: _run(simulate, dealt, data_dir)
            yield f"pictures, own, seed {seed}", lambda dealt=dealt: _pictures(data_dir, folder / "written", dealt)
        return
    write_people(folder / "people")
    people = sorted((folder / "people").iterdir())
    if quick:
        for person in people[3:]:
            shutil.rmtree(person)
        del people[3:]
    for seed in range(1) if quick else _SEEDS:
        asked = load(_HERE / "watch.toml", ["rounds=3"] if quick else [], seed=seed)
        of = f"watch, {{}}, seed {seed}".format

        def alone(asked: Experiment = asked) -> Result:
            each = [_alone(asked, person, folder / "one") for person in people]
            return sum(hits for hits, _ in each), sum(examples for _, examples in each)

        yield of("federated"), lambda asked=asked: _run(simulate, asked, folder / "people")
        yield of("central"), lambda asked=asked: _run(train, asked, folder / "people")
        yield of("alone"), alone


def _run(go: Callable[..., dict[str, Any]], asked: Experiment, data_dir: Path) -> Result:
    with tempfile.TemporaryDirectory() as out:
        result = go(asked, Path(out) / "run", source=asked.name, data_dir=str(data_dir), progress=_say)
    checked = result["checks"]["litert_int8"]
    return round(checked["accuracy"] * checked["examples"]), checked["examples"]


def _alone(asked: Experiment, person: Path, folder: Path) -> Result:
    """One person's recordings as all there are; 0 of 0 where none of them is for testing."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(person, folder / person.name)
    (holds,) = agreed_here(asked.data, str(folder)).holds.values()
    return _run(train, asked, folder) if holds["test"] else (0, 0)


def _pictures(data_dir: Path, folder: Path, dealt: Experiment) -> Result:
    from PIL import Image

    dataset, found = load_dataset("cifar10", str(data_dir)), federation(dealt, str(data_dir))
    tests = 0

    def put(images: np.ndarray, labels: np.ndarray, to: Path, prefix: str) -> None:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            at = to / dataset.classes[label]
            at.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(at / f"{prefix}{index}.png")

    put(found.public.inputs, found.public.labels, folder / "public", "p")
    total = 0
    for number, device in enumerate(found.devices):
        for prefix, part in (("t", device.train), ("d", device.development), ("x", device.test)):
            put(part.inputs, part.labels, folder / "people" / f"device_{number}", prefix)
            total += len(part)
            tests += len(part) if prefix == "x" else 0
    own = Data(
        "pictures", "own", classes=dataset.classes, public_dir=str(folder / "public"), test=round(tests / total, 4),
        development=dealt.data.development, pictures=Pictures((32, 32), 3),
    )  # fmt: skip
    try:
        return _run(simulate, replace(dealt, data=own), folder / "people")
    finally:
        shutil.rmtree(folder)


def _say(row: dict[str, Any]) -> None:
    if row.get("accuracy") is not None and "round" in row:
        print(f"  round {row['round']}, {row['phase']}: {100 * row['accuracy']:.1f} %", flush=True)


def _before(file: Path) -> dict[str, Figure]:
    kept = json.loads(file.read_text())["figures"] if file.exists() else {}
    return {key: Figure(**figure) for key, figure in kept.items() if ", seed " in key}


def _means(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Mean and standard deviation of each way over its seeds."""
    found: dict[str, Figure] = {}
    for way in dict.fromkeys(key.partition(", seed ")[0] for key in figures):
        values = [figure.value for key, figure in figures.items() if key.startswith(f"{way}, seed ")]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        found[way] = Figure(statistics.mean(values), "%, accuracy of the int8 file", "higher")
        found[f"{way}, spread"] = Figure(spread, "points, standard deviation over seeds", "lower")
    return found


def _show(means: dict[str, Figure]) -> None:
    table = Table("trained", "accuracy, int8", box=None)
    for way, figure in means.items():
        if not way.endswith(", spread"):
            spread = means[f"{way}, spread"].value
            table.add_row(way, f"{figure.value:.2f} ± {spread:.2f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
