"""Training of a generator: fitted once on the training members, resumed when killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoogen.config import PER_MEMBER_PARAMETERS
from zoogen.errors import ConfigError, ConflictError
from zoogen.generators.conditions import Conditioning, conditioning_of
from zoogen.generators.config import GeneratorConfig
from zoogen.generators.generator import Effort, Fittable
from zoogen.generators.options import generator_of, options_of
from zoogen.generators.parts import Shares, drawn
from zoogen.generators.population import Parted, parted, population_of
from zoogen.generators.run import (
    CHECKPOINT,
    FORMAT,
    RUN,
    STATE,
    Run,
    open_run,
    packed,
    read_facts,
)
from zoogen.progress import Reporter, silent
from zoogen.provenance import provenance
from zoogen.store.disk import replace_file, storage_errors, writer_lock
from zoogen.zoo import Zoo


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
    generator_of(config)  # refused before members are read
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
        run = Run(root, config, facts, {})
        if read_facts(root)["fit"] is None:
            _fit(run, parts, conditioning, reporter)
    return open_run(root)


def _fit(run: Run, parts: Parted, conditioning: Conditioning, reporter: Reporter) -> None:
    """Fit, or go on with it, and write what it learned; the file of the run comes last."""
    root, generator = run.path, run.generator
    train, validation = (
        Fittable(part, conditioning.of_members(part.table), run.source)
        for part in (parts.train, parts.validation)
    )
    earlier: list[float] = []
    effort = Effort(
        **run.config.training.model_dump(), checkpoint=root / CHECKPOINT, reporter=reporter,
        resumed=earlier.append,
    )  # fmt: skip
    begin = time.perf_counter()
    try:
        state = generator.fit(train, validation, run.options, effort)
    except ConfigError:
        if not (root / CHECKPOINT).exists():  # refused: nothing that blocks a better config
            (root / RUN).unlink()
        raise
    if generator.conditional:
        state = {**state, "conditions": train.conditions}
    data = packed(state)
    replace_file(root / STATE, data)
    fit = {
        "seconds": time.perf_counter() - begin + sum(earlier),
        "state_sha256": hashlib.sha256(data).hexdigest(),
        "provenance": provenance(),
    }
    _write_json(root / RUN, {**run.facts, "fit": fit})
    shutil.rmtree(root / CHECKPOINT, ignore_errors=True)  # nobody's any more


def parts_of(config: GeneratorConfig, zoo: Zoo) -> Parted:
    """The population of a run, parted; the held-out part is nobody's but the evaluation's."""
    told = config.population
    shares = Shares(1 - told.validation - told.held_out, told.validation)
    parts = parted(population_of(zoo, told.where), told.seed, shares)
    if told.members is None or told.members >= len(parts.train):
        return parts
    ids = [str(name) for name in parts.train.table.index]
    return parts._replace(train=parts.train.rows(drawn(ids, told.seed, told.members)))


def _facts(
    config: GeneratorConfig, zoo: Zoo, parts: Parted, conditioning: Conditioning
) -> dict[str, Any]:
    """What makes a run what it is; another population or another config is another run."""
    cohorts = {str(cohort) for cohort in parts.train.table["cohort"]}
    of_members = parts.train.table[list(PER_MEMBER_PARAMETERS)].astype(float)
    return {
        "format": FORMAT,
        "run": config.model_dump(mode="json"),
        "options": options_of(config.generator, config.options),
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
    stored = read_facts(root)
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


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(table, indent=1).encode())
