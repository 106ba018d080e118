"""The graph of a network: units as nodes, weights as edges; and what frames graphs in common.

Nodes are inputs, hidden units and outputs. A parameter of one axis (a bias, a scale of a norm) is a
number of each node. Any other parameter is one edge from each unit along its second axis to each
along its first; kernel positions and blocks of flattened maps are numbers of the edge. Nothing
else is an edge, but for nested groups: there, each unit has an edge to the unit of the parent
that owns it, without which heads could not be told apart.

Fixed first axes of one length are the same outputs, fixed second axes of one length the same
inputs, as in :func:`~zoogen.models.permutable_terminals`. These nodes have a learned identity each;
hidden units have none, so that their order can't matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from zoogen.errors import ConfigError
from zoogen.params import Parameter, ParamSpec

INPUT, HIDDEN, OUTPUT = 0, 1, 2  # roles of sets of nodes
UNIT, PARENT, TERMINALS = 0, 1, 2  # labels of nodes; terminals have one each from the third on


class NodeSet(NamedTuple):
    """Nodes that stand side by side: a group of units, the inputs or the outputs.

    Attributes:
        name: of the group, or ``inputs of N``, ``outputs of N``.
        size: nodes.
        role: ``INPUT``, ``HIDDEN`` or ``OUTPUT``.
        parent: whether another group is nested in it.
        begin: number of its first node.
    """

    name: str
    size: int
    role: int
    parent: bool
    begin: int


class Block(NamedTuple):
    """The edges of one parameter: from all nodes of one set to all of another, target by target.

    Attributes:
        source: number of the set.
        target: number of the set.
        label: tells parameters between the same two sets apart: 0, 1, …
        kernel: rows and columns of positions; ``None`` where the numbers of an edge have no such
            order (flattened maps, kernels of other dimensions).
        entries: places of the edges' numbers in the flat vector, ``[targets, sources, f]``.
    """

    source: int
    target: int
    label: int
    kernel: tuple[int, int] | None
    entries: Int[np.ndarray, "t s f"]


@dataclass(frozen=True)
class Graph:
    """The graph of all networks of one spec.

    Attributes:
        sets: of nodes in forward order.
        values: of each node, places of its own numbers in the flat vector; -1 where it has fewer
            than others. Numbers of one parameter share a column.
        blocks: edges in forward order.
        owners: source and target of the edges from units to their parents, ``[2, e]``.
    """

    sets: tuple[NodeSet, ...]
    values: Int[np.ndarray, "n v"]
    blocks: tuple[Block, ...]
    owners: Int[np.ndarray, "2 e"]

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.values)


@lru_cache(maxsize=1024)
def graph_of(spec: ParamSpec) -> Graph:
    """The graph of a spec, built once.

    Raises:
        ConfigError: if no parameter has two axes, one has none, or units lie along a third axis
            of one, which no edge can bear.

    Example:
        >>> from zoogen.params import Axis
        >>> hidden = Axis(5, "hidden")
        >>> graph = graph_of(ParamSpec.build({"weight": (hidden, Axis(2)), "bias": (hidden,)}))
        >>> graph.nodes, [(block.source, block.target) for block in graph.blocks]
        (7, [(0, 1)])
    """
    sets = _node_sets(spec)
    numbers = {node_set.name: number for number, node_set in enumerate(sets)}
    seen: Counter[tuple[int, int]] = Counter()
    blocks = []
    for parameter in spec.parameters:
        if len(parameter.axes) > 1:
            ends = numbers[_name(parameter, 1)], numbers[_name(parameter, 0)]
            blocks.append(_block(parameter, ends, seen[ends]))
            seen[ends] += 1
    if not blocks:
        raise ConfigError(
            f"graph: expected a parameter of two axes, found {[p.name for p in spec.parameters]} "
            "with one each; a network without weights between units has no edges"
        )
    return Graph(sets, _values(spec, sets, numbers), tuple(blocks), _owners(spec, sets, numbers))


# ------------------------------------------------------------------------------------------ frame
@dataclass(frozen=True)
class Frame:
    """What graphs of different specs have in common: room for the largest of each kind.

    Attributes:
        inputs: identities of inputs.
        outputs: identities of outputs.
        values: numbers of a node.
        kernel: rows and columns of the largest kernel; smaller ones lie in its centre, weights of
            dense layers in the middle.
        entries: numbers of an edge; at least the positions of the kernel.
        parallel: parameters between the same two sets.
    """

    inputs: int
    outputs: int
    values: int
    kernel: tuple[int, int]
    entries: int
    parallel: int

    def places(self, block: Block) -> Int[np.ndarray, " f"]:
        """Where the numbers of a block's edges stand among ``entries``."""
        if block.kernel is None:
            return np.arange(block.entries.shape[-1])
        rows, columns = (
            np.arange(size) + (room - size) // 2
            for size, room in zip(block.kernel, self.kernel, strict=True)
        )
        return (rows[:, None] * self.kernel[1] + columns).reshape(-1)


def frame_of(specs: Iterable[ParamSpec]) -> Frame:
    """The smallest frame for networks of all these specs.

    Raises:
        ConfigError: if there is no spec, or one that has no graph.

    Example:
        >>> from zoogen.params import Axis
        >>> dense = ParamSpec.build({"weight": (Axis(8, "hidden"), Axis(2))})
        >>> kernel = (Axis(8, "maps"), Axis(1), Axis(3), Axis(3))
        >>> frame = frame_of([dense, ParamSpec.build({"weight": kernel})])
        >>> frame.inputs, frame.kernel, frame.places(graph_of(dense).blocks[0]).tolist()
        (2, (3, 3), [4])
    """
    frames = [_frame(graph_of(spec)) for spec in specs]
    if not frames:
        raise ConfigError("frame of graphs: expected at least one spec, found none")
    kernel = (max(f.kernel[0] for f in frames), max(f.kernel[1] for f in frames))
    return Frame(
        inputs=max(f.inputs for f in frames),
        outputs=max(f.outputs for f in frames),
        values=max(f.values for f in frames),
        kernel=kernel,
        entries=max(math.prod(kernel), *(f.entries for f in frames)),
        parallel=max(f.parallel for f in frames),
    )


def refuse_larger(frame: Frame, graph: Graph) -> None:
    """Name what of a graph has no room in a frame.

    Raises:
        ConfigError: if there is such a thing.
    """
    found = _frame(graph)
    for name in ("inputs", "outputs", "values", "kernel", "entries", "parallel"):
        needed, room = getattr(found, name), getattr(frame, name)
        if np.any(np.greater(needed, room)):
            raise ConfigError(
                f"needs {name} = {needed}, but the model's frame has {room}; build the frame from "
                "the specs of all members that the model shall read"
            )


def _frame(graph: Graph) -> Frame:
    kernels = [block.kernel for block in graph.blocks if block.kernel is not None]
    kernel = (
        max((rows for rows, _ in kernels), default=1),
        max((columns for _, columns in kernels), default=1),
    )
    entries = [block.entries.shape[-1] for block in graph.blocks if block.kernel is None]
    return Frame(
        inputs=sum(s.size for s in graph.sets if s.role == INPUT),
        outputs=sum(s.size for s in graph.sets if s.role == OUTPUT),
        values=graph.values.shape[1],
        kernel=kernel,
        entries=max(math.prod(kernel), *entries, 1),
        parallel=max((block.label + 1 for block in graph.blocks), default=1),
    )


# --------------------------------------------------------------------------------- parts of a graph
def _name(parameter: Parameter, place: int) -> str:
    """The set of nodes along an axis of a parameter."""
    axis = parameter.axes[place]
    return axis.group or f"{('outputs', 'inputs')[place]} of {axis.size}"


def _node_sets(spec: ParamSpec) -> tuple[NodeSet, ...]:
    """Sets in the order in which a signal meets them; parents at the end."""
    roles: dict[str, int] = {}
    sizes = {name: group.size for name, group in spec.groups.items()}
    for parameter in spec.parameters:
        _refuse_other_axes(parameter)
        for place in reversed(range(min(2, len(parameter.axes)))):
            axis, name = parameter.axes[place], _name(parameter, place)
            terminal = (OUTPUT, INPUT)[place]
            roles.setdefault(name, HIDDEN if axis.group else terminal)
            sizes.setdefault(name, axis.size)
    parents = {parent for _, parent, _ in spec.parents}
    roles |= dict.fromkeys((name for name in spec.groups if name not in roles), HIDDEN)
    begins = np.cumsum([0, *(sizes[name] for name in roles)]).tolist()
    return tuple(
        NodeSet(name, sizes[name], role, name in parents, begin)
        for (name, role), begin in zip(roles.items(), begins[:-1], strict=True)
    )


def _refuse_other_axes(parameter: Parameter) -> None:
    if not parameter.axes:
        raise ConfigError(
            f"parameter {parameter.name!r}: expected an axis, found a single number that belongs "
            "to no unit; give it one axis of size 1"
        )
    for place, axis in enumerate(parameter.axes[2:], start=2):
        if axis.group is not None:
            raise ConfigError(
                f"parameter {parameter.name!r}: an edge has two ends, found units of "
                f"{axis.group!r} along axis {place}; use an equivariant model for this network"
            )


def _block(parameter: Parameter, ends: tuple[int, int], label: int) -> Block:
    target, source, *positions = parameter.axes
    factors = [target.size // target.block, target.block, source.size // source.block, source.block]
    places = parameter.offset + np.arange(parameter.size)
    split = places.reshape(*factors, -1).transpose(0, 2, 1, 3, 4)
    entries = split.reshape(factors[0], factors[2], -1)
    sizes = [axis.size for axis in positions]
    plain = target.block == source.block == 1 and len(sizes) in (0, 2)
    kernel = (sizes[0], sizes[1]) if len(sizes) == 2 else (1, 1)
    return Block(*ends, label, kernel if plain else None, entries)


def _values(
    spec: ParamSpec, sets: tuple[NodeSet, ...], numbers: dict[str, int]
) -> Int[np.ndarray, "n v"]:
    """Places of the numbers that each node has of its own."""
    columns: dict[str, list[Int[np.ndarray, "units block"]]] = {s.name: [] for s in sets}
    for parameter in spec.parameters:
        if len(parameter.axes) == 1:
            places = parameter.offset + np.arange(parameter.size)
            columns[_name(parameter, 0)].append(places.reshape(-1, parameter.axes[0].block))
    width = max((sum(c.shape[1] for c in of_set) for of_set in columns.values()), default=0)
    values = np.full((sum(s.size for s in sets), max(1, width)), -1)
    for name, of_set in columns.items():
        if of_set:
            own, begin = np.concatenate(of_set, axis=1), sets[numbers[name]].begin
            values[begin : begin + len(own), : own.shape[1]] = own
    return values


def _owners(
    spec: ParamSpec, sets: tuple[NodeSet, ...], numbers: dict[str, int]
) -> Int[np.ndarray, "2 e"]:
    edges = [np.empty((2, 0), int)]
    for group, parent, families in spec.parents:
        units = np.arange(spec.groups[group].size)
        owner = units // (units.size // families)
        begins = sets[numbers[group]].begin, sets[numbers[parent]].begin
        edges.append(np.stack([begins[0] + units, begins[1] + owner]))
    return np.concatenate(edges, axis=1)
