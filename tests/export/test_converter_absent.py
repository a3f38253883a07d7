"""Without litert-torch: one line says what to install."""

import sys

import numpy as np
import pytest
from torch import nn

from fedprune.export.litert import converter


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as if it were not installed, where it is
    with pytest.raises(RuntimeError, match=r"pip install 'fedprune\[converter\]'"):
        converter.convert(nn.ReLU(), np.zeros((1, 3, 4, 4), np.float32))
