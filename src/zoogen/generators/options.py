"""Options: what a config says of a generator, held against the table; JAX is not needed for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoogen.config import load_table
from zoogen.config.wording import nearest
from zoogen.errors import ConfigError
from zoogen.generators.config import GeneratorConfig
from zoogen.generators.generator import Generator
from zoogen.generators.table import GENERATORS

_WORDS = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "a word",
    list: "a list",
}  # fmt: skip


def load_generator(path: str | Path, overrides: Sequence[str] = ()) -> GeneratorConfig:
    """Read the TOML file of a generator, with ``section.key=value`` overrides.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake: an unknown key, generator or option, a wrong type.
    """
    config = load_table(GeneratorConfig, path, overrides)
    try:
        generator_of(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def generator_of(config: GeneratorConfig) -> Generator:
    """The row of the table that a config names.

    Raises:
        ConfigError: for an unknown generator or option, an option of another type, or conditions
            of a generator that takes none.
    """
    if config.generator not in GENERATORS:
        raise ConfigError(
            f"run {config.name!r}: generator: found {config.generator!r}"
            f"{nearest(config.generator, GENERATORS)}; there are: {', '.join(GENERATORS)}"
        )
    generator = GENERATORS[config.generator]
    if config.conditions and not generator.conditional:
        able = [name for name, one in GENERATORS.items() if one.conditional]
        raise ConfigError(
            f"run {config.name!r}: conditions: generator {config.generator!r} takes none; those "
            f"that do: {', '.join(able)}"
        )
    known_options(config.generator, config.options)
    return generator


def options_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a generator, defaults included."""
    return {**GENERATORS[name].options, **known_options(name, options)}


def known_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types of their defaults.

    Raises:
        ConfigError: for an option that the generator does not have, of another type, or too small.
    """
    defaults, least, found = GENERATORS[name].options, GENERATORS[name].least, {}
    for key, value in options.items():
        if key not in defaults:
            raise ConfigError(
                f"options.{key}: generator {name!r} has no such option{nearest(key, defaults)}; "
                f"it has: {', '.join(defaults) or 'none'}"
            )
        wanted = type(defaults[key])
        if not _is_a(value, wanted):
            raise ConfigError(f"options.{key}: found {value!r}, expected {_WORDS[wanted]}")
        if value < least.get(key, value):
            raise ConfigError(f"options.{key}: found {value!r}, expected at least {least[key]}")
        found[key] = wanted(value)
    return found


def _is_a(value: Any, wanted: type) -> bool:
    """4 and 4.0 are whole numbers and floats; true is neither."""
    if wanted in (int, float) and type(value) in (int, float):
        return math.isfinite(value) and (wanted is float or value == int(value))
    return type(value) is wanted
