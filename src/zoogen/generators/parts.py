"""Who may see which members of a population: parts by run, drawn from the members' identities."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from zoogen.errors import ConfigError

SMALLEST = 5  # runs; a part with fewer says nothing


class Shares(NamedTuple):
    """Shares of the runs; what they leave is held out."""

    train: float = 0.7
    validation: float = 0.1


class Parts(NamedTuple):
    """Rows of a population; disjoint, and together all of it.

    Attributes:
        train: that a generator is fitted on, and that it must not copy.
        validation: on which the best step, setting or sample is chosen.
        held_out: with which samples are compared; an evaluator alone reads these.
    """

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " v"]
    held_out: Int[np.ndarray, " h"]


def split_runs(ids: Sequence[str], seed: int = 0, shares: Shares = Shares()) -> Parts:  # noqa: B008
    """Split by run: rows with one id, snapshots of one run, are in one part.

    The part of a run is a hash of the seed and its id. It does not depend on the other runs, so
    that a population may grow and no run leaves its part; sizes meet the shares on average.

    Args:
        ids: of the run of each row.
        seed: another seed gives another, independent split.
        shares: of train and validation.

    Raises:
        ConfigError: if shares are none, or a part has fewer than ``SMALLEST`` runs.

    Example:
        >>> parts = split_runs([f"run {i}" for i in range(1000)])
        >>> [round(len(part), -2) for part in parts]
        [700, 100, 200]
    """
    if min(shares) <= 0 or sum(shares) >= 1:
        raise ConfigError(
            f"split: found shares {tuple(shares)} for train and validation, expected both above 0 "
            "and their sum below 1, so that runs are held out"
        )
    places = np.array([_place(seed, run) for run in ids], float)
    part = np.searchsorted(np.cumsum(shares), places, side="right")
    for number, name in enumerate(Parts._fields):
        runs = len({run for run, of in zip(ids, part, strict=True) if of == number})
        if runs < SMALLEST:
            raise ConfigError(
                f"split: {len(set(ids))} runs leave {runs} for {name!r}, expected at least "
                f"{SMALLEST}; train more runs, or change the shares or the seed of the split"
            )
    return Parts(*(np.flatnonzero(part == number) for number in range(3)))


def drawn(ids: Sequence[str], seed: int, count: int) -> Int[np.ndarray, " n"]:
    """Rows of ``count`` runs, chosen by the hashes that part them: few are some of many.

    The order of a zoo goes by cell, so that its first runs are of a few cells only.

    Example:
        >>> few, many = (drawn([f"run {i}" for i in range(9)], 0, count) for count in (3, 6))
        >>> bool(np.isin(few, many).all())
        True
    """
    places = [_place(seed, run) for run in ids]
    return np.sort(np.argsort(places, kind="stable")[:count])


def _place(seed: int, run: str) -> float:
    """Uniform in [0, 1), from an identity."""
    digest = hashlib.sha256(f"{seed}/{run}".encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48
