"""Whose turn it is: blocks of layers that are adjusted one after the other (FedTiny, progressive pruning)."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedprune.pruning.pruners import every, within
from fedprune.types import Evidence, Masks, Pruner

Block = tuple[str, ...]


def blocks_by_name(layers: Sequence[str], most: int) -> tuple[Block, ...]:
    """Blocks of layers of one top-level module each (``stage1.0.conv1.weight`` is in ``stage1``), in forward order.

    Where the names show a single module, or more than ``most``, the layers are cut into ``most`` runs of nearly equal
    length instead: the "five groups of consecutive layers" of a VGG.

    >>> blocks_by_name(["stage1.0.weight", "stage1.1.weight", "head.weight"], most=5)
    (('stage1.0.weight', 'stage1.1.weight'), ('head.weight',))
    >>> blocks_by_name(["a", "b", "c", "d", "e"], most=2)
    (('a', 'b', 'c'), ('d', 'e'))
    """
    modules: dict[str, list[str]] = {}
    for name in layers:
        modules.setdefault(name.split(".")[0], []).append(name)
    if 1 < len(modules) <= most:
        return tuple(tuple(names) for names in modules.values())
    runs = np.array_split(np.arange(len(layers)), min(most, max(len(layers), 1)))
    return tuple(tuple(layers[i] for i in run) for run in runs if len(run))


def by_layer(layers: Sequence[str]) -> tuple[Block, ...]:
    """Every layer a block of its own.

    >>> by_layer(["conv", "head"])
    (('conv',), ('head',))
    """
    return tuple((name,) for name in layers)


def entire(layers: Sequence[str]) -> tuple[Block, ...]:
    """One block: every layer at every adjustment.

    >>> entire(["conv", "head"])
    (('conv', 'head'),)
    """
    return (tuple(layers),)


def backward(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """From the output to the input, FedTiny's order.

    >>> backward(by_layer(["conv", "head"]))
    (('head',), ('conv',))
    """
    return tuple(reversed(blocks))


def in_turn(blocks: Sequence[Block], period: int, pruner: Pruner, *, until: int) -> Pruner:
    """``pruner`` on one block at a time, at the rounds period, 2·period … up to and with ``until``.

    The block is chosen by a count of adjustments, which the round gives exactly: the n-th adjustment (n from 0) is at
    round (n + 1)·period and falls to block n mod len(blocks). So every block is visited, whatever the period.

    >>> clear = Pruner(frozenset(), lambda masks, evidence, step: dict.fromkeys(masks, np.False_))
    >>> turns, masks = in_turn(by_layer(["a", "b"]), 10, clear, until=30), dict.fromkeys(["a", "b"], np.True_)
    >>> [[name for name, mask in turns.update(masks, {}, step).items() if not mask] for step in (10, 15, 20, 30, 40)]
    [['a'], [], ['b'], ['a'], []]
    """
    if not blocks:
        raise ValueError("there is no block to adjust: the model has no prunable layer")
    turns = tuple(within(block, pruner) for block in blocks)

    def turn(step: int) -> Pruner:
        return turns[(step // period - 1) % len(turns)]

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        return turn(step).update(masks, evidence, step)

    def grows(masks: Masks, step: int) -> Mapping[str, int]:
        return turn(step).grows(masks, step)

    return every(period, Pruner(pruner.needs, update, grows), until=until)
