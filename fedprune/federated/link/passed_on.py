"""A Grid over another one: what it does not do its own way, that one does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

if TYPE_CHECKING:
    from flwr.supercore.run import Run


class PassedOn(Grid):
    """Passes everything on to ``grid`` but an exchange of messages, which a kind of it does its own way."""

    def __init__(self, grid: Grid) -> None:
        """Any grid."""
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """As ``grid`` does."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As ``grid`` says."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As ``grid`` does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As ``grid`` says."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As ``grid`` does."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As ``grid`` does."""
        return self._grid.pull_messages(message_ids)
