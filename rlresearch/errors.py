"""The two errors that a user sees, their exit codes, and the words of a refusal: `key=value: why, and the way out`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

LONGEST_LINE, LONGEST_VALUE, LONGEST_LIST = 380, 60, 220


class ConfigError(Exception):
    """The configuration is wrong. The command finds this before the first step; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RunError(Exception):
    """The run failed: an environment raised, a disk was full; exit code 1.

    members: the members of a population that made it fail, by number.
    """

    def __init__(self, message: str = "", members: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.members = tuple(members)


def exit_code_of(command: Callable[[], int | None], program: str = "rlresearch") -> int:
    """Calls `command` and returns the exit code of its process. An error becomes one line on stderr.

    0: the command returned None. 1: RunError. 2: ConfigError. 130: Ctrl-C. Other errors are bugs and pass through.
    """
    try:
        return command() or 0
    except (ConfigError, RunError) as error:
        print(f"{program}: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def closest_match(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, if one is. Capitals do not count, and `lr` is like `optimizer.lr`."""
    names = {name.lower(): name for name in reversed(list(known))}
    ends = [name for name in names if name.rpartition(".")[2] == word.lower()]
    close = ends[-1:] or difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return names[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or an empty string."""
    close = closest_match(word, known)
    return f"; did you mean '{close}'?" if close is not None else ""


def allowed_hint(word: str, known: Iterable[str]) -> str:
    """The end of a refusal: the closest known word, then all known words."""
    known = list(known)
    return format_allowed(closest_match(word, known), known)


def format_allowed(close: str | None, known: Iterable[str]) -> str:
    """As `alternatives`, for a closest word that the caller found."""
    allowed = _shortened(", ".join(known), LONGEST_LIST) or "nothing"
    return f"; allowed: {allowed}." if close is None else f"; did you mean '{close}'? Allowed: {allowed}."


def format_value(value: Any) -> str:
    """A value as a user types it on the command line, shortened."""
    return _shortened(_typed(value), LONGEST_VALUE)


def one_line(text: str) -> str:
    """`text` without line breaks, shortened."""
    return _shortened(" ".join(text.split()), LONGEST_LINE)


def describe_error(error: BaseException) -> str:
    """The kind of an error and its words, also where to ask for those raises another."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (whatever `__str__` of a class of the user's does)
        return f"{type(error).__name__}, which cannot be shown"


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_typed(each)}' for key, each in value.items())}}}"
    plain = not isinstance(value, str) or (value.isprintable() and value.strip() == value != "")
    return str(value) if plain else repr(value)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


# The names of version 0.1, which users' own components may import.
shown, nearest, alternatives = format_value, did_you_mean, allowed_hint
