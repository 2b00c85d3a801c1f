"""A YAML loader for files of unknown origin. It limits size and depth, and builds plain values alone.

A file of some hundred bytes can stand for a billion nodes, by references to references. A deeply nested one takes
minutes or ends the interpreter. The parser's events show both before any value is built.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST, MOST_NODES, DEEPEST = 1 << 20, 20_000, 40  # bytes; mappings, lists and values; levels
_CLEARLY_FINE = 1 << 16, 100  # bytes without a reference, and what begins a level: the common case is read once
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 15 times as fast, where libyaml is there


def load(content: bytes, references: bool = False) -> Any:
    """The values in `content`. references: whether a part may refer to another part, within the same limits.

    Errors: ValueError if it is too large or too deep, or holds a reference; yaml.YAMLError.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content):,} bytes, of at most {LARGEST:,}")
    begins = sum(map(content.count, (b"[", b"{", b"- ", b"? ")))
    if len(content) > _CLEARLY_FINE[0] or begins > _CLEARLY_FINE[1] or b"&" in content:
        _check(content, references)
    try:
        return yaml.load(content, _LOADER)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def reason(error: Exception) -> str:
    """The reason of a loading error, in a few words."""
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or getattr(error, "strerror", None)
    lines = str(said or error).replace("tag:yaml.org,2002:", "!!").splitlines()
    mark = getattr(error, "problem_mark", None)
    return f"{lines[0] if lines else type(error).__name__}{f', line {mark.line + 1}' if mark else ''}"


def _check(content: bytes, references: bool) -> None:
    """ValueError if there are too many nodes, with references written out, or too many levels."""
    begun: list[list[Any]] = []  # the anchor of each level that is begun, and how many nodes it has so far
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(content, _LOADER):
        size, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if not references or anchor in (each for each, _ in begun):
                raise ValueError(f"it refers to a part of itself, '*{anchor}'")
            size = sizes.get(anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append([anchor, 1])
            if len(begun) > DEEPEST:
                raise ValueError(f"it has more than {DEEPEST} levels")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = begun.pop()
        if anchor and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        if begun:
            begun[-1][1] += size
            size = begun[-1][1]
        if size > MOST_NODES:
            raise ValueError(f"written out it has more than {MOST_NODES:,} values")
