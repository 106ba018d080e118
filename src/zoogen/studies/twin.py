"""The sparsified twin of a zoo: its members dense, pruned and retrained, as a zoo of their own."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from zoogen.errors import ConfigError, NotFoundError
from zoogen.networks.layers import chosen
from zoogen.progress import Advance, Reporter, silent
from zoogen.provenance import provenance
from zoogen.store import ZooWriter
from zoogen.studies.pruning import Pruning, retrain
from zoogen.studies.trainees import config_of, members_of
from zoogen.train import Recipe, recipe_of, training_data
from zoogen.zoo import Zoo

SNAPSHOTS = ("dense", "pruned", "retrained")
_DIMS = {"weights": ("member", "snapshot", "parameter"), "diverged_epoch": ("member",)}


def sparsify(zoo: Zoo, out: str | Path, pruning: Pruning, reporter: Reporter = silent) -> None:
    """Write the sparsified twin of a zoo; repeat the call to resume one that was killed.

    The twin has the members of the zoo, with their ids, cells and hyper-parameters. Measure and
    label it with :func:`zoogen.factory.complete`.

    Args:
        zoo: complete; it stays as it is.
        out: directory of the twin, made if absent.
        pruning: what goes, and how training goes on.
        reporter: shows progress; silent by default.

    Raises:
        ConfigError: if nothing or everything would go, or training can't go back that far.
        NotFoundError: if members of the zoo are missing.
        ConflictError: if ``out`` holds another zoo, or another process is writing to it.
        DataUnavailableError: if the data set can't be had.
        StorageError: if the file system refuses.
    """
    if not 0 < pruning.sparsity < 1:
        raise ConfigError(
            f"sparsity: found {pruning.sparsity:g}, expected a share of the weights between 0 and 1"
        )
    zoo.require_classifiers("sparsify")
    _require_complete(zoo)
    cohorts = zoo.reader.cohorts
    recipes = {name: recipe_of(config_of(zoo, name), zoo.dataset) for name in cohorts}
    for recipe in recipes.values():
        pruning.steps(recipe)  # an impossible stretch is an error now, not after other cohorts
    facts, config = _derivation(zoo, pruning), _config(zoo, pruning)
    identity = _digest(json.dumps(facts, sort_keys=True))
    with ZooWriter.create(out, config["name"], config, identity, provenance()) as writer:
        for number, added in zoo.reader.manifest.extensions.items():
            if number not in writer.manifest.extensions:
                writer.extend(added.plan)
        for name in cohorts:
            _begin_cohort(writer, zoo, name, pruning, recipes[name], facts)
        missing = [writer.missing_blocks(name).values() for name in cohorts]
        todo = sum(rows.stop - rows.start for blocks in missing for rows in blocks)
        if not todo:
            return
        with reporter("sparsify", todo, "members") as advance:
            for name in cohorts:
                _write_blocks(writer, zoo, name, pruning, recipes[name], advance)


def _require_complete(zoo: Zoo) -> None:
    planned = sum(zoo.reader.cohort(name).members for name in zoo.reader.cohorts)
    if not len(zoo) == planned > 0:
        raise NotFoundError(
            f"{zoo.path}: {planned - len(zoo)} of {planned} members are not trained; repeat "
            "`zoogen generate` before sparsifying"
        )


def _config(zoo: Zoo, pruning: Pruning) -> dict[str, Any]:
    """The config of the zoo under another name."""
    how = "gradually" if pruning.rounds > 1 else "at once"
    text = f"{100 * pruning.sparsity:g} % of the weights pruned {how} and the rest retrained"
    return zoo.reader.manifest.config | {
        "name": f"{zoo.name}-sparse-{pruning.sparsity:g}" + "-gradual" * (pruning.rounds > 1),
        "description": "; ".join(filter(None, [zoo.config.description, text])),
    }


def _derivation(zoo: Zoo, pruning: Pruning) -> dict[str, Any]:
    """What makes the twin what it is: the trained members that it starts from, and the recipe."""
    files = {
        path: entry.sha256
        for key, unit in zoo.reader.manifest.units()
        for path, entry in unit.files.items()
        if key[0] in {"table", "block"}
    }
    lines = "".join(f"{path} {sha256}\n" for path, sha256 in sorted(files.items()))
    return {
        "how": "sparsified",
        "parent": {
            "name": zoo.name,
            "config_hash": zoo.reader.manifest.config_hash,
            "training_hash": _digest(lines),
        },
        "sparsity": pruning.sparsity,
        "rounds": pruning.rounds,
        "epochs": pruning.epochs,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _begin_cohort(
    writer: ZooWriter,
    zoo: Zoo,
    name: str,
    pruning: Pruning,
    recipe: Recipe,
    derivation: dict[str, Any],
) -> None:
    parent, steps = zoo.reader.cohort(name), pruning.steps(recipe)
    done = (0, steps[-2] - steps[0], steps[-1] - steps[0])
    snapshots = [
        {"name": snapshot, "step": step, "epoch": step / recipe.timeline.steps_per_epoch}
        for snapshot, step in zip(SNAPSHOTS, done, strict=True)
    ]
    info = parent.info | {"total_steps": done[-1], "derivation": derivation}
    table = zoo.reader.members(name).reset_index(drop=True)
    writer.begin_cohort(name, table, parent.spec, snapshots, parent.block_size, info)


def _write_blocks(
    writer: ZooWriter,
    zoo: Zoo,
    name: str,
    pruning: Pruning,
    recipe: Recipe,
    advance: Advance,
) -> None:
    missing = writer.missing_blocks(name)
    if not missing:
        return
    data, table = training_data(zoo.dataset, recipe), zoo.reader.members(name)
    for block, rows in missing.items():
        begin, members = time.perf_counter(), members_of(table[rows])
        dense = zoo.reader.read(name, "weights", rows, -1)
        last = retrain(pruning, recipe, data, members, dense, advance)
        weights = np.stack([dense, *last], axis=1)
        arrays = {"weights": weights, "diverged_epoch": _diverged(weights, pruning, recipe)}
        info = {"seconds": time.perf_counter() - begin, "formulations": chosen()}
        writer.write_block(name, block, arrays, _DIMS, info)


def _diverged(
    weights: Float32[np.ndarray, "m s p"], pruning: Pruning, recipe: Recipe
) -> Int32[np.ndarray, " m"]:
    """The first epoch for members that came diverged, the last for those that did on the way."""
    steps = pruning.steps(recipe)
    last = (steps[-1] - steps[0] - 1) // recipe.timeline.steps_per_epoch
    finite = np.isfinite(weights).all(axis=-1)
    return np.where(finite[:, -1], -1, np.where(finite[:, 0], last, 0)).astype(np.int32)
