"""Axes of a grid: values of a hyper-parameter, given as a list or a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from zoogen.config.sections import FromList, Section
from zoogen.config.wording import sentence

Scalar = bool | int | float | str


class Range(Section):
    """An axis given by its ends: ``points`` values, evenly spaced on a ``log`` or linear scale."""

    from_: float = Field(alias="from")
    to: float
    points: int = Field(ge=1, le=100_000)
    spacing: Literal["log", "linear"] = "linear"

    @model_validator(mode="after")
    def _positive_log(self) -> Range:
        if self.spacing == "log" and min(self.from_, self.to) <= 0:
            raise ValueError(f"from/to: found {min(self.from_, self.to)}, a log axis needs > 0")
        return self

    def values(self) -> list[float]:
        """The points of the axis, rounded to six significant digits."""
        steps = [i / (self.points - 1) if self.points > 1 else 0.0 for i in range(self.points)]
        if self.spacing == "log":
            ratio = math.log(self.to / self.from_)
            raw = [self.from_ * math.exp(t * ratio) for t in steps]
        else:
            raw = [self.from_ + t * (self.to - self.from_) for t in steps]
        return [float(f"{v:.6g}") for v in raw]


Values = Annotated[tuple[Scalar, ...], FromList]


def _is_value(value: Any) -> bool:
    return isinstance(value, Scalar) and not (isinstance(value, float) and not math.isfinite(value))


def check_values(place: str, values: Sequence[Any]) -> None:
    """Refuse a list that can't be the values of a hyper-parameter.

    Raises:
        ValueError: naming the place and what was found there.
    """
    odd = [value for value in values if not _is_value(value)]
    if not values:
        raise ValueError(f"{place}: found an empty axis, expected at least one value")
    if odd:
        raise ValueError(f"{place}: found {odd[0]!r}, allowed finite numbers, strings, booleans")
    if len(set(values)) < len(values):
        raise ValueError(f"{place}: found a value twice, expected distinct values")


def check_axis_shape(key: str, axis: Any) -> None:
    """Say in the config's own words what pydantic would say once per member of a union."""
    if isinstance(axis, list | tuple):
        check_values(f"axes.{key!r}", axis)
    elif isinstance(axis, dict):
        try:
            Range.model_validate(axis)
        except ValidationError as error:
            # A misspelt key is also a missing one; the misspelling is what helps.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            text = sentence(dict(first), Range)
            raise ValueError(f"axes.{key!r}: {text}") from None
    elif not isinstance(axis, Range):
        raise ValueError(
            f"axes.{key!r}: found {axis!r}, allowed a list of values or a table "
            "{ from, to, points, spacing }"
        )
