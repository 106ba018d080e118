"""Barriers between members: as they are, aligned, and with repaired statistics."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.landscape.connectivity import linear_barrier
from zoogen.merging.loss import loss_and_accuracy
from zoogen.merging.repair import repair
from zoogen.merging.statistics import recompute_statistics
from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members
from zoogen.symmetry import Matching, apply, weight_matching

TIMES = tuple(np.linspace(0, 1, 11).tolist())


class Line(NamedTuple):
    """What straight lines between two members look like.

    Attributes:
        loss: mean cross-entropy in nats at every time.
        accuracy: share of hits at every time, 0 to 1.
        loss_barrier: largest rise above the line between the ends' losses; at least 0.
        accuracy_barrier: the same for the error, as a share of examples.
    """

    loss: Float[np.ndarray, "q t"]
    accuracy: Float[np.ndarray, "q t"]
    loss_barrier: Float[np.ndarray, " q"]
    accuracy_barrier: Float[np.ndarray, " q"]


class Barriers(NamedTuple):
    """Lines between pairs of members.

    Attributes:
        times: positions on the lines, from 0 to 1.
        raw: between members as they are.
        aligned: after the second member's units are matched to the first's.
        repaired: the aligned line with :func:`~zoogen.merging.repair` at each inner time, or, of
            networks with batch norms, with statistics recomputed at all times; nothing where no
            images were given for it.
        matching: that aligns them.
    """

    times: Float[np.ndarray, " t"]
    raw: Line
    aligned: Line
    repaired: Line | None
    matching: Matching


def barriers(
    network: Network,
    a: Float[np.ndarray, "*q p"],
    b: Float[np.ndarray, "q p"],
    images: Float[Array, "n c h w"],
    labels: Any,
    matching: Matching | None = None,
    repair_images: Float[Array, "r c h w"] | None = None,
    times: tuple[float, ...] = TIMES,
) -> Barriers:
    """Loss and accuracy along straight lines between members, before and after alignment.

    Args:
        network: whose members these are.
        a: flat weights of the lines' begin; one member, or one per pair.
        b: flat weights of their end.
        images: normalised; what the lines are evaluated on.
        labels: of the images.
        matching: that aligns ``b`` with ``a``; by weights if none is given.
        repair_images: normalised images from which statistics of hidden units are taken; training
            images, in earnest.
        times: positions on the lines, 0 first and 1 last.

    Raises:
        ConfigError: if no matching is given and the network has nested groups, or statistics of
            this network can't be repaired.

    Example:
        >>> from zoogen.config import NetworkConfig
        >>> from zoogen.networks import build_network
        >>> network = build_network(NetworkConfig(width=8), (1, 3, 3), 4)
        >>> a = np.random.default_rng(0).normal(size=(1, network.spec.size)).astype(np.float32)
        >>> twin = network.spec.permute(a, network.spec.random_permutation(1))
        >>> images = np.random.default_rng(1).normal(size=(50, 1, 3, 3)).astype(np.float32)
        >>> found = barriers(network, a, twin, images, np.zeros(50, int))
        >>> bool(found.aligned.loss_barrier[0] < 1e-4)
        True

    Reference:
        Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, 2020;
        Entezari et al., The role of permutation invariance in linear mode connectivity, 2022.
    """
    b = np.asarray(b, np.float32)
    a = np.broadcast_to(np.asarray(a, np.float32), b.shape)
    matching = weight_matching(network.spec, a, b) if matching is None else matching
    moved = apply(network.spec, matching.elements, b).astype(np.float32)
    raw, aligned = (points_between(a, end, times) for end in (b, moved))
    seen = partial(_line, network, images, labels, np.array(times))
    repaired = None
    if repair_images is not None:
        repaired = seen(_repaired(network, aligned, repair_images, np.array(times)))
    return Barriers(np.array(times), seen(raw), seen(aligned), repaired, matching)


def _repaired(
    network: Network, points: Float[np.ndarray, "q t p"], images: Any, times: np.ndarray
) -> Float[np.ndarray, "q t p"]:
    """Lines whose inner points have the statistics of their ends, in proportion; with batch norms,
    lines whose points all have the statistics of the images."""
    if network.spec.statistics:
        return recompute_statistics(network, points, images)
    inner, shares = points[:, 1:-1], np.stack([1 - times, times], axis=-1)[1:-1]
    ends = np.broadcast_to(points[:, None, [0, -1]], (*inner.shape[:2], 2, points.shape[-1]))
    shares = np.broadcast_to(shares, ends.shape[:-1])
    mended = repair(network, inner, ends, images, shares)
    return np.concatenate([points[:, :1], mended, points[:, -1:]], axis=1)


def points_between(
    a: Float[np.ndarray, "q p"], b: Float[np.ndarray, "q p"], times: tuple[float, ...]
) -> Float[np.ndarray, "q t p"]:
    """Points of straight lines.

    Example:
        >>> points_between(np.array([[0.0]]), np.array([[4.0]]), (0.0, 0.25, 1.0)).tolist()
        [[[0.0], [1.0], [4.0]]]
    """
    t = np.asarray(times, a.dtype)[:, None]
    return (1 - t) * a[:, None] + t * b[:, None]


def _line(
    network: Network, images: Any, labels: Any, times: np.ndarray, points: np.ndarray
) -> Line:
    pairs, count, size = points.shape
    data = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    found = _scores(network)(points.reshape(-1, size), data)
    loss, accuracy = (np.asarray(each, np.float64).reshape(pairs, count) for each in found)
    return Line(loss, accuracy, linear_barrier(loss, times), linear_barrier(1 - accuracy, times))


@lru_cache(maxsize=64)
def _scores(network: Network) -> MemberFunction:
    def of_point(values: Array, data: tuple[Array, Array]) -> tuple[Array, Array]:
        return loss_and_accuracy(network, values, *data)

    return over_members(of_point)
