"""Wiring: how values pass between nodes and edges, by lists or, for members of one spec, by blocks.

Lists of ends serve graphs of any shape in one program, and pass values one row after another. In
members of one spec each parameter joins all nodes of one set with all of another: there a node's
value is broadcast along an axis, and messages are summed over one, which takes no list.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.models.graphs import Block, Graph, NodeSet
from zoogen.models.unions import GraphBatch, Messages

Values = Callable[[Array], Array]


class Way(NamedTuple):
    """Edges of one step, passed in one direction.

    Letters: n nodes, e edges, r nodes that receive; by blocks with an axis of members before them,
    and two axes of edges.

    Attributes:
        start: ``[n f]`` of nodes → of the node that each edge comes from, ready to be broadcast.
        end: the same of the node that it leads to.
        received: ``(states [e f], sent [e f]) → [r 2f]``: sums or means of states, and of their
            products with what is sent, the form of a network's own sum.
        receivers: ``[n f]`` of nodes → of those that receive.
        laid: ``[r f]`` of receivers → of all nodes, zero elsewhere.
        replaced: ``(nodes [n f], receivers [r f]) → [n f]``, nodes without an edge as they are.
    """

    start: Values
    end: Values
    received: Callable[[Array, Array], Array]
    receivers: Values
    laid: Values
    replaced: Callable[[Array, Array], Array]


class Wiring(NamedTuple):
    """Both directions of every step of edges, in forward order."""

    there: tuple[Way, ...]
    back: tuple[Way, ...]


# ------------------------------------------------------------------------------------------ lists
def slices(batch: GraphBatch, at_once: bool) -> list[slice]:
    """Of the list of edges: all at once, or step by step."""
    if at_once:
        return [slice(None)]
    ends = accumulate(batch.steps)
    return [slice(end - size, end) for end, size in zip(ends, batch.steps, strict=True)]


def by_lists(batch: GraphBatch, messages: Messages, at_once: bool) -> Wiring:
    """The wiring of any members; edges are ``[e f]``, nodes ``[n f]``."""
    real = jnp.asarray(batch.edge_share > 0, batch.edge_share.dtype)  # zero on padding
    count, means = len(batch.node_set), messages == "mean"
    shares = (real / batch.fan_in, real / batch.fan_out) if means else (real, real)
    there, back = [], []
    for step in slices(batch, at_once):
        source, target = batch.source[step], batch.target[step]
        there.append(_by_list(source, target, shares[0][step], count))
        back.append(_by_list(target, source, shares[1][step], count))
    return Wiring(tuple(there), tuple(back))


def _by_list(start: Any, end: Any, share: Float[Array, " e"], count: int) -> Way:
    def received(states: Float[Array, "e f"], sent: Float[Array, "e f"]) -> Float[Array, "n 2f"]:
        both = jnp.concatenate([states, states * sent], axis=1)  # a list is passed once
        return jax.ops.segment_sum(both * share[:, None], end, count)

    def replaced(nodes: Float[Array, "n f"], new: Float[Array, "n f"]) -> Float[Array, "n f"]:
        touched = jax.ops.segment_sum(share, end, count) > 0
        return jnp.where(touched[:, None], new, nodes)

    return Way(lambda x: x[start], lambda x: x[end], received, _same, _same, replaced)


def _same(values: Array) -> Array:
    return values


# ----------------------------------------------------------------------------------------- blocks
def by_blocks(graph: Graph, messages: Messages) -> Wiring:
    """The wiring of members of one spec; edges are ``[m t s f]``, nodes ``[m n f]``.

    Edges of nested groups to their parents, which are few, are ``[m e f]``.
    """
    both = [_of_block(graph, block, messages) for block in graph.blocks]
    if graph.owners.size:
        source, target = graph.owners
        both.append((_by_matrix(source, target, graph.nodes, messages),
                     _by_matrix(target, source, graph.nodes, messages)))  # fmt: skip
    there, back = zip(*both, strict=True)
    return Wiring(there, back)


def _of_block(graph: Graph, block: Block, messages: Messages) -> tuple[Way, Way]:
    source, target = graph.sets[block.source], graph.sets[block.target]
    targets, sources = block.entries.shape[:2]

    def at_source(x: Float[Array, "m n f"]) -> Float[Array, "m 1 s f"]:
        return _nodes(source, x)[:, None]

    def at_target(x: Float[Array, "m n f"]) -> Float[Array, "m t 1 f"]:
        return _nodes(target, x)[:, :, None]

    shares = (1 / sources, 1 / targets) if messages == "mean" else (1.0, 1.0)
    there = _by_block(at_source, at_target, target, 2, shares[0], graph.nodes)
    return there, _by_block(at_target, at_source, source, 1, shares[1], graph.nodes)


def _nodes(of_set: NodeSet, x: Float[Array, "m n f"]) -> Float[Array, "m r f"]:
    return x[:, of_set.begin : of_set.begin + of_set.size]


def _by_block(
    start: Values, end: Values, receivers: NodeSet, axis: int, share: float, nodes: int
) -> Way:
    """One direction of a block; messages are summed over an axis of its edges."""
    begin, after = receivers.begin, nodes - receivers.begin - receivers.size

    def received(states: Float[Array, "m t s f"], sent: Float[Array, "m *e f"]) -> Array:
        sums = states.sum(axis), (states * sent).sum(axis)
        return jnp.concatenate(sums, axis=-1) * share

    def laid(x: Float[Array, "m r f"]) -> Float[Array, "m n f"]:
        return jnp.pad(x, ((0, 0), (begin, after), (0, 0)))

    def replaced(nodes: Float[Array, "m n f"], new: Float[Array, "m r f"]) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(nodes, new, begin, axis=1)

    return Way(start, end, received, lambda x: _nodes(receivers, x), laid, replaced)


def _by_matrix(start: np.ndarray, end: np.ndarray, count: int, messages: Messages) -> Way:
    """Edges between single nodes; a matrix sums their messages."""
    ends = np.equal.outer(np.arange(count), end).astype(np.float32)
    degree = np.maximum(1, ends.sum(axis=1, keepdims=True))
    shares = ends / degree if messages == "mean" else ends
    touched = ends.any(axis=1)[:, None]

    def received(states: Float[Array, "m e f"], sent: Float[Array, "m e f"]) -> Array:
        both = jnp.concatenate([states, states * sent], axis=-1)
        return jnp.asarray(shares, both.dtype) @ both

    def replaced(nodes: Float[Array, "m n f"], new: Float[Array, "m n f"]) -> Array:
        return jnp.where(touched, new, nodes)

    return Way(lambda x: x[:, start], lambda x: x[:, end], received, _same, _same, replaced)
