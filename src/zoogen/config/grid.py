"""The grid: which hyper-parameters vary, along axes that cross or drawn at random."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from zoogen.config.axes import Range, Values, check_axis_shape
from zoogen.config.draws import RandomConfig
from zoogen.config.sections import Section
from zoogen.config.wording import nearest


class GridConfig(Section):
    """Which hyper-parameters vary. Axes cross; every cell of the grid gets ``seeds`` members.

    Attributes:
        seeds: members per cell; 3 by default, 1 in a random search.
        load: the axis that spans the phase diagram horizontally.
        temperature: the axis that spans it vertically.
        axes: dotted key (``network.width``) → list of values, or a :class:`Range`.
        random: cells drawn at random in place of axes.
    """

    seeds: int = Field(default=3, ge=1)
    load: str | None = None
    temperature: str | None = None
    axes: dict[str, Values | Range] = Field(default_factory=dict)
    random: RandomConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_seed_per_draw(cls, table: Any) -> Any:
        drawn = isinstance(table, dict) and table.get("random") is not None
        return {"seeds": 1, **table} if drawn else table

    @model_validator(mode="before")
    @classmethod
    def _axes_are_lists_or_ranges(cls, table: Any) -> Any:
        axes = table.get("axes", {}) if isinstance(table, dict) else {}
        for key, axis in axes.items() if isinstance(axes, dict) else ():
            check_axis_shape(key, axis)
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

    @model_validator(mode="after")
    def _axes_or_draws(self) -> GridConfig:
        if self.random is None:
            return self
        if self.axes:
            key = next(iter(self.axes))
            raise ValueError(
                f"axes: found {key!r} beside [grid.random]; axes cross and draws do not, so give "
                "its values as a list in grid.random.draws"
            )
        if self.random.members % self.seeds:
            raise ValueError(
                f"random.members: found {self.random.members}, expected a multiple of grid.seeds "
                f"= {self.seeds}"
            )
        return self

    @property
    def varying(self) -> tuple[str, ...]:
        """The hyper-parameters that vary."""
        return tuple(self.axes if self.random is None else self.random.draws)
