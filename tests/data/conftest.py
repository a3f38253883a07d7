"""Where the real data lies, if it does."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data; skips the test where there is none."""
    folder = Path(os.environ.get("FEDPRUNE_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set FEDPRUNE_DATA_DIR")
    return folder
