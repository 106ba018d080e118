"""Samples: members of a zoo at some times of training, as rows of one table, and their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError, DataUnavailableError, NotFoundError
from zoogen.evaluate.problem import Block, Samples
from zoogen.networks import Network
from zoogen.zoo import Zoo

Snapshots = Literal["all"] | Sequence[str]

DIVERGED = "diverged"
NOT_FINITE = "weights not finite"

_QUOTED = re.compile(r"(`[^`]*`|'[^']*'|\"[^\"]*\")")
_INITIAL = ("init", "init_scale", "omega")  # what a network computes does not depend on them


@dataclass(frozen=True)
class Selection:
    """Samples without their weights.

    Attributes:
        table: one row a sample, as in :class:`Samples`; besides, ``row`` and ``position`` say
            where its weights lie in those of the cohort, and ``epoch`` when they were taken.
        excluded: reason → how many samples were left out for it.
    """

    table: pd.DataFrame
    excluded: Mapping[str, int] = field(default_factory=dict)

    def without(self, rows: Bool[np.ndarray, " n"], reason: str) -> Selection:
        """The others, and these counted."""
        if not rows.any():
            return self
        total = self.excluded.get(reason, 0) + int(rows.sum())
        left = self.table[~rows].reset_index(drop=True)
        return Selection(left, {**self.excluded, reason: total})


def samples_of(zoo: Zoo, snapshots: Snapshots = ("end",), where: str | None = None) -> Samples:
    """Members at some snapshots with their weights; diverged ones are left out and counted.

    Args:
        zoo: an open zoo.
        snapshots: names, or ``all``.
        where: a pandas query over the members; dotted columns need no backticks.

    Raises:
        NotFoundError: if a cohort has no such snapshot, or nothing is left.
        ConfigError: if ``where`` is no query.

    Example:
        >>> samples_of(zoo, "all", "network.width >= 8")  # doctest: +SKIP
    """
    return read_samples(zoo, selection(zoo, snapshots, where))


def selection(zoo: Zoo, snapshots: Snapshots = ("end",), where: str | None = None) -> Selection:
    """The same without weights: what targets and splits are made from."""
    members = zoo.select(None if where is None else quoted(where, zoo.members.columns))
    known = [name for cohort in zoo.cohorts for name in zoo.reader.metric_names(cohort)]
    members = members.drop(columns=[name for name in set(known) if name in members])
    times = pd.concat([_times(zoo, c, snapshots) for c in dict.fromkeys(members["cohort"])])
    # A member's snapshots stand side by side, in the order of training.
    table = members.rename_axis("member").reset_index().merge(times, on="cohort", how="left")
    chosen = Selection(table).without(table.pop("diverged").to_numpy(bool), DIVERGED)
    _refuse_nothing(zoo, chosen)
    return chosen


def quoted(query: str, columns: Iterable[str]) -> str:
    """A pandas query whose dotted columns stand in backticks.

    Example:
        >>> quoted("network.width >= 24 and `train.momentum` > 0", ["network.width"])
        '`network.width` >= 24 and `train.momentum` > 0'
    """
    dotted = "|".join(re.escape(name) for name in columns if "." in name)
    if not dotted:
        return query
    parts = _QUOTED.split(query)  # every other one is quoted already
    pattern = re.compile(rf"(?<![\w.])({dotted})(?![\w.])")
    return "".join(p if i % 2 else pattern.sub(r"`\1`", p) for i, p in enumerate(parts))


def _times(zoo: Zoo, cohort: str, snapshots: Snapshots) -> pd.DataFrame:
    """Name, position and epoch of the snapshots of a cohort that are asked for."""
    times = zoo.snapshots(cohort)
    names = list(times["name"])
    wanted = names if snapshots == "all" else list(snapshots)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise NotFoundError(
            f"{zoo.path}: no snapshot {missing[0]!r} in cohort {cohort!r}; there are: "
            f"{', '.join(names)}"
        )
    positions = sorted({names.index(name) for name in wanted})
    return pd.DataFrame(
        {
            "cohort": cohort,
            "snapshot": [names[position] for position in positions],
            "position": positions,
            "epoch": times["epoch"].to_numpy()[positions],
        }
    )


# --------------------------------------------------------------------------------------- weights
def read_samples(zoo: Zoo, chosen: Selection) -> Samples:
    """Samples with their weights; those whose weights are not finite are left out and counted.

    Raises:
        NotFoundError: if nothing is left.
    """
    blocks = list(_blocks(zoo, chosen.table))
    finite = np.ones(len(chosen.table), bool)
    for block in blocks:
        finite[block.rows] = np.isfinite(block.weights).all(axis=1)
    chosen = chosen.without(~finite, NOT_FINITE)
    _refuse_nothing(zoo, chosen)
    number = np.cumsum(finite) - 1
    facts = zoo.reader.cohort(str(chosen.table["cohort"].iloc[0])).info
    mean, std = (np.asarray(facts[name], np.float32) for name in ("mean", "std"))
    return Samples(
        chosen.table,
        tuple(kept for block in blocks if (kept := _kept(block, finite, number)) is not None),
        varying(chosen.table),
        _probes(zoo),
        mean,
        std,
        chosen.excluded,
    )


def varying(table: pd.DataFrame) -> tuple[str, ...]:
    """The hyper-parameters that differ between samples, and the time of training if it does."""
    dotted = [name for name in table if "." in name or name == "epoch"]
    return tuple(name for name in dotted if table[name].nunique(dropna=False) > 1)


def _blocks(zoo: Zoo, table: pd.DataFrame) -> Iterator[Block]:
    """The weights of all samples, those of one function together."""
    networks = {cohort: zoo.network(cohort) for cohort in dict.fromkeys(table["cohort"])}
    functions = table["cohort"].map({c: _function(network) for c, network in networks.items()})
    for function in dict.fromkeys(functions):
        rows = np.flatnonzero((functions == function).to_numpy())
        network = networks[table["cohort"].iloc[rows[0]]]
        weights = np.empty((len(rows), network.spec.size), np.float32)
        part = table.iloc[rows].reset_index(drop=True)
        for (cohort, position), own in part.groupby(["cohort", "position"], sort=False):
            places = own["row"].to_numpy()
            weights[own.index] = zoo.reader.read(str(cohort), "weights", places, int(position))
        yield Block(network, rows, weights)


def _function(network: Network) -> tuple[object, ...]:
    """Equal for networks that compute the same from the same weights."""
    fields = NetworkConfig.model_fields
    plain = {name: fields[name].default for name in _INITIAL}
    return network.config.model_copy(update=plain), network.image_shape, network.classes


def _kept(
    block: Block, finite: Bool[np.ndarray, " n"], number: Int[np.ndarray, " n"]
) -> Block | None:
    inside = finite[block.rows]
    if inside.all():
        return Block(block.network, number[block.rows], block.weights)
    if not inside.any():
        return None
    return Block(block.network, number[block.rows[inside]], block.weights[inside])


def _probes(zoo: Zoo) -> Float[np.ndarray, "k c h w"]:
    """Images that members can be asked about; none where the data set can't be had here."""
    try:
        probes, _ = zoo.dataset.probes(zoo.config.data)
    except DataUnavailableError:
        return np.zeros((0, *zoo.facts["image_shape"]), np.float32)
    return np.asarray(probes.images)


def _refuse_nothing(zoo: Zoo, chosen: Selection) -> None:
    if chosen.table.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in chosen.excluded.items())
        raise NotFoundError(f"{zoo.path}: no sample is left ({reasons}); choose another `where`")


def refuse_other_layouts(samples: Samples, whose: str, otherwise: str = "") -> None:
    """Refuse samples of several architectures for who takes one.

    Networks that differ in their activation alone have the same parameters.

    Args:
        samples: of any number of blocks.
        whose: name of the reader or target, for the message.
        otherwise: what may be done besides padding and selecting members.

    Raises:
        ConfigError: naming two cohorts that differ.
    """
    first = samples.blocks[0]
    for other in samples.blocks[1:]:
        if other.spec.parameters != first.spec.parameters:
            one, two = (_first(samples, "cohort", block) for block in (first, other))
            raise ConfigError(
                f"{whose}: found cohort {one!r} with {first.spec.size} parameters and cohort "
                f"{two!r} with {other.spec.size} or in other tensors (first member "
                f"{_first(samples, 'member', other)}), expected one architecture; {otherwise}set "
                "task.padding = true, or select with task.where"
            )


def _first(samples: Samples, column: str, block: Block) -> str:
    return str(samples.table[column].iloc[block.rows[0]]) if len(block.rows) else "without rows"
