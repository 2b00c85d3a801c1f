"""Equations as MathML, which browsers draw themselves: no script, no font, no network.

A page has `$inline$` and `$$display$$` in LaTeX, as GitHub shows them too. Code is left alone.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\w)", re.DOTALL)
_TOKEN = re.compile(r"equation(\d+)end")  # letters alone: Markdown leaves them as they are

_drawn: dict[str, list[str]] = {}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Takes the equations out, before Markdown reads their underscores."""
    found = _drawn[page.file.src_uri] = []

    def taken(match: re.Match) -> str:
        display = "block" if match[1] else "inline"
        found.append(_full_primes(convert((match[1] or match[2]).strip(), display=display)))
        return f"equation{len(found) - 1}end"

    pieces = _CODE.split(markdown)
    return "".join(piece if index % 2 else _MATH.sub(taken, piece) for index, piece in enumerate(pieces))


def _full_primes(mathml: str) -> str:
    """Primes beside their letter, not as small letters above it, where text fonts make them dots."""
    prime = r"<mi>&#x02032;</mi>"
    beside = r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>'
    mathml = re.sub(rf"<msubsup>(<mi>[^<]*</mi>)(<mi>[^<]*</mi>){prime}</msubsup>", rf"<msub>{beside}\2</msub>", mathml)
    return re.sub(rf"<msup>(<mi>[^<]*</mi>){prime}</msup>", beside, mathml)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Puts them back."""
    found = _drawn.pop(page.file.src_uri, [])
    return _TOKEN.sub(lambda match: found[int(match[1])], html)
