"""How a config's mistakes are said: key, found, expected, and the nearest key for a typo."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

NAME = r"^[A-Za-z0-9][\w.-]*$"
"""What names of zoos, runs and comparisons look like."""


def sentence(error: Mapping[str, Any], model: Any) -> str:
    """One mistake that pydantic found in a table of ``model``."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = _keys_of(model, error["loc"][:-1])
        name = str(error["loc"][-1])
        return f"{key}: unknown key{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return f"{key}.{text}" if key else text
    return f"{key}: {expectation(error)}"


def expectation(error: Mapping[str, Any]) -> str:
    """What was found and expected, without the key."""
    if error["type"] == "missing":
        return "missing, and it has no default"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    wanted = wanted.replace("a valid tuple", "a list")
    wanted = re.sub(r"a valid dictionary( or instance of \w+)?", "a table", wanted)
    if error.get("ctx", {}).get("pattern") == NAME:
        wanted = "letters, digits, '_', '.' and '-', the first a letter or digit"
    found = error["input"]
    hint = nearest(found, re.findall(r"'([^']+)'", wanted)) if isinstance(found, str) else ""
    return f"found {found!r}, expected {wanted}{hint}"


def _keys_of(model: Any, location: Sequence[Any]) -> list[str]:
    for part in location:
        field = model.model_fields[str(part)].annotation
        model = next(iter(get_args(field)), field)  # of ``Section | None`` the section
    return [field.alias or name for name, field in model.model_fields.items()]


def nearest(word: str, choices: Iterable[str]) -> str:
    """A question that names the closest choice, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
