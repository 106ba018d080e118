"""Star models: one member that straight lines of low loss connect with many."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.merging.loss import loss_of
from zoogen.merging.statistics import recompute_statistics
from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members


class StarTraining(NamedTuple):
    """How a star model is trained: SGD whose rate falls as a cosine to 0.

    Attributes:
        steps: of SGD; each takes one batch, one member and one random point of the segment to it.
        batch_size: images of a batch, drawn with replacement.
        momentum: in [0, 1).
    """

    steps: int = 1000
    batch_size: int = 64
    momentum: float = 0.9


def star_model(
    network: Network,
    members: Float[np.ndarray, "*s m p"],
    images: Float[Array, "n c h w"],
    labels: Any,
    start: Float[np.ndarray, "*s p"] | None = None,
    learning_rate: float | Float[np.ndarray, "*s"] = 0.05,
    training: StarTraining | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "*s p"]:
    """Train weights whose loss is low on the whole of the segments to all members.

    Minimises the mean of L((1 − t)·θ + t·member) over members and t, uniform in [0, 1]. Align the
    members first (:func:`~zoogen.symmetry.align_population`), and a further member with the star
    (:func:`~zoogen.symmetry.align_members`) before looking at the line between them.

    Args:
        network: whose members these are.
        members: flat weights; several sets give a star each.
        images: normalised training images.
        labels: of the images, ``[n]``, or a set for each star, ``[*s n]``.
        start: where each star begins; the mean of its members if not given.
        learning_rate: at the first step.
        training: length and batches.
        seed: of the batches, members and points.

    Returns:
        Flat weights, float32, running statistics recomputed; NaN where training diverged.

    Raises:
        ConfigError: if a set has no member.

    Reference:
        Sonthalia, Rubinstein, Abbasnejad and Oh, Do deep neural network solutions form a star
        domain?, 2024.
    """
    members, labels = np.asarray(members, np.float32), np.asarray(labels, np.int32)
    *lead, count, size = members.shape
    if count == 0:
        raise ConfigError("star_model: expected at least one member, found none; give some")
    start = members.mean(axis=-2) if start is None else np.asarray(start, np.float32)
    stars = int(np.prod(lead))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(stars))
    rows = (
        members.reshape(stars, count, size),
        np.broadcast_to(start, (*lead, size)).reshape(stars, size),
        np.broadcast_to(labels, (*lead, labels.shape[-1])).reshape(stars, -1),
        np.broadcast_to(np.asarray(learning_rate, np.float32), lead).reshape(stars),
        keys,
    )
    program = _program(network, training or StarTraining())
    found = np.asarray(program(rows, jnp.asarray(images, jnp.float32))).reshape(*lead, size)
    return recompute_statistics(network, found, images)


@lru_cache(maxsize=16)
def _program(network: Network, training: StarTraining) -> MemberFunction:
    """Compiled once for equal arguments: (members, start, labels, rate, key) → star."""
    loss, steps = loss_of(network), training.steps

    def of_star(star: tuple[Array, ...], images: Array) -> Float[Array, " p"]:
        members, start, labels, rate, key = star

        def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            values, velocity = carry
            of_batch, of_member, of_time = jax.random.split(jax.random.fold_in(key, i), 3)
            batch = jax.random.randint(of_batch, (training.batch_size,), 0, len(images))
            member = members[jax.random.randint(of_member, (), 0, len(members))]
            t = jax.random.uniform(of_time)
            point = (1 - t) * values + t * member
            gradient = (1 - t) * jax.grad(loss)(point, images[batch], labels[batch])
            velocity = training.momentum * velocity + gradient
            factor = 0.5 * (1 + jnp.cos(jnp.pi * i.astype(jnp.float32) / steps))
            return values - rate * factor * velocity, velocity

        values, _ = jax.lax.fori_loop(0, steps, step, (start, jnp.zeros_like(start)))
        return jnp.where(jnp.all(jnp.isfinite(values)), values, jnp.nan)

    return over_members(of_star)
