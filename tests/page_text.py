"""What pages in Markdown show: their blocks, their commands, and their links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "server" / "README.md",
    ROOT / "simulations" / "README.md",
    *sorted(ROOT.glob("clients/*/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
]

_FENCED = re.compile(r"^(?:<!-- file: (\S+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)
_INLINE = re.compile(r"`((?:fedprune|python -m)\s[^`]+)`")
_SHELL = ("", "sh", "bash", "shell", "console")
_STARTS = ("fedprune", "python", "flwr", "make")


class Block(NamedTuple):
    """A block of code: its language, "" for one that is indented; its text; the file that it is, or ""."""

    language: str
    text: str
    file: str


class Command(NamedTuple):
    """A command's words. One in the middle of a sentence need not be complete."""

    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        """As one writes it."""
        return shlex.join(self.words)


def blocks(text: str) -> list[Block]:
    """Fenced and indented blocks, in the page's order."""
    found = [(at.start(), Block(at[2], at[3], at[1] or "")) for at in _FENCED.finditer(text)]
    found += [(at.start(), Block("", _dedented(at[0]), "")) for at in _INDENTED.finditer(_without_fenced(text))]
    return [block for _, block in sorted(found)]


def commands(text: str) -> list[Command]:
    """Commands of fedprune, python, flwr and make: in blocks, in the page's order, then those inside sentences."""
    found = [Command(words, True) for block in blocks(text) if block.language in _SHELL for words in _lines(block.text)]
    inside = (" ".join(code.split()) for code in _INLINE.findall(_prose(text)))
    return found + [Command(words, False) for code in inside for words in _lines(code)]


def links(text: str) -> list[str]:
    """Targets of links and pictures that are not on the web."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", _prose(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """What a link may name within a page: its headings, as a forge writes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _lines(text: str) -> list[tuple[str, ...]]:
    """The commands of a shell's lines: continued lines joined, comments and settings of variables left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not re.match(rf"(\w+=\S* )*({'|'.join(_STARTS)})\s", line):
            continue
        words = shlex.split(line, comments=True)
        while "=" in words[0]:
            words = words[1:]
        found.append(tuple(words))
    return found


def _dedented(text: str) -> str:
    return "".join(line[4:] if line.startswith("    ") else line for line in text.splitlines(keepends=True))


def _without_fenced(text: str) -> str:
    """The text with fenced blocks crossed out, so that all else stands where it stood."""
    return _FENCED.sub(lambda at: re.sub(r"[^\n]", "x", at[0]), text)


def _prose(text: str) -> str:
    return _INDENTED.sub("", _without_fenced(text))
