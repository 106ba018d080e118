"""The grid: which hyper-parameters vary, given as lists or ranges."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from zoogen.config.sections import FromList, Section
from zoogen.config.wording import nearest, sentence

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


def _check_axis_shape(key: str, axis: Any) -> None:
    """Say in the config's own words what pydantic would say once per member of a union."""
    if isinstance(axis, list | tuple):
        odd = [value for value in axis if not _is_value(value)]
        if not axis:
            raise ValueError(f"axes.{key!r}: found an empty axis, expected at least one value")
        if odd:
            raise ValueError(
                f"axes.{key!r}: found {odd[0]!r}, allowed finite numbers, strings, booleans"
            )
        if len(set(axis)) < len(axis):
            raise ValueError(f"axes.{key!r}: found a value twice, expected distinct values")
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


class GridConfig(Section):
    """Which hyper-parameters vary. Axes cross; every cell of the grid gets ``seeds`` members.

    Attributes:
        seeds: members per cell.
        load: the axis that spans the phase diagram horizontally.
        temperature: the axis that spans it vertically.
        axes: dotted key (``network.width``) → list of values, or a :class:`Range`.
    """

    seeds: int = Field(default=3, ge=1)
    load: str | None = None
    temperature: str | None = None
    axes: dict[str, Values | Range] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _axes_are_lists_or_ranges(cls, table: Any) -> Any:
        axes = table.get("axes", {}) if isinstance(table, dict) else {}
        for key, axis in axes.items() if isinstance(axes, dict) else ():
            _check_axis_shape(key, axis)
        return table

    @model_validator(mode="after")
    def _load_and_temperature_are_axes(self) -> GridConfig:
        for role in ("load", "temperature"):
            key = getattr(self, role)
            if key is not None and key not in self.axes:
                raise ValueError(
                    f"{role}: found {key!r}, allowed the axes of the grid: "
                    f"{', '.join(self.axes) or 'none given'}{nearest(key, self.axes)}"
                )
        if self.load is not None and self.load == self.temperature:
            raise ValueError(f"temperature: found {self.load!r}, which is the load already")
        return self
