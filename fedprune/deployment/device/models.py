"""A device's own folder of models: the one in use under a name that never changes, and the one before it.

``current.tflite`` is a link to ``SHA256.tflite`` and says alone which model is in use; ``current.json`` describes it.
Power may be lost at any point: the link is replaced in one step, and only once the file behind it is on disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from fedprune.files import write_atomically
from fedprune.tasks import Metric

CURRENT, CARD = "current.tflite", "current.json"
_MODEL = re.compile(r"([0-9a-f]{64})\.tflite")
_DRAFT = re.compile(r"\.([0-9a-f]{64}\.tflite|current\.tflite|current\.json)\.\d+")


class Card(msgspec.Struct, frozen=True):
    """What current.json says of the model in use."""

    sha256: str
    run: str = ""
    """The run that it comes from; empty where that is not known."""
    tier: str = ""
    accuracy: float | None = None
    """On the device's own test part, when it was deployed; None where it has no examples there."""
    metric: Metric | msgspec.UnsetType = msgspec.UNSET
    """What ``value`` is of, where a model is judged by another than accuracy."""
    value: float | msgspec.UnsetType | None = msgspec.UNSET
    time: str = ""
    """When it was taken into use, UTC."""
    previous: str | None = None
    """SHA-256 of the model before, whose file is kept."""


def name(content: bytes) -> str:
    """The SHA-256 of a model, by which it is known."""
    return hashlib.sha256(content).hexdigest()


def in_use(folder: Path) -> Card | None:
    """The model in use; None where there is none, or where its file is damaged."""
    link = folder / CURRENT
    try:
        content = link.read_bytes()
    except OSError:
        return None
    sha256, stated = name(content), _MODEL.fullmatch(link.resolve().name)
    if stated and stated[1] != sha256:
        return None
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
    except (OSError, msgspec.MsgspecError):
        return Card(sha256)
    # power was lost between the link and its card, which then is that of the model before
    return card if card.sha256 == sha256 else Card(sha256, previous=card.sha256)


def put(folder: Path, content: bytes) -> Path:
    """The file of a model, whole and on disk under its name, not in use yet."""
    file = folder / f"{name(content)}.tflite"
    if not file.exists() or file.read_bytes() != content:
        write_atomically(file, content)
        _sync(folder)
    return file


def take(folder: Path, card: Card) -> None:
    """Take a model into use that was put into the folder."""
    link, target = folder / CURRENT, f"{card.sha256}.tflite"
    if not link.is_symlink() and link.exists():
        put(folder, link.read_bytes())  # somebody's own file, which is the model before
    draft = folder / f".{CURRENT}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)
    _sync(folder)
    write_atomically(folder / CARD, msgspec.json.encode(card) + b"\n")
    _sync(folder)


def tidy(folder: Path) -> None:
    """Remove all models but the one in use and the one before, and what a lost power supply left half written."""
    card = in_use(folder)
    keep = {card.sha256, card.previous} if card else set()
    for file in folder.iterdir():
        model = _MODEL.fullmatch(file.name)
        if _DRAFT.fullmatch(file.name) or (model and model[1] not in keep):
            file.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    # a new name in a folder is on disk once the folder is
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
