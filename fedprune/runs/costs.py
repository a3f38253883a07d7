"""What an experiment's model costs at each size: read from its graph, traced once for each, never measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune import budgets, measures, tasks, training
from fedprune.budgets import RUNTIME_BYTES, Memory, extra_of, natively
from fedprune.budgets.plan import ways
from fedprune.data import Schema
from fedprune.experiment import Experiment, Tier
from fedprune.federated.rounds.naming import ordered
from fedprune.graph import Graph, width
from fedprune.methods.asking import asked_kinds, begun
from fedprune.pruning.candidates import Pool
from fedprune.pruning.topk import kept_count
from fedprune.runs.cutting import int8_file, make_unalike
from fedprune.training import native
from fedprune.training.lean import Lean, blocks
from fedprune.training.optimisers import steps_of
from fedprune.types import DeviceId, Masks, Method, Params

if TYPE_CHECKING:
    from torch import nn

_MOST_KEPT = 1.02  # of the density asked for: a candidate's may differ by so much
_SLACK = 64  # bytes by which the prediction of a file may be short
SRAM_SLACK = 64
"""Bytes by which the prediction of an arena may be short."""

_MOST_SWAPPED = 0.3  # of a layer's kept weights in one adjustment: RigL's and FedTiny's α


class Traced(NamedTuple):
    """A model of one size."""

    state: Params
    training: Graph
    dropping: Graph
    """The same with what training drops."""
    inference: Graph
    blocks: tuple[str, ...]
    """What is computed twice where memory is short."""
    file_bytes: int
    """Of its dense int8 .tflite."""


class Costs:
    """Costs of a model at a size: a density, or a fraction of channels where the method is structured."""

    def __init__(
        self,
        experiment: Experiment,
        schema: Schema,
        holds: Mapping[DeviceId, Mapping[str, int]],
        layers: Mapping[str, tuple[int, ...]],
        model: Callable[[], nn.Module],
        zeros: Params,
        method: Callable[[float], Method],
        asked: float,
        native: bool,
    ) -> None:
        """``method(size)`` is the experiment's method at a size, ``asked`` at most; ``model()`` its untrained model,
        ``zeros`` every parameter and buffer of that; ``native``: whether devices with the compiled trainer need no
        torch."""
        self._experiment, self._schema, self._holds = experiment, schema, holds
        self._layers, self._model, self.method, self.asked, self.native = layers, model, method, asked, native
        largest = method(asked)
        self._zeros = zeros
        self.structured, self.local = bool(largest.start(self._zeros).parts), largest.local
        asked_of = experiment.training
        steps = steps_of(asked_of.optimiser, asked_of.clip_gradients, asked_of.proximal)
        self._extra = extra_of(self.local, largest.start(self._zeros).memory, steps)
        kinds = asked_kinds(largest, self._zeros, experiment.rounds)
        self.grows = any(measures.find(kind).backward for kind in kinds)
        self.batch = experiment.training.batch
        self.inner_steps = experiment.training.inner_steps
        self.grow_batch = experiment.training.grow_batch
        self._traced = functools.cache(self._trace)
        self._drawn = functools.cache(self._draw)
        self._natively_taken = functools.cache(self._take_natively)

    def ways(self, *, torch: bool = False) -> tuple[Lean, ...]:
        """Ways to train, each in less memory than the one before; natively pruned weights have no room in any."""
        plain = training.steps_plainly(self.local)
        sparse = plain and not self.structured and (torch or not self.native)
        return ways(self.batch, sparse=sparse, recompute=plain)

    def traced(self, size: float) -> Traced:
        """The model at a size; where weights are pruned one by one, it is the same at every density."""
        return self._traced(size if self.structured else 1.0)

    def _trace(self, size: float) -> Traced:
        from fedprune.graph import inference, trace, without_dropout

        model = self._model()
        state = training.state_of(model)
        if self.structured:
            (part,) = self.method(size).start(self._zeros).parts.values()
            state = width.narrow(state, part.masks)
            model = width.fit(model, {name: value.shape for name, value in state.items()})
            training.load_state(model, state)
        make_unalike(model)
        task = tasks.named(self._experiment.task)
        dropping = trace(model, tasks.example(task, self._schema.input_shape), dropout=True)
        graph = without_dropout(dropping)
        folded = inference(graph)
        file = int8_file(self._experiment, self._schema, folded)
        return Traced(state, graph, dropping, folded, blocks(model), len(file))

    def kept(self, size: float) -> dict[str, int]:
        """Kept weights of each prunable layer; none named where all that is left is dense."""
        if self.structured:
            return {}
        return {name: kept_count(size, self._size(name)) for name in self._layers}

    def drawn(self, size: float) -> dict[str, int] | None:
        """The most weights of each layer that a device holds when training begins, where that is more than ``kept``.

        A method may begin dense, and prune along a schedule. None where it cannot be built at this size.
        """
        return self._drawn(size)

    def _draw(self, size: float) -> dict[str, int] | None:
        try:
            model, asked = begun(self.method(size), self._zeros)
        except ValueError:
            return None
        if self.structured:
            return {}
        pools = [ask.args.candidates for ask in asked if isinstance(ask.args, Pool)]
        candidates = pools[0] if pools else [model.masks]
        at_first = [{name: int(np.count_nonzero(mask)) for name, mask in each.items()} for each in candidates]
        kept = self.kept(size)
        most = {name: max(each.get(name, self._size(name)) for each in at_first) for name in kept}
        return most if sum(most.values()) > 2 * sum(kept.values()) else kept

    def memory(
        self, size: float, way: Lean, examples: int, inner: int = 0, grow_batch: int = 0, *, torch: bool = False
    ) -> Memory:
        """Peak of a device's process that trains this size in this way, and so many smaller parts with it.

        The device holds ``examples`` examples, and takes gradients of pruned weights over ``grow_batch``; one that
        trains with ``torch`` has no compiled trainer.
        """
        grow_batch = grow_batch if self.grows else 0
        if self.native and not torch:
            taken = self._natively_taken(size, way, inner, grow_batch)
            return natively.holding(taken, examples, self._schema.example_bytes)
        traced, (kept, grown) = self.traced(size), self._kept_and_grown(size)
        return budgets.training_memory(
            traced.training,
            batch=self.batch,
            micro_batch=way.micro_batch,
            recompute=traced.blocks if way.recompute else (),
            sparse=way.sparse,
            kept=kept,
            examples=examples,
            example_bytes=self._schema.example_bytes,
            grow_batch=grow_batch,
            grown=grown,
            inner=inner,
            extra=self._extra,
            runtime=RUNTIME_BYTES,
        )

    def _take_natively(self, size: float, way: Lean, inner: int, grow_batch: int) -> Memory:
        """As ``memory``, but for the examples, in which tiers differ."""
        kept, grown = self._kept_and_grown(size)
        return natively.training_memory(
            self._native_model(size), batch=self.batch, way=way, kept=kept,
            grow_batch=grow_batch, grown=grown, inner=inner,
        )  # fmt: skip

    def _kept_and_grown(self, size: float) -> tuple[dict[str, int], dict[str, int]]:
        kept = self.drawn(size) or {}
        return kept, {name: int(_MOST_SWAPPED * count) for name, count in kept.items()}

    def natively(self, size: float) -> tuple[native.Model, Masks]:
        """The untrained model at a size as the native trainer has it, and masks of as many weights as it would keep."""
        model = self._native_model(size)
        shapes = {name: value.shape for name, value in model.params.items()}
        return model, natively.spread(self.kept(size), shapes)

    def _native_model(self, size: float) -> native.Model:
        traced, numbers = self.traced(size), tasks.numbers_of(self._experiment.task, self._schema)
        return native.Model(traced.dropping, traced.state, numbers)

    def evaluation(self, size: float, batch: int, examples: int, *, torch: bool = False) -> int:
        """Peak of a device's process, in bytes, that only tests this size, so many examples at a time."""
        traced = self.traced(size)
        if self.native and not torch:
            memory = natively.training_memory(
                self._native_model(size),
                batch=0,
                kept=self.kept(size),
                examples=examples,
                example_bytes=self._schema.example_bytes,
                evaluate_batch=batch,
            )
            return memory.total
        memory = budgets.training_memory(
            traced.training,
            batch=1,
            kept=self.kept(size),
            examples=examples,
            example_bytes=self._schema.example_bytes,
            evaluate_batch=batch,
            runtime=RUNTIME_BYTES,
        )
        return memory.total

    def flash_bytes(self, size: float, tier: Tier) -> int:
        """Predicted length of the tier's int8 file: without its zeros where a microcontroller runs it."""
        from fedprune.export import tflm

        traced, kept = self.traced(size), self.kept(min(1.0, _MOST_KEPT * size))
        if not tier.sram_bytes or not kept:
            return traced.file_bytes + _SLACK
        decoded = tflm.decoded(traced.inference, kept, tier.sram_bytes - SRAM_SLACK)
        sizes = {name: self._size(name) for name in decoded}
        return tflm.flash_bytes(traced.file_bytes, sizes, kept) + _SLACK

    def sram_bytes(self, size: float, tier: Tier) -> int:
        """Predicted arena of that file."""
        from fedprune.export import tflm

        traced, kept = self.traced(size), self.kept(size)
        sparse = tier.sram_bytes and kept
        decoded = tflm.decoded(traced.inference, kept, tier.sram_bytes - SRAM_SLACK) if sparse else ()
        return tflm.sram_bytes(traced.inference, decoded) + SRAM_SLACK

    def macs(self, size: float) -> int:
        """Multiply-adds of one inference with dense kernels."""
        return budgets.macs(self.traced(size).inference)

    def sparse_macs(self, size: float) -> int:
        """Multiply-adds of one inference by kept weights alone."""
        return budgets.sparse_macs(self.traced(size).inference, self.kept(size))

    def stored_bytes(self, size: float) -> dict[str, int]:
        """Encoding -> bytes of all weights in int8, biases and headers left out."""
        matrices = {name: value.size for name, value in self.traced(size).state.items() if value.ndim > 1}
        return budgets.stored_bytes(matrices, self.kept(size))

    def link_bytes(self, size: float) -> tuple[int, int]:
        """(down, up) of one training round: weights, what the method's device half reads and sends, and masks."""
        sizes = {name: value.size for name, value in self.traced(size).state.items()}
        kept = self.kept(size)
        dense = 4 * sum(count for name, count in sizes.items() if name not in kept)
        masked = {name: sizes[name] for name in kept}
        down = dense + budgets.stored_bytes(masked, kept, 32)["entropy"] + 4 * (self._extra.trained + self._extra.read)
        if self.local.sends is None:
            return down, dense + 4 * (sum(kept.values()) + self._extra.trained)
        memory = self.method(size).start(self._zeros).memory
        sent = self.local.sends(self.traced(size).state, {name: memory[name] for name in self.local.trains})
        # a vote is a bit
        return down, sum(value.size // 8 if value.dtype == np.bool_ else value.nbytes for value in sent.values())

    def examples(self, devices: Sequence[DeviceId]) -> tuple[int, int]:
        """(examples in all, of these to train on) of the device that holds the most of each."""
        parts = [self._holds[device] for device in devices]
        return max(sum(part.values()) for part in parts), max(part["train"] for part in parts)

    def devices(self) -> list[DeviceId]:
        """All that hold data, in order."""
        return ordered(self._holds)

    def _size(self, name: str) -> int:
        count = 1
        for length in self._layers[name]:
            count *= length
        return count
