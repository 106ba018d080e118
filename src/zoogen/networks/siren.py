"""SIREN: an image as a function of the place in it, a perceptron with sines; ω0 is absorbed.

The published layer is ``sin(ω0 (W x + b))``. What zoogen trains and stores is ``W' = ω0 W`` and
``b' = ω0 b`` of every hidden layer, and the output layer as it is, so that a member is
``sin(W' x + b')`` layer by layer with no ω0 anywhere, and the symmetries of a sine are those of its
weights: each unit's sign. (Its shift by 2π of a bias, and by π together with the sign of the
outgoing weights, is a symmetry, too, which specs do not name.)

Reference: Sitzmann, Martel, Bergman, Lindell and Wetzstein, *Implicit neural representations with
periodic activation functions*, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks.architecture import Architecture
from zoogen.networks.mlp import mlp
from zoogen.params import Params, ParamSpec

DEFAULT_OMEGA = 30.0
OUTPUT = "output"


def siren(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> Architecture:
    """A perceptron of sines from places to the values of channels there.

    Args:
        config: ``width``, ``depth`` (2 by default) and ``omega`` are read.
        image_shape: ``(2, 1, 1)``: to the network a place is an image of one pixel with the
            channels row and column, each in [−1, 1].
        classes: channels of the image that a member fits.

    Returns:
        The spec of :func:`~zoogen.networks.mlp.mlp`, its function, and the published initial
        weights with ω0 absorbed.
    """
    perceptron = mlp(config, image_shape, classes)
    return perceptron._replace(init=partial(_initial, perceptron.spec, _omega(config)))


def step_factors(config: NetworkConfig, spec: ParamSpec) -> Mapping[str, float]:
    """Parameter → factor on its optimiser steps; empty where all are 1.

    The weights of hidden layers are ω0 times the published ones, and so must be their steps. A step
    of Adam does not depend on the scale of the gradient (but for its ε), hence this *is* the
    published training; for other optimisers it would not be.
    """
    if not config.fits_image:
        return {}
    omega = _omega(config)
    return {p.name: 1.0 if p.name.startswith(OUTPUT) else omega for p in spec.parameters}


def _omega(config: NetworkConfig) -> float:
    return DEFAULT_OMEGA if config.omega is None else config.omega


def _initial(spec: ParamSpec, omega: float, key: Array, scale: float | Float[Array, ""]) -> Params:
    """Uniform weights, of the first layer within ± ω0/n, of the next ones within ± √(6/n), of the
    output within ± √(6/n)/ω0, where n counts the inputs of a layer. Biases are within ± 1/√n, as
    in the authors' code, and ω0 times that in hidden layers."""
    params: Params = {}
    for index, parameter in enumerate(spec.parameters):
        layer, kind = parameter.name.split(".")
        inputs = spec[f"{layer}.weight"].shape[1]
        absorbed = 1.0 if layer == OUTPUT else omega
        bound = inputs**-0.5
        if kind == "weight":
            bound = 1 / inputs if index == 0 else (6 / inputs) ** 0.5 / omega
        draw = jax.random.uniform(
            jax.random.fold_in(key, index), parameter.shape, jnp.float32, -1.0, 1.0
        )
        params[parameter.name] = jnp.asarray(scale, jnp.float32) * (absorbed * bound) * draw
    return params
