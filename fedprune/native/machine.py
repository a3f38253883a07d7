"""An arena with a model's values in it: batches go in, programs run, outputs, losses and gradients come out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from fedprune.graph import parameters
from fedprune.lazy import Lazy
from fedprune.native import library
from fedprune.native.arena import ALIGNMENT, Buffer
from fedprune.native.program import Plan, Program, laid_out
from fedprune.native.state import Kept, State
from fedprune.native.steps import encoded
from fedprune.types import Params, Tensor


class Machine:
    """The programs of one model over one arena, whose size is all that they take."""

    def __init__(
        self, plan: Plan, state: State, programs: Sequence[Program], *, beside: Sequence[State] = (), threads: int = 1,
        instructions: str = "",
    ) -> None:  # fmt: skip
        """``beside``: of programs with a state of their own. ``instructions``: a lesser set than the best, to test."""
        self.plan, self.state, self._how = plan, state, (threads, instructions)
        self.elements = laid_out(programs, state, *beside)
        self.arena = _aligned(self.elements)
        self.tables = {program: encoded(program.steps) for program in programs}
        for each in (state, *beside):
            while each.constants:  # each is let go as soon as it is copied
                buffer, values = each.constants.pop()
                self.arena[buffer.at : buffer.at + values.size].view(np.int32)[:] = values
        self.shapes = {each.name: each.value.shape for op in plan.graph.operations for each in parameters(op)}
        """As a model has them that was loaded."""

    def load(self, params: Params) -> None:
        """Take the values of all that the graph holds; pruned ones have no place."""
        for name, kept in self._all():
            self.shapes[name] = _put(params[name], kept, self.value(name))

    def params(self) -> Params:
        """All that the graph holds as it is now, in full shapes; each is made when it is asked for."""
        return Lazy({n: partial(_whole, self.shapes[n], kept, self.value(n).copy()) for n, kept in self._all()})

    def gradients(self) -> dict[str, Tensor]:
        """What training programs have added up, by name, in full shapes, 0 where a weight has no place."""
        found = self.part(self.state.gradients)
        trained = self.state.trained.items()
        return {n: _whole(self.shapes[n], kept, found[kept.shift : kept.shift + kept.values]) for n, kept in trained}

    def part(self, buffer: Buffer) -> Tensor:
        """What a buffer holds, to be read or changed."""
        return self.arena[buffer.at : buffer.at + buffer.elements]

    def value(self, name: str, state: State | None = None) -> Tensor:
        """The values of a parameter or statistic, as they are held, to be read or changed."""
        state = state or self.state
        place, kept = state.value(name), state.kept(name)
        return self.arena[place.buffer.at + place.shift :][: kept.values]

    def feed(
        self, program: Program, inputs: Tensor, labels: Tensor, scale: float, draw: int = 0, first: int = 0
    ) -> None:
        """Put a batch in, of at most as many examples as there are lanes; gradients will be times ``scale``.

        ``labels`` are classes (n,), or numbers (n, outputs). Dropout goes by ``draw``, a number in [0, 2⁶⁴), where this
        is a part of a batch that begins with its ``first`` example.
        """
        count, (lanes, groups), ends = len(inputs), self.plan.lanes, program.ends
        if count > self.plan.lanes.all:
            raise ValueError(f"a batch of {count} examples, with room for {self.plan.lanes.all}")
        size, (rows, columns) = ends.input.size, ends.input.halo
        shape = groups, size.channels, size.height + 2 * rows, size.width + 2 * columns, lanes
        whole = self.part(ends.input.buffer).reshape(shape)
        inner = whole[:, :, rows : rows + size.height, columns : columns + size.width]
        given = inputs.reshape(count, *size)
        for group in range(-(-count // lanes)):
            some = given[group * lanes : (group + 1) * lanes]
            inner[group, ..., : len(some)] = np.moveaxis(some, 0, -1)
            inner[group, ..., len(some) :] = 0
        if labels.ndim == 1:
            self.part(ends.labels)[:count].view(np.int32)[:] = labels
        else:
            wanted = self.part(ends.labels).reshape(groups, -1, lanes)
            for group in range(-(-count // lanes)):
                few = labels[group * lanes : (group + 1) * lanes].reshape(-1, wanted.shape[1])
                wanted[group, :, : len(few)] = few.T
        self.part(ends.losses)[lanes * groups] = scale
        if ends.drawn is not None:
            self.part(ends.drawn).view(np.uint32)[:] = draw % 2**32, draw >> 32, first

    def run(self, program: Program, examples: int, steps: slice = slice(None)) -> None:
        """Run a program, or some of its steps."""
        self.rows(self.tables[program][steps], examples)

    def rows(self, steps: Tensor, examples: int) -> None:
        """Run encoded steps of one's own."""
        threads, wanted = self._how
        library.run(self.arena, self.plan.lanes.lanes, examples, steps, threads=threads, wanted=wanted)

    def outputs(self, program: Program, examples: int) -> Tensor:
        """Outputs (n, F) of the batch that ran last."""
        lanes, groups = self.plan.lanes
        values = self.part(program.ends.output.buffer).reshape(groups, -1, lanes)
        return np.ascontiguousarray(values.transpose(0, 2, 1).reshape(lanes * groups, -1)[:examples])

    def losses(self, program: Program, examples: int) -> Tensor:
        """The loss (n,) of each example of the batch that ran last."""
        return self.part(program.ends.losses)[:examples].copy()

    def _all(self) -> list[tuple[str, Kept]]:
        return [*self.state.trained.items(), *self.state.still.items()]


def _put(tensor: Tensor, kept: Kept, into: Tensor) -> tuple[int, ...]:
    """Takes a tensor's values; its shape."""
    flat = np.asarray(tensor, np.float32).reshape(-1)
    into[:] = flat if kept.at is None else flat[kept.at]
    return tensor.shape


def _whole(shape: tuple[int, ...], kept: Kept, values: Tensor) -> Tensor:
    if kept.at is None:
        return values.reshape(shape).copy()
    whole = np.zeros(prod(shape), np.float32)
    whole[kept.at] = values
    return whole.reshape(shape)


def _aligned(elements: int) -> Tensor:
    """Zeros from the start of a cache line on: a vector across two of them is read in twice the time."""
    room = np.zeros(elements + ALIGNMENT, np.float32)
    first = -room.ctypes.data // room.itemsize % ALIGNMENT
    return room[first : first + elements]
