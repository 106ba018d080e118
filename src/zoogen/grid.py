"""The plan of a zoo: which members there are, and which of them share one compiled program.

The cells of a plan are a cross of axes, or draws of a random search. Ids are hashes of what they
stand for. They do not change when the grid or the number of draws grows, when axes are reordered,
or when zoogen gains hyper-parameters with defaults.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zoogen.config import PER_MEMBER_PARAMETERS, Config, Draws, Scalar
from zoogen.errors import ConfigError

MEMBER_LIMIT = 2_000_000
"""More members than this are planned (counted) but not expanded."""

_ROUND = "-"  # before the name of the round in the id of a cohort of added cells
_NOT_IDENTITY = (
    ("data", "path"), ("data", "sha256"), ("data", "probe_examples"), ("train", "snapshots"),
)  # fmt: skip
# The number of images is the number of members, and changes none of them.
_NOT_IDENTITY_OF_FITS = (("data", "train_examples"), ("data", "test_examples"))


@dataclass(frozen=True)
class Member:
    """One network to train.

    Attributes:
        id: twelve hex digits; a hash of all hyper-parameters, the root seed and ``seed``.
        cell: the same without ``seed``.
        seed: 0 … seeds − 1.
        values: hyper-parameters that are arrays over the members of a program, by dotted key.
        image: number of the image that it fits, training images first, then test images; ``None``
            for a classifier.
    """

    id: str
    cell: str
    seed: int
    values: Mapping[str, float]
    image: int | None = None


@dataclass(frozen=True)
class Cohort:
    """Members that share one program.

    Attributes:
        id: twelve hex digits, a hash of the static hyper-parameters; of added cells with the name
            of their round behind.
        config: the config with the static hyper-parameters of this cohort.
        members: cell by cell, seeds in order.
    """

    id: str
    config: Config
    members: tuple[Member, ...]


Values = Mapping[str, Scalar]
"""Hyper-parameters by dotted key."""


@dataclass(frozen=True)
class Plan:
    """A config, the cells that its grid spans or draws, and those that were added to them.

    Attributes:
        config: with the grid.
        further: name of a round of refinement → values of its cells along the axes of the grid.
    """

    config: Config
    further: Mapping[str, Sequence[Values]] = field(default_factory=dict)

    @cached_property
    def axes(self) -> dict[str, tuple[Scalar, ...]]:
        """Every axis and its values; a random search has none."""
        return self.config.axis_values()

    @cached_property
    def static_axes(self) -> dict[str, tuple[Scalar, ...]]:
        """The axes whose values are programs of their own."""
        return {k: v for k, v in self.axes.items() if k not in PER_MEMBER_PARAMETERS}

    @cached_property
    def member_axes(self) -> dict[str, tuple[Scalar, ...]]:
        """The axes that are arrays over members."""
        return {k: v for k, v in self.axes.items() if k in PER_MEMBER_PARAMETERS}

    @cached_property
    def draws(self) -> Draws | None:
        """The draws of a random search, or none."""
        return Draws.of(self.config)

    @property
    def static_keys(self) -> tuple[str, ...]:
        """The hyper-parameters whose values are programs of their own."""
        return tuple(k for k in self.config.grid.varying if k not in PER_MEMBER_PARAMETERS)

    @property
    def n_cohorts(self) -> int:
        if self.draws is not None:
            return len(self.draws.programs)
        return math.prod(len(v) for v in self.static_axes.values())

    @property
    def n_cells(self) -> int:
        if self.draws is not None:
            return self.draws.count
        grid = math.prod(len(v) for v in self.axes.values()) + sum(map(len, self.further.values()))
        return grid * (sum(self.config.images) or 1)

    @property
    def n_members(self) -> int:
        return self.n_cells * self.config.grid.seeds

    @cached_property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts with their members: those of the grid, then those of further cells.

        Raises:
            ConfigError: if the grid is too large to be expanded.
        """
        if self.n_members > MEMBER_LIMIT:
            raise ConfigError(
                f"config {self.config.name!r}: the grid has {self.n_members:,} members, more than "
                f"the limit of {MEMBER_LIMIT:,}; take values off an axis or lower grid.seeds"
            )
        if self.draws is not None:
            return self._drawn(self.draws)
        of_grid = (
            self._cohort(config, _cross(self.member_axes)) for config in self.iterate_static()
        )
        further = (
            cohort for name, cells in self.further.items() for cohort in self._added(name, cells)
        )
        return (*of_grid, *further)

    def iterate_static(self) -> Iterator[Config]:
        """The config of one cohort after another, without their members."""
        for index in range(self.n_cohorts):
            yield self.static_config(index)

    def static_config(self, index: int) -> Config:
        """The config of one cohort, 0 to ``n_cohorts`` − 1; the last axis runs fastest."""
        if self.draws is not None:
            return self.config.with_values(self.draws.programs[index])
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

    def _cohort(self, config: Config, cells: Iterable[Values], suffix: str = "") -> Cohort:
        configs = (config.with_values(values) for values in cells)
        members = [member for cell in configs for member in _members(cell, self.config.grid.seeds)]
        return Cohort(self.cohort_id(config) + suffix, config, tuple(members))

    def _drawn(self, draws: Draws) -> tuple[Cohort, ...]:
        """The cohorts of a random search.

        Raises:
            ConfigError: if two draws are the same cell.
        """
        cells: list[list[Values]] = [[] for _ in draws.programs]
        for number in range(draws.count):
            cells[draws.program(number)].append(draws.of_member(number))
        configs = map(self.config.with_values, draws.programs)
        cohorts = tuple(map(self._cohort, configs, cells))
        found = {member.cell for cohort in cohorts for member in cohort.members}
        if len(found) < draws.count:
            raise ConfigError(
                f"config {self.config.name!r}: grid.random: {draws.count:,} draws give "
                f"{len(found):,} different cells; draw a hyper-parameter of "
                f"{', '.join(PER_MEMBER_PARAMETERS)} from a range without points, or lower members"
            )
        return cohorts

    def _added(self, name: str, cells: Sequence[Values]) -> Iterator[Cohort]:
        """The cohorts of a round. What is committed never changes, so that members which could
        share the program of a cohort of the grid still make a cohort of their own."""
        together: dict[tuple[Scalar, ...], list[Values]] = {}
        for values in cells:
            together.setdefault(tuple(values[key] for key in self.static_axes), []).append(values)
        for shared, own in together.items():
            config = self.config.with_values(dict(zip(self.static_axes, shared, strict=True)))
            of_members = [{key: values[key] for key in self.member_axes} for values in own]
            yield self._cohort(config, of_members, f"{_ROUND}{name}")


def round_of(cohort: str) -> str:
    """The round that added the cells of a cohort, from its id; empty for cells of the grid.

    Example:
        >>> round_of("0123456789ab-0002"), round_of("0123456789ab")
        ('0002', '')
    """
    return cohort.partition(_ROUND)[2]


def expand(config: Config, further: Mapping[str, Sequence[Values]] | None = None) -> Plan:
    """The plan of a config and of cells added to its grid.

    Does no work until its cohorts are asked for.
    """
    return Plan(config, further or {})


def _cross(axes: Mapping[str, tuple[Scalar, ...]]) -> Iterator[dict[str, Scalar]]:
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def split_of(config: Config, image: int) -> tuple[str, int]:
    """The split that the image of a member is in, and its place there.

    Example:
        >>> from zoogen.config import DataConfig, NetworkConfig, TrainConfig
        >>> data = DataConfig(train_examples=10, test_examples=2)
        >>> config = Config(name="zoo", data=data, train=TrainConfig(epochs=1))
        >>> split_of(config, 9), split_of(config, 10)
        (('train', 9), ('test', 0))
    """
    train = config.data.train_examples or 0
    return ("train", image) if image < train else ("test", image - train)


def _members(config: Config, seeds: int) -> Iterator[Member]:
    """The members of one point of the grid: one cell, or one for each image that is fitted."""
    identity = _identity(config)
    values = {key: float(config.values()[key] or 0.0) for key in PER_MEMBER_PARAMETERS}
    for image in range(sum(config.images)) if config.network.fits_image else (None,):
        own = identity if image is None else identity | {"image": split_of(config, image)}
        cell = _digest(own)
        for seed in range(seeds):
            yield Member(_digest(own | {"member": seed}), cell, seed, values, image)


def _identity(config: Config) -> dict[str, Any]:
    """What makes a member what it is; defaults are left out, so new ones change nothing."""
    table = config.model_dump(mode="json", exclude_defaults=True)
    identity: dict[str, Any] = {key: table.get(key, {}) for key in ("data", "network", "train")}
    fitted = _NOT_IDENTITY_OF_FITS if config.network.fits_image else ()
    for section, name in (*_NOT_IDENTITY, *fitted):
        identity[section].pop(name, None)
    return identity | {"root": config.seed}


def _digest(identity: Mapping[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
