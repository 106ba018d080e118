"""Fields over weights with time: an equivariant stack, attention along weights, a perceptron."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.generators.flow import Field, condition_size
from zoogen.models import TokenStack, token_parameter_model
from zoogen.models.equivariant import with_channels
from zoogen.models.heads import initial_mlp, mlp
from zoogen.models.leaves import Features, fold, leaves_of, unfold
from zoogen.models.linear import equivariant_linear
from zoogen.networks.layers import dense
from zoogen.params import ParamSpec

EMBEDDING = 64
NORM_FLOOR = 1e-6
FACTORS = 2.0  # bound on the logarithm of a factor


def equivariant_field(
    spec: ParamSpec,
    conditions: int,
    channels: int = 32,
    depth: int = 4,
    rank: int = 8,
    gradients: bool = False,
) -> Field:
    """A field that commutes with every permutation of hidden units, exactly.

    Complete equivariant layers with residual connections; the condition gives every feature a
    factor and a shift in every layer (Perez et al., FiLM, 2018).

    Args:
        spec: of the networks.
        conditions: length of the condition vector.
        channels: features per entry of a parameter.
        depth: hidden layers.
        rank: most features per channel for all inputs, outputs and positions of one parameter.
        gradients: whether the gradient of each weight is read, too.
    """
    leaves = leaves_of(spec)
    widths = {leaf.name: channels * min(leaf.fixed, rank) for leaf in leaves}
    entries = {leaf.name: leaf.fixed for leaf in leaves}
    reads = 1 + gradients
    read_of_each = {name: reads * size for name, size in entries.items()}
    first = equivariant_linear(leaves, read_of_each, widths)
    inner = equivariant_linear(leaves, widths, widths)
    last = equivariant_linear(leaves, widths, entries)
    names = list(widths)
    total = sum(widths.values())
    read = (condition_size(conditions, gradients), EMBEDDING, EMBEDDING)

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, depth + 3)
        return {
            "embedding": initial_mlp(keys[0], read),
            "first": first.init(keys[1]),
            "inner": [inner.init(k) for k in keys[2:-1]],
            "modulation": jnp.zeros((depth + 1, 2 * total, EMBEDDING)),
            "last": jax.tree.map(jnp.zeros_like, last.init(keys[-1])),
        }

    def modulated(
        x: Features, weight: Float[Array, "o e"], embedded: Float[Array, "b e"]
    ) -> Features:
        numbers = dense(embedded, weight, jnp.zeros(len(weight)))
        factors, shifts = jnp.split(numbers, 2, axis=1)
        ends = [sum(widths[n] for n in names[: i + 1]) for i in range(len(names) - 1)]
        parts = zip(jnp.split(factors, ends, axis=1), jnp.split(shifts, ends, axis=1), strict=True)
        return {
            name: _normalised(x[name]) * jnp.exp(FACTORS * jnp.tanh(_along(factor, x[name])))
            + _along(shift, x[name])
            for name, (factor, shift) in zip(names, parts, strict=True)
        }

    def apply(
        params: dict[str, Any], x: Float[Array, "b d *c"], condition: Float[Array, "b e"]
    ) -> Float[Array, "b d"]:
        embedded = jax.nn.silu(mlp(params["embedding"], condition))
        h = first.apply(params["first"], fold(spec, leaves, with_channels(spec, reads, x)))
        for weights, modulation in zip(params["inner"], params["modulation"], strict=False):
            y = modulated(h, modulation, embedded)
            y = inner.apply(weights, {name: jax.nn.silu(v) for name, v in y.items()})
            h = {name: h[name] + y[name] for name in names}
        h = modulated(h, params["modulation"][-1], embedded)
        out = last.apply(params["last"], {name: jax.nn.silu(v) for name, v in h.items()})
        return unfold(leaves, out)[..., 0]

    return Field(init, apply)


def token_field(
    spec: ParamSpec,
    conditions: int,
    channels: int = 32,
    depth: int = 4,
    heads: int = 4,
    gradients: bool = False,
) -> Field:
    """A field that commutes with every permutation of hidden units: attention along weights.

    The token model of :func:`~zoogen.models.token_parameter_model`, whose weights have states of
    their own. Condition and time pass a perceptron before they modulate its layers.

    Args:
        spec: of the networks; nested groups included.
        conditions: length of the condition vector.
        channels: features of a unit; a weight has a quarter of them.
        depth: layers.
        heads: of attention; a divisor of the channels.
        gradients: whether the gradient of each weight is read, too.

    Raises:
        ConfigError: if heads do not divide the channels, or the spec has no graph.
    """
    stack = TokenStack(
        "units",
        channels,
        depth,
        heads,
        edge_channels=max(1, channels // 4),
        input_channels=1 + gradients,
    )
    model = token_parameter_model(spec, stack, condition_size=EMBEDDING)
    read = (condition_size(conditions, gradients), EMBEDDING, EMBEDDING)

    def init(key: Array) -> dict[str, Any]:
        of_embedding, of_model = jax.random.split(key)
        return {"embedding": initial_mlp(of_embedding, read), "model": model.init(of_model)}

    def apply(
        params: dict[str, Any], x: Float[Array, "b d *c"], condition: Float[Array, "b e"]
    ) -> Float[Array, "b d"]:
        embedded = jax.nn.silu(mlp(params["embedding"], condition))
        found: Array = model.apply(params["model"], x, embedded)
        return found

    return Field(init, apply)


def _along(values: Float[Array, "b f"], like: Float[Array, "b *slots f"]) -> Array:
    return values.reshape(values.shape[0], *[1] * (like.ndim - 2), values.shape[1])


def _normalised(x: Float[Array, "b *slots f"]) -> Float[Array, "b *slots f"]:
    """Each unit's features over their root mean square."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + NORM_FLOOR)


def vector_field(size: int, conditions: int, width: int = 512, depth: int = 4) -> Field:
    """A residual perceptron over coordinates without symmetry.

    Args:
        size: coordinates.
        conditions: length of the condition vector.
        width: of the hidden layers.
        depth: residual blocks.
    """
    read = condition_size(conditions)

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, depth + 2)
        blocks = [
            {
                "up": initial_mlp(jax.random.fold_in(k, 0), (width + read, width)),
                "down": jax.tree.map(jnp.zeros_like, initial_mlp(k, (width, width))),
            }
            for k in keys[2:]
        ]
        return {
            "first": initial_mlp(keys[0], (size, width)),
            "blocks": blocks,
            "last": jax.tree.map(jnp.zeros_like, initial_mlp(keys[1], (width, size))),
        }

    def apply(
        params: dict[str, Any], x: Float[Array, "b d"], condition: Float[Array, "b e"]
    ) -> Float[Array, "b d"]:
        h = mlp(params["first"], x)
        for block in params["blocks"]:
            seen = jnp.concatenate([_normalised(h), condition], axis=1)
            h = h + mlp(block["down"], jax.nn.silu(mlp(block["up"], seen)))
        return mlp(params["last"], jax.nn.silu(_normalised(h)))

    return Field(init, apply)
