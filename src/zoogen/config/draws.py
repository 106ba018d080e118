"""Random search: what each hyper-parameter is drawn from, and the draws, by their number.

A draw depends on the seed, its number and the key alone. More draws keep the first ones, and
another hyper-parameter changes no other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from zoogen.config.axes import Range, Scalar, Values, check_values
from zoogen.config.sections import Section
from zoogen.config.wording import nearest, sentence

_DIGITS = 9  # as many as tell float32 numbers apart


class Draw(Section):
    """What one hyper-parameter is drawn from: one of ``values``, or a number of a range.

    Attributes:
        values: each equally likely. A list in place of the table means the same.
        from_, to: ends of a range; uniform between them on a ``log`` or linear scale.
        points: so many evenly spaced values of the range, and none between them.
        spacing: see ``from_``.
        where: key of another draw → some of its values. The hyper-parameter is drawn for cells
            that have one of these; the others have the value of its own section.
    """

    values: Values | None = None
    from_: float | None = Field(default=None, alias="from")
    to: float | None = None
    points: int | None = Field(default=None, ge=1, le=100_000)
    spacing: Literal["log", "linear"] = "linear"
    where: dict[str, Values] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _values_or_range(self) -> Draw:
        ends = (self.from_, self.to)
        if (self.values is None) == (ends == (None, None)):
            found = "neither" if self.values is None else "both"
            raise ValueError(f"found {found} of values and a range, expected one of them")
        if self.values is None and None in ends:
            raise ValueError("from/to: found one end, expected both")
        if self.values is None:
            _ = self.range  # checks it, too
        return self

    @property
    def range(self) -> Range:
        """The range that is drawn from; its ends alone where all between them can be drawn."""
        given = {"from": self.from_, "to": self.to, "points": self.points or 2}
        return Range.model_validate(given | {"spacing": self.spacing})

    @property
    def choices(self) -> tuple[Scalar, ...] | None:
        """All that can be drawn, as written; ``None`` if that is a range without points."""
        if self.values is not None:
            return self.values
        return None if self.points is None else tuple(self.range.values())

    def at(self, share: float) -> float:
        """The number of a range without points below which ``share`` of its draws lie."""
        low, high = self.range.from_, self.range.to
        if self.spacing == "log":
            value = low * math.exp(share * math.log(high / low))
        else:
            value = low + share * (high - low)
        return float(f"{value:.{_DIGITS}g}")


class RandomConfig(Section):
    """Cells drawn at random, in place of a cross of axes.

    Attributes:
        members: how many; a multiple of ``grid.seeds``, which is 1 by default here.
        seed: of the draws.
        draws: dotted key → a list of values, or a :class:`Draw`. Hyper-parameters that need a
            program of their own take turns, so that each combination of them has its share of the
            members; the others are drawn independently.
    """

    members: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    draws: dict[str, Draw]

    @model_validator(mode="before")
    @classmethod
    def _lists_are_draws(cls, table: Any) -> Any:
        draws = table.get("draws") if isinstance(table, dict) else None
        if not isinstance(draws, dict):
            return table
        return {**table, "draws": {key: _as_draw(key, draw) for key, draw in draws.items()}}

    @model_validator(mode="after")
    def _conditions_name_draws(self) -> RandomConfig:
        if not self.draws:
            raise ValueError("draws: found none, expected at least one hyper-parameter")
        for key, draw in self.draws.items():
            for other, values in draw.where.items():
                self._check_condition(f"draws.{key!r}.where", other, values)
        return self

    def _check_condition(self, place: str, other: str, values: Values) -> None:
        listed = {k: d.values for k, d in self.draws.items() if d.values and not d.where}
        if other not in listed:
            raise ValueError(
                f"{place}: found {other!r}, allowed a draw with a list of values and no condition: "
                f"{', '.join(listed) or 'there is none'}{nearest(other, listed)}"
            )
        choices = listed[other]
        check_values(f"{place}.{other!r}", values)
        odd = [value for value in values if value not in choices]
        if odd:
            raise ValueError(
                f"{place}.{other!r}: found {odd[0]!r}, allowed {', '.join(map(str, choices))}"
            )

    def share(self, number: int, key: str) -> float:
        """A number of [0, 1) for one hyper-parameter of one draw."""
        digest = hashlib.sha256(f"{self.seed}:{number}:{key}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def meets(self, values: Mapping[str, Scalar], key: str) -> bool:
        """Whether the values of all hyper-parameters meet the condition of one of them."""
        return all(values[other] in allowed for other, allowed in self.draws[key].where.items())


def _as_draw(key: str, draw: Any) -> Any:
    """Say in the config's own words what pydantic would say of a table that is a list, too."""
    if isinstance(draw, Draw):
        return draw
    if isinstance(draw, list | tuple):
        check_values(f"draws.{key!r}", draw)
        return {"values": draw}
    if not isinstance(draw, dict):
        raise ValueError(
            f"draws.{key!r}: found {draw!r}, allowed a list of values or a table "
            "{ from, to, points, spacing, where } or { values, where }"
        )
    try:
        return Draw.model_validate(draw)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise ValueError(f"draws.{key!r}: {sentence(dict(first), Draw)}") from None
