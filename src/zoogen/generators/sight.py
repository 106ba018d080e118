"""Errors of weights as the network's own function sees them.

Directions in which weights may move and the function stays count little, those in which it changes
count much. At weights ``w`` an error ``e`` is as long as the first-order change ``J e`` of what the
network says of some inputs, relative to the change that noise of unit scale makes there. That is a
square form which depends on ``w`` and that noise alone: if ``w`` is a model's own guess, held
fixed, and the noise tells nothing of the target, the mean over data is least at the same prediction
as without it, so that a fit is steered, not biased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.data import normalise
from zoogen.generators.generator import Source
from zoogen.models import Standard
from zoogen.networks import Network

EXAMPLES = 1024  # training images that are looked at
AT_ONCE = 32  # of these in a step
FLOOR = 1e-6


class Sight(NamedTuple):
    """How errors of standardised weights are seen.

    Attributes:
        inputs: number of inputs to choose from.
        squared: ``(weights [b d], error [b d], noise [b d], inputs' numbers [k]) → squared length
            [b]``: 1 where the error is that noise, which has to be independent of the target.
    """

    inputs: int
    squared: Callable[..., Float[Array, " b"]]


def sight_of(source: Source, standard: Standard, seed: int = 0) -> Sight:
    """How the networks of a population see errors, on their training images.

    Args:
        source: of the members. Networks that fit one image each look at random places.
        standard: of their weights.
        seed: of the places.

    Reference:
        Amari, *Natural gradient works efficiently in learning*, 1998, for lengths of changes of
        weights by what they do; the fixed guess is ours.
    """
    network, inputs = source.network, jnp.asarray(_inputs(source, seed))
    said = _said(network, standard, inputs)

    def squared(
        weights: Float[Array, "b d"], error: Float[Array, "b d"], noise: Float[Array, "b d"],
        rows: Int[Array, " k"],
    ) -> Float[Array, " b"]:  # fmt: skip
        def of_one(at: Array, moved: Array, unit: Array) -> Array:
            change = _linearised(lambda w: said(w, rows), at)
            return jnp.square(change(moved)).mean() / (jnp.square(change(unit)).mean() + FLOOR)

        at = jax.lax.stop_gradient(weights)
        found: Array = jax.vmap(of_one)(at, error, noise)
        return found

    return Sight(len(inputs), squared)


def _linearised(
    function: Callable[[Array], Array], at: Float[Array, " d"]
) -> Callable[[Float[Array, " d"]], Array]:
    """``e → J e``; in reverse mode twice over, at twice the cost, for networks whose convolutions
    have rules of reverse mode alone."""
    forward: Callable[[Array], Array] = jax.linearize(function, at)[1]
    if "custom_lin" not in str(jax.make_jaxpr(forward)(at)):  # what only reverse mode can pass
        return forward
    out, pull = jax.vjp(function, at)
    _, push = jax.vjp(lambda of_outputs: pull(of_outputs)[0], jnp.zeros_like(out))
    return lambda error: push(error)[0]


def _inputs(source: Source, seed: int) -> Float[np.ndarray, "n c h w"]:
    network = source.network
    if network.config.fits_image:
        rng = np.random.default_rng(seed)
        return rng.uniform(-1, 1, (EXAMPLES, *network.image_shape)).astype(np.float32)
    dataset = source.dataset()
    raw = dataset.train.first(EXAMPLES).images
    return np.asarray(normalise(*map(jnp.asarray, (raw, dataset.mean, dataset.std))))


def _said(
    network: Network, standard: Standard, inputs: Float[Array, "n c h w"]
) -> Callable[[Float[Array, " d"], Int[Array, " k"]], Array]:
    mean, deviation = jnp.asarray(standard.mean), jnp.asarray(standard.deviation)

    def said(weights: Float[Array, " d"], rows: Int[Array, " k"]) -> Array:
        params = network.spec.unflatten(weights * deviation + mean)
        outputs = network.apply(params, inputs[rows])
        return outputs if network.config.fits_image else jax.nn.log_softmax(outputs)

    return said
