"""Graph networks: models that read members of any width, depth and family as graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.models.graphs import TERMINALS, Frame, frame_of
from zoogen.models.heads import VARIANCE_FLOOR, initial_matrix, initial_mlp, mlp
from zoogen.models.model import Tree, WeightModel
from zoogen.models.modulation import normalised
from zoogen.models.unions import ROLES, GraphBatch, Messages, edge_labels, unite
from zoogen.params import ParamSpec

STATISTICS = 2  # mean and deviation of nodes over a set


@dataclass(frozen=True)
class GraphStack:
    """Options of a graph network.

    Attributes:
        channels: features of each node and of each edge.
        depth: rounds of messages.
        order: ``together``: in each round all edges carry messages at once, both ways; edges keep
            a state. ``forward``: a round is one sweep from inputs to outputs and one back,
            parameter by parameter, with the same weights for each; so one round reaches through
            the deepest network.
        messages: ``mean`` reads weights times their fan-in and takes means of messages: a network
            whose units are all duplicated (outgoing weights shared out) looks the same. ``sum``
            takes weights as they are and plain sums.
    """

    channels: int = 32
    depth: int = 4
    order: Literal["together", "forward"] = "together"
    messages: Messages = "mean"

    def __post_init__(self) -> None:
        for name in ("channels", "depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name, allowed in (("order", tuple(ROUNDS)), ("messages", ("mean", "sum"))):
            if getattr(self, name) not in allowed:
                found = getattr(self, name)
                raise ConfigError(f"{name}: expected one of {list(allowed)}, found {found!r}")


def graph_model(
    frame: Frame, outputs: int, stack: GraphStack | None = None, hidden: int = 128
) -> WeightModel:
    """A model that says something about whole networks of any specs, read as graphs.

    Args:
        frame: of the networks that it shall read, :func:`~zoogen.models.frame_of`.
        outputs: numbers per network.
        stack: rounds of messages.
        hidden: units of the head's hidden layer.

    Returns:
        ``apply(params, batch)`` of a :class:`~zoogen.models.GraphBatch` gives ``[b outputs]``, in
        the order of its members; see :func:`~zoogen.models.unite`.

    Example:
        >>> import numpy as np
        >>> from zoogen.params import Axis
        >>> specs = [ParamSpec.build({"weight": (Axis(n, "hidden"), Axis(2))}) for n in (3, 5)]
        >>> model = graph_model(frame_of(specs), 1, GraphStack(channels=4))
        >>> params = model.init(jax.random.key(0))
        >>> two = [(spec, np.ones((2, spec.size), np.float32)) for spec in specs]
        >>> model.apply(params, unite(frame_of(specs), two)).shape
        (4, 1)

    Reference:
        Kofinas et al., Graph neural networks for learning equivariant representations of neural
        networks, 2024; Lim et al., Graph metanetworks for processing diverse neural architectures,
        2023. We differ in edges (weights alone, no bias nodes), in messages by product, and in the
        forward order.
    """
    stack = stack or GraphStack()
    first_round, play = ROUNDS[stack.order]
    sizes = ((ROLES * STATISTICS + 1) * stack.channels, hidden, outputs)

    def init(key: Array) -> dict[str, Any]:
        of_entry, of_head, *of_rounds = jax.random.split(key, 2 + stack.depth)
        return {
            "entry": _initial_entry(of_entry, frame, stack.channels),
            "rounds": [first_round(k, stack.channels) for k in of_rounds],
            "head": initial_mlp(of_head, sizes),
        }

    def apply(params: Tree, batch: Any) -> Float[Array, "b outputs"]:
        state = _enter(params["entry"], batch, stack.messages)
        for one in params["rounds"]:
            state = play(one, batch, state, stack.messages)
        return mlp(params["head"], _leave(batch, state))

    return WeightModel(init, apply)


def of_one_spec(model: WeightModel, spec: ParamSpec, frame: Frame | None = None) -> WeightModel:
    """A model of graphs as one of flat weights ``[b p]``, which may be traced.

    Args:
        model: what :func:`graph_model` returns.
        spec: of all members.
        frame: of the model; by default the one of this spec alone.
    """
    frame = frame or frame_of([spec])

    def apply(params: Tree, weights: Float[Array, "b p"]) -> Float[Array, "b outputs"]:
        batch: Any = unite(frame, [(spec, weights)], pad=False)
        return model.apply(params, batch)

    return WeightModel(model.init, apply)


# ---------------------------------------------------------------------------------- state and ends
class _State(NamedTuple):
    nodes: Float[Array, "n f"]
    edges: Float[Array, "e f"]


Round = Callable[[Any, GraphBatch, _State, Messages], _State]


def _initial_entry(key: Array, frame: Frame, channels: int) -> dict[str, Array]:
    tables = {"nodes": TERMINALS + frame.inputs + frame.outputs, "edges": edge_labels(frame)}
    numbers = {"values": 2 * frame.values, "place": 2, "weights": 2 * frame.entries}
    keys = iter(jax.random.split(key, len(tables) + len(numbers)))
    return {
        **{name: jax.random.normal(next(keys), (n, channels)) for name, n in tables.items()},
        **{name: initial_matrix(next(keys), n, channels) for name, n in numbers.items()},
    }


def _enter(params: dict[str, Array], batch: GraphBatch, messages: Messages) -> _State:
    weights = jnp.asarray(batch.edge_values)
    weights = weights * batch.fan_in[:, None] if messages == "mean" else weights
    nodes = (
        params["nodes"][batch.node_label]
        + _with_known(batch.node_values, batch.node_known) @ params["values"]
        + batch.node_place @ params["place"]
    )
    edges = params["edges"][batch.edge_label]
    return _State(nodes, edges + _with_known(weights, batch.edge_known) @ params["weights"])


def _with_known(values: Any, known: Any) -> Float[Array, "x 2f"]:
    return jnp.concatenate([values, jnp.asarray(known, values.dtype)], axis=1)


def _leave(batch: GraphBatch, state: _State) -> Float[Array, "b i"]:
    """Per member: mean and deviation of nodes by role, means over sets first; mean of edges."""
    sets, slots = len(batch.set_slot), ROLES * (batch.members + 1)
    over_sets = 1 / batch.set_size[:, None]
    mean = _sum(state.nodes, batch.node_set, sets) * over_sets
    centred = state.nodes - mean[batch.node_set]
    variance = _sum(jnp.square(centred), batch.node_set, sets) * over_sets
    of_sets = jnp.concatenate([mean, jnp.sqrt(variance + VARIANCE_FLOOR)], axis=1)
    count = _sum(jnp.ones_like(of_sets[:, :1]), batch.set_slot, slots)
    of_roles = _sum(of_sets, batch.set_slot, slots) / jnp.maximum(count, 1)
    of_roles = of_roles.reshape(batch.members + 1, -1)[:-1]
    edges = _sum(state.edges * batch.edge_share[:, None], batch.edge_member, batch.members + 1)
    return jnp.concatenate([of_roles, edges[:-1]], axis=1)


def _sum(values: Float[Array, "x f"], segment: Any, count: int) -> Float[Array, "s f"]:
    return jax.ops.segment_sum(values, segment, count)


# ----------------------------------------------------------------------------------------- rounds
def _initial_cell(key: Array, channels: int, ends: int, received: int) -> dict[str, Array]:
    """Weights of one update of edges and nodes: what ends give to edges, and nodes receive."""
    of_edges, of_ends, of_nodes = jax.random.split(key, 3)
    return {
        "edges": initial_matrix(of_edges, channels, channels),
        "ends": initial_matrix(of_ends, channels, ends * channels),
        "edge_bias": jnp.zeros(channels),
        "nodes": initial_matrix(of_nodes, (1 + received) * channels, channels),
        "node_bias": jnp.zeros(channels),
        "gain": jnp.ones(channels),
    }


def _updated_edges(
    params: dict[str, Array], states: Float[Array, "e f"], ends: Float[Array, "e f"]
) -> Float[Array, "e f"]:
    return states + jax.nn.relu(states @ params["edges"] + ends + params["edge_bias"])


def _updated_nodes(
    params: dict[str, Array], nodes: Float[Array, "n f"], received: list[Float[Array, "n 2f"]]
) -> Float[Array, "n f"]:
    x = jnp.concatenate([nodes, *received], axis=1) @ params["nodes"]
    return nodes + jax.nn.relu(normalised(x) * params["gain"] + params["node_bias"])


def _received(
    edges: Float[Array, "e f"], sent: Float[Array, "e f"], share: Any, end: Any, count: int
) -> Float[Array, "n 2f"]:
    """States of edges, and their products with what nodes send: the form of a network's own sum."""
    both = jnp.concatenate([edges, edges * sent], axis=1)
    return _sum(both * share[:, None], end, count)


def _shares(batch: GraphBatch, messages: Messages) -> tuple[Any, Any]:
    """Factors of messages to targets and to sources; zero on padding."""
    real = jnp.asarray(batch.edge_share > 0, batch.edge_share.dtype)
    return (real / batch.fan_in, real / batch.fan_out) if messages == "mean" else (real, real)


def _initial_together(key: Array, channels: int) -> dict[str, Array]:
    return _initial_cell(key, channels, ends=4, received=4)


def _together(params: Any, batch: GraphBatch, state: _State, messages: Messages) -> _State:
    """All edges at once, both ways."""
    nodes, count = state.nodes, len(batch.node_set)
    of_ends = nodes @ params["ends"]
    at_source, at_target = (
        half[end]
        for half, end in zip(
            jnp.split(of_ends, 2, axis=1), (batch.source, batch.target), strict=True
        )
    )
    (from_source, there), (from_target, back) = (
        jnp.split(half, 2, axis=1) for half in (at_source, at_target)
    )
    edges = _updated_edges(params, state.edges, from_source + from_target)
    to_target, to_source = _shares(batch, messages)
    received = [
        _received(edges, there, to_target, batch.target, count),
        _received(edges, back, to_source, batch.source, count),
    ]
    return _State(_updated_nodes(params, nodes, received), edges)


def _initial_sweeps(key: Array, channels: int) -> list[dict[str, Array]]:
    return [_initial_cell(k, channels, ends=3, received=2) for k in jax.random.split(key)]


def _sweeps(params: Any, batch: GraphBatch, state: _State, messages: Messages) -> _State:
    """From inputs to outputs and back, one parameter of each member after another."""
    ends = list(accumulate(batch.steps))
    steps = [slice(end - size, end) for end, size in zip(ends, batch.steps, strict=True)]
    to_target, to_source = _shares(batch, messages)
    nodes = state.nodes
    for cell, order, start, end, share in (
        (params[0], steps, batch.source, batch.target, to_target),
        (params[1], steps[::-1], batch.target, batch.source, to_source),
    ):
        for step in order:
            nodes = _step(cell, nodes, state.edges[step], start[step], end[step], share[step])
    return _State(nodes, state.edges)


def _step(
    params: dict[str, Array],
    nodes: Float[Array, "n f"],
    edges: Float[Array, "e f"],
    start: Any,
    end: Any,
    share: Any,
) -> Float[Array, "n f"]:
    """Messages along some edges; nodes without one stay as they are."""
    of_start, of_end = jnp.split(nodes @ params["ends"], [2 * nodes.shape[1]], axis=1)
    from_start, sent = jnp.split(of_start[start], 2, axis=1)
    edges = _updated_edges(params, edges, from_start + of_end[end])
    received = _received(edges, sent, share, end, len(nodes))
    touched = jax.ops.segment_sum(share, end, len(nodes)) > 0
    return jnp.where(touched[:, None], _updated_nodes(params, nodes, [received]), nodes)


# order → initial weights of a round, and the round
ROUNDS: dict[str, tuple[Callable[[Array, int], Any], Round]] = {
    "together": (_initial_together, _together),
    "forward": (_initial_sweeps, _sweeps),
}
