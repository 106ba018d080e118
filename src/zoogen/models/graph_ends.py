"""Ends of graph networks: from weights to states of nodes and edges, from these to a summary."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.models.graphs import TERMINALS, Frame, Graph, graph_of
from zoogen.models.heads import VARIANCE_FLOOR, initial_matrix
from zoogen.models.unions import ROLES, GraphBatch, Messages, edge_labels, piece_of
from zoogen.models.wiring import slices
from zoogen.params import ParamSpec

STATISTICS = 2  # mean and deviation of nodes over a set


class State(NamedTuple):
    """What nodes and edges hold between rounds.

    Attributes:
        nodes: ``[n f]``, by blocks ``[m n f]``.
        edges: of each step ``[e f]``, by blocks ``[m t s f]``.
    """

    nodes: Float[Array, "*n f"]
    edges: tuple[Float[Array, "*e f"], ...]


def initial_entry(key: Array, frame: Frame, channels: int) -> dict[str, Array]:
    """Identities of nodes and kinds of edges, and matrices on their numbers."""
    tables = {"nodes": TERMINALS + frame.inputs + frame.outputs, "edges": edge_labels(frame)}
    numbers = {"values": 2 * frame.values, "place": 2, "weights": 2 * frame.entries}
    keys = iter(jax.random.split(key, len(tables) + len(numbers)))
    return {
        **{name: jax.random.normal(next(keys), (n, channels)) for name, n in tables.items()},
        **{name: initial_matrix(next(keys), n, channels) for name, n in numbers.items()},
    }


# ------------------------------------------------------------------------------------------ lists
def enter_lists(
    params: dict[str, Array], batch: GraphBatch, messages: Messages, at_once: bool
) -> State:
    """States of any members' nodes and edges."""
    weights = jnp.asarray(batch.edge_values)
    weights = weights * batch.fan_in[:, None] if messages == "mean" else weights
    nodes = (
        params["nodes"][batch.node_label]
        + _with_known(batch.node_values, batch.node_known) @ params["values"]
        + batch.node_place @ params["place"]
    )
    edges = params["edges"][batch.edge_label]
    edges = edges + _with_known(weights, batch.edge_known) @ params["weights"]
    return State(nodes, tuple(edges[step] for step in slices(batch, at_once)))


def _with_known(values: Any, known: Any) -> Float[Array, "x 2f"]:
    return jnp.concatenate([values, jnp.asarray(known, values.dtype)], axis=1)


def leave_lists(batch: GraphBatch, state: State) -> Float[Array, "b i"]:
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
    edges = jnp.concatenate(state.edges)
    edges = _sum(edges * batch.edge_share[:, None], batch.edge_member, batch.members + 1)
    return jnp.concatenate([of_roles, edges[:-1]], axis=1)


def _sum(values: Float[Array, "x f"], segment: Any, count: int) -> Float[Array, "s f"]:
    return jax.ops.segment_sum(values, segment, count)


# ----------------------------------------------------------------------------------------- blocks
def enter_blocks(
    params: dict[str, Array],
    frame: Frame,
    spec: ParamSpec,
    weights: Float[Array, "m p"],
    messages: Messages,
) -> State:
    """The same of members of one spec."""
    piece, graph = piece_of(frame, spec), graph_of(spec)
    of_nodes, weights = piece.nodes, jnp.asarray(weights)
    nodes = (
        params["nodes"][of_nodes["node_label"]]
        + jnp.asarray(of_nodes["node_place"], weights.dtype) @ params["place"]
        + _read(weights, of_nodes["node_index"], params["values"])
    )
    edges = []
    for number, step in enumerate(piece.steps):
        scale = float(step["fan_in"][0]) if messages == "mean" else 1.0
        values = _read(weights * scale, step["edge_index"], params["weights"])
        states = _kinds(params["edges"], step["edge_label"]) + values
        if number < len(graph.blocks):  # then edges of owners
            shape = graph.blocks[number].entries.shape[:2]
            states = states.reshape(len(weights), *shape, -1)
        edges.append(states)
    return State(nodes, tuple(edges))


def _read(
    weights: Float[Array, "m p"], index: np.ndarray, matrix: Float[Array, "2v f"]
) -> Float[Array, "m x f"]:
    """Numbers of nodes or edges, and which of them are known, times a matrix."""
    known, rooms = index >= 0, index.shape[1]
    used = known.any(axis=0)  # most edges of a mixed frame have few of its numbers
    values = jnp.where(known[:, used], weights[:, index[:, used]], 0)
    of_known = jnp.asarray(known[:, used], weights.dtype) @ matrix[rooms:][used]
    return values @ matrix[:rooms][used] + of_known


def _kinds(table: Float[Array, "k f"], labels: np.ndarray) -> Float[Array, "#e f"]:
    """Rows of a table; one row where all edges are of one kind."""
    return table[labels[:1]] if (labels == labels[0]).all() else table[labels]


def leave_blocks(graph: Graph, state: State) -> Float[Array, "m i"]:
    """The same of members of one spec."""
    roles: list[list[Array]] = [[] for _ in range(ROLES)]
    for of_set in graph.sets:
        nodes = state.nodes[:, of_set.begin : of_set.begin + of_set.size]
        deviation = jnp.sqrt(nodes.var(axis=1) + VARIANCE_FLOOR)
        roles[of_set.role].append(jnp.concatenate([nodes.mean(axis=1), deviation], axis=1))
    members, channels = len(state.nodes), state.nodes.shape[-1]
    nothing = jnp.zeros((members, STATISTICS * channels), state.nodes.dtype)
    of_roles = [sum(role) / len(role) if role else nothing for role in roles]
    of_steps = [states.reshape(members, -1, channels).mean(axis=1) for states in state.edges]
    return jnp.concatenate([*of_roles, sum(of_steps) / len(of_steps)], axis=1)
