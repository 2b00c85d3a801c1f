"""The two things that can go wrong, each with one line that says what, where and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """The configuration cannot be run: found before the first step, exit code 2."""


class RunError(Exception):
    """The run could not go on: an environment failed, a disk was full; exit code 1."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
