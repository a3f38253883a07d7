"""The look of a report, and the pieces of HTML that it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body {
  font: 16px/1.5 system-ui, sans-serif;
  color: #1f2937;
  background: #fff;
  max-width: 60rem;
  margin: 2rem auto;
  padding: 0 1rem;
}
h1 { margin-bottom: 0; }
h2 { margin: 2.5rem 0 0.5rem; font-size: 1.2rem; }
.dim, figcaption { color: #64748b; font-size: 0.9rem; }
.warning { border-left: 0.3rem solid #d97706; background: #fef3c7; padding: 0.5rem 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 1.5rem 0; }
.tiles div { background: #f1f5f9; border-radius: 0.5rem; padding: 0.6rem 1rem; font-size: 0.9rem; }
.tiles b { display: block; font-size: 1.35rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.15rem 0.8rem; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure, .wide { margin: 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
pre { background: #f1f5f9; padding: 1rem; border-radius: 0.5rem; overflow-x: auto; font-size: 0.8rem; }
"""


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table with a line of heads."""
    return f"<table>{_cells('th', head)}{''.join(_cells('td', line) for line in lines)}</table>"


def figure(svg: str, caption: str) -> str:
    """A picture with what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _cells(tag: str, line: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in line) + "</tr>"
