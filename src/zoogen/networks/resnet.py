"""Residual CNN: one stream of channels that normalised blocks read from and add to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks import layers
from zoogen.networks.architecture import Architecture, BatchMoments, Drop, Hidden, keep
from zoogen.networks.statistics import STATISTICS
from zoogen.params import Axis, Params, ParamSpec

DEFAULT_DEPTH = 2
KERNEL, STEM_STRIDE = 3, 2

Norm = Callable[[Params, str, Float[Array, "u h w b"]], Float[Array, "u h w b"]]
Scored = tuple[Float[Array, "b k"], dict[str, Hidden]]


def resnet(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> Architecture:
    """Strided 3×3 stem, pre-activation blocks of two 3×3 convolutions, average pool, dense output.

    Layer norms are over all channels and positions of an image: they need no statistics of a
    batch. Batch norms are over the images and positions of a channel: by the batch itself in
    training, by running statistics that are stored with the weights in evaluation. With both,
    every channel may be exchanged for another. All channels of the stream are one group.

    Args:
        config: ``width`` (channels of the stream and inside blocks), ``depth`` (blocks, 2 by
            default), ``norm`` (``layer`` by default) and ``activation``.
        image_shape: channels, height and width of one image.
        classes: outputs.

    Reference:
        He, Zhang, Ren and Sun, Identity mappings in deep residual networks, 2016; by default with
        the norm of Ba, Kiros and Hinton, Layer normalization, 2016, in place of that of Ioffe and
        Szegedy, Batch normalization, 2015.
    """
    blocks = [f"block{i}" for i in range(config.depth or DEFAULT_DEPTH)]
    activation = layers.ACTIVATIONS[config.activation]

    def conv(params: Params, name: str, x: Array, stride: int = 1) -> Float[Array, "u h w b"]:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        return layers.conv2d(x, weight, bias, stride, KERNEL // 2)

    def forward(
        norm: Norm, params: Params, images: Float[Array, "b c h w"], /, drop: Drop = keep
    ) -> Scored:
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

    def train_forward(
        params: Params, images: Float[Array, "b c h w"], /, drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, BatchMoments]]:
        seen: dict[str, BatchMoments] = {}

        def norm(params: Params, name: str, x: Float[Array, "u h w b"]) -> Float[Array, "u h w b"]:
            seen[name] = moments = layers.map_moments(x)
            return layers.batch_norm(x, *_scale_and_shift(params, name), *moments[:2])

        logits, _ = forward(norm, params, images, drop=drop)
        return logits, seen

    of_batch = config.norm == "batch"
    spec = _spec(config.width, blocks, image_shape[0], classes, of_batch)
    if of_batch:
        return Architecture(spec, partial(forward, _running_norm), train_forward=train_forward)
    return Architecture(spec, partial(forward, _layer_norm))


def _layer_norm(params: Params, name: str, x: Float[Array, "u h w b"]) -> Float[Array, "u h w b"]:
    return layers.map_norm(x, *_scale_and_shift(params, name))


def _running_norm(params: Params, name: str, x: Float[Array, "u h w b"]) -> Float[Array, "u h w b"]:
    # Statistics are no weights: neither gradients nor curvature see them.
    moments = (jax.lax.stop_gradient(params[f"{name}.{kind}"]) for kind in STATISTICS)
    return layers.batch_norm(x, *_scale_and_shift(params, name), *moments)


def _scale_and_shift(params: Params, name: str) -> tuple[Array, Array]:
    return params[f"{name}.weight"], params[f"{name}.bias"]


def _spec(width: int, blocks: list[str], channels: int, classes: int, of_batch: bool) -> ParamSpec:
    stream = Axis(width, "stem")
    statistics: dict[str, str] = {}

    def norm_axes(name: str, units: Axis) -> dict[str, tuple[Axis, ...]]:
        own = {f"{name}.{kind}": moment for kind, moment in STATISTICS.items() if of_batch}
        statistics.update(own)
        return dict.fromkeys((f"{name}.weight", f"{name}.bias", *own), (units,))

    axes = _conv_axes("stem", stream, Axis(channels))
    for block in blocks:
        inner = Axis(width, f"{block}.conv0")
        axes |= norm_axes(f"{block}.norm0", stream)
        axes |= _conv_axes(f"{block}.conv0", inner, stream)
        axes |= norm_axes(f"{block}.norm1", inner)
        axes |= _conv_axes(f"{block}.conv1", stream, inner)
    axes |= norm_axes("norm", stream)
    axes |= {"output.weight": (Axis(classes), stream), "output.bias": (Axis(classes),)}
    groups = ["stem", *(f"{block}.conv0" for block in blocks)]
    return ParamSpec.build(axes, dict.fromkeys(groups, "none"), statistics=statistics)


def _conv_axes(name: str, out: Axis, incoming: Axis) -> dict[str, tuple[Axis, ...]]:
    kernel = Axis(KERNEL)
    return {f"{name}.weight": (out, incoming, kernel, kernel), f"{name}.bias": (out,)}
