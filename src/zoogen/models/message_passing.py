"""Graph networks: models that read members of any width, depth and family as graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.models.graph_ends import (
    STATISTICS,
    State,
    enter_blocks,
    enter_lists,
    initial_entry,
    leave_blocks,
    leave_lists,
)
from zoogen.models.graphs import Frame, frame_of, graph_of, refuse_larger
from zoogen.models.heads import initial_matrix, initial_mlp, mlp
from zoogen.models.model import Footprint, Tree, WeightModel, in_chunks
from zoogen.models.modulation import normalised
from zoogen.models.unions import ROLES, Messages
from zoogen.models.wiring import Way, Wiring, by_blocks, by_lists
from zoogen.params import ParamSpec

# By measurement: products of one or two members' edges are too small, at 2**21 three times as slow.
CHUNK_BYTES = 2**24


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
        >>> from zoogen.models import unite
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
    at_once = stack.order == "together"

    def apply(params: Tree, batch: Any) -> Float[Array, "b outputs"]:
        wiring = by_lists(batch, stack.messages, at_once)
        state = enter_lists(params["entry"], batch, stack.messages, at_once)
        state = _played(stack, params["rounds"], wiring, state)
        return mlp(params["head"], leave_lists(batch, state))

    return WeightModel(partial(_initial, frame, outputs, stack, hidden), apply)


def graph_model_of(
    spec: ParamSpec,
    outputs: int,
    stack: GraphStack | None = None,
    hidden: int = 128,
    frame: Frame | None = None,
) -> WeightModel:
    """The model of graphs on flat weights ``[b p]`` of one spec, which may be traced.

    Its params are those of :func:`graph_model`, and so are its outputs, up to rounding; it is
    several times as fast, because it knows which nodes edges join before it sees weights.

    Args:
        spec: of all members.
        outputs: numbers per network.
        stack: rounds of messages.
        hidden: units of the head's hidden layer.
        frame: by default the one of this spec alone.

    Raises:
        ConfigError: if the spec has no graph, or no room in the frame.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(3, "hidden"), Axis(2))})
        >>> model = graph_model_of(spec, 1, GraphStack(channels=4))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 6))).shape
        (5, 1)
    """
    stack, frame, graph = stack or GraphStack(), frame or frame_of([spec]), graph_of(spec)
    refuse_larger(frame, graph)
    wiring = by_blocks(graph, stack.messages)

    def apply(params: Tree, weights: Float[Array, "b p"]) -> Float[Array, "b outputs"]:
        state = enter_blocks(params["entry"], frame, spec, weights, stack.messages)
        state = _played(stack, params["rounds"], wiring, state)
        return mlp(params["head"], leave_blocks(graph, state))

    edges = sum(math.prod(block.entries.shape[:2]) for block in graph.blocks)
    # Of a round: states of edges before and after, and their messages.
    footprint = Footprint(3 * 4 * stack.depth * stack.channels * edges, stack.channels)
    init = partial(_initial, frame, outputs, stack, hidden)
    return WeightModel(init, in_chunks(apply, footprint, CHUNK_BYTES))


def _initial(
    frame: Frame, outputs: int, stack: GraphStack, hidden: int, key: Array
) -> dict[str, Any]:
    of_entry, of_head, *of_rounds = jax.random.split(key, 2 + stack.depth)
    first_round, _ = ROUNDS[stack.order]
    sizes = ((ROLES * STATISTICS + 1) * stack.channels, hidden, outputs)
    return {
        "entry": initial_entry(of_entry, frame, stack.channels),
        "rounds": [first_round(k, stack.channels) for k in of_rounds],
        "head": initial_mlp(of_head, sizes),
    }


def _played(stack: GraphStack, rounds: list[Any], wiring: Wiring, state: State) -> State:
    _, play = ROUNDS[stack.order]
    for params in rounds:
        state = play(params, wiring, state)
    return state


# ----------------------------------------------------------------------------------------- rounds
Round = Callable[[Any, Wiring, State], State]


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
    params: dict[str, Array], states: Float[Array, "*e f"], start: Array, end: Array
) -> Float[Array, "*e f"]:
    ends = start + (end + params["edge_bias"])
    return states + jax.nn.relu(states @ params["edges"] + ends)


def _updated_nodes(
    params: dict[str, Array], nodes: Float[Array, "*n f"], received: list[Float[Array, "*n 2f"]]
) -> Float[Array, "*n f"]:
    x = jnp.concatenate([nodes, *received], axis=-1) @ params["nodes"]
    return nodes + jax.nn.relu(normalised(x) * params["gain"] + params["node_bias"])


def _initial_together(key: Array, channels: int) -> dict[str, Array]:
    return _initial_cell(key, channels, ends=4, received=4)


def _together(params: Any, wiring: Wiring, state: State) -> State:
    """All edges at once, both ways."""
    of_sources, of_targets = jnp.split(state.nodes @ params["ends"], 2, axis=-1)
    edges, to_targets, to_sources = [], [], []
    for there, back, states in zip(*wiring, state.edges, strict=True):
        from_source, sent_there = jnp.split(there.start(of_sources), 2, axis=-1)
        from_target, sent_back = jnp.split(back.start(of_targets), 2, axis=-1)
        states = _updated_edges(params, states, from_source, from_target)
        edges.append(states)
        to_targets.append(there.laid(there.received(states, sent_there)))
        to_sources.append(back.laid(back.received(states, sent_back)))
    received = [reduce(add, to_targets), reduce(add, to_sources)]
    return State(_updated_nodes(params, state.nodes, received), tuple(edges))


def _initial_sweeps(key: Array, channels: int) -> list[dict[str, Array]]:
    return [_initial_cell(k, channels, ends=3, received=2) for k in jax.random.split(key)]


def _sweeps(params: Any, wiring: Wiring, state: State) -> State:
    """From inputs to outputs and back, one parameter of each member after another."""
    nodes = state.nodes
    for cell, ways, edges in (
        (params[0], wiring.there, state.edges),
        (params[1], wiring.back[::-1], state.edges[::-1]),
    ):
        for way, states in zip(ways, edges, strict=True):
            nodes = _step(cell, way, nodes, states)
    return State(nodes, state.edges)


def _step(
    params: dict[str, Array], way: Way, nodes: Float[Array, "*n f"], states: Float[Array, "*e f"]
) -> Float[Array, "*n f"]:
    """Messages along some edges; nodes without one stay as they are."""
    channels = nodes.shape[-1]
    of_start, of_end = jnp.split(nodes @ params["ends"], [2 * channels], axis=-1)
    from_start, sent = jnp.split(way.start(of_start), 2, axis=-1)
    edges = _updated_edges(params, states, from_start, way.end(of_end))
    received = way.received(edges, sent)
    return way.replaced(nodes, _updated_nodes(params, way.receivers(nodes), [received]))


# order → initial weights of a round, and the round
ROUNDS: dict[str, tuple[Callable[[Array, int], Any], Round]] = {
    "together": (_initial_together, _together),
    "forward": (_initial_sweeps, _sweeps),
}
