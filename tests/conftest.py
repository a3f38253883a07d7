"""What all tests share: how hard hypothesis tries, and which tests come first.

``--hypothesis-profile=deep`` tries ten times harder.
"""

from collections.abc import Generator

import pytest
from hypothesis import settings

# No deadline: a busy machine is not a failure.
settings.register_profile("fedprune", deadline=None, max_examples=40)
settings.register_profile("deep", deadline=None, max_examples=400)
settings.load_profile("fedprune")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One more for ``-n auto`` than there are cores: tests of real fleets mostly wait for processes of their own."""
    return (yield) + 1


_LONG = ("tests/cli", "tests/deployment", "tests/federated", "tests/nets", "tests/test_pages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that workers that take file after file end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
