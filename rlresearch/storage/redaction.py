"""Removes secrets from configurations, command lines and error texts before they are written or sent.

Three things count as a secret. The first is a text under a key such as api_key or password. The second is the user
part of a URL. The third is the value of an environment variable with such a name, wherever the value appears.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
_WORDS = r"key|token|secret|password|passwd|passphrase|credential"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
# `api_key: x` and `api_key=x` inside a text; the value ends with its quotes, or at a space, & , ; } ) or ].
_INSIDE = re.compile(rf"""([\w.-]*(?:{_WORDS})[\w.-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,;&}})\]]+)""", re.IGNORECASE)
# Inside the braces of an override, spaces belong to the value.
_INSIDE_BRACES = re.compile(
    rf"""([\w.-]*(?:{_WORDS})[\w.-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^,}}\]]+)""", re.IGNORECASE
)
_USER_OF_URL = re.compile(r"(?<=://)[^\s/@'\"]+@")
_AUTHORIZATION = re.compile(
    r"((?:proxy-)?authorization\s*[:=]\s*['\"]?)((?:bearer|basic|digest|token)\s+)?[^\s'\",;]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
_MESSAGES = {"error", "reason"}  # keys of messages, which may contain `key=secret` in the middle of a sentence
_SHORTEST = 8  # characters of a variable's value: a shorter value may be an ordinary word


def redacted(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command line with *** for each secret.

    Known forms: a.token=x, --token=x, --token x, and a={token: x}. Every value of such a key is replaced.
    """
    kept, value_of_secret = [], False
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        is_secret = bool(_SECRET.search(key)) and "{" not in key
        if value_of_secret and not argument.startswith("-"):
            kept.append(MASK)
        elif equals and is_secret:
            kept.append(f"{key}={MASK}")
        else:
            kept.append(_plain(_INSIDE_BRACES.sub(rf"\1{MASK}", argument)))
        value_of_secret = argument.startswith("-") and not equals and is_secret
    return kept


def text(told: str) -> str:
    """Returns a message or traceback with *** for each secret."""
    if _SECRET.search(told):
        told = _INSIDE.sub(rf"\1{MASK}", told)
    return _plain(told)


def settings(config: Any, key: str = "") -> Any:
    """Returns a configuration with *** for each secret; only texts are replaced, never numbers."""
    if isinstance(config, Mapping):
        return {name: settings(value, str(name)) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [settings(value, key) for value in config]
    if isinstance(config, str):
        return MASK if config and _SECRET.search(key) else (text(config) if key in _MESSAGES else _plain(config))
    return config


def _plain(told: str) -> str:
    """Replaces the secrets that are recognised without a key: in URLs, in headers, from the environment."""
    if "://" in told:
        told = _USER_OF_URL.sub(f"{MASK}@", told)
    told = _BEARER.sub(rf"\1 {MASK}", _AUTHORIZATION.sub(rf"\1{MASK}", told))
    variables = {value for name, value in os.environ.items() if _SECRET.search(name)}
    secrets = [value for value in variables if len(value) >= _SHORTEST and value[0] != "/"]  # a path is none
    for value in sorted(secrets, key=len, reverse=True):  # the longest first: one may be a part of another
        told = told.replace(value, MASK)
    return told
