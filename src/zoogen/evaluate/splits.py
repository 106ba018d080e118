"""Splits: which samples are for training, validation and test, without leaks between them.

A side is decided by a hash of an identity, not by a draw: a zoo that grows, or whose members are
read in another order, keeps every one of them on its side. All snapshots of a member are always on
one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from zoogen.errors import ConfigError
from zoogen.evaluate.problem import Split
from zoogen.evaluate.samples import quoted

By = Literal["cell", "seed", "region"]
Level = Literal["member", "cell", "image"]

UNITS = {"cell": "cell", "seed": "member", "region": "cell"}
"""Way to split → column whose equal entries stay together."""


def split_of(
    table: pd.DataFrame,
    by: By = "cell",
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    region: str | None = None,
    level: Level = "member",
) -> Split:
    """Divide samples.

    Args:
        table: of :class:`~zoogen.evaluate.problem.Samples`.
        by: ``cell``: members of a cell stay together; ``seed``: single members, so that other
            seeds of a test member's cell are trained on; ``region``: the test samples are those
            of a region, the others are split by cell.
        test: share of test samples, on average; of a region, what it is.
        validation: share of validation samples, on average.
        seed: another one gives another split.
        region: a pandas query, such as ``network.width >= 24``.
        level: ``cell`` if all members of a cell have the same target; ``image`` if all that show
            one image have, which then stay together in place of cells.

    Raises:
        ConfigError: if a side is empty, members would leak, or the region is no query over cells.

    Example:
        >>> table = pd.DataFrame({"member": list("abcdef"), "cell": list("xxyyzz")})
        >>> split = split_of(table.assign(**{"train.epochs": [1, 1, 2, 2, 3, 3]}), "region",
        ...                  validation=0.5, seed=5, region="train.epochs > 2")
        >>> split.train.tolist(), split.validation.tolist(), split.test.tolist()
        ([0, 1], [2, 3], [4, 5])
    """
    if by == "seed" and level != "member":
        raise ConfigError(
            f"split.by: found 'seed', but the target is one of the whole {level}, so that other "
            f"seeds of the same {level} would tell it; use 'cell' or 'region'"
        )
    units = units_of(table, by, level)
    if by == "region":
        held_out, test = _region(table, region, units, level), 0.0
    else:
        held_out = np.zeros(len(table), bool)
    draws = _draws(seed, units)
    is_test = held_out | (draws < test)
    is_validation = ~is_test & (draws < test + validation)
    sides = (~is_test & ~is_validation, is_validation, is_test)
    return _checked(Split(*map(np.flatnonzero, sides)), by, len(table))


def units_of(table: pd.DataFrame, by: By, level: Level) -> pd.Series:
    """What stays together on a side: a sample's cell or member; or the image that it shows,
    whatever the hyper-parameters it was fitted with."""
    if level == "image":
        return table["split"].astype(str) + "/" + table["image"].astype(str)
    return table[UNITS[by]]


def _draws(seed: int, units: Iterable[str]) -> Float[np.ndarray, " n"]:
    """A number from 0 to 1 for every identity."""
    return np.array([_draw(f"{seed}/{unit}") for unit in units])


def _draw(identity: str) -> float:
    digest = hashlib.sha256(identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _region(
    table: pd.DataFrame, region: str | None, units: pd.Series, level: Level
) -> Bool[np.ndarray, " n"]:
    """The samples inside of a region that holds cells (or images) as a whole."""
    if region is None:
        raise ConfigError("split.region: missing; split.by = 'region' needs a query over cells")
    try:
        inside = np.asarray(table.eval(quoted(region, table.columns)))
    except Exception as error:  # pandas raises whatever the expression raises
        raise ConfigError(
            f"split.region: {region!r} is no query over cells: {error}; columns: "
            f"{', '.join(n for n in table if '.' in n or n.startswith('phase'))}"
        ) from None
    if inside.dtype != bool or inside.shape != (len(table),):
        raise ConfigError(f"split.region: {region!r} is no condition that a cell meets or not")
    parts = pd.Series(inside).groupby(units.to_numpy()).nunique()
    if (parts > 1).any():
        one = "image" if level == "image" else "cell"
        raise ConfigError(
            f"split.region: {region!r} cuts {one} {parts.idxmax()} in two; give a region of whole "
            f"{one}s" + ("" if one == "image" else ", in terms of hyper-parameters or of phase")
        )
    return inside


def _checked(split: Split, by: str, total: int) -> Split:
    for name in ("train", "validation", "test"):
        if not len(getattr(split, name)):
            raise ConfigError(
                f"split: {name} has no sample of {total}; raise its share, or split.by = {by!r} "
                "needs more cells, another seed or another region"
            )
    return split
