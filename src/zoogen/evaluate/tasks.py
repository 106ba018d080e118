"""A task: samples, target and split put together, as readers get it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import grey_dilation

from zoogen.errors import ConfigError, NotFoundError
from zoogen.evaluate.config import RunConfig
from zoogen.evaluate.padding import padded
from zoogen.evaluate.problem import Problem, Samples
from zoogen.evaluate.readers import Reader
from zoogen.evaluate.samples import Selection, read_samples, refuse_other_layouts, selection
from zoogen.evaluate.splits import split_of, units_of
from zoogen.evaluate.targets import Target, answers, target_of
from zoogen.zoo import Zoo

IDENTITY = ("member", "cell", "seed", "cohort", "snapshot")
NO_NEXT = "no later snapshot"
AS_STORED, PADDED = "as stored", "padded to the largest architecture"


@dataclass(frozen=True)
class Task:
    """A problem, and what its target means.

    Attributes:
        problem: as readers of one architecture get it: padded, if the config says so.
        stored: the same samples with members as they are in the zoo.
        target: that they predict.
        excluded: reason → how many samples were left out.
    """

    problem: Problem
    stored: Samples
    target: Target
    excluded: Mapping[str, int]

    def problem_for(self, reader: Reader) -> Problem:
        """The same samples, sides and targets for all; unpadded for who reads several specs.

        Numbers for every parameter are those of padded weights, which all readers then get.
        """
        unpadded = reader.mixed and self.target.asks == "network"
        return replace(self.problem, samples=self.stored) if unpadded else self.problem

    def space_for(self, reader: Reader) -> Mapping[str, tuple[Any, ...]]:
        """What may be tuned on these samples: canonical forms not where groups are nested."""
        blocks = self.problem_for(reader).samples.blocks
        nested = any(group.parent for block in blocks for group in block.spec.groups.values())
        return {k: v for k, v in reader.space.items() if not (nested and k == "canonical")}

    def weights_for(self, reader: Reader) -> str:
        """Which weights those are, in words."""
        laid = self.problem_for(reader).samples.blocks is not self.stored.blocks
        return PADDED if laid else AS_STORED

    def facts(self) -> dict[str, Any]:
        """What a table of results says about the task."""
        problem, target = self.problem, self.target
        sides = {n: len(getattr(problem.split, n)) for n in ("train", "validation", "test")}
        return {
            "target": problem.name,
            "kind": problem.kind,
            "unit": f"log10 {target.unit}".strip() if target.log else target.unit,
            "level": target.level,
            "definition": target.definition,
            "classes": list(problem.classes),
            "samples": len(problem.samples),
            "members": int(problem.samples.table["member"].nunique()),
            "cells": int(problem.samples.table["cell"].nunique()),
            "architectures": len({b.spec.parameters for b in self.stored.blocks}),
            "sides": sides,
            "excluded": dict(self.excluded),
            "hyper_parameters": list(problem.samples.hyper_parameters),
        }


def task_of(zoo: Zoo, config: RunConfig) -> Task:
    """Put a task together.

    Args:
        zoo: an open zoo.
        config: names target, snapshots and split.

    Raises:
        NotFoundError: if the zoo lacks the target or a snapshot, or no sample is left.
        ConfigError: if there is nothing to predict, a side of the split is empty, members would
            leak, or padding is impossible.
    """
    name, split = config.task.target, config.split
    chosen = selection(zoo, config.task.times, config.task.where)
    target = target_of(zoo, name, chosen.table)
    chosen = _with_next(zoo, chosen) if target.asks == "update" else chosen
    found = answers(target, name, zoo, chosen)
    stored = read_samples(zoo, found.chosen)
    values = found.values[_places(found.chosen, stored)]
    seen = tuple(key for key in stored.hyper_parameters if key != name)
    units = units_of(stored.table, split.by, target.level)
    stored = replace(stored, hyper_parameters=seen, table=stored.table.assign(unit=units))
    laid = padded if config.task.padding else _as_they_are
    samples = laid(stored)
    canvas = None
    if target.asks == "update":
        values = _updates(zoo, samples, laid)
    elif target.asks == "edit":
        images = dilated(_images(zoo, samples))
        values, canvas = pixel_rows(images), images.shape[2:]
    sides = split_of(
        samples.table, split.by, split.test, split.validation, split.seed, split.region,
        target.level,
    )  # fmt: skip
    problem = Problem(name, target.kind, samples, values, found.classes, sides, canvas)
    return Task(problem, stored, target, samples.excluded)


def blind(problem: Problem) -> Problem:
    """The problem as a reader gets it: test targets are NaN, and of the table only who a sample is
    and how it was made are left. What is not there can't be used."""
    targets = problem.targets.astype(float)
    targets[problem.split.test] = np.nan
    samples = problem.samples
    table = samples.table[[*IDENTITY, *samples.hyper_parameters]]
    return replace(problem, samples=replace(samples, table=table), targets=targets)


def _as_they_are(samples: Samples) -> Samples:
    return samples


def _places(chosen: Selection, samples: Samples) -> Int[np.ndarray, " n"]:
    """Rows of a selection that became samples, in their order."""
    keys = ["member", "position"]
    wanted = samples.table[keys].apply(tuple, axis=1)
    place = {key: row for row, key in enumerate(chosen.table[keys].itertuples(False, None))}
    return np.array([place[key] for key in wanted])


# ------------------------------------------------------------------------------------ next update
def _with_next(zoo: Zoo, chosen: Selection) -> Selection:
    """Samples whose weights at the next snapshot are stored, too."""
    last = {cohort: len(zoo.snapshots(cohort)) - 1 for cohort in zoo.cohorts}
    at_end = chosen.table["position"] >= chosen.table["cohort"].map(last)
    if at_end.all():
        names = list(zoo.snapshots(str(chosen.table["cohort"].iloc[0]))["name"])[:-1]
        raise NotFoundError(
            f"{zoo.path}: target 'next_update': all {len(at_end)} samples are at the last snapshot "
            f"of their member; name earlier ones in task.snapshots ({', '.join(names)})"
        )
    return chosen.without(at_end.to_numpy(), NO_NEXT)


def _updates(
    zoo: Zoo, samples: Samples, laid: Callable[[Samples], Samples]
) -> Float[np.ndarray, "n p"]:
    """Change of every weight up to the next snapshot."""
    refuse_other_layouts(samples, "target 'next_update', one number a parameter")
    later = samples.table.assign(position=samples.table["position"] + 1)
    following = laid(read_samples(zoo, Selection(later)))
    if len(following) < len(samples):
        raise ConfigError(
            "target 'next_update': weights of a member are finite at one snapshot and not at the "
            "next; leave it out with task.where"
        )
    values = np.empty((len(samples), samples.blocks[0].spec.size), np.float32)
    for block in following.blocks:
        values[block.rows] = block.weights
    for block in samples.blocks:
        values[block.rows] -= block.weights
    return values


# ----------------------------------------------------------------------------------------- edits
def _images(zoo: Zoo, samples: Samples) -> Float[np.ndarray, "n c h w"]:
    """The images that samples were fitted to: of the data set, not as the networks show them."""
    refuse_other_layouts(samples, "target 'dilate', a change of every parameter")
    members = samples.table["member"]
    return zoo.targets()[zoo.members.index.get_indexer(members)]


def dilated(images: Float[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n c h w"]:
    """Every pixel as bright as the brightest of the nine around it; at the edge, of fewer.

    Example:
        >>> dilated(np.eye(4)[None, None])[0, 0].tolist()[0]
        [1.0, 1.0, 1.0, 0.0]
    """
    found: Float[np.ndarray, "n c h w"] = grey_dilation(images, size=(1, 1, 3, 3), mode="nearest")
    return found


def pixel_rows(images: Float[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n o"]:
    """Pixels as networks show them: place after place, at each its channels."""
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1)
