"""Padding: smaller members laid into the largest, so that one architecture holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.data import normalise
from zoogen.errors import ConfigError
from zoogen.evaluate.problem import Block, Samples
from zoogen.networks import Network, build_network
from zoogen.params import ParamSpec

TOLERANCE = 1e-5  # of the largest logit
CHECKED = 4  # members of each block
IMAGES = 8


def padded(samples: Samples) -> Samples:
    """The same functions as weights of the largest network.

    Every tensor stands at the start of the largest of its name, zeros behind it: a unit whose
    weights are zero has no influence. Networks that differ in activation stay blocks of their own.

    Args:
        samples: blocks with tensors of the same names.

    Raises:
        ConfigError: if tensors have other names (another depth or family), no member is the
            largest in every tensor, or a member does not compute the same afterwards.
    """
    largest = max(samples.blocks, key=lambda block: block.spec.size)
    if all(block.spec.parameters == largest.spec.parameters for block in samples.blocks):
        return samples
    for block in samples.blocks:
        _refuse_other_tensors(samples, block, largest)
    return Samples(
        samples.table,
        tuple(_laid(samples, block, largest) for block in samples.blocks),
        samples.hyper_parameters,
        samples.probes,
        samples.mean,
        samples.std,
        samples.excluded,
    )


def lay(
    small: ParamSpec, large: ParamSpec, weights: Float[np.ndarray, "m p"]
) -> Float[np.ndarray, "m q"]:
    """Weights with every tensor at the start of the larger tensor of its name, zeros behind.

    Example:
        >>> from zoogen.params import Axis
        >>> small = ParamSpec.build({"w": (Axis(1), Axis(2)), "b": (Axis(1),)})
        >>> large = ParamSpec.build({"w": (Axis(2), Axis(3)), "b": (Axis(2),)})
        >>> lay(small, large, np.array([[1.0, 2, 3]])).tolist()
        [[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]]
    """
    tensors = small.unflatten(weights)
    wide = np.zeros((len(weights), large.size), weights.dtype)
    for name, target in large.unflatten(wide).items():  # views of `wide`
        corner = tuple(slice(size) for size in tensors[name].shape)
        target[corner] = tensors[name]
    return wide


def _laid(samples: Samples, block: Block, largest: Block) -> Block:
    if block.spec.parameters == largest.spec.parameters:
        return block
    network = _with_activation_of(block.network, largest.network)
    weights = lay(block.spec, network.spec, block.weights)
    error = _change(samples, block, network, weights)
    if not error <= TOLERANCE:
        raise ConfigError(
            f"task.padding: member {_member(samples, block)} changes its logits by {error:.1e} of "
            f"their scale in the largest network (allowed {TOLERANCE:.0e}); its architecture can't "
            "be padded: choose readers of mixed architectures"
        )
    return Block(network, block.rows, weights)


def _with_activation_of(small: Network, large: Network) -> Network:
    """The largest network with the activation of a smaller one."""
    config = large.config.model_copy(update={"activation": small.config.activation})
    return build_network(config, large.image_shape, large.classes)


def _change(
    samples: Samples, block: Block, network: Network, weights: Float[np.ndarray, "m q"]
) -> float:
    """Largest change of a logit of the first members, relative to the largest logit."""
    images = samples.probes[:IMAGES]
    if not len(images) or images.shape[1:] != network.image_shape:
        images = np.random.default_rng(0).random((IMAGES, *network.image_shape), np.float32)
    inputs = normalise(*map(jnp.asarray, (images, samples.mean, samples.std)))
    before = _logits(block.network)(block.weights[:CHECKED], inputs)
    after = _logits(network)(weights[:CHECKED], inputs)
    return float(abs(after - before).max() / max(float(abs(before).max()), 1e-30))


@lru_cache(maxsize=64)
def _logits(network: Network) -> Callable[..., Float[Array, "m b k"]]:
    def logits(weights: Float[Array, " p"], images: Float[Array, "b c h w"]) -> Float[Array, "b k"]:
        return network.apply(network.spec.unflatten(weights), images)

    return jax.jit(jax.vmap(logits, (0, None)))


def _refuse_other_tensors(samples: Samples, block: Block, largest: Block) -> None:
    names = [[p.name for p in spec.parameters] for spec in (block.spec, largest.spec)]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1])) or names[0]
        raise ConfigError(
            f"task.padding: member {_member(samples, block)} has other tensors than the largest "
            f"one, {_member(samples, largest)} ({odd[0]}), as networks of another depth or family "
            "have; select one depth with task.where, or choose readers of mixed architectures"
        )
    if any(_exceeds(block.spec[n].shape, largest.spec[n].shape) for n in names[0]):
        raise ConfigError(
            f"task.padding: member {_member(samples, block)} does not fit into the largest one, "
            f"{_member(samples, largest)}; choose readers of mixed architectures"
        )


def _exceeds(small: Sequence[int], large: Sequence[int]) -> bool:
    return any(a > b for a, b in zip(small, large, strict=True))


def _member(samples: Samples, block: Block) -> str:
    return str(samples.table["member"].iloc[block.rows[0]])
