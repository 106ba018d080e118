"""Measure a cohort: every metric of every member and seed pair, at every snapshot.

One program over members, one over pairs; rows are (member, snapshot) and (pair, snapshot).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt32

from zoogen.config import DataConfig, LandscapeConfig
from zoogen.data import Dataset, noisy_labels, normalise
from zoogen.errors import ConfigError
from zoogen.landscape import draws
from zoogen.landscape.connectivity import (
    CURVE_POINTS,
    along_curve_and_line,
    farthest_point,
    linear_barrier,
    mode_connectivity,
    train_curve,
)
from zoogen.landscape.curvature import (
    hessian_product,
    lanczos,
    mean_and_stderr,
    ritz_top,
    sign_words,
    trace_samples,
)
from zoogen.landscape.metrics import METRICS, checked_groups
from zoogen.landscape.performance import cross_entropy, error_percent
from zoogen.landscape.similarity import linear_cka, prediction_agreement
from zoogen.landscape.weights import layer_rotation, rotating_layers, weight_norm
from zoogen.networks import Network
from zoogen.population import DEFAULT_CHUNK, MemberFunction, on_cpu, over_members, share

Arrays = dict[str, np.ndarray]
Info = dict[str, dict[str, float]]
OnProgress = Callable[[int, int, str], None]

_CPU_BLOCK = 16  # rows per device between two reports of progress
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


class Examples(NamedTuple):
    """What all rows share: raw images, clean labels, channel statistics.

    Attributes:
        train: all training images that the members saw; the probe set comes first.
        train_labels: without noise.
        test: test probe images.
        test_labels: their classes.
        mean, std: per channel.
    """

    train: Array
    train_labels: Int[Array, " n"]
    test: Array
    test_labels: Int[Array, " n"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]


class MemberRow(NamedTuple):
    """One member at one snapshot, with its random numbers."""

    w: Float[Array, " p"]
    label_noise: Float[Array, ""]
    signs: UInt32[Array, "words p"]
    start: Float[Array, " p"]


class PairRow(NamedTuple):
    """Two members at one snapshot, with the order of the curve's training."""

    start: Float[Array, " p"]
    end: Float[Array, " p"]
    label_noise: Float[Array, ""]
    order: Int[Array, "step b"]
    times: Float[Array, " step"]


@dataclass(frozen=True)
class _Task:
    """Everything static about a measurement; equal tasks share their programs."""

    network: Network
    landscape: LandscapeConfig
    noise_seed: int
    probe: int
    groups: tuple[str, ...]

    @property
    def hessian_examples(self) -> int:
        return min(self.landscape.hessian_examples, self.probe)

    @property
    def krylov(self) -> int:
        return min(self.landscape.lanczos_steps, self.network.spec.size)

    def logits(self, data: Examples, w: Float[Array, " p"], images: Array) -> Float[Array, "b k"]:
        params = self.network.spec.unflatten(w)
        return self.network.apply(params, normalise(images, data.mean, data.std))

    def loss(
        self, data: Examples, w: Float[Array, " p"], images: Array, labels: Int[Array, " b"]
    ) -> Float[Array, ""]:
        return cross_entropy(self.logits(data, w, images), labels)

    def noisy(self, labels: Int[Array, " n"], rate: Float[Array, ""]) -> Int[Array, " n"]:
        """The first training labels, as trained on."""
        return noisy_labels(labels, rate, self.network.classes, self.noise_seed)


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
    on_progress: OnProgress = lambda done, total, what: None,
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
        on_progress: called with rows done, rows in all and ``members`` or ``pairs``.

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
    task = _Task(network, landscape, data.seed, len(train_probe), groups)
    cohort = _Cohort(weights, pairs, np.asarray(label_noise, np.float32), member_words)
    # Accelerators would otherwise round the factors of matrix products to ten bits.
    with jax.default_matmul_precision("highest"):
        arrays, info = _take(task, cohort, share(examples), on_progress)
    finite = np.isfinite(weights).all(axis=-1)
    arrays = {name: _finished(arrays[name], METRICS[name].axes, finite, pairs)
              for name in METRICS if name in arrays}  # fmt: skip
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
    finite: Bool[np.ndarray, "m s"],
    pairs: Int[np.ndarray, "q 2"],
) -> Float32[np.ndarray, "..."]:
    """Values as float32, NaN where weights or value are not finite."""
    usable = finite if axes[0] == "member" else finite[pairs].all(axis=1)
    usable = usable.reshape(usable.shape + (1,) * (values.ndim - 2))
    return np.where(usable & np.isfinite(values), values, np.nan).astype(np.float32)


def _take(
    task: _Task, cohort: _Cohort, data: Examples, on_progress: OnProgress
) -> tuple[Arrays, Info]:
    """All groups of a task, and what they cost."""
    arrays: Arrays = {}
    info: Info = {}
    if {"performance", "curvature", "similarity"} & set(task.groups):
        with _timed(info, "members", len(cohort.weights) * cohort.snapshots):
            raw = _take_members(task, cohort, data, on_progress)
        arrays |= _performance(raw) if "performance" in task.groups else {}
        arrays |= _curvature(task, raw, info) if "curvature" in task.groups else {}
    if "connectivity" in task.groups:
        with _timed(info, "pairs", len(cohort.pairs) * cohort.snapshots):
            arrays |= _connectivity(task, cohort, data, info, on_progress)
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


# ---- programs: one row each


@lru_cache(maxsize=32)
def _member_program(task: _Task) -> MemberFunction:
    return over_members(partial(_measure_member, task))


@lru_cache(maxsize=32)
def _pair_program(task: _Task) -> MemberFunction:
    return over_members(partial(_measure_pair, task))


def _measure_member(task: _Task, row: MemberRow, data: Examples) -> dict[str, Array]:
    """Raw numbers of one member at one snapshot."""
    images = data.train[: task.probe]
    labels = task.noisy(data.train_labels[: task.probe], row.label_noise)
    found: dict[str, Array] = {}
    if {"performance", "similarity"} & set(task.groups):
        # One pass over both probe sets: the network is compiled once.
        logits = task.logits(data, row.w, jnp.concatenate([images, data.test]))
        train, test = logits[: task.probe], logits[task.probe :]
        found |= _scores("train", train, labels) | _scores("test", test, data.test_labels)
        found |= {"test_logits": test} if "similarity" in task.groups else {}
    if "curvature" in task.groups:
        n = task.hessian_examples
        product = hessian_product(lambda w: task.loss(data, w, images[:n], labels[:n]), row.w)
        found["samples"] = trace_samples(product, row.signs, task.landscape.hessian_probes)
        found["alpha"], found["beta"] = lanczos(product, row.start, task.krylov)
    return found


def _scores(
    name: str, logits: Float[Array, "b k"], labels: Int[Array, " b"]
) -> dict[str, Float[Array, ""]]:
    return {
        f"{name}_loss": cross_entropy(logits, labels),
        f"{name}_error": error_percent(logits, labels),
    }


def _measure_pair(task: _Task, row: PairRow, data: Examples) -> dict[str, Array]:
    """Losses and errors on the training probe set along curve and line of one pair."""
    labels = task.noisy(data.train_labels, row.label_noise)
    images, probe_labels = data.train[: task.probe], labels[: task.probe]
    control = train_curve(
        partial(task.loss, data), row.start, row.end, data.train, labels, row.order, row.times,
        task.landscape.curve_learning_rate, task.landscape.curve_weight_decay,
    )  # fmt: skip

    def evaluate(w: Float[Array, " p"]) -> tuple[Array, Array]:
        logits = task.logits(data, w, images)
        return error_percent(logits, probe_labels), cross_entropy(logits, probe_labels)

    curve, line = along_curve_and_line(evaluate, row.start, control, row.end)
    return {"curve_error": curve[0], "curve_loss": curve[1], "line_error": line[0]}


# ---- rows in, arrays out


def _take_members(task: _Task, cohort: _Cohort, data: Examples, on_progress: OnProgress) -> Arrays:
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

    raw = _over_rows(
        _member_program(task), row, len(cohort.weights), cohort.snapshots, data,
        partial(on_progress, what="members"),
    )  # fmt: skip
    return {name: cohort.by_snapshot(values) for name, values in raw.items()}


def _performance(raw: Arrays) -> Arrays:
    scores = {f"{part}_{what}": raw[f"{part}_{what}"] for part in _PARTS for what in _SCORES}
    accuracies = {f"{part}_accuracy": 1 - raw[f"{part}_error"] / 100 for part in _PARTS}
    gap = accuracies["train_accuracy"] - accuracies["test_accuracy"]
    return scores | accuracies | {"generalisation_gap": gap}


def _curvature(task: _Task, raw: Arrays, info: Info) -> Arrays:
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
    task: _Task, cohort: _Cohort, data: Examples, info: Info, on_progress: OnProgress
) -> Arrays:
    raw = _take_pairs(task, cohort, data, on_progress)
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


def _take_pairs(task: _Task, cohort: _Cohort, data: Examples, on_progress: OnProgress) -> Arrays:
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

    raw = _over_rows(
        _pair_program(task), row, len(cohort.pairs), cohort.snapshots, data,
        partial(on_progress, what="pairs"),
    )  # fmt: skip
    return {name: cohort.by_snapshot(values) for name, values in raw.items()}


def _similarity(logits: Float[np.ndarray, "m s n k"], pairs: Int[np.ndarray, "q 2"]) -> Arrays:
    found = []
    for at_snapshot in np.swapaxes(logits, 0, 1):  # one after another, to bound memory
        x, y = at_snapshot[pairs[:, 0]], at_snapshot[pairs[:, 1]]
        found.append((linear_cka(x, y), prediction_agreement(x, y)))
    cka, agreement = (np.stack(values, axis=1) for values in zip(*found, strict=True))
    return {"cka": cka, "prediction_agreement": agreement}


def _over_rows(
    program: MemberFunction,
    row: Callable[[int, int], Any],
    items: int,
    snapshots: int,
    data: Examples,
    report: Callable[[int, int], None],
) -> Arrays:
    """Run a program over (item, snapshot) in blocks of one shape, hence one compilation."""
    total, size = items * snapshots, _block_size(items * snapshots)
    parts = []
    for begin in range(0, total, size):
        # The last block is filled up with copies of the last row.
        places = np.minimum(np.arange(begin, begin + size), total - 1)
        rows = [row(*divmod(int(place), snapshots)) for place in places]
        block = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        parts.append(jax.tree.map(np.asarray, program(block, data)))
        report(min(begin + size, total), total)
    return {name: np.concatenate([part[name] for part in parts])[:total] for name in parts[0]}


def _block_size(total: int) -> int:
    """Rows per call: a multiple of the devices, and as even as can be over the calls."""
    devices = jax.local_device_count()
    calls = math.ceil(total / (devices * (_CPU_BLOCK if on_cpu() else DEFAULT_CHUNK)))
    return math.ceil(total / calls / devices) * devices
