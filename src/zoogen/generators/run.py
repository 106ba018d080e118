"""A run of a generator on disk: fitted once, sampled any number of times, resumed when killed."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from zoogen.config import PER_MEMBER_PARAMETERS, Config, parse_config
from zoogen.config.schema import validated
from zoogen.config.wording import nearest
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError, ConflictError, CorruptZooError, NotFoundError
from zoogen.generators.conditions import Conditioning, Wish, completed, conditioning_of
from zoogen.generators.config import GeneratorConfig
from zoogen.generators.generator import Effort, Fittable, Generator, Request, Source, State
from zoogen.generators.parts import Shares, drawn
from zoogen.generators.population import Parted, member_ids, parted, population_of
from zoogen.generators.table import GENERATORS
from zoogen.networks import build_network
from zoogen.progress import Reporter, silent
from zoogen.provenance import provenance
from zoogen.store import ZooWriter, default_block_size
from zoogen.store.disk import replace_file, storage_errors, writer_lock
from zoogen.zoo import Zoo

RUN, STATE, CHECKPOINT = "run.json", "state.npz", "checkpoint"
FORMAT = 3
_FACTS = (
    "run", "options", "zoo", "population_sha256", "members", "config", "info", "values",
    "conditions", "fit",
)  # fmt: skip
_DIMS = {"weights": ("member", "snapshot", "parameter"), "diverged_epoch": ("member",)}
PAIRS = 20  # of generated members on which metrics of pairs are taken


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
        return _options(self.config.generator, self.facts["options"])

    def sampling(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a sample, where some of them replace those of the run.

        Raises:
            ConfigError: for an option that the generator does not have, or that a fit was made
                with and no sample can change.
        """
        name, able = self.config.generator, self.generator.sampling
        found = _known_options(name, options)
        for key, value in found.items():
            if key not in able and value != self.options[key]:
                raise ConfigError(
                    f"options.{key}: found {value!r}, but {name!r} was fitted with "
                    f"{self.options[key]!r}; sampling can change: {', '.join(able) or 'nothing'}"
                )
        return {**self.options, **found}

    @cached_property
    def conditioning(self) -> Conditioning:
        """What it can be asked for."""
        return Conditioning.from_json(self.facts["conditions"])

    @cached_property
    def zoo_config(self) -> Config:
        """Of the training of the members, without a grid."""
        return parse_config(json.dumps(self.facts["config"]), f"{self.path / RUN}: config")

    @cached_property
    def source(self) -> Source:
        """Where the members came from; its data set has no test images."""
        config, info = self.zoo_config, self.facts["info"]
        network = build_network(config.network, tuple(info["image_shape"]), info["classes"])
        values = pd.DataFrame(self.facts["values"])
        return Source(network, config, values, lambda: load(config.data).blind(), self.conditioning)

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
                or no networks.
        """
        if count < 1:
            raise ConfigError(f"sample: found {count} networks, expected at least 1")
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


# ---------------------------------------------------------------------------------------- fit
def train_generator(
    config: GeneratorConfig, zoo: Zoo, out: str | Path, reporter: Reporter = silent
) -> Run:
    """Fit a generator on the training part of a population; repeat the call to resume.

    Args:
        config: what to fit.
        zoo: where the members are.
        out: directory of the run, made if absent.
        reporter: shows progress; silent by default.

    Raises:
        ConfigError: for an unknown generator, option or condition, a selection of several
            architectures, or a population too small to be parted.
        ConflictError: if ``out`` holds another run, or another process is writing to it.
        StorageError: if the file system refuses.
    """
    generator = _generator(config)
    parts = parts_of(config, zoo)
    conditioning = conditioning_of(parts.train.table, config.conditions)
    facts = _facts(config, zoo, parts, conditioning)
    root = Path(out)
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with writer_lock(root):
        if (root / RUN).exists():
            _require_same(root, facts)
        else:
            _refuse_foreign(root)
            _write_json(root / RUN, facts | {"fit": None})
        if _read(root)["fit"] is None:
            earlier: list[float] = []
            effort = Effort(
                **config.training.model_dump(), checkpoint=root / CHECKPOINT, reporter=reporter,
                resumed=earlier.append,
            )  # fmt: skip
            begin = time.perf_counter()
            source = Run(root, config, facts, {}).source
            train, validation = (
                Fittable(part, conditioning.of_members(part.table), source)
                for part in (parts.train, parts.validation)
            )
            options = _options(config.generator, config.options)
            try:
                state = generator.fit(train, validation, options, effort)
            except ConfigError:
                if not (root / CHECKPOINT).exists():  # refused: nothing that blocks a better config
                    (root / RUN).unlink()
                raise
            if generator.conditional:
                state = {**state, "conditions": train.conditions}
            data = _packed(state)
            replace_file(root / STATE, data)
            fit = {
                "seconds": time.perf_counter() - begin + sum(earlier),
                "state_sha256": hashlib.sha256(data).hexdigest(),
                "provenance": provenance(),
            }
            _write_json(root / RUN, facts | {"fit": fit})
            shutil.rmtree(root / CHECKPOINT, ignore_errors=True)  # nobody's any more
    return open_run(root)


def parts_of(config: GeneratorConfig, zoo: Zoo) -> Parted:
    """The population of a run, parted; the held-out part is nobody's but the evaluation's."""
    told = config.population
    shares = Shares(1 - told.validation - told.held_out, told.validation)
    parts = parted(population_of(zoo, told.where), told.seed, shares)
    if told.members is None or told.members >= len(parts.train):
        return parts
    ids = [str(name) for name in parts.train.table.index]
    return parts._replace(train=parts.train.rows(drawn(ids, told.seed, told.members)))


def open_run(path: str | Path) -> Run:
    """A fitted run.

    Raises:
        NotFoundError: if there is none, or its fit is not finished.
        CorruptZooError: if its files are damaged.
        ConfigError: if another version of zoogen wrote it.
    """
    root = Path(path)
    facts = _read(root)
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
    config = validated(GeneratorConfig, facts["run"], str(root / RUN))
    _generator(config)
    return Run(root, config, facts, _unpacked(data))


def _generator(config: GeneratorConfig) -> Generator:
    if config.generator not in GENERATORS:
        raise ConfigError(
            f"run {config.name!r}: generator: found {config.generator!r}"
            f"{nearest(config.generator, GENERATORS)}; there are: {', '.join(GENERATORS)}"
        )
    generator = GENERATORS[config.generator]
    if config.conditions and not generator.conditional:
        able = [name for name, one in GENERATORS.items() if one.conditional]
        raise ConfigError(
            f"run {config.name!r}: conditions: generator {config.generator!r} takes none; those "
            f"that do: {', '.join(able)}"
        )
    _known_options(config.generator, config.options)
    return generator


def _options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**GENERATORS[name].options, **_known_options(name, options)}


def _known_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types of their defaults."""
    defaults, found = GENERATORS[name].options, {}
    for key, value in options.items():
        if key not in defaults:
            raise ConfigError(
                f"options.{key}: generator {name!r} has no such option{nearest(key, defaults)}; "
                f"it has: {', '.join(defaults) or 'none'}"
            )
        wanted = type(defaults[key])
        if not _is_a(value, wanted):
            raise ConfigError(f"options.{key}: found {value!r}, expected {wanted.__name__}")
        found[key] = wanted(value)
    return found


def _is_a(value: Any, wanted: type) -> bool:
    """4 and 4.0 are whole numbers and floats; true is neither."""
    if wanted in (int, float) and type(value) in (int, float):
        return math.isfinite(value) and (wanted is float or value == int(value))
    return type(value) is wanted


def _facts(
    config: GeneratorConfig, zoo: Zoo, parts: Parted, conditioning: Conditioning
) -> dict[str, Any]:
    """What makes a run what it is; another population or another config is another run."""
    cohorts = {str(cohort) for cohort in parts.train.table["cohort"]}
    of_members = parts.train.table[list(PER_MEMBER_PARAMETERS)].astype(float)
    return {
        "format": FORMAT,
        "run": config.model_dump(mode="json"),
        "options": _options(config.generator, config.options),
        "zoo": zoo.name,
        "population_sha256": population_digest(parts),
        "members": {name: len(part) for name, part in parts._asdict().items()},
        "diverged": parts.train.left_out,
        "config": _cohort_config(zoo, min(cohorts)),
        "info": zoo.reader.cohort(min(cohorts)).info,
        "values": of_members.drop_duplicates().to_dict("list"),
        "conditions": conditioning.to_json(),
    }


def population_digest(parts: Parted) -> str:
    """Hex sha256 of the members that a generator may see."""
    digest = hashlib.sha256()
    for part in (parts.train, parts.validation):
        digest.update("\n".join(map(str, part.table.index)).encode())
        digest.update(np.ascontiguousarray(part.values).data)
    return digest.hexdigest()


def _cohort_config(zoo: Zoo, name: str) -> dict[str, Any]:
    found = next(cohort for cohort in zoo.plan.cohorts if cohort.id == name).config
    table = found.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return table | {"grid": {}, "sizes": {}}


def _require_same(root: Path, facts: Mapping[str, Any]) -> None:
    stored = _read(root)
    for key, value in facts.items():
        if json.loads(json.dumps(value)) != stored.get(key):
            what = "the config" if key == "run" else f"{key.replace('_', ' ')}"
            raise ConflictError(
                f"{root} holds another run: {what} differs; choose another --out, or remove it"
            )


def _refuse_foreign(root: Path) -> None:
    """A checkpoint without its run is refused, too: a fit of another run would go on from it."""
    odd = [p.name for p in root.iterdir() if p.name not in {".lock", STATE, RUN}]
    odd = [name for name in odd if not name.endswith(".partial")]
    if odd:
        raise ConflictError(f"{root} is no run, it holds {odd[0]!r}; choose another --out")


def _read(root: Path) -> dict[str, Any]:
    file = root / RUN
    if not file.exists():
        raise NotFoundError(f"{root}: no run of a generator is there (no {RUN})")
    try:
        facts: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError as error:
        raise CorruptZooError(f"{file}: no JSON ({error}); remove {root} and fit again") from None
    if not isinstance(facts, dict):
        raise CorruptZooError(f"{file}: no table of facts; remove {root} and fit again")
    if facts.get("format") != FORMAT:
        raise ConfigError(
            f"{file}: format {facts.get('format')!r}, this zoogen reads {FORMAT}; use the version "
            "that wrote it"
        )
    missing = [name for name in _FACTS if name not in facts]
    if missing:
        raise CorruptZooError(f"{file}: {missing[0]!r} is missing; remove {root} and fit again")
    return facts


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(table, indent=1).encode())


def _packed(state: State) -> bytes:
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


def _unpacked(data: bytes) -> State:
    state: State = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        for name in found.files:
            base, sign, _ = name.partition("/")
            if sign:
                state.setdefault(base, []).append(found[name])
            else:
                state[name] = found[name]
    return state


# ------------------------------------------------------------------------------------- sample
def sample_zoo(
    run: Run,
    count: int,
    out: str | Path,
    seed: int = 0,
    wish: Wish | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Sample networks and write them as a zoo, one cell of ``count`` members.

    Measure and label it with :func:`zoogen.factory.complete`. Repeating the call changes nothing.

    Args:
        run: fitted.
        count: networks.
        out: directory of the zoo, made if absent.
        seed: of all noise.
        wish: condition → number or class.
        options: that replace those of the run.

    Raises:
        ConfigError: see :meth:`Run.sample`.
        ConflictError: if ``out`` holds another zoo, or another process is writing to it.
        StorageError: if the file system refuses.
    """
    asked = {"count": count, "seed": seed, "wish": dict(wish or {}), "options": dict(options or {})}
    derivation = {
        "how": "generated",
        "run": run.config.model_dump(mode="json"),
        "state_sha256": run.facts["fit"]["state_sha256"],
        "parent": {"name": run.facts["zoo"], "population_sha256": run.facts["population_sha256"]},
        "asked": asked,
    }
    identity = hashlib.sha256(json.dumps(derivation, sort_keys=True).encode()).hexdigest()
    config = _sampled_config(run, count)
    values = run.sample(count, seed, wish, options)
    name = f"generated-{identity[:12]}"
    with ZooWriter.create(out, config["name"], config, identity, provenance()) as writer:
        table, info = (
            _members(run, identity, count, wish or {}),
            {**run.facts["info"], "total_steps": 0, "derivation": derivation},
        )
        snapshots = [{"name": "end", "step": 0, "epoch": 0.0}]
        spec = run.source.network.spec.to_json()
        size = default_block_size(count, 4 * values.shape[1])
        writer.begin_cohort(name, table, spec, snapshots, size, info)
        for block, rows in writer.missing_blocks(name).items():
            weights = values[rows][:, None]
            finite = np.isfinite(weights).all(axis=(1, 2))
            diverged = np.where(finite, -1, 0).astype(np.int32)
            arrays = {"weights": weights, "diverged_epoch": diverged}
            writer.write_block(name, block, arrays, _DIMS, {})


def _sampled_config(run: Run, count: int) -> dict[str, Any]:
    """The config of the members' training, as one cell of so many seeds."""
    table: dict[str, Any] = dict(run.facts["config"])
    return table | {
        "name": f"{run.facts['zoo']}-{run.config.name}",
        "description": f"networks generated by {run.config.generator}",
        "grid": {"seeds": count},
        "landscape": {**table.get("landscape", {}), "pairs": PAIRS},
    }


def _members(run: Run, identity: str, count: int, wish: Wish) -> pd.DataFrame:
    """One row a network: what the training members have in common, or what was asked for.

    A hyper-parameter in which they differ is not known of a network that was never trained.
    """
    config = run.zoo_config.values()
    fixed = {key: value for key, value in config.items() if value is not None}
    open_ = {
        key: np.nan
        for key in PER_MEMBER_PARAMETERS
        if run.source.values[key].nunique() > 1 and key != "data.label_noise"
    }
    asked = {key: value for key, value in wish.items() if key in open_}
    ids = member_ids(identity, 0, count)
    table = pd.DataFrame({"id": ids, "cell": identity[:12], "seed": range(count)})
    return table.assign(**{**fixed, **open_, **asked})
