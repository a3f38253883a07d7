"""Programs of small nets with the arenas that they start from, run by a library that another process loads."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedprune import training
from fedprune.graph import trace, without_dropout
from fedprune.native import program, steps
from fedprune.native.machine import Machine
from fedprune.native.nodes import not_covered
from fedprune.native.state import state

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("kernel_runs.cpp")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A program, the arena (elements,) as it is before it, and what comes out: outputs, losses, gradients."""

    name: str
    arena: np.ndarray
    lanes: int
    examples: int
    table: np.ndarray
    results: tuple[slice, ...]

    def write(self, path: Path) -> None:
        sizes = self.arena.size, self.lanes, self.examples, *self.table.shape, steps.LAYOUT
        header = np.array(sizes, np.int64)
        path.write_bytes(header.tobytes() + self.arena.tobytes() + self.table.tobytes())

    def kinds(self) -> set[steps.Kind]:
        return {steps.Kind(kind) for kind in self.table[:, 0]}


class Squeezed(nn.Module):
    """A map times a value a channel that comes of it, and the sum of two ways, side by side with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.value = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())
        self.other = nn.Conv2d(6, 6, (1, 5), padding=(0, 4), dilation=(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = torch.relu(self.norm(self.wide(x)) + x)
        return torch.cat([added * self.value(added), torch.tanh(self.other(x)) * x], 1)


def small() -> nn.Module:
    """All that has kernels, on odd sizes that no vector divides."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Hardswish(), Squeezed(), nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 1, groups=2), nn.ReLU(), nn.ZeroPad2d((1, 0, 2, 1)),
        nn.Dropout2d(0.2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.Dropout(0.3),
        nn.Conv2d(12, 7, 3, bias=False), nn.BatchNorm2d(7), nn.ReLU6(),
        nn.Flatten(), nn.Linear(28, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4),
    )  # fmt: skip


def recorded(examples: Sequence[int] = (5, 16)) -> Iterator[Recorded]:
    """Programs of every kind that devices run, over batches of whole and of broken vectors."""
    shape, rng = (3, 13, 15), np.random.default_rng(0)
    torch.manual_seed(0)
    model = small().train()
    graph, params = trace(model, np.zeros((1, *shape), np.float32), dropout=True), training.state_of(model)
    assert not_covered(graph) is None
    pruned = {name for name, value in params.items() if value.ndim == 4 and value.size > 100}
    masks = {name: rng.random(params[name].shape) < 0.3 for name in sorted(pruned)}
    loss = program.cross_entropy(4, 0.1)
    for count in examples:
        plan, rest = program.plan(graph, count), program.plan(without_dropout(graph), count)
        held = state(list(plan.nodes), masks)
        programs = {
            "training": program.training(plan, held, loss),
            "recomputed": program.training(plan, held, loss, cuts=program.possible_cuts(plan)),
            "evaluation": program.evaluation(rest, held, loss),
            "statistics": program.statistics(rest, held),
            "growth": program.growth(rest, held, loss, sorted(pruned))[0],
        }
        machine = Machine(plan, held, list(programs.values()))
        machine.load(params)
        for name, each in programs.items():
            inputs, labels = rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, 4, count)
            machine.feed(each, inputs, labels, 1 / count)
            own = [held.gradients, held.rest, *([] if name == "statistics" else [each.ends.output.buffer])]
            results = tuple(slice(buffer.at, buffer.at + buffer.elements) for buffer in own)
            whole = machine.arena.copy()
            yield Recorded(f"{name}-{count}", whole, plan.lanes.lanes, count, machine.tables[each], results)


def run(
    runner: Sequence[str | Path], library: Path, programs: Sequence[Recorded], folder: Path, *, instructions: str = "",
    threads: int = 1,
) -> list[np.ndarray]:  # fmt: skip
    """What each program leaves where its results are, run by a library in a process of its own."""
    files = [folder / each.name for each in programs]
    for each, file in zip(programs, files, strict=True):
        each.write(file)
    command = [*map(str, runner), str(library), instructions, str(threads), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [np.fromfile(f"{file}.out", np.float32) for file in files]
    return [np.concatenate([whole[at] for at in each.results]) for each, whole in zip(programs, found, strict=True)]


def build(folder: Path, *options: str) -> Path:
    """The library, built by CMake with options of its own."""
    for command in (["cmake", "-S", str(ROOT), "-B", str(folder), *options], ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_kernels.so"
