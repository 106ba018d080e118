"""What a run of a generator is told: the generator, its population, conditions and effort."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from zoogen.config import Section
from zoogen.config.wording import NAME

FromList = Field(strict=False)  # TOML arrays arrive as lists


class PopulationConfig(Section):
    """Which members, and who may see them.

    Attributes:
        where: a query over the members of the zoo; all that did not diverge by default.
        validation: share of the members that decide which look counts.
        held_out: share that the generator never sees.
        seed: of the parting.
        members: most members to fit on, drawn by the parting: few are some of many, and the other
            parts stay as they are; all by default.
    """

    where: str | None = None
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    held_out: float = Field(default=0.2, gt=0, lt=0.9)
    seed: int = Field(default=0, ge=0, lt=2**31)
    members: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _something_is_left(self) -> PopulationConfig:
        if self.validation + self.held_out >= 1:
            raise ValueError(
                f"validation/held_out: found {self.validation} and {self.held_out}, expected less "
                "than 1 together, so that members are left for training"
            )
        return self


class EffortConfig(Section):
    """How long a generator is fitted; see :class:`~zoogen.generators.generator.Effort`."""

    steps: int = Field(default=4000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    looks: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)


class GeneratorConfig(Section):
    """One generator on one population.

    Attributes:
        name: of the run, used in titles.
        generator: a key of :data:`zoogen.generators.GENERATORS`.
        conditions: columns of the members that it is told and can be asked for.
        options: of the generator.
        population: which members.
        training: how long.
    """

    name: str = Field(pattern=NAME)
    generator: str
    conditions: Annotated[tuple[str, ...], FromList] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    population: PopulationConfig = PopulationConfig()
    training: EffortConfig = EffortConfig()

    @model_validator(mode="after")
    def _conditions_differ(self) -> GeneratorConfig:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions: found {list(self.conditions)}, expected each once")
        return self
