"""What the server knows between phases, and its checkpoint: one file, written whole or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedprune import wire
from fedprune.files import write_atomically
from fedprune.pruning import masks as _masks
from fedprune.pruning.parts import view
from fedprune.types import Masks, Model, Params, Part, Tensor

OWN_PART = "@"
"""A part whose name begins so is one device's, for as long as a phase lasts."""


@dataclass(frozen=True)
class State:
    """The global model and how far the run is. Nothing else decides what comes next: draws are by seed and round."""

    round: int
    """Rounds that are complete; −1 before a candidate is chosen."""
    params: Params
    """Every parameter and buffer; pruned positions are 0."""
    masks: Masks = field(default_factory=dict)
    memory: Params = field(default_factory=dict)
    """What the method keeps, by name."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Parts that tiers of unequal devices train, by name, the largest first; none where every device trains all."""
    notes: Params = field(default_factory=dict)
    """What a step leaves for what comes after the last round: ranges, and the masks that training began with."""
    found: Mapping[str, Params] = field(default_factory=dict)
    """Evidence that this round's method has asked for so far, by the name of the ask."""
    done: tuple[str, ...] = ()
    """What is done since ``round`` was trained, as ``step_name`` has it: its tests, then phases of the next round."""
    standing: str = ""
    """What devices have earned: who is set aside, or too slow, as ``standing.Fleet`` writes it."""
    moments: Params = field(default_factory=dict)
    """What the server's optimiser keeps of each weight, as ``phases.server_step`` names it."""

    def density(self) -> float:
        """Kept fraction of the prunable weights; 1.0 for a dense model."""
        return _masks.density(self.masks)

    def masks_of(self, part: str) -> Masks:
        """Masks of a part; ``""`` is the whole."""
        return self.parts[part].masks if part else self.masks

    def model(self) -> Model:
        """What the method decides on."""
        return Model(self.params, self.masks, self.memory, self.parts)

    def of(self, model: Model) -> State:
        """The state with this model in the place of its own."""
        return replace(self, params=model.params, masks=model.masks, memory=model.memory, parts=model.parts)

    def view(self, part: str) -> State:
        """The state as the devices of a part see it: its masks, its statistics, its weights; ``""`` is the whole."""
        return self.of(view(self.model(), part)) if part else self


def without_own(state: State) -> State:
    """The state without parts of single devices."""
    kept = {name: part for name, part in state.parts.items() if not name.startswith(OWN_PART)}
    return replace(state, parts=kept) if len(kept) < len(state.parts) else state


def step_name(phase: str, part: str = "") -> str:
    """What a phase over a part of the model is called among those that are done."""
    return f"{phase} {part}".rstrip()


_SECTIONS = ("params", "masks", "memory", "moments", "notes")
_PART = ("masks", "params")
_LEAST_BYTES, _MOST_BYTES, _TIMES = 2**20, 2**31, 2**14
"""What a checkpoint may take in memory: a ResNet-18 of density 0.0001 takes some 1,500 times its file."""


def save(state: State, path: Path) -> None:
    """Write a state; a reader sees the old file or the new one, whatever happens in between."""
    flat = {f"{section}/{name}": value for section in _SECTIONS for name, value in getattr(state, section).items()}
    for part, own in state.parts.items():
        flat |= {f"part/{part}/{kind}/{name}": v for kind in _PART for name, v in getattr(own, kind).items()}
    for index, evidence in enumerate(state.found.values()):
        flat |= {f"found/{index}/{name}": value for name, value in evidence.items()}
    # in order, also those that hold nothing
    lists = {"parts": state.parts, "done": state.done, "found": state.found}
    texts = {**{key: "\n".join(names) for key, names in lists.items()}, "standing": state.standing}
    flat |= {key: np.frombuffer(text.encode(), np.uint8) for key, text in texts.items()}
    data = wire.encode({"round": np.asarray(state.round, np.int64), **flat})
    write_atomically(path, data + zlib.crc32(data).to_bytes(4, "little"))


def read(path: Path) -> State:
    """The state of ``save``; bit for bit. ValueError where the file is damaged."""
    content = path.read_bytes()
    data, checksum = content[:-4], content[-4:]
    if zlib.crc32(data).to_bytes(4, "little") != checksum:
        raise ValueError("its checksum does not fit")
    tensors = wire.decode(data, max_bytes=min(_MOST_BYTES, _LEAST_BYTES + _TIMES * len(data)))
    if "round" not in tensors or tensors["round"].shape != ():
        raise ValueError("it says no round")
    sections: dict[str, dict[str, Tensor]] = {section: {} for section in _SECTIONS}
    none = np.empty(0, np.uint8)
    texts = {key: tensors.get(key, none).tobytes().decode() for key in ("parts", "done", "found", "standing")}
    named = texts["parts"].splitlines()
    held: dict[str, dict[str, dict[str, Tensor]]] = {part: {kind: {} for kind in _PART} for part in named}
    found: dict[str, dict[str, Tensor]] = {name: {} for name in texts["found"].splitlines()}
    asked = list(found)
    for key, value in tensors.items():
        section, slash, name = key.partition("/")
        if section == "part" and name.count("/") >= 2:
            part, kind, name = name.split("/", 2)
            if kind not in _PART:
                raise ValueError(f"it holds an unknown part {kind[:40]!r}")
            held.setdefault(part, {each: {} for each in _PART})[kind][name] = value
        elif section == "found" and slash:
            index, _, name = name.partition("/")
            if not (index.isdecimal() and int(index) < len(asked)):
                raise ValueError(f"it holds evidence that nobody asked for, {index[:40]!r}")
            found[asked[int(index)]][name] = value
        elif slash:
            if section not in sections:
                raise ValueError(f"it holds an unknown part {section[:40]!r}")
            sections[section][name] = value
    parts = {part: Part(**kinds) for part, kinds in held.items()}
    done = tuple(texts["done"].splitlines())
    if tensors["round"].dtype != np.int64:
        raise ValueError("its round is no whole number")
    state = State(int(tensors["round"]), **sections, parts=parts, found=found, done=done, standing=texts["standing"])
    _consistent(state)
    return state


def _consistent(state: State) -> None:
    """ValueError where a mask is none of its tensor, or a part's statistics or moments are not the model's."""
    for masks in (state.masks, *(part.masks for part in state.parts.values())):
        for name, mask in masks.items():
            if name not in state.params or mask.dtype != np.bool_ or mask.shape != state.params[name].shape:
                raise ValueError(f"{name[:80]!r} is no mask of the model")
    own = [(key.partition("/")[2], value) for key, value in state.moments.items()]
    for tensors in (own, *(part.params.items() for part in state.parts.values())):
        for name, value in tensors:
            if name not in state.params or value.shape != state.params[name].shape:
                raise ValueError(f"{name[:80]!r} is no tensor of the model")
