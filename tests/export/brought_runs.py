"""Files that people bring, exported and compared as the commands do."""

import json

import pytest

from fedprune.export.c99 import boards
from fedprune.export.chip import foreign


def facts(model: bytes) -> dict[str, object]:
    """Return the card of a model's C sources, which were built and compared."""
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    files = foreign.files(model, "theirs", compare=True)
    return dict(json.loads(files["model_card.json"]))


def same(model: bytes, inputs: int = 20) -> dict[str, object]:
    """Return the card, after asserting that all bits are TensorFlow Lite Micro's."""
    card = facts(model)
    assert card["compared"] == {"inputs": inputs, "beside": "TensorFlow Lite Micro", "differing": 0}
    return card
