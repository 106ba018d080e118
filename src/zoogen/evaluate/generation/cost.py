"""Cost: generating networks beside simply training fresh ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoogen.zoo import Zoo


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time on one machine.

    Attributes:
        fit_seconds: to train the generator.
        sample_seconds: per generated network.
        population_seconds: that the training members took; a generator needs them first.
        fresh_seconds: per fresh network, trained as the population was.
        device: what the generator ran on; the population's may be another.
    """

    fit_seconds: float
    sample_seconds: float
    population_seconds: float
    fresh_seconds: float
    device: str = ""

    @property
    def rate(self) -> float:
        """Generated networks per second."""
        return 1 / self.sample_seconds if self.sample_seconds > 0 else math.inf

    @property
    def break_even(self) -> float:
        """Networks from which on generating is cheaper than training as many fresh ones.

        The population is not counted, which favours the generator; infinite where a fresh network
        is as cheap as a sample.

        Example:
            >>> Cost(100.0, 0.01, 500.0, 0.11).break_even
            1000.0
        """
        saved = self.fresh_seconds - self.sample_seconds
        return self.fit_seconds / saved if saved > 0 else math.inf


def training_seconds(zoo: Zoo, cohort: str) -> float:
    """Seconds that training one member of a cohort took, compilation included.

    As stored block by block; what was lost with a killed run is not in it.
    """
    blocks = zoo.reader.manifest.cohorts[cohort].blocks.values()
    seconds = [block.info.get("seconds") for block in blocks]
    known = [float(value) for value in seconds if isinstance(value, int | float)]
    members = len(zoo.reader.committed(cohort))
    return sum(known) / members if members and len(known) == len(seconds) else math.nan
