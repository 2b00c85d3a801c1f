"""Answers to commands that Hydra refuses, in words of the command: what was typed, why not, and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError, alternatives, nearest, shown

LONGEST, DEEPEST = 50_000, 24  # characters of a word of the command; brackets within brackets, names within names
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_NOT_WORDS = re.compile(r"\n\s*(full_key|object_type|reference_type|Config search path|Available options).*", re.DOTALL)


def check_size(text: str) -> None:
    """ConfigError where a word of the command is so long or deep that parsing it would take minutes, or end Python."""
    key, _, value = text.partition("=")
    if len(text) > LONGEST:
        raise ConfigError(f"{shown(text)}: has {len(text):,} characters, of at most {LONGEST:,}.")
    if key.count(".") + key.count("/") > DEEPEST:
        raise ConfigError(f"{shown(key)}: there is no such setting; no key has more than {DEEPEST} parts.")
    depth = deepest = 0
    for letter in _QUOTED.sub("", value):
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ConfigError(f"{shown(text)}: is nested {deepest} deep, of at most {DEEPEST}.")


def reworded(error: Exception, parsed: Sequence[Override] = ()) -> str:
    """One line for an error of Hydra's that none of the overrides explains by its key alone."""
    text = _NOT_WORDS.sub("", str(error)).strip()
    for pattern, words in _ANSWERS:
        if (found := re.match(pattern, text, re.DOTALL)) is not None:
            return words(found, parsed, error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{mark.name}, line {mark.line + 1}: must be KEY: VALUE: {getattr(error, 'problem', None)}."
    key = getattr(error, "full_key", None)
    if not text:
        return "there is something in it that is no setting."
    return f"{key}: {_stands_for_nothing(text)}." if key else text


def typed_line(override: Override) -> str:
    """An override as it was typed."""
    assert override.input_line is not None  # Hydra's parser keeps it
    return override.input_line


def container(config: Any, resolve: bool = False) -> dict[str, Any]:
    """A configuration as dicts and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def unresolved(error: OmegaConfBaseException, config: DictConfig) -> str:
    """One line for a reference, in what was composed, that stands for nothing."""
    raw = flattened(container(config))
    why = str(error.msg).splitlines()[0]
    missing = re.search(r"key '(.+?)' not found", why)
    known = [name for name in raw if not name.startswith("hydra.")]
    hint = nearest(missing[1], known) if missing else ""
    return f"{error.full_key}={shown(raw.get(str(error.full_key)))}: {_stands_for_nothing(why)}{hint or '.'}"


def _stands_for_nothing(why: str) -> str:
    why = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", why)
    if "Recursive interpolation" in why or "maximum recursion depth" in why:
        return "refers to itself"
    if (found := re.match(r"Unsupported interpolation type (.+)", why)) is not None:
        known = [name for name in ("oc.env", "oc.decode", "oc.create", "oc.select", "oc.dict.keys", "now")]
        known = [name for name in known if OmegaConf.has_resolver(name)]
        return f"there is no '{found[1]}:'{alternatives(found[1], known)}".rstrip(".")
    if "HydraConfig" in why:
        return "stands for nothing here: settings cannot refer to Hydra's own"
    if (found := re.match(r"Error resolving key '(.+?)'", why)) is not None:
        return f"'{found[1]}' leads nowhere"
    return why


def _added_again(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    key = found[1]
    added = [each for each in parsed if each.is_add()]
    if typed := [each for each in added if each.get_key_element().lstrip("+") == key] or added:
        word = typed_line(typed[0])
        return f"{shown(word)}: there is such a one already; {shown(word.lstrip('+'))}, without +, changes it."
    return f"{key}: is chosen twice; a defaults list changes a choice with: override /{key}: OPTION."


def _forced(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    return f"{shown(found[1])}: a group is chosen without ++, as in {shown(found[1].lstrip('+'))}."


def _not_so(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    key, is_, typed = found.groups()
    return f"~{key}={shown(typed)}: is {shown(is_)}; ~{key} takes it away whatever it is."


def _nothing_there(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    typed = next((each.input_line for each in parsed if each.key_or_group == found[2]), found[2])
    return f"{shown(typed)}: there is nothing of this name to {'take away' if found[1] == 'delete' else 'change'}."


def _not_taken(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    word, cause = found[1].strip(), error.__cause__
    why = _NOT_WORDS.sub("", str(cause)).strip().splitlines()[0] if cause is not None else ""
    kind = re.search(r"not (?:be converted|convertible) to (\w+)|expected one of (\[.*\])|type (\w+)", why)
    kinds = {"Boolean": "true or false", "Integer": "a whole number", "Float": "a number", "String": "text"}
    name = next(filter(None, kind.groups()), "") if kind else ""
    wanted = f"must be {kinds.get(name, f'one of {name[1:-1]}')}" if name in kinds or name[:1] == "[" else ""
    return f"{shown(word)}: {wanted or 'is nothing that Hydra takes here'}; --hydra-help describes its settings."


def _no_file(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    typed = next((line for line in map(typed_line, parsed) if "${" in line), None)
    if typed is not None:
        return f"{shown(typed)}: there is no option '{found[2].rpartition('/')[2]}'."
    return f"the defaults of '{found[1]}' name '{found[2]}', and there is no such option."


def _refers(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    typed = [line for line in map(typed_line, parsed) if "${" in line]
    where = shown(typed[0]) if typed else f"a defaults list, {shown(found[1])}"
    return f"{where}: refers to a group that is chosen later or not at all; name an option."


def _not_built(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    return f"Hydra does not build {shown(found[1])}."


def _no_such_choice(found: re.Match, parsed: Sequence[Override], error: Exception) -> str:
    return f"the defaults of '{found[1]}' change '{found[2].partition('@')[0]}', which is not chosen before it."


_ANSWERS: list[tuple[str, Callable[[re.Match, Sequence[Override], Exception], str]]] = [
    (r"Could not append to config\. An item is already at '(.+?)'", _added_again),
    (r"(\S+) appears more than once in the final defaults list", _added_again),
    (r"Multiple values for (\S+?)\. ", _added_again),
    (r"force-add of config groups is not supported: '(.+)'", _forced),
    (r"Could not delete from config\. The value of '(.+?)' is (.*) and not (.*)\.$", _not_so),
    (r"Could not (delete|override) '(.+?)'", _nothing_there),
    (r"Could not (delete) from config\. '(.+?)' does not exist", _nothing_there),
    (r"Error merging override (.*)", _not_taken),
    (r"In '(.+?)': Could not (?:find|load) '(.+?)'", _no_file),
    (r"In '(.+?)': Could not override '(.+?)'", _no_such_choice),
    (r"Error resolving interpolation '(.+?)', possible", _refers),
    (r"Target '(.+?)' is blocklisted", _not_built),
]
