"""Instructions by class, as the benchmark of tiny runtimes counts them, and the cycles of a timing model."""

import pytest
from c99_files import Draft

from fedprune.export.c99 import boards
from fedprune.export.chip.benching import on_chip
from simulations.benchmarks._classes import Classes, Ran, classes, sorted_by_class

_DISASSEMBLED = """
00000100 <dense>:
 100:\tpush\t{r4, r5, lr}
 102:\tldr\tr0, [r1, #4]
 104:\tldr\tr2, [r3, #0]
 106:\tldr\tr4, [r2, #0]
 108:\tldrd\tr4, r5, [r0]
 10c:\tsmlad\tr0, r1, r2, r0
 110:\tstr\tr0, [r1, #0]
 112:\tbne.n\t10c <dense+0xc>
 114:\tpop\t{r4, r5, pc}

00000200 <main>:
 200:\tnop
"""


def test_cycles_are_those_of_the_reference_manual() -> None:
    once = dict.fromkeys((0x100, 0x102, 0x104, 0x106, 0x108), Ran(1, 0))
    ran = {
        **once,
        0x10C: Ran(3, 0),
        0x110: Ran(3, 0),
        0x112: Ran(3, 2),
        0x114: Ran(1, 1),
        0x200: Ran(99, 0),
    }
    # push 4, a load 2, one right behind it 1, one that waits for that 2, a pair 3; three turns of 3, two jumps of 2
    cycles = 4 + 2 + 1 + 2 + 3 + 3 * 3 + 2 * 2 + 4 + 2
    assert sorted_by_class(_DISASSEMBLED, ran) == Classes(5, 4, 3, 3, 0, cycles)


@pytest.mark.skipif(boards.missing("cortex-m4") is not None, reason=str(boards.missing("cortex-m4")))
def test_classes_are_all_instructions_that_a_board_counts() -> None:
    draft = Draft((1, 6, 6, 3))
    model = draft.file(draft.conv(draft.conv(draft.input, 8), 1, depthwise=True))
    try:
        found = classes(model, "cortex-m4")
    except RuntimeError as error:
        pytest.skip(str(error))
    counted = on_chip(model, "cortex-m4")["C99, smallest"].instructions
    assert counted is not None
    *kinds, cycles = found
    assert sum(kinds) == pytest.approx(counted, rel=0.02)
    assert cycles > sum(kinds)
