"""Names that somebody else chose, shown as what they are: on one line, and as plain text in Markdown."""

import re

# An underscore within a word, as in CONV_2D, is plain already.
_MARKS = re.compile(r"[\\`*\[\]<>|#&~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|^[-+=](?=\s|$|[-+=])|(?<=^\d)[.)]")


def one_line(text: str, most: int | None = None) -> str:
    """Return ``text`` on one line, its first ``most`` characters, without any that control a terminal."""
    joined = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in joined[:most])


def markdown(text: str) -> str:
    """Return Markdown that shows ``text`` as it is, on one line: in a heading, a table or a list."""
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", one_line(text))
