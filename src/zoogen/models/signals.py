"""Signals: models that send vectors through a network along its own weights, there and back.

A unit's state is a vector. Along a weight it passes as a number does in the network: times
the weight, summed at the unit it leads to, plus the bias. What happens to the sum there has the
symmetry of the unit: odd where its sign is free, homogeneous where its scale is. So states
there turn with its scale or sign, states on the way back against it, and their products
are invariant, exactly and without a division. Weights are read in their own units: in a trained
network sums of signals are then of the size on which its activations act.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.models.graphs import (
    HIDDEN,
    INPUT,
    OUTPUT,
    Block,
    Frame,
    Graph,
    frame_of,
    graph_of,
    refuse_larger,
)
from zoogen.models.heads import initial_matrix, initial_mlp, mlp
from zoogen.models.model import Footprint, Tree, WeightModel, in_chunks
from zoogen.params import ParamSpec

ROLES = 4  # of edges: from inputs or hidden units, to outputs or hidden units
SUMMARIES = 4  # of inputs, hidden units and outputs, and the size of signals at outputs
SQUARE_FLOOR = 1e-6  # below it the root's gradient would grow without bound
States = list[Float[Array, "b n f"]]

KEPT = math.sqrt(2)  # features have about half the square of the sums

# scaling of a group → what keeps it: sums of signals [… f] → features, [… 2f] or [… f]
KEEPING: dict[str, Callable[[Float[Array, "*n f"]], Float[Array, "*n g"]]] = {
    "none": lambda sums: jax.nn.gelu(jnp.concatenate([sums, 1 - sums], axis=-1)),
    "positive": lambda sums: jax.nn.relu(jnp.concatenate([sums, -sums], axis=-1)),
    "sign": lambda sums: KEPT * jnp.sin(sums),  # by measurement better than with a tanh beside it
    "nonzero": lambda sums: sums,
}
OWN_INVERSE = ("none", "sign")  # scalings whose factors are their own inverse


@dataclass(frozen=True)
class SignalStack:
    """Options of a signal network.

    Attributes:
        channels: length of a unit's state.
    """

    channels: int = 32

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ConfigError(f"channels: expected at least 1, found {self.channels}")


class Signals(NamedTuple):
    """States of all sets of nodes, in the order of the graph's sets.

    Attributes:
        there: on the way from inputs to outputs.
        back: on the way from outputs to inputs.
    """

    there: States
    back: States


def signal_model(
    spec: ParamSpec,
    outputs: int,
    stack: SignalStack | None = None,
    hidden: int = 128,
    frame: Frame | None = None,
) -> WeightModel:
    """A model that says something about whole networks by signals through them.

    Args:
        spec: of all members that it reads.
        outputs: numbers per network.
        stack: size of states.
        hidden: units of the head's hidden layer.
        frame: of all specs whose models shall share parameters; by default of this one alone.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b outputs]``. Models of one frame have parameters
        of the same shapes. Permutations, signs and scales that the spec names change no output; nor
        does a widening of a relu network that keeps its function, even with uneven shares.

    Raises:
        ConfigError: if the spec has no graph, no inputs or no outputs, or no room in the frame.

    Example:
        >>> from zoogen.params import Axis
        >>> units = Axis(3, "hidden")
        >>> spec = ParamSpec.build({"first": (units, Axis(2)), "last": (Axis(1), units)})
        >>> model = signal_model(spec, 1, SignalStack(channels=4))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 9))).shape
        (5, 1)

    Reference:
        Kalogeropoulos, Bouritsas and Panagakis, Scale equivariant graph metanetworks, 2024: scale
        and sign symmetry. We differ in products instead of quotients of weights, in invariants from
        a sweep back, and in reading weights in their own units.
    """
    stack = stack or SignalStack()
    body = body_of(spec, stack, frame)

    def init(key: Array) -> Tree:
        of_body, of_pairs, of_head = jax.random.split(key, 3)
        return {
            "body": body.init(of_body),
            "pairs": initial_matrix(of_pairs, stack.channels, stack.channels),
            "head": initial_mlp(of_head, (SUMMARIES * stack.channels, hidden, outputs)),
        }

    def apply(params: Tree, weights: Float[Array, "b p"]) -> Float[Array, "b outputs"]:
        signals = body.signals(params["body"], weights)
        return mlp(params["head"], _summary(body.graph, params["pairs"], signals))

    return WeightModel(init, in_chunks(apply, body.footprint))


def signal_parameter_model(
    spec: ParamSpec, stack: SignalStack | None = None, networks: int = 1, scale: float = 1.0
) -> WeightModel:
    """A model that says something about every parameter: products of signals at both its ends.

    A change of weights by such products has the form of a step of gradient descent, which is one of
    what comes in there and what comes back. To them a share of the weight itself is added.

    Args:
        spec: of all members that it reads.
        stack: size of states.
        networks: how many networks' parameters it returns per network that it reads, see
            :func:`~zoogen.models.mean_of_networks`.
        scale: initial factor on the outputs, learned per parameter of the spec.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b p]``, with an axis of ``networks`` behind the
        first one if they are several. Where the symmetry moves a weight, it moves the output alike.

    Raises:
        ConfigError: if the spec has no graph, no inputs or no outputs.

    Example:
        >>> from zoogen.params import Axis
        >>> units = Axis(3, "hidden")
        >>> spec = ParamSpec.build({"first": (units, Axis(2)), "last": (Axis(1), units)})
        >>> model = signal_parameter_model(spec, SignalStack(channels=4), networks=2)
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 9))).shape
        (5, 2, 9)
    """
    stack = stack or SignalStack()
    body = body_of(spec, stack)
    tensor = np.repeat(np.arange(len(spec.parameters)), [p.size for p in spec.parameters])

    def init(key: Array) -> Tree:
        of_body, *of_networks = jax.random.split(key, 1 + networks)
        return {
            "body": body.init(of_body),
            "networks": [_initial_change(k, body.frame, stack.channels) for k in of_networks],
            "scale": jnp.full(len(spec.parameters), scale),
        }

    def apply(params: Tree, weights: Float[Array, "b p"]) -> Float[Array, "b *networks p"]:
        signals = body.signals(params["body"], weights)
        changes = [_change(spec, body, one, weights, signals) for one in params["networks"]]
        outputs = jnp.stack(changes, axis=1) * params["scale"][tensor]
        return outputs if networks > 1 else outputs[:, 0]

    return WeightModel(init, in_chunks(apply, body.footprint))


# ------------------------------------------------------------------------------------------- sweeps
class Body(NamedTuple):
    """The sweeps, as pure functions.

    Attributes:
        graph: of the networks.
        frame: that parameters are made for.
        footprint: of both sweeps.
        init: ``key → params``.
        signals: ``(params, weights [b p]) → signals``.
    """

    graph: Graph
    frame: Frame
    footprint: Footprint
    init: Callable[[Array], Tree]
    signals: Callable[[Tree, Float[Array, "b p"]], Signals]


def body_of(spec: ParamSpec, stack: SignalStack, frame: Frame | None = None) -> Body:
    """Both sweeps through networks of a spec.

    Raises:
        ConfigError: if the spec has no graph, no inputs or no outputs, or no room in the frame.
    """
    frame, graph = frame or frame_of([spec]), graph_of(spec)
    refuse_larger(frame, graph)
    _refuse_without_ends(graph)
    init = partial(_initial_body, frame, stack.channels)
    # Of each unit: sums, features and states, there and back; of wide kernels what is sent, too.
    numbers = 8 * graph.nodes + sum(b.entries[0].size + b.entries[:, 0].size for b in graph.blocks)
    footprint = Footprint(4 * stack.channels * numbers, stack.channels)
    return Body(graph, frame, footprint, init, partial(_signals, spec, frame, stack.channels))


def _refuse_without_ends(graph: Graph) -> None:
    for role, name in ((INPUT, "inputs"), (OUTPUT, "outputs")):
        if all(nodes.role != role for nodes in graph.sets):
            raise ConfigError(
                f"signals: the spec has no {name}, found units of {[s.name for s in graph.sets]}; "
                "a signal must have a place to begin; use a graph network"
            )


def _initial_body(frame: Frame, channels: int, key: Array) -> dict[str, Any]:
    of_inputs, of_outputs, *of_cells = jax.random.split(key, 2 + 2 * ROLES)
    cells = [_initial_cell(k, frame, channels) for k in of_cells]
    return {
        "inputs": jax.random.normal(of_inputs, (frame.inputs, channels)),
        "outputs": jax.random.normal(of_outputs, (frame.outputs, channels)),
        "there": cells[:ROLES],
        "back": cells[ROLES:],
    }


def _initial_cell(key: Array, frame: Frame, channels: int) -> dict[str, Array]:
    """What one role of edges does: factors of what is sent, and features to states."""
    of_entries, of_labels, of_states = jax.random.split(key, 3)
    signs = partial(jax.random.rademacher, dtype=jnp.float32)
    return {
        "entries": signs(of_entries, (frame.entries, channels)),
        "labels": signs(of_labels, (frame.parallel, channels)),
        "values": jnp.ones((frame.values, channels)),  # a bias enters as in the network itself
        "states": KEPT * initial_matrix(of_states, 2 * channels, channels),
    }


def _signals(
    spec: ParamSpec, frame: Frame, channels: int, params: Tree, weights: Float[Array, "b p"]
) -> Signals:
    graph = graph_of(spec)
    weights, keeping = jnp.asarray(weights), _keeping(spec, graph)
    values = [_values(graph, weights, number) for number in range(len(graph.sets))]
    there = _begin(graph, weights, INPUT, params["inputs"], channels)
    for block in graph.blocks:
        cell = params["there"][_role(graph, block)]
        sent = there[block.source]
        found = _sums(frame, block, cell, weights, sent)
        found = found + values[block.target] @ cell["values"][: values[block.target].shape[-1]]
        there[block.target] += _state(keeping[block.target], cell, found)
    back = _begin(graph, weights, OUTPUT, params["outputs"], channels)
    for block in reversed(graph.blocks):
        cell = params["back"][_role(graph, block)]
        found = _sums(frame, _turned(block), cell, weights, back[block.target])
        back[block.source] += _state(keeping[block.source], cell, found)
    return Signals(there, back)


def _begin(
    graph: Graph, weights: Float[Array, "b p"], role: int, table: Float[Array, "t f"], channels: int
) -> States:
    """Zeros, but for the nodes with an identity, where the sweep begins."""
    states, begin = [], 0
    for nodes in graph.sets:
        state = jnp.zeros((nodes.size, channels), weights.dtype)
        if nodes.role == role:
            state, begin = table[begin : begin + nodes.size], begin + nodes.size
        states.append(jnp.broadcast_to(state, (len(weights), nodes.size, channels)))
    return states


def _state(
    keeping: str | None, cell: dict[str, Array], sums: Float[Array, "b n f"]
) -> Float[Array, "b n f"]:
    """States from sums; where a sweep ends, sums as they are."""
    if keeping is None:
        return sums
    features = KEEPING[keeping](sums)
    return features @ cell["states"][: features.shape[-1]]


def _sums(
    frame: Frame,
    block: Block,
    cell: dict[str, Array],
    weights: Float[Array, "b p"],
    sent: Float[Array, "b s f"],
) -> Float[Array, "b t f"]:
    """Weights times what their sources send, summed at the targets: one product of matrices."""
    targets, sources, numbers = block.entries.shape
    factors = cell["entries"][frame.places(block)] * cell["labels"][block.label]
    factored = (sent[:, :, None] * factors).reshape(len(sent), sources * numbers, -1)
    edges = weights[:, block.entries.reshape(targets, sources * numbers)]
    return edges @ factored


def _turned(block: Block) -> Block:
    """The same edges in the other direction."""
    return Block(
        block.target, block.source, block.label, block.kernel, block.entries.swapaxes(0, 1)
    )


def _role(graph: Graph, block: Block) -> int:
    ends = graph.sets[block.source].role == INPUT, graph.sets[block.target].role == OUTPUT
    return ends[0] + 2 * ends[1]


def _keeping(spec: ParamSpec, graph: Graph) -> list[str | None]:
    """Scaling of each set of nodes; nothing for inputs and outputs."""
    scalings = dict(spec.scalings)
    return [
        scalings.get(nodes.name, "none") if nodes.role == HIDDEN else None for nodes in graph.sets
    ]


def _values(graph: Graph, weights: Float[Array, "b p"], number: int) -> Float[Array, "b n v"]:
    """Numbers of the nodes of a set, zero where a node has fewer than others."""
    nodes = graph.sets[number]
    index = graph.values[nodes.begin : nodes.begin + nodes.size]
    return jnp.where(index >= 0, weights[:, index], 0)


# ---------------------------------------------------------------------------------------- summaries
def _summary(graph: Graph, pairs: Float[Array, "f f"], signals: Signals) -> Float[Array, "b i"]:
    """Invariants of whole networks, as logarithms where they are large."""
    roles: list[list[Array]] = [[] for _ in range(SUMMARIES)]
    for nodes, there, back in zip(graph.sets, *signals, strict=True):
        roles[nodes.role].append((there @ pairs * back).sum(axis=1))
        if nodes.role == OUTPUT:
            roles[-1].append(jnp.sqrt(jnp.square(there).mean(axis=1) + SQUARE_FLOOR))
    nothing = jnp.zeros_like(signals.there[0][:, 0])  # of a network without hidden units
    means = [sum(role, nothing) / max(1, len(role)) for role in roles]
    return jnp.concatenate([jnp.arcsinh(mean) for mean in means], axis=-1)


# ------------------------------------------------------------------------------------------ changes
def _initial_change(key: Array, frame: Frame, channels: int) -> list[dict[str, Array]]:
    """Of each role of edges: how states at both ends make a number."""
    return [_initial_ends(k, frame, channels) for k in jax.random.split(key, ROLES)]


def _initial_ends(key: Array, frame: Frame, channels: int) -> dict[str, Array]:
    of_pairs, of_left, of_right, of_entries, of_values = jax.random.split(key, 5)
    size = channels**-0.5
    return {
        "pairs": initial_matrix(of_pairs, channels, channels),
        "left": initial_matrix(of_left, 2 * channels, channels),
        "right": initial_matrix(of_right, 2 * channels, channels),
        "entries": size * jax.random.normal(of_entries, (frame.entries, channels)),
        "values": size * jax.random.normal(of_values, (frame.values, channels)),
        "shares": jnp.zeros((channels, 1)),
    }


def _change(
    spec: ParamSpec,
    body: Body,
    params: list[dict[str, Array]],
    weights: Float[Array, "b p"],
    signals: Signals,
) -> Float[Array, "b p"]:
    """A number for every parameter, in the order of the flat vector."""
    graph, frame, keeping = body.graph, body.frame, _keeping(spec, body.graph)
    size = _size(signals)
    places, numbers = [], []
    for block in graph.blocks:
        ends = params[_role(graph, block)]
        left = _end(signals, keeping, block.target, ends, "left")
        right = _end(signals, keeping, block.source, ends, "right")
        factors = ends["entries"][frame.places(block)]
        products = jnp.einsum("btf,bsf,kf->btsk", left, right / size[:, None, None], factors)
        shares = _shares(signals, block.target, ends)[:, :, None]
        shares = shares + _shares(signals, block.source, ends)[:, None]
        numbers.append(products + weights[:, block.entries] * shares[..., None])
        places.append(block.entries)
    for number, nodes in enumerate(graph.sets):
        index = graph.values[nodes.begin : nodes.begin + nodes.size]
        ends, known = params[(nodes.role == INPUT) + 2 * (nodes.role == OUTPUT)], index >= 0
        left = _end(signals, keeping, number, ends, "left")
        products = left / size[:, None, None] @ ends["values"][: index.shape[1]].T
        own = weights[:, index] * _shares(signals, number, ends)[..., None]
        numbers.append((products + own)[:, known])
        places.append(index[known])
    flat = jnp.concatenate([part.reshape(len(weights), -1) for part in numbers], axis=1)
    return flat[:, np.argsort(np.concatenate([part.reshape(-1) for part in places]))]


def _size(signals: Signals) -> Float[Array, " b"]:
    """How large products of states there and back are in a network: an invariant, at least 1.

    States are as large as the weights make them; what is said about parameters is not.
    """
    totals = [(there * back).sum(axis=1) for there, back in zip(*signals, strict=True)]
    return 1 + jnp.sqrt(jnp.square(jnp.stack(totals)).mean(axis=(0, 2)) + SQUARE_FLOOR)


def _end(
    signals: Signals, keeping: list[str | None], number: int, ends: dict[str, Array], side: str
) -> Float[Array, "b n f"]:
    """What the nodes of a set give to the weights that lead to them (left) or from them (right).

    A weight moves with its target and against its source, and so must both sides.
    """
    with_it, against = signals.there[number], signals.back[number]
    if side == "right":
        with_it, against = against, with_it
    either = keeping[number] is None or keeping[number] in OWN_INVERSE
    against = against if either else jnp.zeros_like(against)
    return jnp.concatenate([with_it, against], axis=-1) @ ends[side]


def _shares(signals: Signals, number: int, ends: dict[str, Array]) -> Float[Array, "b n"]:
    """By how much of themselves weights at the nodes of a set change."""
    pairs = signals.there[number] @ ends["pairs"] * signals.back[number]
    return (jnp.arcsinh(pairs) @ ends["shares"])[..., 0]
