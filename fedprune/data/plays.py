"""Shakespeare's plays by role: what each of 34 roles says, in windows of 64 characters, to predict the next of each."""

import json
import lzma
from pathlib import Path

import numpy as np

from fedprune.data.examples import DataError, Dataset, Examples, IntArray
from fedprune.data.sources import existing

VOCABULARY = ("\n", *" !',-.:;?", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"abcdefghijklmnopqrstuvwxyz")
"""Tokens; any other character is read as a blank."""
WINDOW = 64
LEAST = 20_000
"""Characters that a role must have; Hamlet has 62,161."""
REMEDY = (
    "give --data-dir a folder that holds shakespeare/by_role.jsonl.xz, one role a line: "
    '{"play": ..., "role": ..., "text": ...}'
)


def load(data_dir: Path) -> Dataset:
    """Returns the plays from `data_dir`/shakespeare/by_role.jsonl.xz, inputs and labels (n, 64) uint8 and int64 tokens.

    Each window is 65 characters that no other one holds, in the order in which a role says them, less a rest at its
    end; a person is a role. Labels are those of the task next_token. There is no official test split. Raises
    `DataError` naming what is missing.
    """
    path = existing("plays", data_dir / "shakespeare" / "by_role.jsonl.xz", REMEDY)
    roles = [tokens for tokens in map(_tokens, _texts(path)) if len(tokens) >= LEAST]
    if not roles:
        raise DataError(f"plays: {path} has no role of {LEAST:,} characters; {REMEDY}")
    windows = [tokens[: len(tokens) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1) for tokens in roles]
    whole = np.concatenate(windows)
    people = np.repeat(np.arange(len(roles)), [len(each) for each in windows])
    return Dataset(
        name="plays",
        train=Examples(whole[:, :-1].astype(np.uint8), whole[:, 1:], people),
        test=None,
        classes=VOCABULARY,
        input_shape=(WINDOW,),
        mean=0.0,
        std=1.0,
    )


def _texts(path: Path) -> list[str]:
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"plays: {path} cannot be read as lines of JSON in .xz ({error}); {REMEDY}") from error
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get("text"), str):
            raise DataError(f"plays: line {number} of {path} has no text; {REMEDY}")
    return [line["text"] for line in lines]


def _tokens(text: str) -> IntArray:
    return np.array([_PLACES.get(sign, _PLACES[" "]) for sign in text], np.int64)


_PLACES = {sign: place for place, sign in enumerate(VOCABULARY)}
