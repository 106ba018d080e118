"""Path: how a field is integrated. Read by the table of generators, hence without JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zoogen.errors import ConfigError


class Path(NamedTuple):
    """How a field is integrated.

    Attributes:
        path_steps: of equal length in time.
        method: ``heun`` (two evaluations a step), ``rk4`` (four) or ``sde`` (one).
        guidance: 1 follows the conditions as learned, more exaggerates them, 0 ignores them.
        noise: of the ``sde``: how fast noise is renewed on the way. More of it repairs errors of
            the field, but makes samples more alike, and takes more steps.
        spread: of the ``sde``: factor on what is drawn at the beginning, which falls to 1 on the
            way; more than 1 makes samples less alike.
    """

    path_steps: int = 32
    method: str = "heun"
    guidance: float = 1.0
    noise: float = 8.0
    spread: float = 1.0


def path_of(options: Mapping[str, Any]) -> Path:
    """The path that options of a generator describe."""
    return Path(*(options[name] for name in Path._fields))


METHODS = {"heun": 2, "rk4": 4, "sde": 1}
"""Evaluations per step."""


def refuse_unknown_path(path: Path) -> None:
    """Before a fit, too: nobody wants to learn of it after one.

    Raises:
        ConfigError: for an unknown method or no steps.
    """
    if path.method not in METHODS or path.path_steps < 1:
        raise ConfigError(
            f"sampling: found method {path.method!r} with {path.path_steps} steps, expected one of "
            f"{', '.join(METHODS)} with at least 1"
        )
