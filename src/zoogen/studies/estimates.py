"""Estimates with an error: a number of a cell, and the same with each member left out once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Replicates(NamedTuple):
    """A number taken from n members.

    Attributes:
        whole: from all of them.
        left_out: from all but one, each in turn; NaN where too few remain.
    """

    whole: float
    left_out: Float[np.ndarray, " n"]

    @classmethod
    def means(cls, values: Float[np.ndarray, " n"]) -> Replicates:
        """The mean of one value a member; its error is the usual one of a mean."""
        rest = max(len(values) - 1, 1)
        left_out = (values.sum() - values) / rest if len(values) > 1 else np.full(1, np.nan)
        return cls(float(values.mean()), left_out)

    def minus(self, other: Replicates) -> Replicates:
        """Difference of two numbers of the same members, so that what they share cancels."""
        return Replicates(self.whole - other.whole, self.left_out - other.left_out)

    @property
    def stderr(self) -> float:
        """Standard error over members by the jackknife (Quenouille, 1956; Tukey, 1958).

        Example:
            >>> values = np.array([1.0, 2.0, 4.0])
            >>> error = Replicates.means(values).stderr
            >>> bool(np.isclose(error, values.std(ddof=1) / np.sqrt(3)))
            True
        """
        n = len(self.left_out)
        return float(np.sqrt((n - 1) * self.left_out.var()))


class Estimate(NamedTuple):
    """One row of a study.

    Attributes:
        cell: id.
        variant: of the study; empty where there is one only.
        setting: what was varied.
        members: of the cell that took part.
        accuracy: test accuracy, 0 to 1.
        accuracy_stderr: over members; NaN where there are too few.
        reference: accuracy that it is compared with.
        reference_stderr: over members.
        gain: ``accuracy`` minus ``reference``.
        gain_stderr: over members, paired.
    """

    cell: str
    variant: str
    setting: int | float | str
    members: int
    accuracy: float
    accuracy_stderr: float
    reference: float
    reference_stderr: float
    gain: float
    gain_stderr: float


def compare(
    cell: str,
    setting: int | float | str,
    found: Replicates,
    reference: Replicates,
    variant: str = "",
) -> Estimate:
    """The row of a cell from two numbers of the same members."""
    gain = found.minus(reference)
    return Estimate(
        cell, variant, setting, len(found.left_out), found.whole, found.stderr,
        reference.whole, reference.stderr, gain.whole, gain.stderr,
    )  # fmt: skip


def compare_members(
    cells: Iterable[tuple[str, Int[np.ndarray, " n"]]],
    setting: int | float | str,
    found: Float[np.ndarray, " m"],
    reference: Float[np.ndarray, " m"],
    variant: str = "",
) -> Iterator[Estimate]:
    """The rows of cells from two values a member; one that lacks a value takes no part.

    Args:
        cells: with the places of their members.
        setting: what was varied.
        found: NaN for members that diverged on the way.
        reference: what each is compared with.
        variant: of the study.
    """
    known = np.isfinite(found) & np.isfinite(reference)
    for cell, places in cells:
        kept = places[known[places]]
        if kept.size:
            pair = Replicates.means(found[kept]), Replicates.means(reference[kept])
            yield compare(cell, setting, *pair, variant)


def leaving_out(count: int) -> list[Int[np.ndarray, " n"]]:
    """All members, then all but each in turn.

    Nothing is left out of two: what is combined would be a single member, which differs from
    itself by nothing, and the error would come out as 0.

    Example:
        >>> [places.tolist() for places in leaving_out(3)]
        [[0, 1, 2], [1, 2], [0, 2], [0, 1]]
        >>> len(leaving_out(2))
        1
    """
    places = np.arange(count)
    return [places, *(np.delete(places, i) for i in places)] if count > 2 else [places]


def replicates(count: int, number: Callable[[Int[np.ndarray, " n"]], float]) -> Replicates:
    """A number of ``count`` members, from all and from all but each."""
    whole, *rest = (number(places) for places in leaving_out(count))
    return Replicates(whole, np.array(rest or [np.nan] * count))
