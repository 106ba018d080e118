"""Attention along weights: units attend to the units that a weight joins them with, equivariantly.

Each unit is a token, each weight has a state of its own. A unit never attends by place: the weight
between two units, and what both hold, say how much one listens to the other, in both directions.
So a reordering of units reorders all states, whatever the spec. All sets of units and all
parameters share the weights of a layer and are told apart by learned identities. Work and memory
grow with the number of weights, and dense blocks of weights stay dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.models.graphs import HIDDEN, Graph, graph_of
from zoogen.models.heads import VARIANCE_FLOOR, initial_matrix
from zoogen.models.model import Body, Footprint
from zoogen.models.modulation import initial_modulation, modulated, normalised
from zoogen.params import ParamSpec

Matrix = Float[Array, "i o"]


class Sizes(NamedTuple):
    """Numbers that a body of attention along weights works with.

    Attributes:
        channels: features of a unit.
        edges: features of a weight's state.
        heads: of attention, in each direction.
        depth: layers.
        inputs: numbers read per parameter.
        condition: numbers of a condition.
        outputs: numbers returned per parameter; 0 for a body that returns none.
    """

    channels: int
    edges: int
    heads: int
    depth: int
    inputs: int
    condition: int
    outputs: int


class _Block(NamedTuple):
    """Pairs of units of two sets: those that one parameter joins, or units and their parents.

    Attributes:
        target: number of the set.
        source: number of the set.
        marks: one where a unit meets itself, or its parent.
        entries: places of the pairs' numbers in the flat vector; ``f`` may be 0.
    """

    target: int
    source: int
    marks: Float[np.ndarray, "t s 1"]
    entries: Int[np.ndarray, "t s f"]


class _State(NamedTuple):
    """Of all units, of each block's pairs, and what the body read and the condition.

    Attributes:
        units: in the order of the graph's nodes.
        edges: one array per block.
        weights: flat.
        condition: of the members.
    """

    units: Float[Array, "b n f"]
    edges: list[Float[Array, "b t s e"]]
    weights: Float[Array, "b p c"]
    condition: Float[Array, "b d"]


def unit_attention(spec: ParamSpec, sizes: Sizes) -> Body:
    """The body of an equivariant token model.

    Args:
        spec: of the networks; one that has a graph.
        sizes: of the model.

    Reference:
        Brody, Alon and Yahav, How attentive are graph attention networks?, 2022, for attention by a
        perceptron of both ends; Diao and Loynd, Relational attention, 2023, for states of edges.
        We differ in attention along real edges only, both ways at once, and in values that the
        edge multiplies, as a network's own sums do.
    """
    graph = graph_of(spec)
    blocks = tuple(_blocks(graph))

    def init(key: Array) -> dict[str, Any]:
        of_entry, of_exit, *of_layers = jax.random.split(key, 2 + sizes.depth)
        return {
            "entry": _initial_entry(of_entry, graph, blocks, sizes),
            "layers": [_initial_layer(k, sizes) for k in of_layers],
            "exit": _initial_exit(of_exit, graph, blocks, sizes),
        }

    def state(params: Any, weights: Float[Array, "b p c"], condition: Float[Array, "b d"]) -> Any:
        found = _enter(params["entry"], graph, blocks, weights, condition)
        for one in params["layers"]:
            found = _layer(one, graph, blocks, found)
        return found

    def numbers(params: Any, state: Any) -> Float[Array, "b p o"]:
        return _exit(params["exit"], graph, blocks, state, sizes.outputs)

    pairs = sum(math.prod(block.entries.shape[:2]) for block in blocks)
    floats = sizes.depth * (pairs * 4 * sizes.edges + graph.nodes * 8 * sizes.channels)
    size = len(graph.sets) * 3 * sizes.channels + len(blocks) * sizes.edges
    return Body(size, Footprint(4 * floats, sizes.edges), init, state,
                lambda state: _summary(graph, state), numbers)  # fmt: skip


def _blocks(graph: Graph) -> Iterator[_Block]:
    sizes = [node_set.size for node_set in graph.sets]
    for block in graph.blocks:
        shape = sizes[block.target], sizes[block.source]
        loops = np.eye(*shape) if block.target == block.source else np.zeros(shape)
        yield _Block(block.target, block.source, loops[..., None], block.entries)
    ends = np.cumsum(sizes)
    target, source = (np.searchsorted(ends, nodes, side="right") for nodes in graph.owners[::-1])
    for pair in sorted(set(zip(target.tolist(), source.tolist(), strict=True))):
        owned = np.zeros((sizes[pair[0]], sizes[pair[1]], 1))
        child, parent = graph.owners[:, (target == pair[0]) & (source == pair[1])]
        owned[parent - graph.sets[pair[0]].begin, child - graph.sets[pair[1]].begin] = 1
        yield _Block(*pair, owned, np.empty((*owned.shape[:2], 0), int))


def _by_set(graph: Graph, units: Float[Array, "b n f"]) -> list[Float[Array, "b u f"]]:
    return jnp.split(units, [node_set.begin for node_set in graph.sets[1:]], axis=1)


# ------------------------------------------------------------------------------------------ entry
def _initial_entry(
    key: Array, graph: Graph, blocks: tuple[_Block, ...], sizes: Sizes
) -> dict[str, Any]:
    """Identities: one per terminal, one per set of hidden units, one per block."""
    of_sets, of_blocks, of_values, of_entries = jax.random.split(key, 4)
    own = graph.values.shape[1] * sizes.inputs
    places = [1 if s.role == HIDDEN else s.size for s in graph.sets]
    numbers = [block.entries.shape[-1] * sizes.inputs for block in blocks]
    return {
        "sets": _drawn(jax.random.normal, of_sets, [(n, sizes.channels) for n in places]),
        "values": _drawn(_initial, of_values, [(own, sizes.channels)] * len(graph.sets)),
        "blocks": _drawn(jax.random.normal, of_blocks, [(2, sizes.edges)] * len(blocks)),
        "entries": _drawn(_initial, of_entries, [(n, sizes.edges) for n in numbers]),
    }


def _drawn(
    draw: Callable[[Array, tuple[int, int]], Matrix], key: Array, shapes: list[tuple[int, int]]
) -> list[Matrix]:
    return [draw(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]


def _initial(key: Array, shape: tuple[int, int]) -> Matrix:
    return initial_matrix(key, *shape)


def _enter(
    params: dict[str, Any], graph: Graph, blocks: tuple[_Block, ...],
    weights: Float[Array, "b p c"], condition: Float[Array, "b d"],
) -> _State:  # fmt: skip
    known = jnp.asarray(graph.values >= 0, weights.dtype)[..., None]
    values = _flat_numbers(weights[:, graph.values] * known)
    units = [
        identity + own @ matrix
        for identity, own, matrix in zip(
            params["sets"], _by_set(graph, values), params["values"], strict=True
        )
    ]
    edges = []
    for block, identity, matrix in zip(blocks, params["blocks"], params["entries"], strict=True):
        constant = identity[0] + jnp.asarray(block.marks, weights.dtype) * identity[1]
        edges.append(constant + _flat_numbers(weights[:, block.entries]) @ matrix)
    return _State(jnp.concatenate(units, axis=1), edges, weights, condition)


def _flat_numbers(x: Float[Array, "b *x f c"]) -> Float[Array, "b *x fc"]:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


# ----------------------------------------------------------------------------------------- layers
def _initial_layer(key: Array, sizes: Sizes) -> dict[str, Any]:
    keys = jax.random.split(key, 6)
    channels, edges, heads = sizes.channels, sizes.edges, sizes.heads
    read = 4 * channels + 2 * heads * edges  # itself, its set, messages of both directions
    return {
        "unit_condition": initial_modulation(sizes.condition, channels),
        "edge_condition": initial_modulation(sizes.condition, edges),
        "ends": initial_matrix(keys[0], channels, 2 * edges),
        "values": initial_matrix(keys[1], channels, 2 * channels),
        "edges": initial_matrix(keys[2], edges, edges),
        "edge_bias": jnp.zeros(edges),
        "scores": initial_matrix(keys[3], edges, 4 * heads),
        "units": initial_matrix(keys[4], read, 2 * channels),
        "unit_bias": jnp.zeros(2 * channels),
        "back": initial_matrix(keys[5], 2 * channels, channels),
    }


def _layer(params: Any, graph: Graph, blocks: tuple[_Block, ...], state: _State) -> _State:
    x = modulated(params["unit_condition"], normalised(state.units), state.condition)
    ends = _by_set(graph, x @ params["ends"])
    values = _by_set(graph, x @ params["values"])
    received: list[list[list[Array]]] = [[[], []] for _ in graph.sets]
    edges = []
    for block, before in zip(blocks, state.edges, strict=True):
        at_target, _ = jnp.split(ends[block.target], 2, axis=-1)
        _, at_source = jnp.split(ends[block.source], 2, axis=-1)
        both = at_target[:, :, None] + at_source[:, None]
        update = before @ params["edges"] + both + params["edge_bias"]
        update = modulated(params["edge_condition"], update, state.condition)
        edges.append(before + jax.nn.relu(update))
        forth, back = jnp.split(edges[-1] @ params["scores"], 2, axis=-1)
        of_target, of_source = (values[end] for end in (block.target, block.source))
        half = of_target.shape[-1] // 2
        received[block.target][0].append(_message(edges[-1], forth, of_source[..., :half]))
        turned = edges[-1].swapaxes(1, 2), back.swapaxes(1, 2)
        received[block.source][1].append(_message(*turned, of_target[..., half:]))
    return state._replace(units=state.units + _updates(params, graph, x, received), edges=edges)


def _message(
    edges: Float[Array, "b t s e"], scores: Float[Array, "b t s h2"], values: Float[Array, "b s f"]
) -> Float[Array, "b t m"]:
    """What each target hears: values times the edge's gates, and states of edges."""
    logits, gates = jnp.split(scores, 2, axis=-1)
    heads = logits.shape[-1]
    attention = jax.nn.softmax(logits, axis=2)
    split = values.reshape(*values.shape[:2], heads, -1)
    heard = jnp.einsum("btsh,bshd->bthd", attention * gates, split)
    seen = jnp.einsum("btsh,btse->bthe", attention, edges)
    lead = heard.shape[:2]
    return jnp.concatenate([heard.reshape(*lead, -1), seen.reshape(*lead, -1)], axis=-1)


def _updates(
    params: Any, graph: Graph, x: Float[Array, "b n f"], received: list[list[list[Array]]]
) -> Float[Array, "b n f"]:
    """A perceptron of each unit, the mean of its set, and what it heard from both sides."""
    parts = []
    silence = params["back"].shape[1] + params["scores"].shape[1] // 4 * params["edges"].shape[0]
    for own, messages in zip(_by_set(graph, x), received, strict=True):
        mates = jnp.broadcast_to(own.mean(axis=1, keepdims=True), own.shape)
        quiet = jnp.zeros((*own.shape[:2], silence), own.dtype)
        heard = [sum(side[1:], side[0]) if side else quiet for side in messages]
        parts.append(jnp.concatenate([own, mates, *heard], axis=-1))
    hidden = jnp.concatenate(parts, axis=1) @ params["units"] + params["unit_bias"]
    return jax.nn.relu(normalised(hidden)) @ params["back"]


# ------------------------------------------------------------------------------------------- ends
def _summary(graph: Graph, state: _State) -> Float[Array, "b i"]:
    """Mean, maximum and deviation of the units of each set, mean of the edges of each block."""
    found = []
    for units in _by_set(graph, normalised(state.units)):
        deviation = jnp.sqrt(units.var(axis=1) + VARIANCE_FLOOR)
        found += [units.mean(axis=1), units.max(axis=1), deviation]
    return jnp.concatenate(found + [edges.mean(axis=(1, 2)) for edges in state.edges], axis=-1)


def _initial_exit(
    key: Array, graph: Graph, blocks: tuple[_Block, ...], sizes: Sizes
) -> dict[str, Any]:
    of_edges, of_units, of_skips = jax.random.split(key, 3)
    own = graph.values.shape[1] * sizes.outputs
    numbers = [block.entries.shape[-1] * sizes.outputs for block in blocks]
    return {
        "units": _drawn(_initial, of_units, [(sizes.channels, own)] * len(graph.sets)),
        "edges": _drawn(_initial, of_edges, [(sizes.edges, n) for n in numbers]),
        "skips": initial_matrix(of_skips, sizes.inputs, sizes.outputs),
        "condition": initial_modulation(sizes.condition, sizes.outputs),
    }


def _exit(
    params: dict[str, Any], graph: Graph, blocks: tuple[_Block, ...], state: _State, outputs: int
) -> Float[Array, "b p o"]:
    """Numbers of each parameter: from its unit's or its edge's state, and from itself."""
    batch = len(state.weights)
    of_units = [
        units @ matrix
        for units, matrix in zip(
            _by_set(graph, normalised(state.units)), params["units"], strict=True
        )
    ]
    of_edges = [edges @ matrix for edges, matrix in zip(state.edges, params["edges"], strict=True)]
    found = jnp.concatenate(
        [x.reshape(batch, -1, outputs) for x in (jnp.concatenate(of_units, axis=1), *of_edges)],
        axis=1,
    )
    skipped = modulated(params["condition"], state.weights @ params["skips"], state.condition)
    return skipped + found[:, _places(graph, blocks)]


def _places(graph: Graph, blocks: tuple[_Block, ...]) -> Int[np.ndarray, " p"]:
    """Place of each parameter among the numbers of all units and all blocks."""
    index = np.concatenate([graph.values.reshape(-1), *(b.entries.reshape(-1) for b in blocks)])
    known = np.flatnonzero(index >= 0)
    return known[np.argsort(index[known])]
