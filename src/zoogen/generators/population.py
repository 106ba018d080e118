"""What generators are fitted on: trained members of one architecture, parted by run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from zoogen.errors import ConfigError
from zoogen.generators.parts import Shares, split_runs
from zoogen.networks import Network
from zoogen.zoo import Zoo


@dataclass(frozen=True)
class Population:
    """Members of one architecture at the end of training.

    Attributes:
        network: that they share.
        values: their flat weights, finite.
        table: their rows of :attr:`zoogen.Zoo.members`, in the same order.
        left_out: members that the selection named but that diverged.
    """

    network: Network
    values: Float32[np.ndarray, "n p"]
    table: pd.DataFrame
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, rows: Int[np.ndarray, " m"]) -> Population:
        """Some of the members."""
        return replace(self, values=self.values[rows], table=self.table.iloc[rows])


class Parted(NamedTuple):
    """A population whose members are known to different sides; each run is in one part.

    Attributes:
        train: that a generator is fitted on.
        validation: by which the best of its steps is chosen.
        held_out: that no generator sees: the measure of what is real.
    """

    train: Population
    validation: Population
    held_out: Population


def population_of(zoo: Zoo, where: str | None = None) -> Population:
    """The members of a zoo that a query selects, without those that diverged.

    Args:
        zoo: an open zoo.
        where: a pandas query over :attr:`zoogen.Zoo.members`.

    Raises:
        ConfigError: if the selection holds several architectures, or nothing is left.
        NotFoundError: if it selects nothing.

    Example:
        >>> population_of(zoo, "train_accuracy > 0.5")  # doctest: +SKIP
    """
    chosen = zoo.weights(where=where)
    networks = {cohort: zoo.network(cohort) for cohort in dict.fromkeys(chosen.cohorts)}
    first, *others = networks
    odd = [cohort for cohort in others if networks[cohort].spec != networks[first].spec]
    if odd:
        sizes = [f"{cohort} ({networks[cohort].config!r})" for cohort in (first, odd[0])]
        raise ConfigError(
            f"{zoo.path}: a generator makes networks of one architecture, found cohorts "
            f"{' and '.join(sizes)}; select one by population.where"
        )
    finite = np.isfinite(chosen.values).all(axis=1)
    if not finite.any():
        raise ConfigError(f"{zoo.path}: all {len(finite)} selected members diverged; select others")
    table = zoo.members.loc[list(chosen.ids)]
    left_out = int((~finite).sum())
    return Population(networks[first], chosen.values[finite], table[finite], left_out)


def parted(population: Population, seed: int = 0, shares: Shares = Shares()) -> Parted:  # noqa: B008
    """A population parted by run; see :func:`~zoogen.generators.parts.split_runs`.

    Args:
        population: of independent runs.
        seed: of the parting.
        shares: of train and validation.

    Raises:
        ConfigError: if a part would have too few members.
    """
    parts = split_runs([str(name) for name in population.table.index], seed, shares)
    return Parted(*(population.rows(rows) for rows in parts))


def member_ids(run: str, seed: int, count: int) -> Sequence[str]:
    """Twelve hex digits for each of the networks that a run samples."""
    texts = (f"{run} {seed} {number}" for number in range(count))
    return [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]
