"""What networks do on images: which they get wrong, and the probabilities that they give."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from zoogen.data import normalise
from zoogen.networks import Network
from zoogen.networks.cost import working_bytes
from zoogen.population import MemberFunction, on_cpu, over_members, share

BLOCK_NUMBERS = 2**23  # probabilities held at a time
PART = 128  # most images that run side by side
BLOCKS = (64, 512)  # networks at a time: two compilations, whatever the number of networks


class Images(NamedTuple):
    """Images as a data set gives them, with the statistics that members were trained with.

    Attributes:
        raw: pixels.
        mean, std: per channel, of the training images.
    """

    raw: Shaped[Any, "b c h w"]
    mean: Float[Any, " c"]
    std: Float[Any, " c"]


def probabilities(
    network: Network, weights: Float[np.ndarray, "m p"], images: Images
) -> Float32[np.ndarray, "m b k"]:
    """Probabilities of the classes; NaN where a network's outputs are not finite."""
    blocks = list(_blocks(network, weights, images))
    shape = (0, len(images.raw), network.classes)
    return np.concatenate([np.zeros(shape, np.float32), *blocks])


def wrong_predictions(
    network: Network,
    weights: Float[np.ndarray, "m p"],
    images: Images,
    labels: Int[np.ndarray, " b"],
) -> Bool[np.ndarray, "m b"]:
    """Which images each network gets wrong: all of them where its outputs are not finite."""
    blocks = (
        (block.argmax(axis=-1) != labels) | ~np.isfinite(block).all(axis=(1, 2))[:, None]
        for block in _blocks(network, weights, images)
    )
    return np.concatenate([np.zeros((0, len(labels)), bool), *blocks])


def finite_outputs(
    network: Network, weights: Float[np.ndarray, "m p"], images: Images
) -> Bool[np.ndarray, " m"]:
    """Whether all outputs of each network are finite."""
    blocks = (np.isfinite(b).all(axis=(1, 2)) for b in _blocks(network, weights, images))
    return np.concatenate([np.zeros(0, bool), *blocks])


def wrong_overlap(
    a: Bool[np.ndarray, "m b"], b: Bool[np.ndarray, "n b"]
) -> Float32[np.ndarray, "m n"]:
    """Intersection over union of the images that two networks get wrong, for all pairs.

    In [0, 1]; 1 for equal sets, empty ones included.

    Example:
        >>> one, other = np.array([[True, True, False]]), np.array([[False, True, True]])
        >>> round(float(wrong_overlap(one, other)[0, 0]), 3)
        0.333

    Reference:
        Zeng et al., Generative modeling of weights: generalization or memorization?, 2025.
    """
    both = a.astype(np.float32) @ b.astype(np.float32).T
    either = a.sum(axis=1, dtype=np.float32)[:, None] + b.sum(axis=1, dtype=np.float32) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.float32(1))


def functional_features(probability: Float[np.ndarray, "m b k"]) -> Float32[np.ndarray, "m f"]:
    """Vectors whose Euclidean distance is the Hellinger distance of two networks' predictions.

    The square of the distance is the mean over images of ½ Σₖ (√pₖ − √qₖ)², in [0, 1].

    Reference:
        Hellinger, Neue Begründung der Theorie quadratischer Formen, 1909.
    """
    count, images = probability.shape[:2]
    roots = np.sqrt(probability / np.float32(2 * max(images, 1)))
    return roots.reshape(count, images * probability.shape[2])


def _blocks(
    network: Network, weights: Float[np.ndarray, "m p"], images: Images
) -> Iterator[Float32[np.ndarray, "n b k"]]:
    """Probabilities of as many members at a time as memory allows, in blocks of two sizes."""
    values, shared = np.asarray(weights, np.float32), share(images)
    limit = max(1, BLOCK_NUMBERS // max(1, len(images.raw) * network.classes))
    few, many = (min(limit, size) for size in BLOCKS)
    begin = 0
    while begin < len(values):
        size = many if len(values) - begin >= many else few
        block = values[begin : begin + size]
        filled = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
        yield np.asarray(_program(network)(filled, shared))[: len(block)]
        begin += size


@lru_cache(maxsize=64)
def _program(network: Network) -> MemberFunction:
    needed = None if on_cpu() else working_bytes(network, 512)

    def run(weights: Float[Array, " p"], images: Images) -> Float[Array, "b k"]:
        params = network.spec.unflatten(weights)

        def part(raw: Array) -> Array:
            return network.apply(params, normalise(raw, images.mean, images.std))

        logits = jax.lax.map(part, _in_parts(images.raw))
        return jax.nn.softmax(logits.reshape(-1, network.classes)[: len(images.raw)], axis=-1)

    return over_members(run, member_bytes=needed)


def _in_parts(raw: Shaped[Array, "b c h w"]) -> Shaped[Array, "parts n c h w"]:
    """Images in parts of one size, the last ones repeated: features of all leave a CPU's cache."""
    parts = max(1, -(-len(raw) // PART))
    size = -(-len(raw) // parts)
    filled = jnp.concatenate([raw, jnp.repeat(raw[-1:], parts * size - len(raw), axis=0)])
    return filled.reshape(parts, size, *raw.shape[1:])
