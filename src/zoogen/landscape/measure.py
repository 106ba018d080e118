"""Measure a cohort: every metric of every member and seed pair, at every snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, UInt32

from zoogen.config import DataConfig, LandscapeConfig
from zoogen.data import Dataset
from zoogen.errors import ConfigError
from zoogen.landscape import draws
from zoogen.landscape.connectivity import (
    CURVE_POINTS,
    farthest_point,
    linear_barrier,
    mode_connectivity,
)
from zoogen.landscape.curvature import mean_and_stderr, ritz_top, sign_words
from zoogen.landscape.metrics import METRICS, checked_groups
from zoogen.landscape.programs import (
    MEMBER_GROUPS,
    Examples,
    MemberRow,
    PairRow,
    Task,
    member_program,
    over_rows,
    pair_program,
)
from zoogen.landscape.similarity import linear_cka, prediction_agreement
from zoogen.landscape.weights import layer_rotation, rotating_layers, weight_norm
from zoogen.networks import Network
from zoogen.population import share

Arrays = dict[str, np.ndarray]
Info = dict[str, dict[str, float]]
OnShare = Callable[[float], None]
OnRows = Callable[[int], None]

_PARTS = ("train", "test")
_SCORES = ("loss", "error")


@dataclass(frozen=True)
class Measurement:
    """What was measured on a cohort.

    Attributes:
        arrays: metric → values, float32; NaN where a member diverged.
        dims: metric → names of its axes.
        coords: axis → labels, for axes whose places have a meaning: ``t`` and ``layer``.
        info: what was done → counts and seconds: probes, products, examples, steps, rows.
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

    @property
    def snapshots(self) -> int:
        return self.weights.shape[1]

    def by_snapshot(self, rows: np.ndarray) -> np.ndarray:
        """Rows as ``[member or pair, snapshot, …]``."""
        return rows.reshape(-1, self.snapshots, *rows.shape[1:])


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
        on_share: called with the share of all work that was just done; the shares sum to 1.

    Returns:
        A :class:`Measurement`; a member that is not finite at a snapshot has NaN there, and so
        have its pairs.

    Raises:
        ConfigError: for an unknown group, weights of another network, or pairs whose members
            differ in label noise.
    """
    groups = checked_groups(landscape.metrics if groups is None else groups)
    _check(network, weights, pairs, label_noise)
    train_probe, test_probe = dataset.probes(data)
    seen = dataset.train.first(dataset.training_size(data.fraction))
    examples = Examples(
        seen.images, seen.labels, test_probe.images, test_probe.labels, dataset.mean, dataset.std
    )
    task = Task(network, landscape, data.seed, len(train_probe), groups)
    cohort = _Cohort(weights, pairs, np.asarray(label_noise, np.float32), member_words)
    # Accelerators would otherwise round the factors of matrix products to ten bits. And what
    # overflows in a member that diverged is no news: it becomes NaN.
    with jax.default_matmul_precision("highest"), np.errstate(over="ignore", invalid="ignore"):
        arrays, info = _take(task, cohort, share(examples), on_share)
        arrays = {
            name: _finished(arrays[name], METRICS[name].axes, weights, pairs)
            for name in METRICS
            if name in arrays
        }
    dims = {name: METRICS[name].axes for name in arrays}
    layers = tuple(layer.name for layer in rotating_layers(network.spec))
    return Measurement(arrays, dims, {"t": CURVE_POINTS, "layer": layers}, info)


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


def _take(task: Task, cohort: _Cohort, data: Examples, on_share: OnShare) -> tuple[Arrays, Info]:
    """All groups of a task, and what they cost."""
    arrays: Arrays = {}
    info: Info = {}
    of_members = bool(set(MEMBER_GROUPS) & set(task.groups))
    items = of_members * len(cohort.weights) + ("connectivity" in task.groups) * len(cohort.pairs)
    if items == 0:  # nothing but what costs next to nothing
        on_share(1.0)

    def on_rows(rows: int) -> None:
        on_share(rows / (items * cohort.snapshots))

    if of_members:
        with _timed(info, "members", len(cohort.weights) * cohort.snapshots):
            raw = _take_members(task, cohort, data, on_rows)
        arrays |= _performance(raw) if "performance" in task.groups else {}
        arrays |= _curvature(task, raw, info) if "curvature" in task.groups else {}
    if "connectivity" in task.groups:
        with _timed(info, "pairs", len(cohort.pairs) * cohort.snapshots):
            arrays |= _connectivity(task, cohort, data, info, on_rows)
    if "similarity" in task.groups:
        with _timed(info, "similarity", len(cohort.pairs) * cohort.snapshots):
            arrays |= _similarity(raw["test_logits"], cohort.pairs)
    if "weights" in task.groups:
        with _timed(info, "weights", len(cohort.weights) * cohort.snapshots):
            arrays["weight_norm"] = weight_norm(cohort.weights)
            arrays["layer_rotation"] = layer_rotation(task.network.spec, cohort.weights)
    return arrays, info


@contextmanager
def _timed(info: Info, what: str, rows: int) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    info[what] = {"rows": rows, "seconds": time.perf_counter() - begin}


def _take_members(task: Task, cohort: _Cohort, data: Examples, on_rows: OnRows) -> Arrays:
    seed, size = task.landscape.seed, task.network.spec.size
    words = sign_words(task.landscape.hessian_probes) if "curvature" in task.groups else 0

    def row(member: int, snapshot: int) -> MemberRow:
        identity = cohort.words[member]
        return MemberRow(
            cohort.weights[member, snapshot],
            cohort.label_noise[member],
            draws.sign_bits(seed, identity, words, size),
            draws.start_vector(seed, identity, size if words else 0),
        )

    items, snapshots = len(cohort.weights), cohort.snapshots
    raw = over_rows(member_program(task), row, items, snapshots, data, on_rows)
    return {name: cohort.by_snapshot(values) for name, values in raw.items()}


def _performance(raw: Arrays) -> Arrays:
    scores = {f"{part}_{what}": raw[f"{part}_{what}"] for part in _PARTS for what in _SCORES}
    accuracies = {f"{part}_accuracy": 1 - raw[f"{part}_error"] / 100 for part in _PARTS}
    gap = accuracies["train_accuracy"] - accuracies["test_accuracy"]
    return scores | accuracies | {"generalisation_gap": gap}


def _curvature(task: Task, raw: Arrays, info: Info) -> Arrays:
    trace, stderr = mean_and_stderr(raw["samples"].astype(np.float64))
    top, residual = ritz_top(raw["alpha"], raw["beta"])
    probes, krylov, examples = task.landscape.hessian_probes, task.krylov, task.hessian_examples
    info["hessian_trace"] = {"probes": probes, "hessian_products": probes, "examples": examples}
    info["hessian_top"] = {"steps": krylov, "hessian_products": krylov, "examples": examples}
    return {
        "hessian_trace": trace,
        "hessian_trace_stderr": stderr,
        "hessian_top": top,
        "hessian_top_residual": residual,
    }


def _connectivity(
    task: Task, cohort: _Cohort, data: Examples, info: Info, on_rows: OnRows
) -> Arrays:
    raw = _take_pairs(task, cohort, data, on_rows)
    curve, line = raw["curve_error"], raw["line_error"]
    times = np.array(CURVE_POINTS)
    batch = min(task.landscape.curve_batch_size, len(data.train_labels))
    steps = task.landscape.curve_epochs * (len(data.train_labels) // batch)
    info["mode_connectivity"] = {"steps": steps, "gradient_evaluations": steps, "batch": batch}
    connectivity = mode_connectivity(curve)
    return {
        "curve_train_error": curve,
        "curve_train_loss": raw["curve_loss"],
        "mode_connectivity": connectivity,
        "worst_t": np.where(np.isfinite(connectivity), times[farthest_point(curve)], np.nan),
        "linear_barrier": linear_barrier(line, times),
    }


def _take_pairs(task: Task, cohort: _Cohort, data: Examples, on_rows: OnRows) -> Arrays:
    if len(cohort.pairs) == 0:
        empty = np.empty((0, cohort.snapshots, len(CURVE_POINTS)))
        return dict.fromkeys(("curve_error", "curve_loss", "line_error"), empty)

    def row(pair: int, snapshot: int) -> PairRow:
        i, j = cohort.pairs[pair]
        order, times = draws.curve_order(
            task.landscape.seed, cohort.words[[i, j]].ravel(), len(data.train_labels),
            task.landscape.curve_epochs, task.landscape.curve_batch_size,
        )  # fmt: skip
        ends = cohort.weights[i, snapshot], cohort.weights[j, snapshot]
        return PairRow(*ends, cohort.label_noise[i], order, times)

    items, snapshots = len(cohort.pairs), cohort.snapshots
    raw = over_rows(pair_program(task), row, items, snapshots, data, on_rows)
    return {name: cohort.by_snapshot(values) for name, values in raw.items()}


def _similarity(logits: Float[np.ndarray, "m s n k"], pairs: Int[np.ndarray, "q 2"]) -> Arrays:
    found = []
    for at_snapshot in np.swapaxes(logits, 0, 1):  # one after another, to bound memory
        x, y = at_snapshot[pairs[:, 0]], at_snapshot[pairs[:, 1]]
        found.append((linear_cka(x, y), prediction_agreement(x, y)))
    cka, agreement = (np.stack(values, axis=1) for values in zip(*found, strict=True))
    return {"cka": cka, "prediction_agreement": agreement}
