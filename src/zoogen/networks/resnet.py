"""Residual CNN: one stream of channels that normalised blocks read from and add to."""

from __future__ import annotations

from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks import layers
from zoogen.networks.architecture import Architecture, Drop, Hidden, keep
from zoogen.params import Axis, Params, ParamSpec

DEFAULT_DEPTH = 2
KERNEL, STEM_STRIDE = 3, 2


def resnet(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> Architecture:
    """Strided 3×3 stem, pre-activation blocks of two 3×3 convolutions, average pool, dense output.

    Norms are over all channels and positions of an image: they need no statistics of a batch, and
    every channel may be exchanged for another. All channels of the stream are one group.

    Args:
        config: ``width`` (channels of the stream and inside blocks), ``depth`` (blocks, 2 by
            default) and ``activation``.
        image_shape: channels, height and width of one image.
        classes: outputs.

    Reference:
        He, Zhang, Ren and Sun, Identity mappings in deep residual networks, 2016; with the norm of
        Ba, Kiros and Hinton, Layer normalization, 2016, in place of batch normalisation.
    """
    blocks = [f"block{i}" for i in range(config.depth or DEFAULT_DEPTH)]
    activation = layers.ACTIVATIONS[config.activation]

    def conv(params: Params, name: str, x: Array, stride: int = 1) -> Float[Array, "u h w b"]:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        return layers.conv2d(x, weight, bias, stride, KERNEL // 2)

    def norm(params: Params, name: str, x: Array) -> Float[Array, "u h w b"]:
        return layers.map_norm(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def forward(
        params: Params, images: Float[Array, "b c h w"], drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        x, hidden = conv(params, "stem", images.transpose(1, 2, 3, 0), STEM_STRIDE), {}
        for block in blocks:
            inner = activation(norm(params, f"{block}.norm0", x))
            before = norm(params, f"{block}.norm1", conv(params, f"{block}.conv0", inner))
            after = drop(f"{block}.conv0", activation(before))
            hidden[f"{block}.conv0"] = layers.hidden_maps(before, after)
            x = x + conv(params, f"{block}.conv1", after)
        before = norm(params, "norm", x)
        after = drop("stem", activation(before))
        hidden["stem"] = layers.hidden_maps(before, after)
        pooled = layers.global_average_pool(after)
        return layers.dense(pooled, params["output.weight"], params["output.bias"]), hidden

    return Architecture(_spec(config.width, blocks, image_shape[0], classes), forward)


def _spec(width: int, blocks: list[str], channels: int, classes: int) -> ParamSpec:
    stream = Axis(width, "stem")
    axes = _conv_axes("stem", stream, Axis(channels))
    for block in blocks:
        inner = Axis(width, f"{block}.conv0")
        axes |= _vector_axes(f"{block}.norm0", stream)
        axes |= _conv_axes(f"{block}.conv0", inner, stream)
        axes |= _vector_axes(f"{block}.norm1", inner)
        axes |= _conv_axes(f"{block}.conv1", stream, inner)
    axes |= _vector_axes("norm", stream)
    axes |= {"output.weight": (Axis(classes), stream), "output.bias": (Axis(classes),)}
    groups = ["stem", *(f"{block}.conv0" for block in blocks)]
    return ParamSpec.build(axes, dict.fromkeys(groups, "none"))


def _conv_axes(name: str, out: Axis, incoming: Axis) -> dict[str, tuple[Axis, ...]]:
    kernel = Axis(KERNEL)
    return {f"{name}.weight": (out, incoming, kernel, kernel), f"{name}.bias": (out,)}


def _vector_axes(name: str, units: Axis) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.weight": (units,), f"{name}.bias": (units,)}
