"""Inputs: what readers see of members, from blocks of weights to arrays with a row a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zoogen.errors import ConfigError
from zoogen.evaluate.problem import Block, Problem, Samples
from zoogen.evaluate.samples import refuse_other_layouts
from zoogen.params import Parameter, ParamSpec
from zoogen.symmetry import canonical

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_AT_ONCE = 256  # members whose canonical forms are made in float64 together


class Joined(NamedTuple):
    """All samples as rows of one table of weights.

    Attributes:
        spec: of all of them; scalings that they do not share are left out.
        weights: in the order of the samples.
    """

    spec: ParamSpec
    weights: Float[np.ndarray, "n p"]


def joined(samples: Samples, reader: str) -> Joined:
    """Weights of samples that have the same parameters.

    Networks that differ in their activation alone have.

    Args:
        samples: of any number of blocks.
        reader: who needs them so; for the message.

    Raises:
        ConfigError: if two blocks have other parameters.
    """
    refuse_mixed(samples, reader)
    weights = np.empty((len(samples), samples.blocks[0].spec.size), np.float32)
    for block in samples.blocks:
        weights[block.rows] = block.weights
    return Joined(_common(samples.blocks), weights)


def refuse_mixed(samples: Samples, reader: str) -> None:
    """Refuse samples of several architectures for a reader of one.

    Raises:
        ConfigError: naming two cohorts that differ.
    """
    others = "choose a reader of several (statistics-trees, probes, graph, signals), "
    refuse_other_layouts(samples, f"reader {reader!r}", others)


def in_canonical_form(samples: Samples) -> Samples:
    """Members that differ by a symmetry of their network alone become equal.

    Raises:
        ConfigError: if a spec has nested groups.
    """
    blocks = []
    for block in samples.blocks:
        parts = np.split(block.weights, range(_AT_ONCE, len(block.weights), _AT_ONCE))
        forms = [canonical(block.spec, part).values for part in parts]
        blocks.append(replace(block, weights=np.concatenate(forms)))
    return replace(samples, blocks=tuple(blocks))


def _common(blocks: tuple[Block, ...]) -> ParamSpec:
    spec = blocks[0].spec
    shared = set.intersection(*(set(block.spec.scalings) for block in blocks))
    scalings = tuple(pair for pair in spec.scalings if pair in shared)
    return replace(spec, scalings=scalings)


def refuse_unfit(problem: Problem, reader: str) -> None:
    """Name what no reader can be fitted on.

    Raises:
        ConfigError: if there is no training or validation row, weights are not finite, or targets
            of training or validation rows are not.
    """
    for name in ("train", "validation"):
        rows = getattr(problem.split, name)
        if not len(rows):
            raise ConfigError(
                f"reader {reader!r}, target {problem.name!r}: the split has no {name} rows; choose "
                "another split or more members"
            )
        bad = rows[~np.isfinite(problem.targets[rows]).all(axis=1)]
        if bad.size:
            raise ConfigError(
                f"reader {reader!r}: target {problem.name!r} of {bad.size} of {len(rows)} {name} "
                f"rows is not finite, first of member {_member(problem.samples, bad[0])!r}; leave "
                "these samples out"
            )
    for block in problem.samples.blocks:
        bad = block.rows[~np.isfinite(block.weights).all(axis=1)]
        if bad.size:
            raise ConfigError(
                f"reader {reader!r}: weights of {bad.size} of {len(block.rows)} samples are not "
                f"finite, first of member {_member(problem.samples, bad[0])!r}; leave diverged "
                "members out"
            )


def _member(samples: Samples, row: int) -> str:
    return str(samples.table["member"].iloc[row])


# --------------------------------------------------------------------------------------- scales
def tensor_scales(spec: ParamSpec, weights: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " p"]:
    """Root mean square of each tensor over members and entries, at every entry; one for zeros.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2),), "bias": (Axis(1),)})
        >>> tensor_scales(spec, np.array([[3.0, -3.0, 0.0]])).tolist()
        [3.0, 3.0, 1.0]
    """
    scales = np.ones(spec.size, np.float32)
    for parameter in spec.parameters:
        square = np.square(_entries(parameter, weights), dtype=np.float64).mean()
        scales[parameter.offset : parameter.offset + parameter.size] = np.sqrt(square) or 1
    return scales


def standard_columns(
    values: Float[np.ndarray, "n *u f"], rows: Int[np.ndarray, " t"], limit: float = 10.0
) -> Float[np.ndarray, "n *u f"]:
    """Features with zero mean and unit deviation over the rows, no further from it than a limit.

    Constant features become zero, missing ones, too.
    """
    seen = values[rows].reshape(-1, values.shape[-1]).astype(np.float64)
    known = np.isfinite(seen)
    count = np.maximum(1, known.sum(axis=0))
    mean = np.where(known, seen, 0).sum(axis=0) / count
    deviation = np.sqrt(np.where(known, np.square(seen - mean), 0).sum(axis=0) / count)
    # Below rounding of the mean a deviation is one of rounding, not of the members.
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    scaled = np.clip((values - mean) / deviation, -limit, limit)
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def _entries(parameter: Parameter, weights: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m e"]:
    return weights[:, parameter.offset : parameter.offset + parameter.size]


# ----------------------------------------------------------------------------------- statistics
def statistics(samples: Samples) -> Float[np.ndarray, "n f"]:
    """Mean, variance and quantiles 0, 25, 50, 75 and 100 % of every tensor.

    Columns belong to tensors by name; those of tensors that a member does not have are NaN.

    Reference:
        Unterthiner et al., Predicting neural network accuracy from weights, 2020.
    """
    names = dict.fromkeys(p.name for block in samples.blocks for p in block.spec.parameters)
    width = 2 + len(QUANTILES)
    place = {name: width * i for i, name in enumerate(names)}
    values = np.full((len(samples), width * len(names)), np.nan)
    for block in samples.blocks:
        for parameter in block.spec.parameters:
            begin = place[parameter.name]
            found = _statistics(_entries(parameter, block.weights))
            values[block.rows, begin : begin + width] = found
    return values


def _statistics(entries: Float[np.ndarray, "m e"]) -> Float[np.ndarray, "m f"]:
    moments = [entries.mean(axis=1), entries.var(axis=1)]
    return np.stack([*moments, *np.quantile(entries, QUANTILES, axis=1)], axis=1)


# ---------------------------------------------------------------------------------------- units
def unit_features(
    spec: ParamSpec, weights: Float[np.ndarray, "n p"]
) -> tuple[dict[str, Float[np.ndarray, "n u f"]], Float[np.ndarray, "n r"]]:
    """What every unit has of its own, group by group, and the parameters that belong to no unit.

    A unit has its bias; its weights from inputs, to outputs and at kernel positions, as they are;
    and mean and deviation of its weights from and to the units of another group.

    Example:
        >>> from zoogen.params import Axis
        >>> unit = Axis(5, "hidden")
        >>> spec = ParamSpec.build({"a": (unit, Axis(2)), "b": (unit,), "c": (Axis(1), unit)})
        >>> groups, rest = unit_features(spec, np.ones((7, 20)))
        >>> groups["hidden"].shape, rest.shape
        ((7, 5, 4), (7, 0))
    """
    groups: dict[str, list[np.ndarray]] = {}
    rest = [np.zeros((len(weights), 0), weights.dtype)]
    for parameter in spec.parameters:
        entries = _entries(parameter, weights)
        for group, features in _of_units(parameter, entries):
            groups.setdefault(group, []).append(features)
        if all(axis.group is None for axis in parameter.axes):
            rest.append(entries)
    joined_groups = {name: np.concatenate(parts, axis=-1) for name, parts in groups.items()}
    return joined_groups, np.concatenate(rest, axis=-1)


def _of_units(
    parameter: Parameter, entries: Float[np.ndarray, "n e"]
) -> Iterator[tuple[str, Float[np.ndarray, "n u f"]]]:
    factors = [size for a in parameter.axes for size in (a.size // a.block, a.block)]
    split = entries.reshape(len(entries), *factors)  # units of axis i along axis 1 + 2 i
    for place, axis in enumerate(parameter.axes):
        if axis.group is None:
            continue
        others = tuple(
            1 + 2 * i for i, a in enumerate(parameter.axes) if a.group is not None and i != place
        )
        pooled = [split.mean(others, keepdims=True), split.std(others, keepdims=True)]
        for values in pooled if others else [split]:
            own = np.moveaxis(values, 1 + 2 * place, 1)
            yield axis.group, own.reshape(*own.shape[:2], -1)


def same_functions(blocks: tuple[Block, ...], reader: str) -> None:
    """Name two blocks whose networks take or return other shapes.

    Raises:
        ConfigError: if there are such.
    """
    shapes = [(block.network.image_shape, block.network.classes) for block in blocks]
    for one, other in combinations(dict.fromkeys(shapes), 2):
        raise ConfigError(
            f"reader {reader!r}: expected networks of one input and output shape, found {one} and "
            f"{other}; select members that solve the same task"
        )
