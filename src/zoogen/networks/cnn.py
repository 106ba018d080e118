"""Convolutional members: the small strided CNN of a published zoo and a LeNet-like one."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import layers
from zoogen.networks.architecture import Architecture, Drop, Hidden, keep
from zoogen.params import Axis, Params, ParamSpec

ImageShape = tuple[int, int, int]

DEFAULT_DEPTH = 3
KERNEL, STRIDE = 3, 2

LENET_KERNELS = {"conv0": 5, "conv1": 5, "conv2": 2}
LENET_UNITS = {"conv0": 8, "conv1": 6, "conv2": 4, "hidden": 20}
LENET_POOLED = ("conv0", "conv1")


def cnn(config: NetworkConfig, image_shape: ImageShape, classes: int) -> Architecture:
    """Strided 3×3 convolutions, global average pool, dense output.

    With ``width`` 16 and ``depth`` 3 this is the CNN of Unterthiner, Keysers, Gelly, Bousquet and
    Tolstikhin, *Predicting Neural Network Accuracy from Weights*, 2020: 4,970 parameters on
    28×28 grey images.

    Args:
        config: ``width`` (channels), ``depth`` (convolutions, 3 by default), ``padding``
            (``valid`` by default; ``same`` pads one pixel on every side) and ``activation``.
        image_shape: channels, height and width of one image.
        classes: outputs.

    Raises:
        ConfigError: if the image is too small for that many convolutions.
    """
    padding = KERNEL // 2 if config.padding == "same" else 0
    names = [f"conv{i}" for i in range(config.depth or DEFAULT_DEPTH)]
    _cnn_map(image_shape, len(names), padding)
    activation = layers.ACTIVATIONS[config.activation]

    def forward(
        params: Params, images: Float[Array, "b c h w"], drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        x, hidden = images.transpose(1, 2, 3, 0), {}
        for name in names:
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            before = layers.conv2d(x, weight, bias, STRIDE, padding)
            x = drop(name, activation(before))
            hidden[name] = layers.hidden_maps(before, x)
        pooled = layers.global_average_pool(x)
        return layers.dense(pooled, params["output.weight"], params["output.bias"]), hidden

    axes: dict[str, tuple[Axis, ...]] = {}
    incoming = Axis(image_shape[0])
    for name in names:
        channels = Axis(config.width, name)
        axes |= _conv_axes(name, channels, incoming, KERNEL)
        incoming = channels
    axes |= _dense_axes("output", Axis(classes), incoming)
    return Architecture(ParamSpec.build(axes, layers.scalings(config.activation, names)), forward)


def lenet(
    config: NetworkConfig,
    image_shape: ImageShape,
    classes: int,
    pool: Callable[[Float[Array, "u h w b"]], Float[Array, "u y x b"]] = layers.max_pool,
) -> Architecture:
    """Three convolutions, two of them max-pooled, and two dense layers.

    With ``width`` 8 this is the CNN of Schürholt, Taskiran, Knyazev, Giró-i-Nieto and Borth,
    *Model Zoos: A Dataset of Diverse Populations of Neural Network Models*, 2022: 2,464 parameters
    on 28×28 grey images, 2,864 on colour images of that size.

    Args:
        config: ``width`` (channels of the first layer; the others keep their proportions to it)
            and ``activation``.
        image_shape: channels, height and width of one image.
        classes: outputs.
        pool: what halves the maps of the first two convolutions.

    Raises:
        ConfigError: if the image is smaller than 20 × 20.
    """
    rows, columns = _lenet_map(image_shape)
    activation = layers.ACTIVATIONS[config.activation]

    def forward(
        params: Params, images: Float[Array, "b c h w"], drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]:
        x, hidden = images.transpose(1, 2, 3, 0), {}
        for name in LENET_KERNELS:
            before = layers.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"])
            before = pool(before) if name in LENET_POOLED else before
            x = drop(name, activation(before))
            hidden[name] = layers.hidden_maps(before, x)
        flat = layers.flatten(x)
        before = layers.dense(flat, params["hidden.weight"], params["hidden.bias"])
        last = drop("hidden", activation(before))
        hidden["hidden"] = Hidden(before, last)
        return layers.dense(last, params["output.weight"], params["output.bias"]), hidden

    units = {name: Axis(_share(config.width, n), name) for name, n in LENET_UNITS.items()}
    axes: dict[str, tuple[Axis, ...]] = {}
    incoming = Axis(image_shape[0])
    for name, kernel in LENET_KERNELS.items():
        axes |= _conv_axes(name, units[name], incoming, kernel)
        incoming = units[name]
    positions = rows * columns
    flattened = Axis(incoming.size * positions, incoming.group, block=positions)
    axes |= _dense_axes("hidden", units["hidden"], flattened)
    axes |= _dense_axes("output", Axis(classes), units["hidden"])
    return Architecture(ParamSpec.build(axes, _lenet_scalings(config.activation)), forward)


def _lenet_scalings(activation: str) -> dict[str, str]:
    """Largest of a window commutes with positive factors, but not with a change of sign."""
    scalings = layers.scalings(activation, LENET_UNITS)
    signed = [name for name in LENET_POOLED if scalings[name] == "sign"]
    return scalings | dict.fromkeys(signed, "none")


def _share(width: int, published: int) -> int:
    """Units of a layer that has ``published`` at width 8: in proportion, at least one."""
    return max(1, (width * published + 4) // 8)


def _conv_axes(name: str, out: Axis, incoming: Axis, kernel: int) -> dict[str, tuple[Axis, ...]]:
    return {
        f"{name}.weight": (out, incoming, Axis(kernel), Axis(kernel)),
        f"{name}.bias": (out,),
    }


def _dense_axes(name: str, out: Axis, incoming: Axis) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.weight": (out, incoming), f"{name}.bias": (out,)}


def _cnn_map(image_shape: ImageShape, depth: int, padding: int) -> None:
    """Refuse images that shrink below one pixel."""
    size = min(image_shape[1:])
    for layer in range(depth):
        if size + 2 * padding < KERNEL:
            shallower = f"set network.depth to {layer} or less, or " if layer else "set "
            raise ConfigError(
                f"network.depth: {depth} convolutions do not fit a {_shown(image_shape)} image: "
                f"conv{layer} needs maps of at least {KERNEL}×{KERNEL}, found {size} on one side; "
                f"{shallower}network.padding to 'same'"
            )
        size = (size + 2 * padding - KERNEL) // STRIDE + 1


def _lenet_map(image_shape: ImageShape) -> tuple[int, int]:
    """Rows and columns of the last convolution's maps; refuse images that leave none."""
    rows, columns = (_lenet_side(side) for side in image_shape[1:])
    if min(rows, columns) < 1:
        raise ConfigError(
            f"network.family: 'lenet' needs images of at least 20×20 pixels, found "
            f"{_shown(image_shape)}; choose 'mlp' or 'cnn' for smaller ones"
        )
    return rows, columns


def _lenet_side(side: int) -> int:
    for name, kernel in LENET_KERNELS.items():
        side -= kernel - 1
        side = side // 2 if name in LENET_POOLED else side
    return side


def _shown(image_shape: ImageShape) -> str:
    return f"{image_shape[1]}×{image_shape[2]}"
