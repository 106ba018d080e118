"""Multilayer perceptron: flattened image, equal hidden layers, dense output."""

from __future__ import annotations

import math

from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks import layers
from zoogen.networks.architecture import Architecture, Drop, Hidden, keep
from zoogen.params import Axis, Params, ParamSpec

DEFAULT_DEPTH = 2


def mlp(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> Architecture:
    """``depth`` hidden layers of ``width`` units.

    Args:
        config: ``width``, ``depth`` (2 by default) and ``activation`` are read.
        image_shape: channels, height and width of one image.
        classes: outputs.

    Returns:
        The spec (``hidden0.weight``, ``hidden0.bias``, …, ``output.bias``) and the function.
    """
    names = [f"hidden{i}" for i in range(config.depth or DEFAULT_DEPTH)]
    activation = layers.ACTIVATIONS[config.activation]

    def forward(
        params: Params, images: Float[Array, "b c h w"], drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        x, hidden = images.reshape(images.shape[0], -1), {}
        for name in names:
            before = layers.dense(x, params[f"{name}.weight"], params[f"{name}.bias"])
            x = drop(name, activation(before))
            hidden[name] = Hidden(before, x)
        return layers.dense(x, params["output.weight"], params["output.bias"]), hidden

    return Architecture(_spec(config, names, math.prod(image_shape), classes), forward)


def _spec(config: NetworkConfig, names: list[str], inputs: int, classes: int) -> ParamSpec:
    axes: dict[str, tuple[Axis, ...]] = {}
    incoming = Axis(inputs)
    for name in names:
        units = Axis(config.width, name)
        axes[f"{name}.weight"], axes[f"{name}.bias"] = (units, incoming), (units,)
        incoming = units
    axes["output.weight"], axes["output.bias"] = (Axis(classes), incoming), (Axis(classes),)
    return ParamSpec.build(axes, layers.scalings(config.activation, names))
