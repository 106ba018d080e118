"""Configs in files: TOML with overrides in, canonical JSON and its hash out."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoogen.config.schema import Config, Model, validate, validated
from zoogen.config.sections import DataConfig, Section
from zoogen.errors import ConfigError, NotFoundError


class Kind(NamedTuple):
    """One kind of config.

    Attributes:
        words: what it describes.
        mark: a key at its top that every one of them has, and none of another kind.
        command: that takes it, after its place.
    """

    words: str
    mark: str
    command: str


KINDS = (
    Kind("a zoo", "train", "zoogen generate {} --out ZOO"),
    Kind("a generator", "generator", "zoogen train-generator {} --zoo ZOO --out RUN"),
    Kind("a comparison of readers", "task", "zoogen train-model {} --zoo ZOO"),
    Kind("a rule of phases", "thresholds", "zoogen label ZOO --rule {}"),
)


def load_config(path: str | Path, overrides: Sequence[str] = (), size: str | None = None) -> Config:
    """Read a TOML config, apply overrides and a size, and check all of it.

    Args:
        path: the TOML file.
        overrides: ``section.key=value`` texts; the value is written as in TOML, quotes optional.
        size: name of an entry of ``[sizes]``; the config as written when absent.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake: file, key, found, allowed.
    """
    config = load_table(Config, path, overrides)
    return config if size is None else config.at_size(size)


def load_table(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Read a TOML file of any schema and apply overrides, as :func:`load_config` does.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake: file, key, found, allowed.
    """
    table = _read_toml(Path(path))
    refuse_other_kind(model, table, path)
    return validated(model, _overridden(table, overrides), str(path))


def refuse_other_kind(model: type[Section], table: Mapping[str, Any], path: str | Path) -> None:
    """Tell a config of another kind in one line, not in one for each of its keys.

    Args:
        model: the schema that is expected.
        table: what the file holds.
        path: of the file.

    Raises:
        ConfigError: saying what it looks like, and which command takes that.
    """
    found = [kind for kind in KINDS if kind.mark in table]
    if any(kind.mark in model.model_fields for kind in found):
        return
    if found:
        kind = found[0]
        raise ConfigError(
            f"{path} looks like a config of {kind.words} (it has {kind.mark!r}); run: "
            + kind.command.format(path)
        )


def load_data_config(path: str | Path) -> DataConfig:
    """The ``[data]`` of a TOML file, a config of a zoo or any other; the rest is not read.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake: file, key, found, allowed.
    """
    table = _read_toml(Path(path)).get("data")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: no table [data]; expected one, with a source")
    return validated(DataConfig, table, f"{path}: data")


def changed(table: dict[str, Any], overrides: Sequence[str], where: str) -> Config:
    """A config from plain data, with overrides as in :func:`load_config`.

    Args:
        table: sections and their keys; overrides are written into it.
        overrides: ``section.key=value`` texts.
        where: how error messages name the data.

    Raises:
        ConfigError: with one line per mistake.
    """
    return validate(_overridden(table, overrides), where)


def _overridden(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        _apply_override(table, override)
    return table


def parse_config(text: str, name: str = "config") -> Config:
    """A config from canonical JSON, as a zoo stores it."""
    return validate(json.loads(text), name)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such config; expected a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as a TOML file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    parts = _split_key(key.strip())
    if not sign or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    *sections, last = parts
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    table[last] = _toml_value(value.strip())


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options from ``name=value`` texts; values as in :func:`load_config`.

    Raises:
        ConfigError: if a text has another form.

    Example:
        >>> parse_options(["method=sde", "path_steps=48", "aligned=false"])
        {'method': 'sde', 'path_steps': 48, 'aligned': False}
    """
    found = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not (name and value):
            raise ConfigError(f"--set {text!r}: expected option=value, as in method=sde")
        found[name] = _toml_value(value)
    return found


def _split_key(key: str) -> list[str]:
    """Parts between dots; in the tables whose keys hold dots, quotes are optional."""
    for table in ("grid.axes", "grid.random.draws", "data.sha256"):
        prefix = f"{table}."
        if key.startswith(prefix):
            return [*table.split("."), key.removeprefix(prefix).strip("\"'")]
    return key.split(".")


def _toml_value(text: str) -> Any:
    """The text as a TOML value, or as it is: quotes around words are optional."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def canonical_json(config: Config) -> str:
    """The config as JSON with sorted keys and no spaces: equal configs give equal bytes."""
    return json.dumps(
        config.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":")
    )


def config_hash(config: Config) -> str:
    """Hex sha256 of what decides the content of the zoo: not its sizes, words or local paths."""
    table = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for key in ("sizes", "description", "name"):
        table.pop(key, None)
    table["data"] = {k: v for k, v in table.get("data", {}).items() if k != "path"}
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
