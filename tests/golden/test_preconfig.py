"""Golden values of widths by what they are worth, worked by hand and against every possible one."""

import itertools
from math import log, prod

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.graph.cropping import at_density, configured, matrices
from fedprune.methods.shrunk.preconfig import preconfig


def chain(*sizes: int) -> tuple[list[Group], dict[str, tuple[int, int]]]:
    """A perceptron of one input and three outputs, with hidden layers of these sizes."""
    dims = [1, *sizes, 3]
    shapes = {f"l{at}": (dims[at + 1], dims[at]) for at in range(len(dims) - 1)}

    def group(at: int, size: int) -> Group:
        made = Member(f"l{at}", shapes[f"l{at}"], 0, np.arange(size)[:, None], True)
        read = Member(f"l{at + 1}", shapes[f"l{at + 1}"], 1, np.arange(size)[:, None], False)
        return Group(f"l{at}", size, (made, read))

    return [group(at, size) for at, size in enumerate(sizes)], shapes


def test_widths_of_two_layers() -> None:
    # a + ab + 3b = (a + 3)(b + 1) − 3 weights, so within 37 that product is 40 at most: of 7 · 3, 5 · 4, 3 · 5 and
    # 2 · 7 channels the first are most
    groups, shapes = chain(8, 8)
    assert configured(groups, shapes, {"l0": 1, "l1": 1}, 37) == {"l0": 7, "l1": 3}
    # where b is worth twice as much, 2 · 7² are
    assert configured(groups, shapes, {"l0": 1, "l1": 2}, 37) == {"l0": 2, "l1": 7}
    assert configured(groups, shapes, {"l0": 1, "l1": 1}, 10**6) == {"l0": 8, "l1": 8}
    assert configured(groups, shapes, {"l0": 1, "l1": 1}, 5) == {"l0": 1, "l1": 1}


@pytest.mark.parametrize("sizes", [(8, 8), (5, 9, 4), (12, 3, 3), (6, 6, 6)])
@pytest.mark.parametrize("worth", [(1, 1, 1), (1, 2, 1), (3, 1, 0.5)])
def test_next_to_no_other_widths_are_worth_more(sizes: tuple[int, ...], worth: tuple[float, ...]) -> None:
    groups, shapes = chain(*sizes)
    worths = {group.name: each for group, each in zip(groups, worth, strict=False)}

    def value(counts: dict[str, int]) -> float:
        return sum(worths[name] * log(count) for name, count in counts.items())

    every = [dict(zip(worths, counts, strict=True)) for counts in itertools.product(*(range(1, n + 1) for n in sizes))]
    table = [(matrices(groups, shapes, counts), value(counts)) for counts in every]
    missed = []
    for total in range(int(min(table)[0]), int(max(table)[0]) + 1, 12):
        found = configured(groups, shapes, worths, total)
        assert matrices(groups, shapes, found) <= total
        missed.append(max(each for size, each in table if size <= total) - value(found))
    assert max(missed) < 0.12
    assert sum(each > 1e-9 for each in missed) <= 2


def test_many_inner_channels_pay_for_one_of_a_residual_stream() -> None:
    # a stream that three branches read and write: one of its channels takes as much as several of all of them
    stream, inner = 12, (60, 37, 28)
    shapes = {"stem": (stream, 3), "head": (10, stream)}
    made = [Member("stem", (stream, 3), 0, np.arange(stream)[:, None], True)]
    read = [Member("head", (10, stream), 1, np.arange(stream)[:, None], False)]
    groups = []
    for at, size in enumerate(inner):
        shapes |= {f"in{at}": (size, stream), f"out{at}": (stream, size)}
        made.append(Member(f"out{at}", (stream, size), 0, np.arange(stream)[:, None], True))
        read.append(Member(f"in{at}", (size, stream), 1, np.arange(stream)[:, None], False))
        rows = Member(f"in{at}", (size, stream), 0, np.arange(size)[:, None], True)
        columns = Member(f"out{at}", (stream, size), 1, np.arange(size)[:, None], False)
        groups.append(Group(f"in{at}", size, (rows, columns)))
    groups.insert(0, Group("stem", stream, (*made, *read)))
    worths = {"stem": 2.37, "in0": 1.42, "in1": 2.46, "in2": 1.48}
    found = configured(groups, shapes, worths, 713)
    # 3 (3 + 10 + 2 · 112) weights are 711; with two of the stream all else is whole, at 526
    assert found == {"stem": 3, "in0": 47, "in1": 37, "in2": 28}
    assert matrices(groups, shapes, found) == 711
    for wrong in (0.0, float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match="not more than 0"):
            configured(groups, shapes, {**worths, "in1": wrong}, 713)


def test_paths_are_counted_by_what_reads_a_group() -> None:
    groups, shapes = chain(8, 8)
    method = preconfig({"l1": (8, 8)}, density=0.25, channels=lambda: (groups, shapes))
    params = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    model = method.start(params)
    ask = method.asks(model, 0, {})["grad"]
    assert (ask.kind, list(ask.args.layers), list(ask.args.densities)) == ("flow", ["l1", "l2"], [])
    assert at_density(shapes, ["l1"], 0.25) == 8 + 16 + 24
    # what l2 reads is passed twice for once that l1 reads: l1's outputs are worth twice its inputs
    flow = {"l1": np.full((8, 8), 1 / 16), "l2": np.full((3, 8), 1 / 3)}
    twice = method.act(model, {"grad": flow}, 0)
    alike = method.act(model, {"grad": {}}, 0)
    counts = [[int(cut.parts["narrow"].masks[name].any(1).sum()) for name in ("l0", "l1")] for cut in (twice, alike)]
    assert counts[0] == list(configured(groups, shapes, {"l0": 0.5, "l1": 1}, 48).values())
    assert counts[1] == list(configured(groups, shapes, {"l0": 1, "l1": 1}, 48).values())
    assert counts[0] != counts[1]
    assert prod(counts[1]) >= prod(counts[0])
    assert method.act(twice, {}, 3) is twice
    with pytest.raises(ValueError, match="no channels"):
        preconfig({}, density=0.5, channels=lambda: ([], {}))
