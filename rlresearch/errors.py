"""The two errors that a user sees, their exit codes, and the words of a refusal: `key=value: why, and the way out`.

Commands that are printed for a user to paste are quoted here too.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_OF_OUTPUT = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EBADF)  # without a file's name
LONGEST_LINE, LONGEST_VALUE, LONGEST_LIST = 380, 60, 220
# What Hydra reads as text without quotes: no number, no `null`, no sign that its grammar gives a meaning.
_PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|nan|inf)$)(?:\.{0,2}/)*[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)


class ConfigError(Exception):
    """The configuration is wrong. The command finds this before the first step; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RunError(Exception):
    """The run failed: an environment raised, a disk was full; exit code 1.

    members: the members of a population that made it fail, by number. again: a command that tries again.
    """

    def __init__(self, message: str = "", members: Sequence[int] = (), again: str | None = None) -> None:
        super().__init__(message)
        self.members, self.again = tuple(members), again


def exit_code_of(command: Callable[[], int | None], program: str = "rlresearch") -> int:
    """Calls `command` and returns the exit code of its process. An error becomes one line on stderr.

    0: the command returned None, or whoever reads its output, such as `head`, has seen enough. 1: RunError.
    2: ConfigError. 130: Ctrl-C. Other errors are bugs and pass through.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever began the process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a sign that the terminal lacks ends no command
    try:
        code = command() or 0
        sys.stdout.flush()  # here, and not when Python ends, there is somebody to hear of it
        return code
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_OUTPUT:
            raise
        _discard_output()
        print(f"{program}: standard output cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    except (ConfigError, RunError) as error:
        again = getattr(error, "again", None)
        # A command is never shortened: the rest of it would mean something else.
        print(f"{program}: {one_line(str(error))}{f'; again: {again}' if again else ''}", file=sys.stderr)
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
    """As `allowed_hint`, for a closest word that the caller found."""
    allowed = _shortened(", ".join(known), LONGEST_LIST) or "nothing"
    return f"; allowed: {allowed}." if close is None else f"; did you mean '{close}'? Allowed: {allowed}."


def format_value(value: Any) -> str:
    """`typed_value`, shortened."""
    return _shortened(typed_value(value), LONGEST_VALUE)


def override_text(key: str, value: str) -> str:
    """`key=value` with quotes where Hydra would not read `value` as the text that it is."""
    if _PLAIN_TEXT.fullmatch(value):
        return f"{key}={value}"
    if "${" in value:  # OmegaConf would look something up
        value = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    quote = "'" if '"' in value and "'" not in value else '"'
    # Hydra reads a backslash as one, unless a quote follows: there each needs another one before it.
    doubled = re.sub(rf"(\\+)(?={quote}|\Z)", lambda found: found[1] * 2, value)
    return "".join([key, "=", quote, doubled.replace(quote, f"\\{quote}"), quote])


def literal_text(value: str) -> str | None:
    """The text that an override means. value: as Hydra's parser gives it, before OmegaConf looks anything up in it.

    None where something is to be looked up.
    """
    escaped = re.compile(r"(?<!\\)((?:\\\\)*)\\\$\{")
    if "${" in escaped.sub("", value):
        return None
    return escaped.sub(lambda found: f"{found[1][::2]}${{", value)


def command_line(words: Iterable[str]) -> str:
    """A command that runs when it is pasted into bash or zsh, in one line that no terminal and no log changes."""
    typed = []
    for word in words:
        try:
            word.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
            shown = word.isprintable() and "  " not in word
        except UnicodeEncodeError:
            shown = False
        # zsh takes an unquoted `=` at the beginning for a question where a program lies.
        quoted = f"'='{shlex.quote(word[1:])}" if word.startswith("=") else shlex.quote(word)
        typed.append(quoted if shown else _as_bytes(word))
    return " ".join(typed)


def one_line(text: str) -> str:
    """`text` without line breaks, shortened."""
    return _shortened(" ".join(text.split()), LONGEST_LINE)


def describe_error(error: BaseException) -> str:
    """The kind of an error and its words, also where to ask for those raises another."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (whatever `__str__` of a class of the user's does)
        return f"{type(error).__name__}, which cannot be shown"


def typed_value(value: Any) -> str:
    """A value as a user types it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{typed_value(each)}' for key, each in value.items())}}}"
    plain = not isinstance(value, str) or (value.isprintable() and value.strip() == value != "")
    return str(value) if plain else repr(value)


def _discard_output() -> None:
    """Sends standard output nowhere, so that Python does not try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_bytes(word: str) -> str:
    """A word for the shell as `$'a\\x09b'`, of letters that are nowhere changed."""
    letters = (
        chr(byte) if 32 < byte < 127 and chr(byte) not in "\\'!" else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{''.join(letters)}'"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


# The names of version 0.1, which users' own components may import.
shown, nearest, alternatives = format_value, did_you_mean, allowed_hint
