"""Networks: the members of a zoo as frozen bundles of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.config import NetworkConfig
from zoogen.networks import layers
from zoogen.networks.architecture import (
    Apply,
    Architecture,
    BatchMoments,
    Drop,
    Forward,
    Hidden,
    Init,
    TrainForward,
    keep,
)
from zoogen.networks.cnn import cnn, lenet
from zoogen.networks.dropout import dropping
from zoogen.networks.initializers import initial_params
from zoogen.networks.mlp import mlp
from zoogen.networks.resnet import resnet
from zoogen.networks.siren import siren, step_factors
from zoogen.networks.statistics import exact
from zoogen.networks.vit import vit
from zoogen.params import Params, ParamSpec

__all__ = [
    "FAMILIES", "BatchMoments", "Hidden", "Network", "build_network", "dropping", "hidden_names",
    "path_twin", "step_factors",
]  # fmt: skip

FAMILIES: dict[str, Callable[[NetworkConfig, tuple[int, int, int], int], Architecture]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "resnet": resnet,
    "vit": vit,
    "siren": siren,
}


NORMED = frozenset({"resnet", "vit"})
"""Families whose norms rule out what needs piecewise linear or homogeneous networks."""


@dataclass(frozen=True)
class Network:
    """One architecture as pure functions of one member's parameters.

    Attributes:
        config: the section of the config that it was built from.
        image_shape: channels, height and width of the images it takes.
        classes: number of logits.
        spec: names, shapes and symmetries of the parameters.
        init: ``(key, scale) → params``: weights of ``config.init`` times ``scale`` (may be
            traced), zero biases (siren: its own); ``params`` is a flat dict in PyTorch layout.
        apply: ``(params, images [b c h w]) → logits [b k]``; float32 normalised images.
        forward: the same with what hidden units hold, ``→ (logits, group → Hidden)``; under
            ``jit``, what is not used is not computed. ``drop`` is for training (`dropping`).
        train_forward: ``(params, images) → (logits, norm → BatchMoments)``: normalised by the batch
            where norms are over a batch, else the same logits and nothing seen; takes ``drop``.
    """

    config: NetworkConfig
    image_shape: tuple[int, int, int]
    classes: int
    spec: ParamSpec
    init: Init
    apply: Apply
    forward: Forward
    train_forward: TrainForward

    def recomputed(self, params: Params, images: Float[Array, "b c h w"]) -> Params:
        """Parameters whose running statistics are exactly those of given normalised images."""
        return {**params, **exact(self.train_forward(params, images)[1])}


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
    spec, forward, own_init, own_train_forward = FAMILIES[config.family](
        config, image_shape, classes
    )
    init = own_init or partial(initial_params, spec, config.init)

    def apply(params: Params, images: Float[Array, "b c h w"]) -> Float[Array, "b k"]:
        return forward(params, images)[0]

    def train_forward(
        params: Params, images: Float[Array, "b c h w"], /, drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, BatchMoments]]:
        return forward(params, images, drop=drop)[0], {}

    in_training = own_train_forward or train_forward
    return Network(config, image_shape, classes, spec, init, apply, forward, in_training)


def hidden_names(network: Network) -> tuple[str, ...]:
    """Groups whose units ``forward`` shows, in its order; nothing is computed.

    Example:
        >>> hidden_names(build_network(NetworkConfig(width=3), (1, 2, 2), 2))
        ('hidden0', 'hidden1')
    """
    names: list[str] = []
    params = {p.name: jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in network.spec.parameters}
    image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    jax.eval_shape(lambda p, x: names.extend(network.forward(p, x)[1]), params, image)
    return tuple(names)


def path_twin(network: Network) -> Apply | None:
    """The function of a network with relu as its activation and sums in place of maxima.

    On absolute weights and an image of ones it adds up all paths through the network; for
    activations that are no steeper than the identity and zero at zero (relu, tanh, …) that bounds
    the network itself. Through norms and attention weights paths do not add up: those networks
    have no twin.

    Args:
        network: of any family; ``None`` for families with norms.

    Example:
        >>> import jax.numpy as jnp
        >>> config = NetworkConfig(family="mlp", width=2, depth=1, activation="tanh")
        >>> network = build_network(config, (1, 1, 3), 1)
        >>> ones = network.spec.unflatten(jnp.ones(network.spec.size))
        >>> path_twin(network)(ones, jnp.ones((1, 1, 1, 3))).tolist()
        [[9.0]]
    """
    if network.config.family in NORMED:
        return None
    config = network.config.model_copy(update={"activation": "relu"})
    build = _PATH_TWINS.get(config.family, FAMILIES[config.family])
    forward = build(config, network.image_shape, network.classes).forward
    return lambda params, images: forward(params, images)[0]


_PATH_TWINS = {"lenet": partial(lenet, pool=layers.sum_pool)}
