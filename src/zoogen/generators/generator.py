"""Generators: one interface of everything that makes weights of new networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from zoogen.config import Config
from zoogen.generators.conditions import Conditioning
from zoogen.progress import Reporter, silent

if TYPE_CHECKING:
    import pandas as pd

    from zoogen.data import Dataset
    from zoogen.generators.population import Population
    from zoogen.networks import Network

State = dict[str, Any]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the members of the run come from.

    Attributes:
        network: that they share.
        config: of their training, without the grid.
        values: their hyper-parameters that differ, one row a training member.
        dataset: loads what they were trained on, without test images.
        conditioning: what the entries of condition vectors mean.
    """

    network: Network
    config: Config
    values: pd.DataFrame
    dataset: Callable[[], Dataset]
    conditioning: Conditioning = field(default_factory=Conditioning)


@dataclass(frozen=True)
class Fittable:
    """A part of a population with the condition vectors of its members.

    Attributes:
        population: the members.
        conditions: ``[n e]``; ``e`` is 0 without conditions.
        source: of the members, for generators that look at what they were trained on.
    """

    population: Population
    conditions: Float32[np.ndarray, "n e"]
    source: Source | None = None

    @property
    def network(self) -> Network:
        """That all members share."""
        return self.population.network

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many entries of a condition vector stand for each condition."""
        known = self.source.conditioning.quantities if self.source else ()
        return tuple(one.size for one in known) or (1,) * self.conditions.shape[1]

    @property
    def values(self) -> Float32[np.ndarray, "n p"]:
        """Flat weights of the members."""
        return self.population.values


@dataclass(frozen=True)
class Effort:
    """How long a generator is fitted; those without steps ignore all but the seed.

    Attributes:
        steps: optimiser steps.
        batch_size: members per step.
        learning_rate: of Adam, after a warm-up and before a cosine decay.
        looks: how often the validation loss is taken; the best look counts.
        seed: of everything random in the fit.
        checkpoint: where to keep the state of a fit that takes longer than a minute.
        reporter: shows progress.
        resumed: told, of each fit in a row, the seconds that went into the state it resumes from.
    """

    steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 1e-3
    looks: int = 20
    seed: int = 0
    checkpoint: Path | None = None
    reporter: Reporter = silent
    resumed: Callable[[float], None] = lambda seconds: None


@dataclass(frozen=True)
class Request:
    """What is asked of a sample.

    Attributes:
        seed: of the noise.
        count: networks.
        conditions: one row of the condition vector per network, zeros where nothing is asked, see
            :class:`~zoogen.generators.conditions.Conditioning`.
    """

    seed: int
    count: int
    conditions: Float32[np.ndarray, "n e"]


@dataclass(frozen=True)
class Generator:
    """A way to make weights.

    Attributes:
        definition: one sentence, with its source.
        fit: ``(train, validation, options, effort) → state``, a tree of arrays and nothing else,
            so that it can be stored.
        sample: ``(source, state, options, request) → weights [n p]``; the same request gives the
            same weights.
        options: their defaults by name.
        least: the smallest value of some options.
        sampling: names of those that a sample reads and that may differ from those of the fit.
        conditional: whether it reads conditions.
        trained: whether it takes optimiser steps.
    """

    definition: str
    fit: Callable[[Fittable, Fittable, Options, Effort], State]
    sample: Callable[[Source, State, Options, Request], Float32[np.ndarray, "n p"]]
    options: Mapping[str, Any] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    sampling: tuple[str, ...] = ()
    conditional: bool = False
    trained: bool = False
