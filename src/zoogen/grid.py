"""The plan of a zoo: which members there are, and which of them share one compiled program.

Ids are hashes of what they stand for. They do not change when the grid grows, when axes are
reordered, or when zoogen gains hyper-parameters with defaults.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoogen.config import PER_MEMBER_PARAMETERS, Config, Scalar
from zoogen.errors import ConfigError

MEMBER_LIMIT = 2_000_000
"""More members than this are planned (counted) but not expanded."""

_NOT_IDENTITY = (
    ("data", "path"), ("data", "sha256"), ("data", "probe_examples"), ("train", "snapshots"),
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One network to train.

    Attributes:
        id: twelve hex digits; a hash of all hyper-parameters, the root seed and ``seed``.
        cell: the same without ``seed``.
        seed: 0 … seeds − 1.
        values: hyper-parameters that are arrays over the members of a program, by dotted key.
    """

    id: str
    cell: str
    seed: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Cohort:
    """Members that share one program.

    Attributes:
        id: twelve hex digits; a hash of the static hyper-parameters.
        config: the config with the static hyper-parameters of this cohort.
        members: cell by cell, seeds in order.
    """

    id: str
    config: Config
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Plan:
    """A config and the grid that it spans."""

    config: Config

    @cached_property
    def axes(self) -> dict[str, tuple[Scalar, ...]]:
        """Every axis and its values."""
        return self.config.axis_values()

    @cached_property
    def static_axes(self) -> dict[str, tuple[Scalar, ...]]:
        """The axes whose values are programs of their own."""
        return {k: v for k, v in self.axes.items() if k not in PER_MEMBER_PARAMETERS}

    @cached_property
    def member_axes(self) -> dict[str, tuple[Scalar, ...]]:
        """The axes that are arrays over members."""
        return {k: v for k, v in self.axes.items() if k in PER_MEMBER_PARAMETERS}

    @property
    def n_cohorts(self) -> int:
        return math.prod(len(v) for v in self.static_axes.values())

    @property
    def n_cells(self) -> int:
        return math.prod(len(v) for v in self.axes.values())

    @property
    def n_members(self) -> int:
        return self.n_cells * self.config.grid.seeds

    @cached_property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts with their members.

        Raises:
            ConfigError: if the grid is too large to be expanded.
        """
        if self.n_members > MEMBER_LIMIT:
            raise ConfigError(
                f"config {self.config.name!r}: the grid has {self.n_members:,} members, more than "
                f"the limit of {MEMBER_LIMIT:,}; take values off an axis or lower grid.seeds"
            )
        return tuple(self._cohort(config) for config in self.iterate_static())

    def iterate_static(self) -> Iterator[Config]:
        """The config of one cohort after another, without their members."""
        for index in range(self.n_cohorts):
            yield self.static_config(index)

    def static_config(self, index: int) -> Config:
        """The config of one cohort, 0 to ``n_cohorts`` − 1; the last axis runs fastest."""
        chosen = {}
        for key, values in reversed(self.static_axes.items()):
            index, place = divmod(index, len(values))
            chosen[key] = values[place]
        return self.config.with_values(chosen)

    def cohort_id(self, config: Config) -> str:
        """Twelve hex digits that stand for the static hyper-parameters of a config."""
        identity = _identity(config)
        for key in PER_MEMBER_PARAMETERS:
            section, name = key.split(".")
            identity[section].pop(name, None)
        return _digest(identity)

    def _cohort(self, config: Config) -> Cohort:
        cells = (config.with_values(values) for values in _cross(self.member_axes))
        members = [member for cell in cells for member in _members(cell, self.config.grid.seeds)]
        return Cohort(self.cohort_id(config), config, tuple(members))


def expand(config: Config) -> Plan:
    """The plan of a config. Does no work until its cohorts are asked for."""
    return Plan(config)


def _cross(axes: Mapping[str, tuple[Scalar, ...]]) -> Iterator[dict[str, Scalar]]:
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _members(config: Config, seeds: int) -> Iterator[Member]:
    """The members of one cell."""
    identity = _identity(config)
    cell = _digest(identity)
    values = {key: float(config.values()[key] or 0.0) for key in PER_MEMBER_PARAMETERS}
    for seed in range(seeds):
        yield Member(_digest(identity | {"member": seed}), cell, seed, values)


def _identity(config: Config) -> dict[str, Any]:
    """What makes a member what it is; defaults are left out, so new ones change nothing."""
    table = config.model_dump(mode="json", exclude_defaults=True)
    identity: dict[str, Any] = {key: table.get(key, {}) for key in ("data", "network", "train")}
    for section, name in _NOT_IDENTITY:
        identity[section].pop(name, None)
    return identity | {"root": config.seed}


def _digest(identity: Mapping[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
