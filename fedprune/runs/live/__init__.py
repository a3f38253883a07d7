"""A run while it goes on: its picture as plain data, the page that shows it, and the same as Prometheus text."""

from fedprune.runs.live.metrics_text import metrics_text
from fedprune.runs.live.page import SCRIPT_HASH, page
from fedprune.runs.live.picture import Seen, picture

__all__ = ["SCRIPT_HASH", "Seen", "metrics_text", "page", "picture"]
