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
from zoogen.networks import Network
from zoogen.zoo import Zoo

SMALLEST_PART = 8
"""Fewer members in a part say nothing about a generator."""


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


class Parts(NamedTuple):
    """Who may see which members; each run is in one part.

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
            f"{' and '.join(sizes)}; select one with --where"
        )
    finite = np.isfinite(chosen.values).all(axis=1)
    if not finite.any():
        raise ConfigError(f"{zoo.path}: all {len(finite)} selected members diverged; select others")
    table = zoo.members.loc[list(chosen.ids)]
    left_out = int((~finite).sum())
    return Population(networks[first], chosen.values[finite], table[finite], left_out)


def parted(
    population: Population, shares: tuple[float, float] = (0.1, 0.2), seed: int = 0
) -> Parts:
    """A population parted by run, the same way whatever else is in it.

    Args:
        population: of independent runs.
        shares: of the validation and of the held-out part.
        seed: of the parting.

    Raises:
        ConfigError: if a part would have fewer than ``SMALLEST_PART`` members.
    """
    place = np.array([_place(str(name), seed) for name in population.table.index])
    held_out = place < shares[1]
    validation = ~held_out & (place < shares[0] + shares[1])
    parts = [np.flatnonzero(rows) for rows in (~held_out & ~validation, validation, held_out)]
    sizes = [len(rows) for rows in parts]
    if min(sizes) < SMALLEST_PART:
        raise ConfigError(
            f"population of {len(population)} members: too small to be parted; train, validation "
            f"and held-out parts would have {sizes[0]}, {sizes[1]} and {sizes[2]} of them, "
            f"expected at least {SMALLEST_PART} each; generate more seeds"
        )
    return Parts(*(population.rows(rows) for rows in parts))


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that only the member and the seed decide."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def member_ids(run: str, seed: int, count: int) -> Sequence[str]:
    """Twelve hex digits for each of the networks that a run samples."""
    texts = (f"{run} {seed} {number}" for number in range(count))
    return [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]
