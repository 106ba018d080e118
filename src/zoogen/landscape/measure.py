"""Measure a cohort: every metric of every member and seed pair, at every snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, UInt32

from zoogen.config import DataConfig, LandscapeConfig
from zoogen.data import Dataset
from zoogen.errors import ConfigError
from zoogen.landscape.calibration import MARGIN_QUANTILES
from zoogen.landscape.connectivity import CURVE_POINTS
from zoogen.landscape.group import Arrays, Draws, Examples, MemberRow, PairRow, Taken, Task, Words
from zoogen.landscape.groups import GROUPS
from zoogen.landscape.metrics import METRICS, checked_groups, require_groups
from zoogen.landscape.programs import empty_rows, member_program, over_rows, pair_program
from zoogen.landscape.weights import rotating_layers
from zoogen.networks import Network, hidden_names
from zoogen.population import share

Info = dict[str, dict[str, float]]
OnShare = Callable[[float], None]
OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Measurement:
    """What was measured on a cohort.

    Attributes:
        arrays: metric → values, float32; NaN where a member diverged.
        dims: metric → names of its axes.
        coords: axis → labels, for axes whose places have a meaning: ``t`` and ``layer``.
        info: what it cost. ``seconds``: spent on programs over ``members`` and ``pairs`` (compiling
            included), ``per_member`` and ``per_pair``, all snapshots together, and on the ``host``
            to finish them.
            ``gradient_evaluations``: group → their number for one member or pair at one snapshot.
            Then metric → how they came about: ``gradient_evaluations``, ``examples`` of each, and
            probes or steps.
    """

    arrays: Arrays
    dims: dict[str, tuple[str, ...]]
    coords: dict[str, tuple[Any, ...]]
    info: Info


@dataclass(frozen=True)
class _Cohort:
    """What differs between members; rows count through the snapshots of one after another."""

    weights: Float32[np.ndarray, "m s p"]
    pairs: Int[np.ndarray, "q 2"]
    label_noise: Float32[np.ndarray, " m"]
    words: UInt32[np.ndarray, "m 2"]
    images: Int[np.ndarray, " m"] | None

    @property
    def snapshots(self) -> int:
        return self.weights.shape[1]


def seed_pairs(cells: Sequence[str], limit: int | None = None) -> Int[np.ndarray, "q 2"]:
    """Pairs of members that share a cell, cell by cell.

    Near neighbours come first, so that a limit still lets every member take part.

    Args:
        cells: cell of each member.
        limit: most pairs per cell; all if absent.

    Returns:
        Places in ``cells``, the smaller first; no row for a cell of one member.

    Example:
        >>> seed_pairs(["a", "a", "b", "a"]).tolist()
        [[0, 1], [1, 3], [0, 3]]
    """
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault(cell, []).append(place)
    pairs: list[tuple[int, int]] = []
    for members in places.values():
        ranks = sorted(combinations(range(len(members)), 2), key=lambda ij: (ij[1] - ij[0], ij[0]))
        pairs += [(members[i], members[j]) for i, j in ranks[:limit]]
    return np.array(pairs, np.int64).reshape(-1, 2)


def measure_cohort(
    network: Network,
    dataset: Dataset,
    data: DataConfig,
    landscape: LandscapeConfig,
    weights: Float32[np.ndarray, "m s p"],
    pairs: Int[np.ndarray, "q 2"],
    label_noise: Float[np.ndarray, " m"],
    member_words: UInt32[np.ndarray, "m 2"],
    groups: Iterable[str] | None = None,
    images: Int[np.ndarray, " m"] | None = None,
    on_share: OnShare = lambda share: None,
) -> Measurement:
    """Take the metrics of ``METRICS`` on every member and pair of a cohort.

    In evaluation mode, on the fixed probe sets; a result depends on the member or pair alone,
    not on who else is measured. Random probes and curves are the same at every snapshot, so
    that what changes along a trajectory is the network.

    Args:
        network: of the members.
        dataset: what they were trained on.
        data: their training fraction, probe sets and seed of label noise.
        landscape: effort and seed.
        weights: flat weights; snapshot 0 is the initialisation.
        pairs: members to compare, from :func:`seed_pairs`.
        label_noise: share of noisy training labels of each member.
        member_words: identity of each member, from :func:`zoogen.keys.identity_words`.
        groups: of metrics, see ``GROUPS``; ``landscape.metrics`` if absent.
        images: where members fit one each, its number: training images first, then test images.
        on_share: called with the share of all work that was just done; the shares sum to 1.

    Returns:
        A :class:`Measurement`; a member that is not finite at a snapshot has NaN there, and so
        have its pairs.

    Raises:
        ConfigError: for an unknown group, one that such members can't have, weights of another
            network, or pairs whose members differ in label noise.
    """
    groups = checked_groups(landscape.metrics if groups is None else groups)
    _check(network, weights, pairs, label_noise)
    require_groups(network.config, groups)
    train_probe, test_probe = dataset.probes(data)
    seen = dataset.train.first(dataset.training_size(data.fraction))
    train = dataset.all_images if network.config.fits_image else seen.images
    examples = Examples(
        train, seen.labels, test_probe.images, test_probe.labels, dataset.mean, dataset.std
    )
    task = Task(network, landscape, data.seed, len(seen), len(train_probe), dataset.white)
    cohort = _Cohort(weights, pairs, np.asarray(label_noise, np.float32), member_words, images)
    # Accelerators would otherwise round the factors of matrix products to ten bits. And what
    # overflows in a member that diverged is no news: it becomes NaN.
    with jax.default_matmul_precision("highest"), np.errstate(over="ignore", invalid="ignore"):
        arrays, info = _take(task, groups, cohort, share(examples), on_share)
        arrays = {
            name: _finished(arrays[name], METRICS[name].axes, weights, pairs)
            for name in METRICS
            if name in arrays
        }
    dims = {name: METRICS[name].axes for name in arrays}
    return Measurement(arrays, dims, _coords(network, arrays), info)


def _coords(network: Network, arrays: Arrays) -> dict[str, tuple[Any, ...]]:
    """Labels of the axes of what was measured."""
    labels = {
        "t": CURVE_POINTS,
        "layer": tuple(layer.name for layer in rotating_layers(network.spec)),
        "hidden": hidden_names(network),
        "quantile": MARGIN_QUANTILES,
    }
    axes = {axis for name in arrays for axis in METRICS[name].axes}
    return {axis: names for axis, names in labels.items() if axis in axes}


def _check(
    network: Network,
    weights: Float32[np.ndarray, "m s p"],
    pairs: Int[np.ndarray, "q 2"],
    label_noise: Float[np.ndarray, " m"],
) -> None:
    if weights.ndim != 3 or weights.shape[-1] != network.spec.size:
        raise ConfigError(
            f"measure: expected weights [member, snapshot, {network.spec.size}], found "
            f"{list(weights.shape)}; pass the network that they belong to"
        )
    differ = label_noise[pairs[:, 0]] != label_noise[pairs[:, 1]]
    if differ.any():
        i, j = pairs[np.argmax(differ)]
        raise ConfigError(
            f"measure: pair ({i}, {j}) has label noise {label_noise[i]:g} and {label_noise[j]:g}; "
            "pair members of one cell only (`seed_pairs`)"
        )


def _finished(
    values: np.ndarray,
    axes: tuple[str, ...],
    weights: Float32[np.ndarray, "m s p"],
    pairs: Int[np.ndarray, "q 2"],
) -> Float32[np.ndarray, "..."]:
    """Values as float32, NaN where weights or value are not finite."""
    finite = np.isfinite(weights).all(axis=-1)
    usable = finite if axes[0] == "member" else finite[pairs].all(axis=1)
    usable = usable.reshape(usable.shape + (1,) * (values.ndim - 2))
    values = values.astype(np.float32)
    return np.where(usable & np.isfinite(values), values, np.float32(np.nan))


def _take(
    task: Task, groups: tuple[str, ...], cohort: _Cohort, data: Examples, on_share: OnShare
) -> tuple[Arrays, Info]:
    """All metrics of some groups, and what they cost."""
    of_member = tuple(name for name in groups if GROUPS[name].of_member)
    of_pair = tuple(name for name in groups if GROUPS[name].of_pair)
    items = bool(of_member) * len(cohort.weights) + bool(of_pair) * len(cohort.pairs)
    if items == 0:  # nothing but what costs next to nothing
        on_share(1.0)

    def on_rows(rows: int) -> None:
        on_share(rows / (items * cohort.snapshots))

    begin = time.perf_counter()
    member = _take_members(task, of_member, cohort, data, on_rows) if of_member else {}
    middle = time.perf_counter()
    pair = _take_pairs(task, of_pair, cohort, data, on_rows) if of_pair else {}
    end = time.perf_counter()
    taken = Taken(task, cohort.weights, cohort.pairs, member, pair)
    arrays: Arrays = {}
    for name in groups:
        arrays |= GROUPS[name].finish(taken)
    seconds = {
        "members": middle - begin,
        "pairs": end - middle,
        "host": time.perf_counter() - end,
        "per_member": (middle - begin) / max(1, len(cohort.weights)),
        "per_pair": (end - middle) / max(1, len(cohort.pairs)),
    }
    return arrays, {"seconds": seconds, **_gradients(task, groups)}


def _gradients(task: Task, groups: tuple[str, ...]) -> Info:
    """What groups cost in gradients: in all, and how it came about."""
    spent = {name: GROUPS[name].cost(task) for name in groups}
    totals = {
        name: sum(counts["gradient_evaluations"] for counts in costs.values())
        for name, costs in spent.items()
    }
    return {"gradient_evaluations": totals} | {
        metric: counts for costs in spent.values() for metric, counts in costs.items()
    }


def _take_members(
    task: Task, groups: tuple[str, ...], cohort: _Cohort, data: Examples, on_rows: OnRows
) -> Arrays:
    def row(member: int, snapshot: int) -> MemberRow:
        drawn = _draw(task, groups, cohort.words[member])
        image = None if cohort.images is None else np.int32(cohort.images[member])
        weights = cohort.weights[member, snapshot]
        return MemberRow(weights, cohort.label_noise[member], drawn, image)

    program = member_program(task, groups)
    return over_rows(program, row, len(cohort.weights), cohort.snapshots, data, on_rows)


def _take_pairs(
    task: Task, groups: tuple[str, ...], cohort: _Cohort, data: Examples, on_rows: OnRows
) -> Arrays:
    # Without pairs one stands in for them, so that the shapes of nothing can be told.
    pairs = cohort.pairs if len(cohort.pairs) else np.zeros((1, 2), int)
    prepared: Arrays = {}
    for name in groups:
        prepared |= GROUPS[name].prepare(task, cohort.weights, pairs)

    def row(pair: int, snapshot: int) -> PairRow:
        i, j = pairs[pair]
        drawn = _draw(task, groups, cohort.words[[i, j]].ravel())
        own = {name: values[pair, snapshot] for name, values in prepared.items()}
        ends = cohort.weights[i, snapshot], cohort.weights[j, snapshot]
        return PairRow(*ends, cohort.label_noise[i], {**drawn, **own})

    if len(cohort.pairs) == 0:
        return empty_rows(task, groups, row(0, 0), cohort.snapshots, data)
    program = pair_program(task, groups)
    return over_rows(program, row, len(pairs), cohort.snapshots, data, on_rows)


def _draw(task: Task, groups: tuple[str, ...], words: Words) -> Draws:
    drawn: dict[str, Any] = {}
    for name in groups:
        drawn |= GROUPS[name].draw(task, words)
    return drawn
