"""Nets are tried with the helpers of tests/export: TensorFlow Lite Micro's outputs, and C programs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "export"))
