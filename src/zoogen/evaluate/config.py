"""The config of a comparison: which target, which split, which readers, how much tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zoogen.config import Section, load_table
from zoogen.config.sections import FromList
from zoogen.config.wording import NAME
from zoogen.evaluate.readers import Training

Names = Annotated[tuple[str, ...], FromList]


class TaskConfig(Section):
    """What is predicted, from which weights.

    Attributes:
        target: name of a target (`docs/tasks.md`), or of a hyper-parameter or metric.
        snapshots: name of a snapshot, a list of them, or ``all``.
        where: a pandas query over the zoo's members; dotted columns need no backticks.
        padding: lay smaller members into the largest for readers of one architecture, so that
            they can read members of different width; others get the same members as they are.
    """

    target: str
    snapshots: str | Names = "end"
    where: str | None = None
    padding: bool = False

    @property
    def times(self) -> Literal["all"] | tuple[str, ...]:
        """The snapshots as a list, or ``all``."""
        if self.snapshots == "all":
            return "all"
        return (self.snapshots,) if isinstance(self.snapshots, str) else self.snapshots


class SplitConfig(Section):
    """Which samples are for training, validation and test.

    Attributes:
        by: ``cell``, ``seed`` or ``region``; snapshots of a member always stay together.
        test: share of test samples; of a region, what it is.
        validation: share of validation samples.
        seed: another one gives another split.
        region: a pandas query over cells, whose samples are the test samples.
    """

    by: Literal["cell", "seed", "region"] = "cell"
    test: float = Field(default=0.2, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    region: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.test + self.validation >= 1:
            raise ValueError(
                f"test/validation: found {self.test} and {self.validation}, expected less than 1 "
                "together"
            )
        if (self.region is not None) != (self.by == "region"):
            raise ValueError("region: expected one exactly where by = 'region'")
        return self


class TrainingConfig(Section):
    """What every reader that is trained by gradients gets; see :class:`Training`."""

    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    looks: int = Field(default=20, ge=1)

    @property
    def training(self) -> Training:
        """The same for a reader."""
        return Training(self.steps, self.batch_size, self.looks)


class TuningConfig(Section):
    """The budget of options, equal for all readers.

    Attributes:
        trials: the defaults of a reader, and random draws from what it allows.
        seed: of the draws.
    """

    trials: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)


class RunConfig(Section):
    """One comparison of readers, complete and checked.

    Attributes:
        name: short name, used in titles.
        description: what it is for.
        seeds: how often the best trial of a reader is fitted; mean and spread go over them.
        readers: that are compared, besides the constant and the hyper-parameters alone.
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    task: TaskConfig
    split: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()
    tuning: TuningConfig = TuningConfig()
    seeds: int = Field(default=3, ge=1)
    readers: Names

    def identity(self) -> str:
        """Hex sha256 of what decides the result of one fit: neither how many, nor words."""
        table = self.model_dump(mode="json", exclude={"name", "description", "seeds", "readers"})
        table["tuning"].pop("trials")
        text = json.dumps(table, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the TOML file of a comparison, with ``section.key=value`` overrides.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake.
    """
    return load_table(RunConfig, path, overrides)
