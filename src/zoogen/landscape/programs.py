"""The two programs of a measurement, each of one row: a member or a pair at one snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt32

from zoogen.config import LandscapeConfig
from zoogen.data import noisy_labels, normalise
from zoogen.landscape.connectivity import along_curve_and_line, train_curve
from zoogen.landscape.curvature import hessian_product, lanczos, trace_samples
from zoogen.landscape.performance import cross_entropy, error_percent
from zoogen.networks import Network
from zoogen.population import DEFAULT_CHUNK, MemberFunction, on_cpu, over_members

MEMBER_GROUPS = ("performance", "curvature", "similarity")
"""Groups of metrics that the program over members takes."""

_CPU_BLOCK = 16  # rows per device between two reports of progress


class Examples(NamedTuple):
    """What all rows share: raw images, clean labels, channel statistics.

    Attributes:
        train: all training images that the members saw; the probe set comes first.
        train_labels: without noise.
        test: test probe images.
        test_labels: their classes.
        mean, std: per channel.
    """

    train: Shaped[Any, "n c h w"]
    train_labels: Int[Any, " n"]
    test: Shaped[Any, "n c h w"]
    test_labels: Int[Any, " n"]
    mean: Float[Any, " c"]
    std: Float[Any, " c"]


class MemberRow(NamedTuple):
    """One member at one snapshot, with its random numbers."""

    w: Float[Any, " p"]
    label_noise: Float[Any, ""]
    signs: UInt32[Any, "words p"]
    start: Float[Any, " p"]


class PairRow(NamedTuple):
    """Two members at one snapshot, with the order of the curve's training."""

    start: Float[Any, " p"]
    end: Float[Any, " p"]
    label_noise: Float[Any, ""]
    order: Int[Any, "step b"]
    times: Float[Any, " step"]


@dataclass(frozen=True)
class Task:
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


def member_program(task: Task) -> MemberFunction:
    """The program over rows of type :class:`MemberRow`, compiled once for equal tasks."""
    groups = tuple(group for group in MEMBER_GROUPS if group in task.groups)
    return _compiled(_measure_member, replace(task, groups=groups))


def pair_program(task: Task) -> MemberFunction:
    """The program over rows of type :class:`PairRow`, compiled once for equal tasks."""
    return _compiled(_measure_pair, replace(task, groups=()))


@lru_cache(maxsize=64)
def _compiled(measure: Callable[..., dict[str, Array]], task: Task) -> MemberFunction:
    return over_members(partial(measure, task))


def _measure_member(task: Task, row: MemberRow, data: Examples) -> dict[str, Array]:
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


def _measure_pair(task: Task, row: PairRow, data: Examples) -> dict[str, Array]:
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


def over_rows(
    program: MemberFunction,
    row: Callable[[int, int], Any],
    items: int,
    snapshots: int,
    data: Examples,
    on_rows: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Run a program over (item, snapshot) in blocks of one shape, hence one compilation."""
    total, size = items * snapshots, _block_size(items * snapshots)
    parts = []
    for begin in range(0, total, size):
        # The last block is filled up with copies of the last row.
        places = np.minimum(np.arange(begin, begin + size), total - 1)
        rows = [row(*divmod(int(place), snapshots)) for place in places]
        block = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        parts.append(jax.tree.map(np.asarray, program(block, data)))
        on_rows(min(begin + size, total) - begin)
    return {name: np.concatenate([part[name] for part in parts])[:total] for name in parts[0]}


def _block_size(total: int) -> int:
    """Rows per call: a multiple of the devices, and as even as can be over the calls."""
    devices = jax.local_device_count()
    calls = math.ceil(total / (devices * (_CPU_BLOCK if on_cpu() else DEFAULT_CHUNK)))
    return math.ceil(total / calls / devices) * devices
