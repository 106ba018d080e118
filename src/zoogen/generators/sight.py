"""What the networks see that weights stand for: errors of weights, and gradients of their loss.

Directions in which weights may move and the function stays count little, those in which it changes
count much. At weights ``w`` an error ``e`` is as long as the first-order change ``J e`` of what the
network says of some inputs, relative to the change that noise of unit scale makes there. That is a
square form which depends on ``w`` and that noise alone: if ``w`` is a model's own guess, held
fixed, and the noise tells nothing of the target, the mean over data is least at the same prediction
as without it, so that a fit is steered, not biased.

The gradient of the loss of some training images at a guess is a function of the guess, too: a model
that reads it knows nothing more of the target, but need not work out what networks do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.data import normalise
from zoogen.generators.generator import Source
from zoogen.models import Standard
from zoogen.networks import Network

EXAMPLES = 1024  # most training images that are looked at
AT_ONCE = 32  # of these for the errors of a step
PART = 128  # images whose gradients are taken side by side
FACTS = 2  # numbers beside a gradient
FLOOR = 1e-6


class Sight(NamedTuple):
    """What networks look at, and the scale of their weights.

    Attributes:
        inputs: normalised images; random places for networks that fit one image each.
        labels: true ones; zeros where there are none.
        mean: of the weights, see :class:`~zoogen.models.Standard`.
        deviation: of the weights.
    """

    inputs: Float[Array, "n c h w"]
    labels: Int[Array, " n"]
    mean: Float[Array, " d"]
    deviation: Float[Array, " d"]


def sight_of(source: Source, standard: Standard, seed: int = 0) -> Sight:
    """What the networks of a population look at: training images.

    Args:
        source: of the members. Networks that fit one image each look at random places.
        standard: of their weights.
        seed: of the places.
    """
    inputs, labels = _looked_at(source, seed)
    return Sight(*map(jnp.asarray, (inputs, labels, standard.mean, standard.deviation)))


def squared(
    network: Network,
    sight: Sight,
    weights: Float[Array, "b d"],
    error: Float[Array, "b d"],
    noise: Float[Array, "b d"],
    rows: Int[Array, " k"],
) -> Float[Array, " b"]:
    """Squared length of errors of standardised weights, as the networks see them.

    Args:
        network: that all are.
        sight: what they look at.
        weights: standardised; held fixed.
        error: of the weights.
        noise: standard normal and independent of what the error is of; its own length is 1.
        rows: numbers of the inputs.

    Reference:
        Amari, *Natural gradient works efficiently in learning*, 1998, for lengths of changes of
        weights by what they do; the fixed guess is ours.
    """

    def of_one(at: Array, moved: Array, unit: Array) -> Array:
        change = _linearised(lambda w: _said(network, sight, w, rows), at)
        return jnp.square(change(moved)).mean() / (jnp.square(change(unit)).mean() + FLOOR)

    found: Array = jax.vmap(of_one)(jax.lax.stop_gradient(weights), error, noise)
    return found


def gradients(
    network: Network, sight: Sight, weights: Float[Array, "b d"], rows: Int[Array, " k"]
) -> tuple[Float[Array, "b d"], Float[Array, "b facts"]]:
    """Gradients of the cross-entropy of some images, of unit scale, and what scaling leaves over.

    Args:
        network: that all are; a classifier.
        sight: what they look at.
        weights: standardised; held fixed.
        rows: numbers of the images.

    Returns:
        Gradients with respect to standardised weights, each network's over its root mean square;
        and the logarithms of its length and of the loss.
    """

    parts, counted = _in_parts(rows)

    def loss(at: Array, part: Array, counts: Array) -> Array:
        said = jnp.take_along_axis(
            _said(network, sight, at, part), sight.labels[part][:, None], axis=1
        )
        return -(said[:, 0] * counts).sum() / len(rows)

    def add(total: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[Any, None]:
        more = jax.vmap(jax.value_and_grad(loss), (0, None, None))(at, *part)
        return jax.tree.map(jnp.add, total, more), None

    at = jax.lax.stop_gradient(weights)
    nothing = jnp.zeros(len(at), at.dtype), jnp.zeros_like(at)
    (losses, found), _ = jax.lax.scan(add, nothing, (parts, counted))
    length = jnp.linalg.norm(found, axis=1)
    facts = jnp.log(jnp.stack([length, losses], axis=1) + FLOOR)
    scale = weights.shape[1] ** 0.5 / (length + FLOOR)
    return found * scale[:, None], facts


def _in_parts(
    rows: Int[Array, " k"],
) -> tuple[Int[Array, "parts some"], Float[Array, "parts some"]]:
    """Rows in parts of one length, so that memory does not grow with them, and which count."""
    size = min(PART, len(rows))
    missing = -len(rows) % size
    padded = jnp.pad(rows, (0, missing))
    counted = jnp.arange(len(padded)) < len(rows)
    return padded.reshape(-1, size), counted.reshape(-1, size).astype(jnp.float32)


def _linearised(
    function: Callable[[Array], Array], at: Float[Array, " d"]
) -> Callable[[Float[Array, " d"]], Array]:
    """``e → J e``; in reverse mode twice over, at twice the cost, for networks whose convolutions
    have rules of reverse mode alone."""
    forward: Callable[[Array], Array] = jax.linearize(function, at)[1]
    if _passes(forward, at):
        return forward
    out, pull = jax.vjp(function, at)
    _, push = jax.vjp(lambda of_outputs: pull(of_outputs)[0], jnp.zeros_like(out))
    return lambda error: push(error)[0]


def _passes(forward: Callable[[Array], Array], at: Float[Array, " d"]) -> bool:
    """Whether a linearised function can be computed.

    JAX traces rules of reverse mode alone and refuses them, with a ``TypeError``, where they are to
    be computed or mapped; so it is asked to map, which computes nothing.
    """
    several = jax.ShapeDtypeStruct((2, *at.shape), at.dtype)
    try:
        jax.eval_shape(jax.vmap(forward), several)
    except TypeError:
        return False
    return True


def _looked_at(
    source: Source, seed: int
) -> tuple[Float[np.ndarray, "n c h w"], Int[np.ndarray, " n"]]:
    network = source.network
    if network.config.fits_image:
        rng = np.random.default_rng(seed)
        places = rng.uniform(-1, 1, (EXAMPLES, *network.image_shape)).astype(np.float32)
        return places, np.zeros(EXAMPLES, int)
    dataset = source.dataset()
    some = dataset.train.first(EXAMPLES)
    images = normalise(*map(jnp.asarray, (some.images, dataset.mean, dataset.std)))
    return np.asarray(images), some.labels


def _said(
    network: Network, sight: Sight, weights: Float[Array, " d"], rows: Int[Array, " k"]
) -> Array:
    images = sight.inputs[rows]
    params = network.spec.unflatten(weights * sight.deviation + sight.mean)
    if network.spec.statistics:  # of a guess: variances may be negative, and say little
        params = network.recomputed(params, images)
    outputs = network.apply(params, images)
    return outputs if network.config.fits_image else jax.nn.log_softmax(outputs)
