"""The graph of layers that a hypernetwork reads: one node per parameter tensor.

A tensor feeds another where its targets are the other's sources: weights feed the biases of their
units and the weights of the next layer. Nodes meet all that lie before and behind them, with a
weight of one over the distance, so that few rounds of messages reach through deep networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int

from zoogen.models.graphs import INPUT, OUTPUT, Graph, graph_of
from zoogen.params import Parameter, ParamSpec

DOUBLINGS = 12.0  # of units: 4096 are the most that features tell apart
FEATURES = 8


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A network as its tensors and how signals pass from one to the other.

    Attributes:
        names: of the parameters, in the order of the flat vector.
        shapes: rows (units along the first axis) and columns (all other entries) of each.
        vectors: whether a parameter has one axis: biases, scales of norms.
        features: what each is, 0 to 1: kind, sizes, place in the network.
        there: weights of the messages that each receives from those before it; rows sum to 1 or 0.
        back: the same from those behind it.
        scales: one over the root of the fan-in, of the weights' size in a fresh network.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    vectors: tuple[bool, ...]
    features: Float32[np.ndarray, "v f"]
    there: Float32[np.ndarray, "v v"]
    back: Float32[np.ndarray, "v v"]
    scales: Float32[np.ndarray, " v"]


@lru_cache(maxsize=256)
def layer_graph(spec: ParamSpec) -> LayerGraph:
    """The graph of layers of a spec.

    Raises:
        ConfigError: if the spec has no graph; see :func:`zoogen.models.graphs.graph_of`.

    Example:
        >>> from zoogen.params import Axis
        >>> hidden = Axis(5, "hidden")
        >>> spec = ParamSpec.build(
        ...     {"weight": (hidden, Axis(2)), "bias": (hidden,), "output": (Axis(3), hidden)}
        ... )
        >>> layer_graph(spec).there.round(1).tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]

    Reference:
        Zhang, Ren and Urtasun, Graph hypernetworks for neural architecture search, 2019; Knyazev,
        Drozdzal, Taylor and Romero-Soriano, Parameter prediction for unseen deep architectures,
        2021 (messages along shortest paths). There, nodes are operations; here, their tensors.
    """
    graph = graph_of(spec)
    ends = _ends(spec, graph)
    near = _distances(ends)
    return LayerGraph(
        names=tuple(p.name for p in spec.parameters),
        shapes=tuple((p.shape[0], math.prod(p.shape[1:])) for p in spec.parameters),
        vectors=tuple(len(p.axes) == 1 for p in spec.parameters),
        features=_features(spec, graph, ends),
        there=_shares(near.T),
        back=_shares(near),
        # Root and quotient of doubles are the same on every machine; powers of singles are not.
        scales=(1 / np.sqrt([float(_fan_in(p, spec, ends)) for p in spec.parameters])).astype(
            np.float32
        ),
    )


def _ends(spec: ParamSpec, graph: Graph) -> Int[np.ndarray, "v 2"]:
    """Set of sources and set of targets of each parameter; the same one for a vector's."""
    blocks = iter(graph.blocks)
    ends: list[tuple[int, int]] = []
    for parameter in spec.parameters:
        if len(parameter.axes) > 1:
            block = next(blocks)
            ends.append((block.source, block.target))
        else:
            group = parameter.axes[0].group or f"outputs of {parameter.axes[0].size}"
            own = next(n for n, s in enumerate(graph.sets) if s.name == group)
            ends.append((own, own))
    return np.array(ends)


def _distances(ends: Int[np.ndarray, "v 2"]) -> Float32[np.ndarray, "v v"]:
    """Steps from each tensor to those that it feeds, directly or not; 0 where it feeds none."""
    vector = ends[:, 0] == ends[:, 1]
    feeds: Bool[np.ndarray, "v v"] = ends[:, 1][:, None] == ends[:, 0][None]
    feeds &= ~(vector[:, None] & vector[None])  # vectors of the same units stand side by side
    found, reached = np.zeros(feeds.shape, np.float32), np.eye(len(feeds), dtype=bool)
    for step in range(1, len(feeds)):
        reached = (reached.astype(int) @ feeds) > 0
        new = reached & (found == 0) & ~np.eye(len(feeds), dtype=bool)
        if not new.any():
            break
        found[new] = step
    return found


def _shares(distances: Float32[np.ndarray, "v v"]) -> Float32[np.ndarray, "v v"]:
    weights = np.divide(1, distances, out=np.zeros_like(distances), where=distances > 0)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)


def _features(
    spec: ParamSpec, graph: Graph, ends: Int[np.ndarray, "v 2"]
) -> Float32[np.ndarray, "v f"]:
    sets, rows = graph.sets, []
    for number, (parameter, (source, target)) in enumerate(zip(spec.parameters, ends, strict=True)):
        vector = source == target
        twins = sum(vector and tuple(ends[n]) == (source, target) for n in range(number))
        rows.append([
            float(vector),
            math.log2(1 + sets[target].size) / DOUBLINGS,
            math.log2(1 + sets[source].size) / DOUBLINGS,
            math.log2(parameter.size / sets[target].size) / DOUBLINGS,
            number / len(ends),
            float(sets[source].role == INPUT),
            float(sets[target].role == OUTPUT),
            twins / 4,
        ])  # fmt: skip
    return np.clip(np.array(rows, np.float32), 0, 1)


def _fan_in(parameter: Parameter, spec: ParamSpec, ends: Int[np.ndarray, "v 2"]) -> float:
    """Entries that a unit sums over; of a vector, those of the first weights to its units."""
    if len(parameter.axes) > 1:
        return parameter.size / parameter.shape[0]
    own = ends[spec.parameters.index(parameter), 1]
    feeding = [
        p.size / p.shape[0]
        for p, (source, target) in zip(spec.parameters, ends, strict=True)
        if target == own and source != target
    ]
    return feeding[0] if feeding else 1.0
