"""What a group of metrics is: what the programs take of a row, and what the host makes of it.

A row is one member, or one pair, at one snapshot. All groups of a measurement share one program
over members and one over pairs, and within a row they share what the views below cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped, UInt32

from zoogen.config import LandscapeConfig
from zoogen.data import noisy_labels, normalise
from zoogen.landscape.performance import cross_entropy
from zoogen.networks import Hidden, Network

Raw = dict[str, Array]
Arrays = dict[str, np.ndarray]
Draws = Mapping[str, Any]
Words = UInt32[np.ndarray, " words"]


class Examples(NamedTuple):
    """What all rows share: raw images, clean labels, channel statistics.

    Attributes:
        train: all training images that the members saw; the probe set comes first. Where members
            fit an image each: all of these images.
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
    """One member at one snapshot, with the random numbers that its groups drew.

    Attributes:
        image: number of the image that it fits; a classifier has none.
    """

    w: Float[Any, " p"]
    label_noise: Float[Any, ""]
    draws: Draws
    image: Int[Any, ""] | None = None


class PairRow(NamedTuple):
    """Two members at one snapshot, with the random numbers that its groups drew."""

    start: Float[Any, " p"]
    end: Float[Any, " p"]
    label_noise: Float[Any, ""]
    draws: Draws


@dataclass(frozen=True)
class Task:
    """Everything static about a measurement; equal tasks share their programs.

    Attributes:
        network: of the members.
        landscape: effort and seed.
        noise_seed: of the label noise.
        examples: training images that the members saw.
        probe: how many of them are the training probe set.
        white: the brightest value of a pixel.
    """

    network: Network
    landscape: LandscapeConfig
    noise_seed: int
    examples: int
    probe: int
    white: float = 255.0

    def loss(
        self, data: Examples, w: Float[Array, " p"], images: Array, labels: Int[Array, " b"]
    ) -> Float[Array, ""]:
        """Mean cross-entropy of flat weights on raw images."""
        return cross_entropy(self.logits(data, w, images), labels)

    def logits(self, data: Examples, w: Float[Array, " p"], images: Array) -> Float[Array, "b k"]:
        """Logits of flat weights on raw images."""
        params = self.network.spec.unflatten(w)
        return self.network.apply(params, normalise(images, data.mean, data.std))

    def forward(
        self, data: Examples, w: Float[Array, " p"], images: Array
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        """Logits of flat weights on raw images, and hidden units."""
        params = self.network.spec.unflatten(w)
        return self.network.forward(params, normalise(images, data.mean, data.std))

    def loss_in_training(
        self, data: Examples, w: Float[Array, " p"], images: Array, labels: Int[Array, " b"]
    ) -> Float[Array, ""]:
        """The same as training sees it: batch norms by the batch, not by running statistics."""
        params = self.network.spec.unflatten(w)
        logits, _ = self.network.train_forward(params, normalise(images, data.mean, data.std))
        return cross_entropy(logits, labels)

    def recomputed(self, data: Examples, w: Float[Array, " p"]) -> Float[Array, " p"]:
        """Flat weights whose running statistics are those of the training probe set.

        Points between members need it: means of statistics are the statistics of no network.
        """
        spec = self.network.spec
        if not spec.statistics:
            return w
        images = normalise(data.train[: self.probe], data.mean, data.std)
        params: Float[Array, " p"] = spec.flatten(
            self.network.recomputed(spec.unflatten(w), images)
        )
        return params

    def noisy(self, labels: Int[Array, " n"], rate: Float[Array, ""]) -> Int[Array, " n"]:
        """The first training labels, as trained on."""
        return noisy_labels(labels, rate, self.network.classes, self.noise_seed)


@dataclass(frozen=True)
class MemberView:
    """One row of a member, while its program is traced."""

    task: Task
    row: MemberRow
    data: Examples

    @cached_property
    def labels(self) -> Int[Array, " n"]:
        """Labels of the training probe set, as trained on."""
        return self.task.noisy(self.data.train_labels[: self.task.probe], self.row.label_noise)

    @cached_property
    def logits(self) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
        """Logits of the training and of the test probe set."""
        # One pass over both, so that the network is compiled once.
        images = jnp.concatenate([self.data.train[: self.task.probe], self.data.test])
        both = self.task.logits(self.data, self.row.w, images)
        return both[: self.task.probe], both[self.task.probe :]

    def normalised(self, images: Array) -> Float[Array, "n c h w"]:
        """Raw images as the network takes them."""
        return normalise(images, self.data.mean, self.data.std)

    @cached_property
    def forward_on_train(self) -> tuple[Float[Array, "n k"], dict[str, Hidden]]:
        """Logits and hidden units on the training probe set."""
        return self.task.forward(self.data, self.row.w, self.data.train[: self.task.probe])

    @cached_property
    def forward_on_test(self) -> tuple[Float[Array, "n k"], dict[str, Hidden]]:
        """Logits and hidden units on the test probe set."""
        return self.task.forward(self.data, self.row.w, self.data.test)

    def loss_on_first(self, n: int) -> Callable[[Float[Array, " p"]], Float[Array, ""]]:
        """The training loss on the first images of the probe set, as a function of weights."""
        images, labels = self.data.train[:n], self.labels[:n]
        return lambda w: self.task.loss(self.data, w, images, labels)


@dataclass(frozen=True)
class PairView:
    """One row of a pair, while its program is traced."""

    task: Task
    row: PairRow
    data: Examples

    @cached_property
    def labels(self) -> Int[Array, " n"]:
        """Labels of all training images, as trained on."""
        return self.task.noisy(self.data.train_labels, self.row.label_noise)

    @cached_property
    def forward_on_test(self) -> tuple[Float[Array, "2 n k"], dict[str, Hidden]]:
        """Logits and hidden units of both members on the test probe set."""
        ends = jnp.stack([self.row.start, self.row.end])
        return jax.lax.map(lambda w: self.task.forward(self.data, w, self.data.test), ends)


@dataclass(frozen=True)
class Taken:
    """What was taken of a cohort, for the host to finish.

    Attributes:
        task: the measurement.
        weights: ``[m, s, p]``.
        pairs: ``[q, 2]`` places on the member axis.
        member: raw arrays ``[m, s, …]``.
        pair: raw arrays ``[q, s, …]``.
    """

    task: Task
    weights: Float32[np.ndarray, "m s p"]
    pairs: Int[np.ndarray, "q 2"]
    member: Arrays
    pair: Arrays


def _draw_nothing(task: Task, words: Words) -> Draws:
    return {}


def _prepare_nothing(
    task: Task, weights: Float32[np.ndarray, "m s p"], pairs: Int[np.ndarray, "q 2"]
) -> Arrays:
    return {}


@dataclass(frozen=True)
class Group:
    """Metrics that are measured together.

    Attributes:
        finish: from what was taken to metrics by name, on the host.
        of_member: raw arrays of a member's row; ``None`` if the group takes none.
        of_pair: raw arrays of a pair's row; ``None`` if the group takes none.
        prepare: arrays ``[q, s, …]`` made on the host from all pairs at once; a pair's row finds
            its own among its draws.
        draw: random numbers of a row from its identity, by names of the group's own.
        cost: metric → what was spent on one row: ``gradient_evaluations``, ``examples`` of each,
            and counts of its own; a metric without an entry takes no gradient.
    """

    finish: Callable[[Taken], Arrays]
    of_member: Callable[[MemberView], Raw] | None = None
    of_pair: Callable[[PairView], Raw] | None = None
    prepare: Callable[[Task, Float32[np.ndarray, "m s p"], Int[np.ndarray, "q 2"]], Arrays] = (
        _prepare_nothing
    )
    draw: Callable[[Task, Words], Draws] = _draw_nothing
    cost: Callable[[Task], dict[str, dict[str, float]]] = lambda task: {}
