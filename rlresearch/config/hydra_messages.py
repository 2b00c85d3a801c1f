"""What Hydra says about a wrong command, in the command's own words: what was typed, why not, and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlresearch.config.dotted import flattened
from rlresearch.config.hydra_session import to_container
from rlresearch.config.overrides import typed_text
from rlresearch.errors import ConfigError, allowed_hint, did_you_mean, format_value

_DETAILS = re.compile(r"\n\s*(full_key|object_type|reference_type|Config search path|Available options).*", re.DOTALL)
_KINDS = {"Boolean": "true or false", "Integer": "a whole number", "Float": "a number", "String": "text"}


class _Refusal(NamedTuple):
    """What Hydra refused. found: its message, matched; overrides: of the command; cause: of Hydra's error."""

    found: re.Match[str]
    overrides: Sequence[Override]
    cause: BaseException | None

    def interpolation(self) -> str | None:
        """The first override that holds an interpolation, as typed."""
        return next((text for text in map(typed_text, self.overrides) if "${" in text), None)


def translate_hydra_error(error: Exception, overrides: Sequence[Override] = ()) -> str:
    """One line for an error of Hydra's that no override explains by its key alone."""
    text = _without_details(error)
    for pattern, translate in _TRANSLATIONS:
        if (found := re.match(pattern, text, re.DOTALL)) is not None:
            return translate(_Refusal(found, overrides, error.__cause__))
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{mark.name}, line {mark.line + 1}: must be KEY: VALUE: {getattr(error, 'problem', error)}."
    key = getattr(error, "full_key", None)
    if not text:
        return "there is something in it that is no setting."
    return f"{key}: {_explain_interpolation(text)}." if key else text


def explain_hydra_failure(error: Exception, argv: Sequence[str]) -> ConfigError:
    """The error of a command that composes, and at which Hydra fails all the same; it names the word about Hydra."""
    word = format_value(next((each for each in argv if each.lstrip("+~").startswith("hydra")), "hydra"))
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError(f"{word}: {translate_hydra_error(error)}")
    if isinstance(error, OSError) and error.filename is None:  # of the terminal, or the pipe, that it prints to
        raise error
    why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
    return ConfigError(f"{word}: Hydra cannot begin: {why}.")


def explain_interpolation_error(error: OmegaConfBaseException, config: DictConfig) -> str:
    """One line for an interpolation in a composed configuration that has no value."""
    raw = flattened(to_container(config))
    why = str(error.msg).splitlines()[0]
    missing = re.search(r"key '(.+?)' not found", why)
    known = [name for name in raw if not name.startswith("hydra.")]
    hint = did_you_mean(missing[1], known) if missing else ""
    return f"{error.full_key}={format_value(raw.get(str(error.full_key)))}: {_explain_interpolation(why)}{hint or '.'}"


def _explain_interpolation(why: str) -> str:
    why = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", why)
    if "Recursive interpolation" in why or "maximum recursion depth" in why:
        return "refers to itself"
    if (found := re.match(r"Unsupported interpolation type (.+)", why)) is not None:
        known = [name for name in ("oc.env", "oc.decode", "oc.create", "oc.select", "oc.dict.keys", "now")]
        known = [name for name in known if OmegaConf.has_resolver(name)]
        return f"there is no '{found[1]}:'{allowed_hint(found[1], known)}".rstrip(".")
    if "HydraConfig" in why:
        return "stands for nothing here: settings cannot refer to Hydra's own"
    if (found := re.match(r"Error resolving key '(.+?)'", why)) is not None:
        return f"'{found[1]}' leads nowhere"
    return why


def _without_details(error: BaseException) -> str:
    return _DETAILS.sub("", str(error)).strip()


def _added_twice(refusal: _Refusal) -> str:
    key = refusal.found[1]
    added = [each for each in refusal.overrides if each.is_add()]
    if typed := [each for each in added if each.get_key_element().lstrip("+") == key] or added:
        word, changing = typed_text(typed[0]), format_value(typed_text(typed[0]).lstrip("+"))
        return f"{format_value(word)}: there is such a one already; {changing}, without +, changes it."
    return f"{key}: is chosen twice; a defaults list changes a choice with: override /{key}: OPTION."


def _force_added_group(refusal: _Refusal) -> str:
    typed = refusal.found[1]
    return f"{format_value(typed)}: a group is chosen without ++, as in {format_value(typed.lstrip('+'))}."


def _deleted_other_value(refusal: _Refusal) -> str:
    key, value, typed = refusal.found.groups()
    return f"~{key}={format_value(typed)}: is {format_value(value)}; ~{key} takes it away whatever it is."


def _missing_key(refusal: _Refusal) -> str:
    action, key = refusal.found.groups()
    typed = next((each.input_line for each in refusal.overrides if each.key_or_group == key), key)
    return f"{format_value(typed)}: there is nothing of this name to {'take away' if action == 'delete' else 'change'}."


def _wrong_type(refusal: _Refusal) -> str:
    lines = _without_details(refusal.cause).splitlines() if refusal.cause is not None else []
    pattern = r"not (?:be converted|convertible) to (\w+)|expected one of (\[.*\])|type (\w+)"
    kind = re.search(pattern, lines[0]) if lines else None
    name = next(filter(None, kind.groups()), "") if kind else ""
    wanted = _KINDS.get(name, f"one of {name[1:-1]}" if name[:1] == "[" else None)
    why = "is nothing that Hydra takes here" if wanted is None else f"must be {wanted}"
    return f"{format_value(refusal.found[1].strip())}: {why}; --hydra-help describes its settings."


def _missing_option(refusal: _Refusal) -> str:
    file, option = refusal.found.groups()
    if (typed := refusal.interpolation()) is not None:
        return f"{format_value(typed)}: there is no option '{option.rpartition('/')[2]}'."
    return f"the defaults of '{file}' name '{option}', and there is no such option."


def _unresolved_choice(refusal: _Refusal) -> str:
    typed = refusal.interpolation()
    where = f"a defaults list, {format_value(refusal.found[1])}" if typed is None else format_value(typed)
    return f"{where}: refers to a group that is chosen later or not at all; name an option."


def _blocked_target(refusal: _Refusal) -> str:
    return f"Hydra does not build {format_value(refusal.found[1])}."


def _override_before_choice(refusal: _Refusal) -> str:
    file, group = refusal.found.groups()
    return f"the defaults of '{file}' change '{group.partition('@')[0]}', which is not chosen before it."


# The beginnings of Hydra 1.3's messages. One that is not here is shown as Hydra says it.
_TRANSLATIONS: list[tuple[str, Callable[[_Refusal], str]]] = [
    (r"Could not append to config\. An item is already at '(.+?)'", _added_twice),
    (r"(\S+) appears more than once in the final defaults list", _added_twice),
    (r"Multiple values for (\S+?)\. ", _added_twice),
    (r"force-add of config groups is not supported: '(.+)'", _force_added_group),
    (r"Could not delete from config\. The value of '(.+?)' is (.*) and not (.*)\.$", _deleted_other_value),
    (r"Could not (delete|override) '(.+?)'", _missing_key),
    (r"Could not (delete) from config\. '(.+?)' does not exist", _missing_key),
    (r"Error merging override (.*)", _wrong_type),
    (r"In '(.+?)': Could not (?:find|load) '(.+?)'", _missing_option),
    (r"In '(.+?)': Could not override '(.+?)'", _override_before_choice),
    (r"Error resolving interpolation '(.+?)', possible", _unresolved_choice),
    (r"Target '(.+?)' is blocklisted", _blocked_target),
]
