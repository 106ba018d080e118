"""From a config to a zoo: train, measure, label. Every step is committed as it is done.

Each function repeats safely: what is committed is not done again, so the command that was killed
is also the command that resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from zoogen.config import (
    LATER_PARAMETERS,
    Config,
    DataConfig,
    LandscapeConfig,
    canonical_json,
    config_hash,
    load_config,
)
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError, ConflictError, NotFoundError
from zoogen.grid import Cohort, Member, Plan, expand, split_of
from zoogen.keys import identity_words
from zoogen.labelling import members_table, write_labels
from zoogen.landscape import measure_cohort, seed_pairs
from zoogen.landscape.metrics import checked_groups, require_groups
from zoogen.networks import Network, build_network
from zoogen.networks.layers import chosen
from zoogen.phases import load_rule
from zoogen.population import use_all_cores
from zoogen.progress import Advance, Reporter, silent
from zoogen.provenance import provenance
from zoogen.refinement import Proposal, propose
from zoogen.store import ZooWriter, default_block_size
from zoogen.train import Recipe, TrainedBlock, recipe_of, train_block, training_data
from zoogen.zoo import Zoo, open_zoo

TRAINING_DIMS = {
    "weights": ("member", "snapshot", "parameter"),
    "train_loss": ("member", "epoch"),
    "train_accuracy": ("member", "epoch"),
    "diverged_epoch": ("member",),
    "stopped_epoch": ("member",),
}


def plan(
    config: str | Path | Config, overrides: Sequence[str] = (), size: str | None = None
) -> Plan:
    """Which members a config describes; does no work.

    Args:
        config: a TOML file, or a :class:`Config`.
        overrides: ``section.key=value`` texts (for a file).
        size: name of an entry of ``[sizes]``.

    Raises:
        ConfigError: with one line per mistake.
        NotFoundError: if there is no such file.

    Example:
        >>> plan("configs/digits_mlp.toml", ["grid.seeds=2"]).n_members  # doctest: +SKIP
        128
    """
    if isinstance(config, Config):
        return expand(config if size is None else config.at_size(size))
    return expand(load_config(config, overrides, size))


def generate(
    planned: Plan | Config | str | Path, out: str | Path, reporter: Reporter = silent
) -> Zoo:
    """Train, measure and label a population; repeat the call to resume one that was killed.

    Args:
        planned: what to generate; a config or its file is planned first.
        out: directory of the zoo, made if absent.
        reporter: shows progress; silent by default.

    Returns:
        The finished zoo.

    Raises:
        ConfigError: if a cohort can't be trained (the message names the hyper-parameter).
        ConflictError: if ``out`` holds another zoo, or another process is writing to it.
        DataUnavailableError: if the data set can't be had.
        StorageError: if the file system refuses.
    """
    use_all_cores()
    planned = planned if isinstance(planned, Plan) else plan(planned)
    config = planned.config
    checked_groups(config.landscape.metrics)
    load_rule(config.phases.rule)
    dataset = load(config.data)
    _recipes(planned, dataset)  # what can't be trained is refused before a zoo is begun
    _refuse_unmatched(planned)
    stored = json.loads(canonical_json(config))
    with ZooWriter.create(out, config.name, stored, config_hash(config), provenance()) as writer:
        _require_same_data(writer, dataset)
        _train(writer, open_zoo(out).plan, dataset, reporter)
        _measure_and_label(writer, config, dataset, reporter)
    return open_zoo(out)


def _refuse_unmatched(planned: Plan) -> None:
    """Heads are nested groups, which weight matching does not take: say so before training."""
    families = {cohort.config.network.family for cohort in planned.cohorts}
    if "vit" in families and "alignment" in planned.config.landscape.metrics:
        raise ConfigError(
            "landscape.metrics: 'alignment' matches freely exchangeable units, but the heads of "
            "network.family 'vit' own theirs; remove 'alignment'"
        )


def complete(path: str | Path, reporter: Reporter = silent) -> Zoo:
    """Measure and label a zoo whose members are trained; what is committed is not done again.

    Args:
        path: of the zoo.
        reporter: shows progress; silent by default.

    Raises:
        ConflictError, CorruptZooError, DataUnavailableError, NotFoundError, StorageError.
    """
    use_all_cores()
    zoo = open_zoo(path)
    with ZooWriter.open(path, provenance()) as writer:
        _require_trained(writer)
        _measure_and_label(writer, zoo.config, zoo.dataset, reporter)
    return open_zoo(path)


def measure(
    path: str | Path, groups: Sequence[str] | None = None, reporter: Reporter = silent
) -> Zoo:
    """Take landscape metrics of a stored zoo (again); the earlier ones stay in earlier runs.

    Args:
        path: of the zoo.
        groups: groups of metrics; those of the zoo's config by default.
        reporter: shows progress; silent by default.

    Raises:
        ConfigError: if there is no such group.
        ConflictError, CorruptZooError, DataUnavailableError, NotFoundError, StorageError.
    """
    use_all_cores()
    zoo = open_zoo(path)
    metrics = checked_groups(zoo.config.landscape.metrics if groups is None else groups)
    require_groups(zoo.config.network, metrics)
    landscape = zoo.config.landscape.model_copy(update={"metrics": metrics})
    with ZooWriter.open(path, provenance()) as writer:
        _require_trained(writer)
        run = writer.begin_run(landscape.model_dump(mode="json"), again=True)
        _measure(writer, run, zoo.dataset, reporter)
        writer.write_members_table(members_table(path))
    return open_zoo(path)


def label(path: str | Path, rule: str | None = None) -> Zoo:
    """Label the cells of a measured zoo; measurements stay as they are.

    Args:
        path: of the zoo.
        rule: name or TOML file of a rule; that of the zoo's config by default.

    Raises:
        NotFoundError: if there is no zoo, no such rule, or a metric that it needs is missing.
        ConfigError: if the rule file is none.
    """
    zoo = open_zoo(path)
    with ZooWriter.open(path, provenance()) as writer:
        write_labels(writer, rule or zoo.config.phases.rule)
    return open_zoo(path)


# ----------------------------------------------------------------------------------- refinement
def proposals(path: str | Path, budget: int, rule: str | None = None) -> list[Proposal]:
    """The cells that :func:`refine` would add; does no work.

    Args:
        path: of a complete zoo.
        budget: most cells to propose.
        rule: see :func:`refine`.

    Raises:
        NotFoundError: if there is no zoo, or it is not complete.
        ConfigError: for a budget below 1, a grid without numbers, a random search, a derived zoo,
            or another rule than that of the labels.
    """
    zoo = open_zoo(path)
    zoo.require_classifiers("refine")
    if "derivation" in zoo.facts:
        raise ConfigError(
            f"{zoo.path}: derived from zoo {zoo.facts['derivation']['parent']['name']!r}; refine "
            "that one, then derive this one anew"
        )
    if zoo.plan.draws is not None:
        raise ConfigError(
            f"{zoo.path}: its cells are drawn at random, so that none are neighbours with a "
            "boundary between them; raise grid.random.members and generate another zoo"
        )
    if not zoo.is_complete:
        raise NotFoundError(
            f"{zoo.path}: the zoo is not complete, it lacks {zoo.missing}; repeat `{zoo.made_by}` "
            "(or `zoogen measure`, `zoogen label`) before refining it further"
        )
    _rule_of_labels(zoo, rule)
    named = [key for key in (zoo.config.grid.load, zoo.config.grid.temperature) if key]
    return propose(zoo.cells, zoo.plan.axes, budget, named or None)


def refine(
    path: str | Path, budget: int, rule: str | None = None, reporter: Reporter = silent
) -> Zoo:
    """Add cells to a zoo where its labels change or are uncertain; train, measure and label them.

    Looks along load and temperature where the zoo names them, else along all axes. The cells of
    :func:`zoogen.refinement.propose` become cohorts of their own: what the zoo held before keeps
    its ids and bytes. All measurement runs are extended to the new members, and the
    whole zoo is labelled anew, estimated thresholds included. A call that was interrupted is
    finished by the next one, which then adds nothing further.

    Args:
        path: of a labelled zoo.
        budget: most cells to add.
        rule: TOML file of the rule that the labels come from, where zoogen does not ship it.
        reporter: shows progress; silent by default.

    Returns:
        The refined zoo; as it was where nothing is left to tell apart.

    Raises:
        NotFoundError: if there is no zoo, or `zoogen generate` has not completed it.
        ConfigError: for a budget below 1, a grid without numbers, a random search, a derived zoo,
            another rule than that of the labels, or a cell that can't be trained.
        ConflictError, CorruptZooError, DataUnavailableError, StorageError.
    """
    use_all_cores()
    with ZooWriter.open(path, provenance()) as writer:
        zoo = open_zoo(path)
        zoo.require_classifiers("refine")
        dataset = zoo.dataset
        if zoo.is_complete or not zoo.plan.further:
            found = proposals(path, budget, rule)
            if not found:
                return zoo
            cells = [proposal.values for proposal in found]
            _recipes(expand(zoo.config, {"new": cells}), dataset)  # refused before it is committed
            writer.extend({"cells": cells, "reasons": [proposal.reason for proposal in found]})
        rule = _rule_of_labels(zoo, rule)
        _train(writer, open_zoo(path).plan, dataset, reporter)
        _measure_and_label(writer, zoo.config, dataset, reporter, rule)
    return open_zoo(path)


def _rule_of_labels(zoo: Zoo, rule: str | None) -> str:
    """The rule that a zoo's labels come from: cells are proposed and judged by the same."""
    labels = zoo.reader.labels()
    if labels is None:
        return rule or zoo.config.phases.rule
    name, sha256 = labels.info["rule"], labels.info["sha256"]
    try:
        found = load_rule(rule or name)
    except NotFoundError:
        if rule:
            raise
        raise NotFoundError(
            f"{zoo.path}: labelled by rule {name!r}, which zoogen does not ship; give its file "
            "with --rule"
        ) from None
    if found.sha256 != sha256:
        raise ConfigError(
            f"{zoo.path}: labelled by rule {name!r} ({sha256[:12]}…), found {found.name!r} "
            f"({found.sha256[:12]}…); run `zoogen label --rule` with that one first"
        )
    return rule or name


# ------------------------------------------------------------------------------------- training
def _recipes(plan: Plan, dataset: Dataset) -> dict[str, Recipe]:
    return {cohort.id: recipe_of(cohort.config, dataset) for cohort in plan.cohorts}


def _require_same_data(writer: ZooWriter, dataset: Dataset) -> None:
    """A zoo that was begun on other images is not continued on these."""
    for cohort in writer.manifest.cohorts.values():
        info: dict[str, Any] = cohort.info
        begun = info["dataset"]["sha256"]
        if begun != dataset.sha256:
            raise ConflictError(
                f"{writer.root}: the zoo was begun on data set {dataset.name!r} with content "
                f"{begun[:12]}…, found {dataset.sha256[:12]}…; restore the original files, or "
                "choose another path"
            )


def _train(writer: ZooWriter, plan: Plan, dataset: Dataset, reporter: Reporter) -> None:
    recipes = _recipes(plan, dataset)
    for cohort in plan.cohorts:
        _begin_cohort(writer, cohort, recipes[cohort.id], dataset)
    work = {cohort.id: writer.missing_blocks(cohort.id) for cohort in plan.cohorts}
    todo = sum(rows.stop - rows.start for blocks in work.values() for rows in blocks.values())
    if not todo:
        return
    with reporter("train", todo, "members") as advance:
        for cohort in plan.cohorts:
            if work[cohort.id]:
                _train_blocks(writer, cohort, recipes[cohort.id], dataset, advance)


def _begin_cohort(writer: ZooWriter, cohort: Cohort, recipe: Recipe, dataset: Dataset) -> None:
    line, spec = recipe.timeline, recipe.net.spec
    snapshots = [
        {"name": name, "step": step, "epoch": step / line.steps_per_epoch}
        for step, name in line.snapshots.items()
    ]
    fits = recipe.network.fits_image  # what they take is no image, but places as they are
    info = {
        "network": cohort.config.network.model_dump(mode="json"),
        "data": cohort.config.data.model_dump(mode="json"),
        "image_shape": recipe.image_shape,
        "classes": recipe.classes,
        "training_size": recipe.training_size,
        "mean": [0.0, 0.0] if fits else dataset.mean.tolist(),
        "std": [1.0, 1.0] if fits else dataset.std.tolist(),
        "dataset": _dataset_facts(dataset),
        "total_steps": line.total_steps,
    }
    size = _even_block_size(len(cohort.members), 4 * len(snapshots) * spec.size)
    table = _cohort_table(cohort, dataset)
    writer.begin_cohort(cohort.id, table, spec.to_json(), snapshots, size, info)


def _even_block_size(members: int, member_bytes: int) -> int:
    """Blocks of one size, but for a last one that is hardly smaller: one compilation for all."""
    blocks = -(-members // default_block_size(members, member_bytes))
    return -(-members // blocks)


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """What a reader wants to know of the data set without having it."""
    most_common = np.bincount(dataset.train.labels).max() / len(dataset.train)
    return {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "source": dataset.source,
        "image_shape": list(dataset.image_shape),
        "white": dataset.white,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "chance_accuracy": float(most_common),
    }


def _cohort_table(cohort: Cohort, dataset: Dataset) -> pd.DataFrame:
    """One row a member: ids, the image that is fitted, every hyper-parameter that is set.

    Of `LATER_PARAMETERS` only those that some member has.
    """
    fixed = {key: value for key, value in cohort.config.values().items() if value is not None}
    rows = [
        {
            "id": m.id,
            "cell": m.cell,
            "seed": m.seed,
            **_image_facts(cohort.config, m, dataset),
            **fixed,
            **m.values,
        }
        for m in cohort.members
    ]
    table = pd.DataFrame(rows)
    spare = [key for key, value in LATER_PARAMETERS.items() if (table[key] == value).all()]
    return table.drop(columns=spare)


def _image_facts(config: Config, member: Member, dataset: Dataset) -> dict[str, Any]:
    """Which image a member fits, by split and place in it, and the class of that image."""
    if member.image is None:
        return {}
    split, place = split_of(config, member.image)
    label = int(getattr(dataset, split).labels[place])
    return {"split": split, "image": place, "label": label}


def _train_blocks(
    writer: ZooWriter, cohort: Cohort, recipe: Recipe, dataset: Dataset, advance: Advance
) -> None:
    data = training_data(dataset, recipe)
    for block, rows in writer.missing_blocks(cohort.id).items():
        members = cohort.members[rows]
        begin, resume = time.perf_counter(), writer.resume_dir(cohort.id, block)
        size = writer.manifest.cohorts[cohort.id].block_size
        trained = train_block(recipe, data, members, resume, advance, width=size)
        info = {"seconds": time.perf_counter() - begin, "formulations": chosen()}
        writer.write_block(cohort.id, block, _training_arrays(trained), TRAINING_DIMS, info)


def _training_arrays(trained: TrainedBlock) -> dict[str, np.ndarray]:
    return {name: getattr(trained, name) for name in TRAINING_DIMS}


# ------------------------------------------------------------------------------------ measuring
def _require_trained(writer: ZooWriter) -> None:
    cohorts = writer.manifest.cohorts
    unfinished = [cohort for cohort in cohorts if writer.missing_blocks(cohort)]
    if unfinished or not cohorts:
        raise NotFoundError(
            f"{writer.root}: {len(unfinished)} of {len(cohorts)} cohorts are not trained to the "
            f"end; repeat `{open_zoo(writer.root).made_by}` before measuring"
        )


def _measure_and_label(
    writer: ZooWriter,
    config: Config,
    dataset: Dataset,
    reporter: Reporter,
    rule: str | None = None,
) -> None:
    """Measure what any run lacks, and label the zoo."""
    if not writer.manifest.runs:
        writer.begin_run(config.landscape.model_dump(mode="json"))
    for run in writer.manifest.latest_runs():
        _measure(writer, run, dataset, reporter)
    write_labels(writer, rule or config.phases.rule)


def _measure(writer: ZooWriter, run: str, dataset: Dataset, reporter: Reporter) -> None:
    """Take the metrics of a run of the cohorts that it lacks."""
    zoo = open_zoo(writer.root)
    landscape = LandscapeConfig.model_validate(writer.manifest.runs[run].settings)
    todo = [c for c in zoo.reader.cohorts if c not in writer.measured(run)]
    if todo:
        members = sum(len(zoo.reader.members(cohort)) for cohort in todo)
        with reporter("measure", members, "members") as advance:
            for cohort in todo:
                _measure_cohort(writer, zoo, run, cohort, landscape, dataset, advance)
    if not writer.manifest.runs[run].finished:
        writer.finish_run(run)


def _image_numbers(zoo: Zoo, table: pd.DataFrame) -> Int[np.ndarray, " m"] | None:
    """The image that each member fits, training images counted first; nothing for classifiers."""
    if "image" not in table:
        return None
    numbers = table["image"].to_numpy(np.int64)
    return numbers + np.where(table["split"] == "test", zoo.config.images[0], 0)


def _trained_network(zoo: Zoo, cohort: str) -> Network:
    """The network of a cohort with any init: cohorts that differ in it share their programs."""
    network = zoo.network(cohort)
    config = network.config.model_copy(update={"init": "he_normal", "init_scale": 1.0})
    return build_network(config, network.image_shape, network.classes)


def _measure_cohort(
    writer: ZooWriter,
    zoo: Zoo,
    run: str,
    cohort: str,
    landscape: LandscapeConfig,
    dataset: Dataset,
    advance: Advance,
) -> None:
    table = zoo.reader.members(cohort)
    pairs = seed_pairs(table["cell"].tolist(), landscape.pairs)
    begin = time.perf_counter()
    measured = measure_cohort(
        network=_trained_network(zoo, cohort),
        dataset=dataset,
        data=DataConfig.model_validate(zoo.reader.cohort(cohort).info["data"]),
        landscape=landscape,
        weights=zoo.reader.read(cohort, "weights"),
        pairs=pairs,
        label_noise=table["data.label_noise"].to_numpy(np.float32),
        images=_image_numbers(zoo, table),
        member_words=np.stack([identity_words(member) for member in table["id"]]),
        on_share=lambda share: advance(share * len(table)),
    )
    seconds = time.perf_counter() - begin
    arrays, dims = {**measured.arrays, "pairs": pairs}, {**measured.dims, "pairs": ("pair", "end")}
    info = {"seconds": seconds, "coords": measured.coords, "cost": measured.info}
    writer.write_measurements(run, cohort, arrays, dims, info)
