"""Heads: from features of leaves to one vector per network, or to numbers per parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.models.leaves import Features, Leaf
from zoogen.models.views import diagonal, equalities
from zoogen.networks.layers import dense

VARIANCE_FLOOR = 1e-6  # below it the deviation's gradient would grow without bound


def _deviation(x: Float[Array, "b *slots f"], axis: tuple[int, ...]) -> Float[Array, "b f"]:
    return jnp.sqrt(x.var(axis=axis) + VARIANCE_FLOOR)


POOLINGS: dict[str, Callable[..., Float[Array, "b f"]]] = {
    "mean": jnp.mean,
    "max": jnp.max,
    "std": _deviation,
}


def pooled(
    leaves: tuple[Leaf, ...], features: Features, poolings: tuple[str, ...]
) -> Float[Array, "b i"]:
    """Invariants of all leaves side by side: statistics over their units, feature by feature.

    Where a leaf bears a group twice its diagonal is pooled beside it. A leaf without units to
    permute enters as it is.
    """
    return jnp.concatenate(
        [
            POOLINGS[name](values, axis=tuple(range(1, values.ndim - 1)))
            for values in _views(leaves, features)
            for name in (poolings if values.ndim > 2 else ("mean",))
        ],
        axis=-1,
    )


def _views(leaves: tuple[Leaf, ...], features: Features) -> Iterator[Float[Array, "b *kept f"]]:
    for leaf in leaves:
        yield from (diagonal(features[leaf.name], blocks) for blocks in equalities(leaf))


def pooled_size(leaves: tuple[Leaf, ...], widths: dict[str, int], poolings: tuple[str, ...]) -> int:
    """Length of :func:`pooled` for so many features per leaf."""
    features = {
        leaf.name: jax.ShapeDtypeStruct((1, *leaf.sizes, widths[leaf.name]), jnp.float32)
        for leaf in leaves
    }
    return jax.eval_shape(partial(pooled, leaves, poolings=poolings), features=features).shape[-1]


Layers = list[tuple[Float[Array, "o i"], Float[Array, " o"]]]


def initial_matrix(key: Array, inputs: int, outputs: int) -> Float[Array, "i o"]:
    """Weights of variance 1 / inputs."""
    return jax.random.normal(key, (inputs, outputs)) / math.sqrt(max(1, inputs))


def initial_mlp(key: Array, sizes: tuple[int, ...]) -> Layers:
    """Weights of variance 2 / inputs (of the last layer 1 / inputs), and zero biases."""
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        gain = 1 if index == len(sizes) - 2 else 2
        draw = jax.random.normal(jax.random.fold_in(key, index), (outputs, inputs))
        layers.append((math.sqrt(gain / inputs) * draw, jnp.zeros(outputs)))
    return layers


def mlp(layers: Layers, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
    """Dense layers with relu between them."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(dense(x, weight, bias))
    return dense(x, *layers[-1])
