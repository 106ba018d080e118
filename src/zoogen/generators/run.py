"""A run of a generator on disk: what was fitted, whole and checked, and samples of it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ValidationError

from zoogen.config import Config
from zoogen.config.wording import sentence
from zoogen.errors import ConfigError, CorruptZooError, NotFoundError
from zoogen.generators.conditions import Conditioning, Quantity, Wish, completed
from zoogen.generators.config import GeneratorConfig
from zoogen.generators.generator import Generator, Request, Source, State
from zoogen.generators.options import generator_of, known_options
from zoogen.generators.table import GENERATORS

if TYPE_CHECKING:
    from zoogen.data import Dataset

RUN, STATE, CHECKPOINT = "run.json", "state.npz", "checkpoint"
FORMAT = 3
SEEDS = 2**31


class _Info(BaseModel):
    image_shape: tuple[int, int, int]
    classes: int


class _Fit(BaseModel):
    seconds: float
    state_sha256: str


class _Facts(BaseModel):
    """What is read of the file of a run, which may hold more."""

    run: GeneratorConfig
    options: dict[str, Any]
    zoo: str
    population_sha256: str
    members: dict[str, int]
    config: Config
    info: _Info
    values: dict[str, list[float]]
    conditions: list[Quantity]
    fit: _Fit | None


@dataclass(frozen=True)
class Run:
    """A fitted generator.

    Attributes:
        path: of its directory.
        config: what it was told.
        facts: of the population and the fit, as its file holds them.
        state: what it learned.
    """

    path: Path
    config: GeneratorConfig
    facts: Mapping[str, Any]
    state: State

    @property
    def generator(self) -> Generator:
        """Its row of the table."""
        return GENERATORS[self.config.generator]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Of the generator, with the defaults of the day of the fit."""
        return dict(self.facts["options"])

    def sampling(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a sample, where some of them replace those of the run.

        Raises:
            ConfigError: for an option that the generator does not have, or that a fit was made
                with and no sample can change.
        """
        name, able = self.config.generator, self.generator.sampling
        found = known_options(name, options)
        for key, value in found.items():
            if key not in able and value != self.options[key]:
                raise ConfigError(
                    f"options.{key}: found {value!r}, but {name!r} was fitted with "
                    f"{self.options[key]!r}; sampling can change: {', '.join(able) or 'nothing'}"
                )
        return {**self.options, **found}

    def check(self, wish: Wish, options: Mapping[str, Any]) -> None:
        """Refuse what can't be asked of a sample, before any work.

        Raises:
            ConfigError: see :meth:`sample`.
        """
        self.conditioning.of_wish(wish, 1)
        self.sampling(options)

    @cached_property
    def conditioning(self) -> Conditioning:
        """What it can be asked for."""
        return Conditioning.from_json(self.facts["conditions"])

    @cached_property
    def zoo_config(self) -> Config:
        """Of the training of the members, without a grid."""
        return Config.model_validate(self.facts["config"])

    @cached_property
    def source(self) -> Source:
        """Where the members came from; its data set has no test images."""
        import pandas as pd

        from zoogen.data import load
        from zoogen.networks import build_network

        config, info = self.zoo_config, self.facts["info"]
        network = build_network(config.network, tuple(info["image_shape"]), info["classes"])
        values = pd.DataFrame(self.facts["values"])
        return Source(
            network, config, values, cache(lambda: load(config.data).blind()), self.conditioning
        )

    def sample(
        self,
        count: int,
        seed: int = 0,
        wish: Wish | None = None,
        options: Mapping[str, Any] | None = None,
        dataset: Dataset | None = None,
    ) -> Float32[np.ndarray, "n p"]:
        """Weights of new networks; equal arguments give equal weights.

        Args:
            count: networks.
            seed: of all noise.
            wish: condition → number or class; the rest is left open.
            options: of sampling, that replace those of the run, for example ``guidance``.
            dataset: that the generator is told of in place of the members' own, with as many
                classes and as large images; it changes nothing of generators that read no images.

        Raises:
            ConfigError: for a condition that the run does not know, an option that the generator
                does not have or that is none of sampling, a data set of other images or classes,
                no networks, or a seed that is negative or too large.
        """
        if count < 1:
            raise ConfigError(f"sample: found {count} networks, expected at least 1")
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"sample: found seed {seed}, expected 0 to {SEEDS - 1}")
        rows = self.conditioning.of_wish(wish or {}, count)
        return self.sample_rows(rows, seed, options, dataset)

    def sample_rows(
        self,
        conditions: Float32[np.ndarray, "n e"],
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        dataset: Dataset | None = None,
    ) -> Float32[np.ndarray, "n p"]:
        """One network per condition vector; see :meth:`sample`.

        Where a vector asks for nothing, that of a random training member takes its place.
        """
        chosen = self.sampling(options or {})
        known = self.state.get("conditions", conditions[:0])  # earlier versions kept none
        request = Request(seed, len(conditions), completed(conditions, known, seed))
        return self.generator.sample(self.told(dataset), self.state, chosen, request)

    def told(self, dataset: Dataset | None) -> Source:
        """The source of a sample, with another data set in place of the members' own.

        Raises:
            ConfigError: for other images or classes than those of the members.
        """
        if dataset is None:
            return self.source
        info = self.facts["info"]
        expected = tuple(info["image_shape"]), info["classes"]
        found = dataset.image_shape, dataset.classes
        if found != expected:
            raise ConfigError(
                f"data set {dataset.name}: found images {found[0]} of {found[1]} classes, expected "
                f"{expected[0]} of {expected[1]}, those of {self.facts['zoo']!r}"
            )
        return replace(self.source, dataset=dataset.blind)


# --------------------------------------------------------------------------------------- files
def open_run(path: str | Path) -> Run:
    """A fitted run.

    Raises:
        NotFoundError: if there is none, or its fit is not finished.
        CorruptZooError: if its files are damaged.
        ConfigError: if another version of zoogen wrote it.
    """
    root = Path(path)
    facts = read_facts(root)
    if facts["fit"] is None:
        raise NotFoundError(
            f"{root}: the fit is not finished; repeat `zoogen train-generator`, which resumes it"
        )
    try:
        data = (root / STATE).read_bytes()
    except OSError as error:
        raise CorruptZooError(
            f"{root / STATE}: can't be read ({error.strerror}); remove {root} and fit again"
        ) from None
    if hashlib.sha256(data).hexdigest() != facts["fit"]["state_sha256"]:
        raise CorruptZooError(
            f"{root / STATE}: its checksum differs from the one in {RUN}; remove {root} and fit "
            "again"
        )
    config = GeneratorConfig.model_validate(facts["run"])
    known = generator_of(config).options
    if set(facts["options"]) != set(known):
        odd = ", ".join(sorted(set(facts["options"]) ^ set(known)))
        raise ConfigError(
            f"{root}: was fitted by a zoogen whose {config.generator!r} had other options ({odd}); "
            "use the version that wrote it"
        )
    return Run(root, config, facts, unpacked(data))


def read_facts(root: Path) -> dict[str, Any]:
    """What the file of a run says, finished or not.

    Raises:
        NotFoundError, CorruptZooError, ConfigError: see :func:`open_run`.
    """
    file = root / RUN
    if not file.exists():
        raise NotFoundError(f"{root}: no run of a generator is there (no {RUN})")
    try:
        facts: dict[str, Any] = json.loads(file.read_bytes())
    except OSError as error:
        raise CorruptZooError(
            f"{file}: can't be read ({error.strerror}); remove {root} and fit again"
        ) from None
    except ValueError as error:
        raise CorruptZooError(f"{file}: no JSON ({error}); remove {root} and fit again") from None
    if not isinstance(facts, dict):
        raise CorruptZooError(f"{file}: no table of facts; remove {root} and fit again")
    if "task" in facts:
        raise NotFoundError(
            f"{root}: a run of `zoogen train-model`, which compares readers, not of a generator; "
            f"run: zoogen leaderboard {root}"
        )
    if facts.get("format") != FORMAT:
        raise ConfigError(
            f"{file}: format {facts.get('format')!r}, this zoogen reads {FORMAT}; use the version "
            "that wrote it"
        )
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        fault = sentence(dict(error.errors()[0]), _Facts)
        raise CorruptZooError(f"{file}: {fault}; remove {root} and fit again") from None
    return facts


def packed(state: State) -> bytes:
    """Arrays and lists of arrays as one npz."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, list):
            arrays |= {f"{name}/{number}": part for number, part in enumerate(value)}
        else:
            arrays[name] = value
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> State:
    """What :func:`packed` took."""
    state: State = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        for name in found.files:
            base, sign, _ = name.partition("/")
            if sign:
                state.setdefault(base, []).append(found[name])
            else:
                state[name] = found[name]
    return state
