"""The blocks of code in README.md and docs, and what a shell makes of their commands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OWN_FILE = re.compile(r"(?:# @package _global_\n)?# (my_lab/\S+)\n")  # Hydra reads its own line first
# Takes the place of every program: writes down its name and its words, and succeeds or fails as it is told.
_STUB = '#!/bin/bash\nprintf "%s\\0" "$#" "${0##*/}" "$@" >> "$RECORD"\nexit "$CODE"\n'
_PROGRAMS = ("python", "python3", "pip", "rlresearch", "rlresearch-review", "mkdocs")


class Block(NamedTuple):
    """page: its path from the root; line: where its code begins, counted from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every block of these languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start(2)) + 1
                found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return found


def own_files(page: str) -> dict[str, str]:
    """The files of a folder `my_lab` that a page shows, by the path in the comment that heads them."""
    shown = [block.text for block in blocks("python", "yaml") if block.page == page]
    return {match[1]: text for text in shown if (match := _OWN_FILE.match(text))}


def console_lines(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the line that follows it."""
    lines = [*text.splitlines(), ""]
    return [(line[2:], after) for line, after in zip(lines, lines[1:], strict=False) if line.startswith("$ ")]


def shell_words(script: str, folder: Path) -> list[list[str]]:
    """What bash runs for a script, word by word, whether its programs succeed or fail; nothing of it really runs."""
    seen = []
    for code in ("0", "1"):
        seen += [words for words in _run(script, folder, code) if words not in seen]
    return seen


def _run(script: str, folder: Path, code: str) -> list[list[str]]:
    programs, record = folder / "bin", folder / "record"
    for place in (programs, folder / ".venv" / "bin"):
        place.mkdir(parents=True, exist_ok=True)
        for name in _PROGRAMS:
            (place / name).write_text(_STUB)
            (place / name).chmod(0o755)
    (folder / ".venv" / "bin" / "activate").write_text("")
    record.write_bytes(b"")
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(record), "CODE": code, "HOME": os.environ["HOME"]}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert not done.stderr, f"bash: {done.stderr}"
    words, found = record.read_bytes().decode().split("\0")[:-1], []
    while words:
        count = int(words[0]) + 1
        found.append(words[1 : 1 + count])
        words = words[1 + count :]
    return found
