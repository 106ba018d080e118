"""Vision transformer: patches as tokens, blocks of attention and a perceptron on one stream."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import layers
from zoogen.networks.architecture import Architecture, Drop, Hidden, keep
from zoogen.params import Axis, Params, ParamSpec

DEFAULT_DEPTH, DEFAULT_HEADS = 2, 2
SMALL_IMAGE = 16
"""Sides up to which patches are 2×2 pixels; above they are 4×4."""

_EXPANSION = 2  # units of the perceptron per unit of the stream


def vit(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> Architecture:
    """Linear patches plus places, pre-norm blocks, mean over tokens, dense output.

    Args:
        config: ``width`` (units of the stream, all heads together as wide), ``depth`` (blocks, 2
            by default), ``heads`` (2 by default) and ``activation`` (of the perceptrons).
        image_shape: channels, height and width of one image.
        classes: outputs.

    Raises:
        ConfigError: if heads do not divide the width, or patches the image.

    Reference:
        Dosovitskiy et al., An image is worth 16×16 words, 2020; tokens are averaged instead of read
        from a token of their own, and keys have no bias, which would change no attention.
    """
    heads, side = config.heads or DEFAULT_HEADS, _patch_side(image_shape)
    if config.width % heads:
        raise ConfigError(
            f"network.heads: {heads} heads can't share a width of {config.width}; set "
            "network.width to a multiple of network.heads"
        )
    blocks = [f"block{i}" for i in range(config.depth or DEFAULT_DEPTH)]
    activation = layers.ACTIVATIONS[config.activation]

    def dense(params: Params, name: str, x: Array) -> Float[Array, "b t o"]:
        result = x @ params[f"{name}.weight"].T
        return result + params[f"{name}.bias"] if f"{name}.bias" in params else result

    def norm(params: Params, name: str, x: Array) -> Float[Array, "b t u"]:
        return layers.layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def forward(
        params: Params, images: Float[Array, "b c h w"], drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        hidden = {}
        x = dense(params, "embed", _patches(images, side)) + params["places.weight"].T
        for block in blocks:
            read = norm(params, f"{block}.norm0", x)
            q, k, v = (dense(params, f"{block}.{name}", read) for name in _ATTENTION)
            hidden[f"{block}.value"] = _hidden_tokens(v, v)
            x = x + dense(params, f"{block}.mix", _attend(q, k, v, heads))
            before = dense(params, f"{block}.up", norm(params, f"{block}.norm1", x))
            after = drop(f"{block}.up", activation(before))
            hidden[f"{block}.up"] = _hidden_tokens(before, after)
            x = x + dense(params, f"{block}.down", after)
        last = norm(params, "norm", x)
        hidden["embed"] = _hidden_tokens(last, last)
        pooled = last.mean(axis=1)
        return layers.dense(pooled, params["output.weight"], params["output.bias"]), hidden

    channels, rows, columns = image_shape
    patch, tokens = channels * side**2, rows * columns // side**2
    spec = _spec(config, heads, blocks, (patch, tokens), classes)
    return Architecture(spec, forward)


_ATTENTION = ("query", "key", "value")


def _patch_side(image_shape: tuple[int, int, int]) -> int:
    _, rows, columns = image_shape
    side = 2 if max(rows, columns) <= SMALL_IMAGE else 4
    if rows % side or columns % side:
        raise ConfigError(
            f"network.family: 'vit' cuts images into patches of {side}×{side} pixels, found "
            f"{rows}×{columns} images; choose 'mlp', 'cnn' or 'resnet' for them"
        )
    return side


def _patches(images: Float[Array, "b c h w"], side: int) -> Float[Array, "b t f"]:
    """Pixels of each patch in the order ``c h w``, as a strided convolution reads them."""
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // side, side, w // side, side).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(b, h * w // side**2, c * side**2)


def _attend(
    q: Float[Array, "b t u"], k: Float[Array, "b t u"], v: Float[Array, "b t u"], heads: int
) -> Float[Array, "b t u"]:
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / math.sqrt(q.shape[-1])
    mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(scores, axis=-1), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def _hidden_tokens(before: Float[Array, "b t u"], after: Float[Array, "b t u"]) -> Hidden:
    return Hidden(before.swapaxes(1, 2), after.swapaxes(1, 2))


def _spec(
    config: NetworkConfig, heads: int, blocks: list[str], inputs: tuple[int, int], classes: int
) -> ParamSpec:
    width, (patch, tokens) = config.width, inputs
    stream = Axis(width, "embed")
    axes = _dense_axes("embed", stream, Axis(patch)) | {"places.weight": (stream, Axis(tokens))}
    parents: dict[str, tuple[str, int]] = {}
    scalings = {"embed": "none"} | layers.scalings(config.activation, [f"{b}.up" for b in blocks])
    for block in blocks:
        query, value = Axis(width, f"{block}.query"), Axis(width, f"{block}.value")
        up = Axis(_EXPANSION * width, f"{block}.up")
        axes |= _vector_axes(f"{block}.norm0", stream)
        axes |= _dense_axes(f"{block}.query", query, stream)
        axes |= {f"{block}.key.weight": (query, stream)}
        axes |= _dense_axes(f"{block}.value", value, stream)
        axes |= _dense_axes(f"{block}.mix", stream, value)
        axes |= _vector_axes(f"{block}.norm1", stream)
        axes |= _dense_axes(f"{block}.up", up, stream) | _dense_axes(f"{block}.down", stream, up)
        parents |= dict.fromkeys([f"{block}.query", f"{block}.value"], (f"{block}.heads", heads))
        # Queries and keys change their signs together; values are read as they are.
        scalings |= {f"{block}.query": "sign", f"{block}.value": "nonzero"}
    axes |= _vector_axes("norm", stream) | _dense_axes("output", Axis(classes), stream)
    return ParamSpec.build(axes, scalings, parents)


def _dense_axes(name: str, out: Axis, incoming: Axis) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.weight": (out, incoming), f"{name}.bias": (out,)}


def _vector_axes(name: str, units: Axis) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.weight": (units,), f"{name}.bias": (units,)}
