"""Networks: the members of a zoo as frozen bundles of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks.architecture import Apply, Architecture
from zoogen.networks.cnn import cnn, lenet
from zoogen.networks.initializers import initial_params
from zoogen.networks.mlp import mlp
from zoogen.params import Params, ParamSpec

__all__ = ["FAMILIES", "Network", "build_network"]

FAMILIES: dict[str, Callable[[NetworkConfig, tuple[int, int, int], int], Architecture]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
}


@dataclass(frozen=True)
class Network:
    """One architecture as pure functions of one member's parameters.

    Attributes:
        config: the section of the config that it was built from.
        image_shape: channels, height and width of the images it takes.
        classes: number of logits.
        spec: names, shapes and symmetries of the parameters.
        init: ``(key, scale) → params``: weights of ``config.init`` times ``scale`` (may be
            traced), zero biases; ``params`` is a flat dict in PyTorch layout.
        apply: ``(params, images [b c h w]) → logits [b k]``; float32 normalised images.
    """

    config: NetworkConfig
    image_shape: tuple[int, int, int]
    classes: int
    spec: ParamSpec
    init: Callable[[Array, float | Float[Array, ""]], Params]
    apply: Apply


@lru_cache(maxsize=256)
def build_network(
    config: NetworkConfig, image_shape: tuple[int, int, int], classes: int
) -> Network:
    """Build the network that a config names; equal arguments give the same object.

    Args:
        config: the ``[network]`` section.
        image_shape: channels, height and width of one image.
        classes: number of logits.

    Raises:
        ConfigError: if the images are too small for the architecture.

    Example:
        >>> network = build_network(NetworkConfig(family="cnn", width=16), (1, 28, 28), 10)
        >>> network.spec.size
        4970
    """
    spec, apply = FAMILIES[config.family](config, image_shape, classes)
    init = partial(initial_params, spec, config.init)
    return Network(config, image_shape, classes, spec, init, apply)
