"""Runs are of the tiny world of tests/federated."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "federated"))
