"""Loss and scores of a network as functions of flat weights."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from zoogen.landscape.connectivity import BatchLoss
from zoogen.landscape.performance import cross_entropy, example_errors
from zoogen.networks import Network


@lru_cache(maxsize=256)
def loss_of(network: Network) -> BatchLoss:
    """Mean cross-entropy of a network: ``(flat weights, normalised images, labels) → nats``.

    Norms over a batch take that of the images, as in training: what is merged or lies between
    members has no running statistics of its own.

    Equal networks give the same function, so that what is compiled for it is compiled once.
    """

    def loss(
        values: Float[Array, " p"], images: Float[Array, "n c h w"], labels: Int[Array, " n"]
    ) -> Float[Array, ""]:
        logits, _ = network.train_forward(network.spec.unflatten(values), images)
        return cross_entropy(logits, labels)

    return loss


def loss_and_accuracy(
    network: Network,
    values: Float[Array, " p"],
    images: Float[Array, "n c h w"],
    labels: Int[Array, " n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy in nats, and share of hits; NaN where a logit is not finite."""
    logits = network.apply(network.spec.unflatten(values), images)
    return cross_entropy(logits, labels), 1 - jnp.mean(example_errors(logits, labels)) / 100
