"""Unions: members of different width, depth and family side by side as one graph.

The graphs of all members stand in one list of nodes and one list of edges, without an edge between
two members. Lists are padded to a few sizes, so that few programs serve all batches of a zoo:
padding edges lead from a padding node to itself, and padding nodes belong to no member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zoogen.errors import ConfigError
from zoogen.models.graphs import (
    HIDDEN,
    INPUT,
    OUTPUT,
    PARENT,
    TERMINALS,
    UNIT,
    Block,
    Frame,
    Graph,
    graph_of,
    refuse_larger,
)
from zoogen.params import ParamSpec
from zoogen.symmetry import canonical
from zoogen.symmetry.elements import array_module

Numbers = np.ndarray | Array
Messages = Literal["mean", "sum"]
ROLES = 3  # inputs, hidden units, outputs
ARRAYS = (
    "node_values", "node_known", "node_label", "node_place", "node_set", "set_slot", "set_size",
    "edge_values", "edge_known", "edge_label", "edge_role", "source", "target", "fan_in", "fan_out",
    "edge_member", "edge_share",
)  # fmt: skip


@partial(
    jax.tree_util.register_dataclass, data_fields=ARRAYS, meta_fields=["members", "steps", "frame"]
)
@dataclass(frozen=True)
class GraphBatch:
    """Members as one graph; what models of graphs read.

    Letters: n nodes, s sets, e edges, v and f numbers of a node and of an edge in the frame.

    Attributes:
        node_values: biases and the like.
        node_known: which of them the node has.
        node_label: place in a table of identities: ``UNIT``, ``PARENT`` or a terminal.
        node_place: depth of the node's set from 0 to 1, and the share of one set in the depth.
        node_set: the node's set.
        set_slot: ``ROLES`` × member + role of the set.
        set_size: nodes of the set.
        edge_values: weights.
        edge_known: which of the ``f`` numbers the edge has.
        edge_label: place in a table of kinds of edges.
        edge_role: 1 if it comes from an input, plus 2 if it leads to an output.
        source: node that the edge comes from.
        target: node that it leads to.
        fan_in: edges of its parameter into its target.
        fan_out: edges of its parameter out of its source.
        edge_member: its member.
        edge_share: 1 / (edges of its parameter · parameters of its member), 0 for padding.
        members: number of members.
        steps: edges of each step, padding included: the edges of one step are those of the first
            parameter of every member, then of the second one, and so on.
        frame: of the numbers and identities.
    """

    node_values: Float[Numbers, "n v"]
    node_known: Bool[Numbers, "n v"]
    node_label: Int[Numbers, " n"]
    node_place: Float[Numbers, "n 2"]
    node_set: Int[Numbers, " n"]
    set_slot: Int[Numbers, " s"]
    set_size: Float[Numbers, " s"]
    edge_values: Float[Numbers, "e f"]
    edge_known: Bool[Numbers, "e f"]
    edge_label: Int[Numbers, " e"]
    edge_role: Int[Numbers, " e"]
    source: Int[Numbers, " e"]
    target: Int[Numbers, " e"]
    fan_in: Float[Numbers, " e"]
    fan_out: Float[Numbers, " e"]
    edge_member: Int[Numbers, " e"]
    edge_share: Float[Numbers, " e"]
    members: int
    steps: tuple[int, ...]
    frame: Frame


def edge_labels(frame: Frame) -> int:
    """Kinds of edges: parameters between the same sets, each apart from its loops, and owners."""
    return 2 * frame.parallel + 1


def unite(
    frame: Frame,
    members: Sequence[tuple[ParamSpec, Float[Numbers, "m p"]]],
    one_scale: bool = False,
    pad: bool = True,
) -> GraphBatch:
    """One batch of members of any specs that fit the frame, in the order given.

    Args:
        frame: of the model that shall read them.
        members: specs, each with the flat weights of some members. Weights of one spec may be
            JAX arrays, also traced ones.
        one_scale: bring members to their canonical form first
            (:func:`~zoogen.symmetry.canonical`). A model then can't see what positive scales of
            relu units and signs of tanh units do not change in the function; weights must be NumPy.
        pad: round the lengths of all lists up, so that batches of other members share them.

    Raises:
        ConfigError: if there is no member, a member has no room in the frame, or its weights are
            of another length than its spec says or not finite.

    Example:
        >>> from zoogen.models.graphs import frame_of
        >>> from zoogen.params import Axis
        >>> small, large = (
        ...     ParamSpec.build({"weight": (Axis(width, "hidden"), Axis(2))}) for width in (3, 9)
        ... )
        >>> two = [(small, np.ones((4, 6))), (large, np.ones((1, 18)))]
        >>> batch = unite(frame_of([small, large]), two)
        >>> batch.members, batch.steps, float(batch.edge_values.sum())
        (5, (48,), 42.0)
    """
    if not sum(len(values) for _, values in members):
        raise ConfigError("batch of graphs: expected at least one member, found none")
    members = _readable(frame, members, one_scale)
    shapes = tuple((spec, len(values)) for spec, values in members)
    flat = [values.reshape(-1) for _, values in members]
    return _filled(_union(frame, shapes, pad), array_module(flat[0]).concatenate(flat))


def _readable(
    frame: Frame, members: Sequence[tuple[ParamSpec, Float[Numbers, "m p"]]], one_scale: bool
) -> list[tuple[ParamSpec, Float[Numbers, "m p"]]]:
    """The members as a model shall see them; errors name those that it can't read."""
    found: list[tuple[ParamSpec, Float[Numbers, "m p"]]] = []
    begin = 0
    for number, (spec, values) in enumerate(members):
        try:
            refuse_larger(frame, graph_of(spec))
            _refuse_wrong_weights(spec, values)
            scaled = canonical(spec, np.asarray(values)).values if one_scale else values
        except ConfigError as error:
            where = f"batch of graphs, members from {begin} on, spec {number}"
            raise ConfigError(f"{where}: {error}") from error
        found.append((spec, scaled))
        begin += len(values)
    return found


def _refuse_wrong_weights(spec: ParamSpec, values: Numbers) -> None:
    if values.shape[1:] != (spec.size,):
        raise ConfigError(
            f"expected flat weights [m, {spec.size}], found {list(values.shape)}; flatten the "
            "members with their own spec"
        )
    if isinstance(values, np.ndarray) and not np.isfinite(values).all():
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ConfigError(
            f"weights of {broken.size} of {len(values)} members are not finite, first of "
            f"member {broken[0]}; leave diverged members out"
        )


# ---------------------------------------------------------------------------------------- structure
class Piece(NamedTuple):
    """One member's part of a union; numbers of nodes, sets and weights count from its own first.

    Attributes:
        nodes: arrays of nodes.
        sets: arrays of sets.
        steps: arrays of the edges of each step.
    """

    nodes: dict[str, np.ndarray]
    sets: dict[str, np.ndarray]
    steps: tuple[dict[str, np.ndarray], ...]


@lru_cache(maxsize=1024)
def piece_of(frame: Frame, spec: ParamSpec) -> Piece:
    """The part that a member of a spec is of every union."""
    graph = graph_of(spec)
    sizes = [s.size for s in graph.sets]
    roles = [s.role for s in graph.sets]
    index = np.full((graph.nodes, frame.values), -1)
    index[:, : graph.values.shape[1]] = graph.values
    depth = max(1, len(sizes) - 1)
    place = np.stack([np.arange(len(sizes)) / depth, np.full(len(sizes), 1 / depth)], axis=1)
    nodes = {
        "node_index": index,
        "node_label": np.concatenate(list(_node_labels(frame, graph))),
        "node_place": place.repeat(sizes, axis=0),
        "node_set": np.arange(len(sizes)).repeat(sizes),
    }
    sets = {"set_slot": np.array(roles), "set_size": np.array(sizes, float)}
    steps = [_edges(frame, graph, block) for block in graph.blocks]
    steps += [_owner_edges(frame, graph)] if graph.owners.size else []
    for step in steps:
        step["edge_share"] = np.full(len(step["source"]), 1 / (len(step["source"]) * len(steps)))
    return Piece(nodes, sets, tuple(steps))


def _node_labels(frame: Frame, graph: Graph) -> Iterator[Int[np.ndarray, " units"]]:
    begins = {INPUT: TERMINALS, OUTPUT: TERMINALS + frame.inputs}
    for node_set in graph.sets:
        if node_set.role == HIDDEN:
            yield np.full(node_set.size, PARENT if node_set.parent else UNIT)
        else:
            yield begins[node_set.role] + np.arange(node_set.size)
            begins[node_set.role] += node_set.size


def _edges(frame: Frame, graph: Graph, block: Block) -> dict[str, np.ndarray]:
    targets, sources, numbers = block.entries.shape
    of_source, of_target = graph.sets[block.source], graph.sets[block.target]
    index = np.full((targets * sources, frame.entries), -1)
    index[:, frame.places(block)] = block.entries.reshape(-1, numbers)
    source = of_source.begin + np.tile(np.arange(sources), targets)
    target = of_target.begin + np.arange(targets).repeat(sources)
    role = (of_source.role == INPUT) + 2 * (of_target.role == OUTPUT)
    return {
        "edge_index": index,
        "edge_label": block.label + frame.parallel * (source == target),
        "edge_role": np.full(len(index), role),
        "source": source,
        "target": target,
        "fan_in": np.full(len(index), float(sources)),
        "fan_out": np.full(len(index), float(targets)),
    }


def _owner_edges(frame: Frame, graph: Graph) -> dict[str, np.ndarray]:
    source, target = graph.owners
    return {
        "edge_index": np.full((len(source), frame.entries), -1),
        "edge_label": np.full(len(source), 2 * frame.parallel),
        "edge_role": np.zeros(len(source), int),
        "source": source,
        "target": target,
        "fan_in": np.bincount(target)[target].astype(float),
        "fan_out": np.bincount(source)[source].astype(float),
    }


class _Run(NamedTuple):
    """Members of one spec that stand side by side in a union.

    Attributes:
        piece: of one of them.
        members: how many they are.
        sizes: members, weights, nodes and sets that one of them takes.
        begins: numbers of the first one's member, weight, node and set in the union.
    """

    piece: Piece
    members: int
    sizes: Int[np.ndarray, " 4"]
    begins: Int[np.ndarray, " 4"]


class _Union(NamedTuple):
    """A batch without values: where each stands in the flat weights of all members, or -1."""

    batch: GraphBatch
    node_index: Int[np.ndarray, "n v"]
    edge_index: Int[np.ndarray, "e f"]


@lru_cache(maxsize=16)  # batches of one spec share their structure
def _union(frame: Frame, shapes: tuple[tuple[ParamSpec, int], ...], pad: bool) -> _Union:
    runs = list(_runs(frame, shapes))
    ends = runs[-1].begins + runs[-1].members * runs[-1].sizes
    listed = partial(_listed, _fillers(*ends.tolist()), pad)
    steps = [
        listed([_moved(run, run.piece.steps[t]) for run in runs if t < len(run.piece.steps)], 0)
        for t in range(max(len(run.piece.steps) for run in runs))
    ]
    lists = {
        **listed([_moved(run, run.piece.nodes) for run in runs], 1),
        **listed([_moved(run, run.piece.sets) for run in runs], 1),
        **{name: np.concatenate([step[name] for step in steps]) for name in steps[0]},
    }
    index = {end: lists.pop(f"{end}_index") for end in ("node", "edge")}
    lists |= {f"{end}_known": places >= 0 for end, places in index.items()}
    batch = GraphBatch(
        **lists, node_values=np.zeros(0), edge_values=np.zeros(0),
        members=int(ends[0]), steps=tuple(len(step["source"]) for step in steps), frame=frame,
    )  # fmt: skip
    return _Union(batch, index["node"], index["edge"])


def _runs(frame: Frame, shapes: tuple[tuple[ParamSpec, int], ...]) -> Iterator[_Run]:
    begins = np.zeros(4, int)
    for spec, count in shapes:
        piece = piece_of(frame, spec)
        nodes, sets = len(piece.nodes["node_set"]), len(piece.sets["set_size"])
        yield _Run(piece, count, np.array([1, spec.size, nodes, sets]), begins)
        begins = begins + count * np.array([1, spec.size, nodes, sets])


def _fillers(members: int, _: int, nodes: int, sets: int) -> dict[str, int]:
    """What stands for padding; zero where nothing is said. Edges join the first padding node."""
    return {
        "node_set": sets, "set_slot": ROLES * members, "edge_member": members,
        "source": nodes, "target": nodes, "set_size": 1, "fan_in": 1, "fan_out": 1,
        "node_index": -1, "edge_index": -1,
    }  # fmt: skip


def _moved(run: _Run, part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A part for all members of a run, with the union's numbers."""
    member, weight, node, one_set = (
        begin + size * np.arange(run.members)
        for begin, size in zip(run.begins, run.sizes, strict=True)
    )
    offsets = {
        "node_index": weight, "edge_index": weight, "source": node, "target": node,
        "node_set": one_set, "set_slot": ROLES * member,
    }  # fmt: skip
    length, moved = len(next(iter(part.values()))), {}
    for name, values in part.items():
        moved[name] = np.tile(values, (run.members, *[1] * (values.ndim - 1)))
        if name in offsets:
            by = offsets[name].repeat(length).reshape(-1, *[1] * (values.ndim - 1))
            moved[name] = np.where(moved[name] < 0, -1, moved[name] + by)
    if "source" in part:
        moved["edge_member"] = member.repeat(length)
    return moved


def _listed(
    fillers: dict[str, int], pad: bool, parts: list[dict[str, np.ndarray]], spare: int
) -> dict[str, np.ndarray]:
    """Parts of all runs one behind the other, and padding: at least ``spare`` of it."""
    needed = spare + sum(len(next(iter(part.values()))) for part in parts)
    length = _bucket(needed) if pad else needed
    return {
        name: _padded([part[name] for part in parts], length, fillers.get(name, 0))
        for name in parts[0]
    }


def _padded(parts: list[np.ndarray], length: int, value: float) -> np.ndarray:
    more = length - sum(len(part) for part in parts)
    filler = np.full((more, *parts[0].shape[1:]), value, parts[0].dtype)
    return np.concatenate([*parts, filler])


def _bucket(length: int) -> int:
    """The next power of two, or three quarters of it."""
    power = 1 << max(0, length - 1).bit_length()
    return 3 * power // 4 if power >= 4 and length <= 3 * power // 4 else power


def _filled(union: _Union, flat: Float[Numbers, " w"]) -> GraphBatch:
    batch, dtype = union.batch, flat.dtype
    xp = array_module(flat)
    floats = ("node_place", "set_size", "fan_in", "fan_out", "edge_share")
    return replace(
        batch,
        node_values=xp.where(batch.node_known, flat[union.node_index], 0).astype(dtype),
        edge_values=xp.where(batch.edge_known, flat[union.edge_index], 0).astype(dtype),
        **{name: getattr(batch, name).astype(dtype) for name in floats},
    )


# -------------------------------------------------------------------------------------------- scale
class GraphStandard(NamedTuple):
    """Root mean squares of what models of graphs read, over training members.

    Attributes:
        nodes: of numbers of inputs, hidden units and outputs.
        edges: of weights, by role: inputs to hidden units, among hidden units, …
    """

    nodes: Float[np.ndarray, " roles"]
    edges: Float[np.ndarray, " roles"]


def fit_graph_standard(batch: GraphBatch, messages: Messages = "mean") -> GraphStandard:
    """The scale of training members; one per role, so that it fits members of any width and depth.

    Args:
        batch: training members alone, NumPy.
        messages: of the model that shall read them: with ``mean`` it reads weights times fan-in.

    Example:
        >>> from zoogen.models.graphs import frame_of
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(3, "hidden"), Axis(2))})
        >>> batch = unite(frame_of([spec]), [(spec, np.full((1, 6), 0.5))])
        >>> fit_graph_standard(batch).edges.tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    values = batch.edge_values * (batch.fan_in[:, None] if messages == "mean" else 1)
    role = batch.set_slot[batch.node_set] % ROLES
    return GraphStandard(
        _by_role(batch.node_values, batch.node_known, role, ROLES),
        _by_role(values, batch.edge_known, batch.edge_role, 4),
    )


def _by_role(values: Numbers, known: Numbers, role: Numbers, roles: int) -> np.ndarray:
    square = np.bincount(role, np.square(values, dtype=np.float64).sum(axis=1), roles)
    mean = square / np.maximum(1, np.bincount(role, known.sum(axis=1), roles))
    return np.where(mean > 0, np.sqrt(mean), 1)


def standardise_graphs(standard: GraphStandard, batch: GraphBatch) -> GraphBatch:
    """Values over their root mean square in the training members; NumPy or JAX."""
    dtype = batch.edge_values.dtype
    of_nodes = standard.nodes.astype(dtype)[batch.set_slot[batch.node_set] % ROLES]
    of_edges = standard.edges.astype(dtype)[batch.edge_role]
    return replace(
        batch,
        node_values=batch.node_values / of_nodes[:, None],
        edge_values=batch.edge_values / of_edges[:, None],
    )
