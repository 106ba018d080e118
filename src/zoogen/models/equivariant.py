"""Equivariant models of weights: stacks of equivariant layers for any spec, and their heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.models.heads import POOLINGS, initial_mlp, mlp, pooled, pooled_size
from zoogen.models.leaves import Features, Leaf, fold, leaves_of, permutable_terminals, unfold
from zoogen.models.linear import equivariant_linear
from zoogen.models.model import Footprint, WeightModel, in_chunks
from zoogen.models.modulation import NORM_FLOOR
from zoogen.networks.layers import ACTIVATIONS
from zoogen.params import ParamSpec

Terminals = Literal["fixed", "permutable"]


@dataclass(frozen=True)
class Stack:
    """Options of a stack of equivariant layers.

    Attributes:
        channels: features per entry of a parameter.
        depth: linear layers.
        terminals: whether the model tells inputs and outputs of the networks apart (``fixed``), or
            treats them as permutable, too (``permutable``).
        terminal_rank: most features per channel for all inputs and outputs that one parameter
            bears, ``None`` for one each. With 784 inputs a complete layer has 784 × 784 matrices
            per pair of channels; a rank makes the first layer learn a projection of the inputs.
        position_rank: the same for positions of kernels and flattened maps.
        activation: between layers; a key of :data:`~zoogen.networks.layers.ACTIVATIONS`.
        normalise: divide every tensor of features by its root mean square, before the activation.
        residual: add what a layer reads to what it returns, from the second layer on.
        input_channels: numbers per parameter that the model reads.
    """

    channels: int = 32
    depth: int = 4
    terminals: Terminals = "fixed"
    terminal_rank: int | None = None
    position_rank: int | None = None
    activation: str = "relu"
    normalise: bool = True
    residual: bool = False
    input_channels: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "terminal_rank", "position_rank", "input_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
        for name, known in (("terminals", get_args(Terminals)), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )


# What published models are as stacks; each is a starting point for `dataclasses.replace`.
STACKS: dict[str, Stack] = {
    # Navon et al., Equivariant architectures for learning in deep weight spaces, 2023
    "dws": Stack(),
    # Zhou et al., Permutation equivariant neural functionals, 2023
    "nfn-hnp": Stack(depth=3, normalise=False),
    "nfn-np": Stack(depth=3, normalise=False, terminals="permutable"),
    # Zhou, Finn and Harrison, Universal neural functionals, 2024
    "universal": Stack(terminals="permutable", residual=True),
}


def network_model(
    spec: ParamSpec,
    outputs: int,
    stack: Stack = STACKS["dws"],
    poolings: tuple[str, ...] = ("mean", "max", "std"),
    hidden: int = 128,
) -> WeightModel:
    """A model that says something about a whole network, whatever the order of its units.

    Args:
        spec: of the networks that it reads; any spec.
        outputs: numbers per network.
        stack: the equivariant layers.
        poolings: statistics over units that the head reads; keys of
            :data:`~zoogen.models.heads.POOLINGS`.
        hidden: units of the head's hidden layer.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b outputs]``; weights should have zero mean and
        unit scale, see :func:`~zoogen.models.standardise`.

    Raises:
        ConfigError: if a pooling is unknown.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(5, "hidden"), Axis(2))})
        >>> model = network_model(spec, 3, Stack(channels=4))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((7, 10))).shape
        (7, 3)
    """
    if not poolings or not set(poolings) <= set(POOLINGS):
        raise ConfigError(f"poolings: expected some of {list(POOLINGS)}, found {list(poolings)}")
    body = trunk(spec, stack)
    sizes = (pooled_size(body.leaves, body.widths, poolings), hidden, outputs)

    def init(key: Array) -> dict[str, Any]:
        of_trunk, of_head = jax.random.split(key)
        return {"trunk": body.init(of_trunk), "head": initial_mlp(of_head, sizes)}

    def apply(params: dict[str, Any], weights: Float[Array, "b p *c"]) -> Float[Array, "b outputs"]:
        features = body.apply(params["trunk"], weights)
        return mlp(params["head"], pooled(body.leaves, features, poolings))

    return WeightModel(init, in_chunks(apply, body.footprint))


def parameter_model(
    spec: ParamSpec,
    stack: Stack = STACKS["dws"],
    channels: int = 1,
    networks: int = 1,
    scale: float = 1.0,
) -> WeightModel:
    """A model that says something about every parameter, in the order of the units.

    Args:
        spec: of the networks that it reads; any spec.
        stack: the equivariant layers before the last one, which returns the outputs.
        channels: numbers per parameter.
        networks: how many networks' parameters it returns per network that it reads. The function
            of several is the mean of their functions, see :func:`mean_of_networks`: as an edited
            network, they can express more than one.
        scale: initial factor on the outputs, learned per parameter of the spec; 1e-4 where they
            are small changes of the weights.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b p]``, or ``[b p channels]``, with an axis of
        ``networks`` behind the first one if they are several.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(5, "hidden"), Axis(2))})
        >>> model = parameter_model(spec, Stack(channels=4), networks=2)
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((7, 10))).shape
        (7, 2, 10)
    """
    body = trunk(spec, stack)
    entries = {leaf.name: leaf.fixed * channels * networks for leaf in body.leaves}
    last = equivariant_linear(body.leaves, body.widths, entries)

    def init(key: Array) -> dict[str, Any]:
        of_trunk, of_last = jax.random.split(key)
        factors = {leaf.name: jnp.full((), scale) for leaf in body.leaves}
        return {"trunk": body.init(of_trunk), "last": last.init(of_last), "scale": factors}

    def apply(
        params: dict[str, Any], weights: Float[Array, "b p *c"]
    ) -> Float[Array, "b *networks p *channels"]:
        features = last.apply(params["last"], body.apply(params["trunk"], weights))
        scaled = {name: params["scale"][name] * values for name, values in features.items()}
        flat = unfold(body.leaves, scaled).reshape(-1, spec.size, networks, channels)
        outputs = flat.transpose(0, 2, 1, 3)
        outputs = outputs if networks > 1 else outputs[:, 0]
        return outputs if channels > 1 else outputs[..., 0]

    return WeightModel(init, in_chunks(apply, body.footprint))


def mean_of_networks(function: Callable[..., Array]) -> Callable[..., Array]:
    """The mean of a function over networks that stand side by side.

    Args:
        function: ``(params, *inputs) → outputs`` of one network.

    Returns:
        The same with a leading axis of networks in every leaf of ``params``.

    Example:
        >>> mean_of_networks(lambda weight, x: weight * x)(jnp.array([1.0, 3.0]), 10.0).tolist()
        20.0
    """

    def mean(params: Any, *inputs: Any) -> Array:
        return jax.vmap(lambda one: function(one, *inputs))(params).mean(axis=0)

    return mean


# ------------------------------------------------------------------------------------------ trunk
class Trunk(NamedTuple):
    """Layers without a head.

    Attributes:
        leaves: of the spec that the model is equivariant to.
        widths: features of each leaf that the last layer returns.
        footprint: of the layers.
        init: ``key → params``.
        apply: ``(params, weights) → features``, activated.
    """

    leaves: tuple[Leaf, ...]
    widths: dict[str, int]
    footprint: Footprint
    init: Callable[[Array], list[dict[str, Any]]]
    apply: Callable[[list[dict[str, Any]], Float[Array, "b p *c"]], Features]


def trunk(spec: ParamSpec, stack: Stack) -> Trunk:
    """The layers of a model without its head.

    Args:
        spec: of the networks that the model reads.
        stack: its options.
    """
    symmetry = spec if stack.terminals == "fixed" else permutable_terminals(spec)
    leaves = leaves_of(symmetry)
    widths = {leaf.name: stack.channels * _kept(leaf, stack) for leaf in leaves}
    entries = {leaf.name: stack.input_channels * leaf.fixed for leaf in leaves}
    first = equivariant_linear(leaves, entries, widths)
    later = equivariant_linear(leaves, widths, widths)
    layers = [first] + [later] * (stack.depth - 1)
    activate = partial(_activate, stack)
    channelled = partial(with_channels, spec, stack.input_channels)

    def init(key: Array) -> list[dict[str, Any]]:
        params: list[dict[str, Any]] = []
        for layer, of_layer in zip(layers, jax.random.split(key, stack.depth), strict=True):
            params.append({"linear": layer.init(of_layer)})
            if stack.normalise:
                params[-1]["gain"] = {name: jnp.ones(width) for name, width in widths.items()}
        return params

    def apply(params: list[dict[str, Any]], weights: Float[Array, "b p *c"]) -> Features:
        x = first.apply(params[0]["linear"], fold(symmetry, leaves, channelled(weights)))
        for before, of_layer in pairwise(params):
            y = later.apply(of_layer["linear"], activate(before, x))
            x = {name: x[name] + y[name] for name in x} if stack.residual else y
        return activate(params[-1], x)

    return Trunk(leaves, widths, _footprint(leaves, widths, stack.depth), init, apply)


def with_channels(
    spec: ParamSpec, channels: int, weights: Float[Array, "b p *c"]
) -> Float[Array, "b p c"]:
    """Weights with an axis of channels.

    Raises:
        ConfigError: if they are not those of this spec and so many channels.
    """
    expected = (spec.size,) if channels == 1 else (spec.size, channels)
    if weights.shape[1:] not in {expected, (spec.size, channels)}:
        raise ConfigError(
            f"weights of a batch: expected {('b', *expected)}, found {weights.shape}; this model "
            "was built for another spec, or for other input channels"
        )
    return weights.reshape(-1, spec.size, channels)


def _footprint(leaves: tuple[Leaf, ...], widths: dict[str, int], depth: int) -> Footprint:
    numbers = {leaf.name: math.prod(leaf.sizes) * widths[leaf.name] for leaf in leaves}
    total = sum(numbers.values())
    width = sum(count * widths[name] for name, count in numbers.items()) / total
    return Footprint(4 * depth * total, width)


def _kept(leaf: Leaf, stack: Stack) -> int:
    """Features per channel of a leaf's fixed entries inside the stack."""
    terminals = min(leaf.terminals, stack.terminal_rank or leaf.terminals)
    return terminals * min(leaf.positions, stack.position_rank or leaf.positions)


def _activate(stack: Stack, params: dict[str, Any], features: Features) -> Features:
    activation = ACTIVATIONS[stack.activation]
    if not stack.normalise:
        return {name: activation(x) for name, x in features.items()}
    return {name: activation(_normalised(x) * params["gain"][name]) for name, x in features.items()}


def _normalised(x: Float[Array, "b *slots f"]) -> Float[Array, "b *slots f"]:
    """Each member's tensor over its root mean square."""
    square = jnp.square(x).mean(axis=tuple(range(1, x.ndim)), keepdims=True)
    return x * jax.lax.rsqrt(square + NORM_FLOOR)
