"""The report of a run: one self-contained HTML page, drawn from its metrics and its result."""

from fedprune.runs.report.page import page

__all__ = ["page"]
