"""A graph hypernetwork: it reads the graph of a network's layers and returns all weights.

States of layers pass messages along the graph; one decoder for matrices and one for vectors turn
each into a rectangle of weights, from which every tensor of its kind takes what it needs: cut where
it is smaller, repeated where it is larger. So architectures that it never met have weights, too.

Two forms of it. Plain: what is told enters as numbers, and weights are what the decoder says. With
*magnitude-invariant parametrisation*, every number enters as a point on a circle, so that what is
told always has one length, and the decoder says what to add to weights of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.generators.layer_graph import FEATURES, LayerGraph, layer_graph
from zoogen.models.heads import initial_matrix, initial_mlp, mlp
from zoogen.networks import Network
from zoogen.params import ParamSpec

Tree = Any
STABILISERS = ("mip", "none")
LARGEST_ROOM = (64, 256)  # rows and columns that are decoded; larger tensors repeat them


class Size(NamedTuple):
    """How large a hypernetwork is.

    Attributes:
        channels: numbers of a layer's state.
        rounds: of messages.
        hidden: units of the decoders' hidden layer.
        latent: random numbers from which one network differs from the other.
        stabiliser: ``mip`` or ``none``.
    """

    channels: int = 32
    rounds: int = 3
    hidden: int = 128
    latent: int = 16
    stabiliser: str = "mip"


class Hypernetwork(NamedTuple):
    """Pure functions.

    Attributes:
        init: ``key → params``.
        apply: ``(params, spec, condition [b e], latent [b z]) → weights [b p]`` of networks of any
            spec whose parameters have the names of those that it was made for.
    """

    init: Callable[[Array], Tree]
    apply: Callable[[Tree, ParamSpec, Float[Array, "b e"], Float[Array, "b z"]], Array]


def room_of(specs: tuple[ParamSpec, ...]) -> tuple[int, int]:
    """Rows and columns of the rectangles to decode, for networks of these specs."""
    shapes = [shape for spec in specs for shape in layer_graph(spec).shapes]
    rows, columns = (min(max(s[i] for s in shapes), LARGEST_ROOM[i]) for i in range(2))
    return rows, columns


def graph_hypernetwork(
    network: Network, room: tuple[int, int], conditions: int, size: Size
) -> Hypernetwork:
    """A hypernetwork for networks like this one.

    Args:
        network: whose fresh weights it starts from, with the stabiliser, and whose parameters
            have the names that it knows.
        room: rows and columns to decode.
        conditions: length of the condition vector.
        size: channels, rounds, latent numbers, stabiliser.

    Raises:
        ConfigError: for an unknown stabiliser, or if weights of a network hold running statistics.

    Reference:
        Knyazev, Drozdzal, Taylor and Romero-Soriano, Parameter prediction for unseen deep
        architectures, 2021 (GHN-2); Ortiz, Guttag and Dalca, Magnitude invariant parametrizations
        improve hypernetwork learning, 2023. We pass messages at once instead of node by node, and
        decode matrices of entries, not of kernels.
    """
    _refuse(network, size)
    told = (conditions + size.latent) * (2 if size.stabiliser == "mip" else 1)
    seen = FEATURES * (2 if size.stabiliser == "mip" else 1)
    names = layer_graph(network.spec).names

    def init(key: Array) -> dict[str, Any]:
        enter, cell, matrix, vector, base = jax.random.split(key, 5)
        decoder = (size.channels + told, size.hidden)
        params: dict[str, Any] = {
            "enter": initial_mlp(enter, (seen + told, size.channels)),
            "cell": _initial_cell(cell, size.channels),
            "matrix": initial_mlp(matrix, (*decoder, room[0] * room[1])),
            "vector": initial_mlp(vector, (*decoder, room[0])),
        }
        if size.stabiliser == "mip":
            for kind in ("matrix", "vector"):
                params[kind][-1] = jax.tree.map(jnp.zeros_like, params[kind][-1])
            params["base"] = _initial_base(network, room, base)
        return params

    def apply(
        params: Tree, spec: ParamSpec, condition: Float[Array, "b e"], latent: Float[Array, "b z"]
    ) -> Float[Array, "b p"]:
        graph = layer_graph(spec)
        if graph.names != names:
            raise ConfigError(
                f"hypernetwork: found parameters {list(graph.names)}, but it was trained for "
                f"{list(names)}; ask for a network of the same family and depth"
            )
        encode = _on_circle if size.stabiliser == "mip" else jnp.asarray
        about = jnp.concatenate([encode(_bounded(condition)), encode(latent)], axis=1)
        states = _states(params, graph, encode(jnp.asarray(graph.features)), about, size.rounds)
        return _decoded(params, graph, room, states, about)

    return Hypernetwork(init, apply)


def _refuse(network: Network, size: Size) -> None:
    if size.stabiliser not in STABILISERS:
        raise ConfigError(
            f"options.stabiliser: found {size.stabiliser!r}, expected one of "
            f"{', '.join(STABILISERS)}"
        )
    if network.spec.statistics or network.config.fits_image:
        raise ConfigError(
            f"hypernetwork: networks of family {network.config.family!r} with norm "
            f"{network.config.norm!r} can't be predicted: it is trained by the cross-entropy of "
            "classifiers without running statistics; take another population or generator"
        )


def _bounded(condition: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Numbers of any size between 0 and 1; what is not told, in the middle."""
    return jax.nn.sigmoid(condition)


def _on_circle(x: Float[Array, "*b e"]) -> Float[Array, "*b e2"]:
    """Numbers from 0 to 1 as points on a quarter of a circle: the length is always the same."""
    return jnp.concatenate([jnp.cos(jnp.pi / 2 * x), jnp.sin(jnp.pi / 2 * x)], axis=-1)


# ----------------------------------------------------------------------------------------- states
def _initial_cell(key: Array, channels: int) -> dict[str, Array]:
    keys = jax.random.split(key, 3)
    cell = {
        name: initial_matrix(k, 3 * channels, channels)
        for name, k in zip(("update", "reset", "new"), keys, strict=True)
    }
    return cell | {f"{name}_bias": jnp.zeros(channels) for name in ("update", "reset", "new")}


def _states(
    params: Tree,
    graph: LayerGraph,
    features: Float[Array, "v f"],
    told: Float[Array, "b e"],
    rounds: int,
) -> Float[Array, "b v c"]:
    """States of all layers after some rounds of messages, both ways at once.

    Reference:
        Li, Tarlow, Brockschmidt and Zemel, Gated graph sequence neural networks, 2016.
    """
    shape = len(told), len(features)
    seen = jnp.concatenate(
        [
            jnp.broadcast_to(features, (*shape, features.shape[1])),
            jnp.broadcast_to(told[:, None], (*shape, told.shape[1])),
        ],
        axis=-1,
    )
    states = jnp.tanh(mlp(params["enter"], seen))
    for _ in range(rounds):
        messages = [jnp.einsum("vw,bwc->bvc", ways, states) for ways in (graph.there, graph.back)]
        states = _gated(params["cell"], states, jnp.concatenate(messages, axis=-1))
    return states


def _gated(
    cell: dict[str, Array], states: Float[Array, "b v c"], messages: Float[Array, "b v c2"]
) -> Float[Array, "b v c"]:
    """A gated recurrent unit (Cho et al., 2014)."""
    both = jnp.concatenate([states, messages], axis=-1)
    update = jax.nn.sigmoid(both @ cell["update"] + cell["update_bias"])
    reset = jax.nn.sigmoid(both @ cell["reset"] + cell["reset_bias"])
    kept = jnp.concatenate([reset * states, messages], axis=-1)
    return (1 - update) * states + update * jnp.tanh(kept @ cell["new"] + cell["new_bias"])


# ---------------------------------------------------------------------------------------- decoder
def _decoded(
    params: Tree,
    graph: LayerGraph,
    room: tuple[int, int],
    states: Float[Array, "b v c"],
    told: Float[Array, "b e"],
) -> Float[Array, "b p"]:
    """Flat weights, tensor by tensor."""
    tensors = []
    for number, name in enumerate(graph.names):
        vector, shape = graph.vectors[number], graph.shapes[number]
        seen = jnp.concatenate([states[:, number], told], axis=1)
        found = mlp(params["vector" if vector else "matrix"], seen)
        found = found.reshape(len(told), room[0], 1 if vector else room[1])
        if "base" in params:
            found = found + params["base"][name]
        cut = _laid(found, shape).reshape(len(told), -1)
        tensors.append(graph.scales[number] * cut)
    return jnp.concatenate(tensors, axis=1)


def _laid(x: Float[Array, "*b r c"], shape: tuple[int, int]) -> Float[Array, "*b rows columns"]:
    """A rectangle cut to a shape, or repeated where it is too small."""
    times = [-(-wanted // found) for wanted, found in zip(shape, x.shape[-2:], strict=True)]
    if max(times) > 1:
        x = jnp.tile(x, (*[1] * (x.ndim - 2), *times))
    return x[..., : shape[0], : shape[1]]


def _initial_base(network: Network, room: tuple[int, int], key: Array) -> dict[str, Array]:
    """Fresh weights in units of their scales, laid into the room."""
    graph, fresh = layer_graph(network.spec), network.init(key, 1.0)
    rooms = {True: (room[0], 1), False: room}
    laid = partial(zip, graph.names, graph.shapes, graph.vectors, graph.scales, strict=True)
    return {
        name: _laid(fresh[name].reshape(shape) / scale, rooms[vector])
        for name, shape, vector, scale in laid()
    }
