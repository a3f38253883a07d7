"""Which part a recording is in, by its name alone, so that it stays there; and a folder as a device's three parts."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fedprune.data.examples import Examples
from fedprune.data.own.recorded import Recorded
from fedprune.data.parts import PARTS, DeviceData, Pool
from fedprune.experiment import Data


def part_of(recording: str, test: float, development: float) -> str:
    """Return ``train``, ``development`` or ``test``: a pure function of the recording's name and the two fractions.

    Two numbers of the name's SHA-256 decide, each uniform in [0, 1): it tests where the first is below ``test``, else
    develops where the second is below ``development``, which is thus a fraction of what does not test. A greater
    fraction only takes recordings into its own part, as many as it has to, and moves none between the others.
    """
    # a Mac writes the é of one name in two letters, others in one
    name = unicodedata.normalize("NFC", recording).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(name).digest()
    if _uniform(digest[:8]) < test:
        return "test"
    return "development" if _uniform(digest[8:16]) < development else "train"


def _uniform(eight: bytes) -> float:
    return (int.from_bytes(eight) >> 11) / 2**53  # as many bits as a float has


def parts(
    settings: Data, recorded: Recorded, classes: Sequence[str], device: str = ""
) -> tuple[DeviceData, dict[str, int]]:
    """Return a device's parts, its labels as indices into ``classes``, and how many examples each other label has.

    Where numbers are to be predicted, those are its labels. Examples of a label that is none of ``classes`` stay out.
    The parts may be empty. The name of the ``device`` is a part of its recordings' names: files are called alike
    everywhere, and would else be tested on everywhere.
    """
    index = {name: position for position, name in enumerate(classes)}
    labels = np.array([index.get(label, -1) for label in recorded.labels], np.int64)
    unknown = Counter(label for label in recorded.labels if label not in index)
    known = np.flatnonzero(labels >= 0)
    # all of them stay a memory map
    inputs = recorded.inputs[known] if unknown else recorded.inputs
    where = np.array(_where(settings, recorded, device), object)[known]
    train, development, test = (np.flatnonzero(where == part) for part in PARTS)
    pool = Pool(Examples(inputs, labels[known] if recorded.targets is None else recorded.targets[known]), None)
    return DeviceData(pool, train, development, test), dict(sorted(unknown.items()))


def counts(settings: Data, recorded: Recorded, device: str = "") -> Mapping[str, Mapping[str, int]]:
    """Return how many examples of each label there are in each part: part -> label, sorted -> count, where not 0."""
    pairs = Counter(zip(_where(settings, recorded, device), recorded.labels, strict=True))
    return {part: {label: n for (at, label), n in sorted(pairs.items()) if at == part} for part in PARTS}


def _where(settings: Data, recorded: Recorded, device: str) -> list[str]:
    of = f"{device}/" if device else ""
    found = {name: part_of(of + name, settings.test, settings.development) for name in set(recorded.recordings)}
    return [found[name] for name in recorded.recordings]
