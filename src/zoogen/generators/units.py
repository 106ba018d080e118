"""A field over units: weights carry messages between units, and all units attend to one another.

A unit is a token: what it owns towards inputs and outputs, and its bias, is the content. A weight
between two units has no state of its own. What is read there, noise included, multiplies the
messages that pass along it in both directions, as a network's own sums do; what is returned there
is an inner product of what both its units know, beside multiples of what was read. So work grows
with units more than with weights, and a reordering of units reorders everything.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.generators.flow import Field, condition_size
from zoogen.models.equivariant import with_channels
from zoogen.models.heads import initial_matrix, initial_mlp, mlp
from zoogen.models.leaves import Features, Leaf, fold, leaves_of, unfold
from zoogen.models.modulation import initial_modulation, modulated, normalised
from zoogen.params import ParamSpec
from zoogen.symmetry.units import refuse_nested_groups

EMBEDDING = 64  # of condition and time
POSITIONS = 4  # most kernel positions that a message tells apart, as learned mixtures
MATRICES = {"attend", "hidden", "back", "values"}  # of a layer
WHOLE = ""  # the set of the one token that owns what no unit does

Tokens = dict[str, Float[Array, "b n f"]]


class _Edge(NamedTuple):
    """A parameter between two sets of units, seen from one of them."""

    leaf: Leaf
    target: str
    source: str
    turned: bool


class _Plan(NamedTuple):
    """How a spec's parameters lie on units.

    Attributes:
        leaves: all, in the order of the spec.
        sets: groups of units, and ``WHOLE``.
        own: of each set, the leaves that its units own.
        between: leaves between units.
        edges: the same, in both directions.
    """

    leaves: tuple[Leaf, ...]
    sets: tuple[str, ...]
    own: dict[str, list[Leaf]]
    between: list[Leaf]
    edges: list[_Edge]

    def owned(self, group: str) -> int:
        """Weights that a unit owns."""
        return sum(leaf.fixed for leaf in self.own[group])


class _Sizes(NamedTuple):
    """Numbers that a field works with."""

    channels: int
    depth: int
    heads: int
    rank: int
    reads: int

    @property
    def heard(self) -> int:
        """Numbers of a message, and of what a unit hears by attention."""
        return self.channels // 2


def unit_field(
    spec: ParamSpec,
    conditions: int,
    channels: int = 96,
    depth: int = 4,
    heads: int = 4,
    rank: int = 48,
    gradients: bool = False,
) -> Field:
    """A field that commutes with every permutation of hidden units, exactly.

    Args:
        spec: of the networks; without nested groups.
        conditions: length of the condition vector.
        channels: features of a unit.
        depth: layers.
        heads: of attention; a divisor of half the channels.
        rank: of what is returned between two sets of units.
        gradients: whether the gradient of each weight is read, too.

    Raises:
        ConfigError: for nested groups, parameters between more than two units, or heads that do
            not divide half the channels.

    Reference:
        Vaswani et al., Attention is all you need, 2017; Peebles and Xie, Scalable diffusion models
        with transformers, 2023, for the condition in every layer; Gilmer et al., Neural message
        passing for quantum chemistry, 2017. We differ in messages that the weights multiply.
    """
    refuse_nested_groups(
        spec, "a flow with a field over units (options.field = 'units')",
        "choose options.field = 'layers' or 'tokens'",
    )  # fmt: skip
    if heads < 1 or channels < 2 or channels // 2 % heads:
        raise ConfigError(
            f"options.heads: found {heads}, expected a divisor of half the {channels} channels"
        )
    plan, sizes = _plan(spec), _Sizes(channels, depth, heads, rank, 1 + gradients)

    def init(key: Array) -> dict[str, Any]:
        of_embedding, of_entry, of_exit, *of_layers = jax.random.split(key, depth + 3)
        read = (condition_size(conditions, gradients), 2 * EMBEDDING, EMBEDDING)
        return {
            "embedding": initial_mlp(of_embedding, read),
            "entry": _initial_entry(of_entry, plan, sizes),
            "layers": [_initial_layer(k, plan, sizes) for k in of_layers],
            "exit": _initial_exit(of_exit, plan, sizes),
        }

    def apply(
        params: dict[str, Any], x: Float[Array, "b d *c"], condition: Float[Array, "b e"]
    ) -> Float[Array, "b d"]:
        embedded = jax.nn.silu(mlp(params["embedding"], condition))
        numbers = with_channels(spec, sizes.reads, x)
        read = fold(spec, plan.leaves, numbers)
        weights = fold(spec, plan.leaves, numbers[..., :1])  # messages pass along these alone
        units = _enter(params["entry"], plan, read)
        for layer in params["layers"]:
            units = _layer(layer, plan, sizes, weights, units, embedded)
        return unfold(plan.leaves, _exit(params["exit"], plan, sizes, read, units, embedded))[
            ..., 0
        ]

    return Field(init, apply, _matrices)


def _matrices(params: dict[str, Any]) -> Any:
    """Those of the layers; what enters, leaves and conditions is no map between features."""

    def moved(path: tuple[Any, ...], _: Any) -> bool:
        names = [getattr(key, "key", None) for key in path]
        return names[0] == "layers" and names[-1] in MATRICES

    return jax.tree_util.tree_map_with_path(moved, params)


def _plan(spec: ParamSpec) -> _Plan:
    leaves = leaves_of(spec)
    many = [leaf for leaf in leaves if len(leaf.slots) > 2]
    if many:
        raise ConfigError(
            f"options.field: 'units' takes parameters between two sets of units at most, found "
            f"{many[0].name!r} between {len(many[0].slots)}; choose 'layers'"
        )
    groups = dict.fromkeys(slot.group for leaf in leaves for slot in leaf.slots)
    own: dict[str, list[Leaf]] = {name: [] for name in (*groups, WHOLE)}
    edges = []
    for leaf in leaves:
        if len(leaf.slots) < 2:
            own[leaf.slots[0].group if leaf.slots else WHOLE].append(leaf)
        else:
            target, source = (slot.group for slot in leaf.slots)
            edges += [_Edge(leaf, target, source, False), _Edge(leaf, source, target, True)]
    between = [leaf for leaf in leaves if len(leaf.slots) == 2]
    return _Plan(leaves, tuple(own), own, between, edges)


def _positions(leaf: Leaf) -> int:
    return min(leaf.fixed, POSITIONS)


def _keys(key: Array, names: Any) -> dict[Any, Array]:
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}


# ------------------------------------------------------------------------------------------- entry
def _initial_entry(key: Array, plan: _Plan, sizes: _Sizes) -> dict[str, Any]:
    of_numbers, of_names = jax.random.split(key)
    names = jax.random.normal(of_names, (len(plan.sets), sizes.channels)) / 2
    return {
        "numbers": {
            group: initial_matrix(k, sizes.reads * plan.owned(group), sizes.channels)
            for group, k in _keys(of_numbers, plan.sets).items()
        },
        "names": dict(zip(plan.sets, names, strict=True)),
    }


def _enter(params: dict[str, Any], plan: _Plan, read: Features) -> Tokens:
    """Of every unit, what it owns; of sets that own nothing, their name alone."""
    batch = len(read[plan.leaves[0].name])
    sizes = {slot.group: slot.size for leaf in plan.leaves for slot in leaf.slots} | {WHOLE: 1}
    units = {}
    for group in plan.sets:
        parts = [read[leaf.name].reshape(batch, sizes[group], -1) for leaf in plan.own[group]]
        empty = jnp.zeros((batch, sizes[group], 0), params["names"][group].dtype)
        numbers = jnp.concatenate([*parts, empty], axis=-1) @ params["numbers"][group]
        units[group] = numbers + params["names"][group]
    return units


# ------------------------------------------------------------------------------------------ layers
def _initial_layer(key: Array, plan: _Plan, sizes: _Sizes) -> dict[str, Any]:
    of_sets, of_edges = jax.random.split(key)
    return {
        "sets": {
            group: _initial_set(k, sizes, sum(edge.target == group for edge in plan.edges))
            for group, k in _keys(of_sets, plan.sets).items()
        },
        "edges": [
            _initial_edge(jax.random.fold_in(of_edges, i), edge.leaf, sizes)
            for i, edge in enumerate(plan.edges)
        ],
    }


def _initial_set(key: Array, sizes: _Sizes, messages: int) -> dict[str, Array]:
    channels, keys = sizes.channels, jax.random.split(key, 3)
    heard = 2 * channels + (messages + 1) * sizes.heard
    return {
        "condition": initial_modulation(EMBEDDING, channels),
        "gate": jnp.zeros((EMBEDDING, channels)),
        "attend": initial_matrix(keys[0], channels, 3 * sizes.heard),
        "hidden": initial_matrix(keys[1], heard, 2 * channels),
        "hidden_bias": jnp.zeros(2 * channels),
        "back": 0.3 * initial_matrix(keys[2], 2 * channels, channels),
    }


def _initial_edge(key: Array, leaf: Leaf, sizes: _Sizes) -> dict[str, Array]:
    of_values, of_positions = jax.random.split(key)
    return {
        "values": initial_matrix(of_values, sizes.channels, sizes.heard * _positions(leaf)),
        "positions": initial_matrix(of_positions, leaf.fixed, _positions(leaf)),
    }


def _layer(
    params: dict[str, Any],
    plan: _Plan,
    sizes: _Sizes,
    weights: Features,
    units: Tokens,
    embedded: Float[Array, "b e"],
) -> Tokens:
    sets = params["sets"]
    x = {
        group: modulated(sets[group]["condition"], normalised(of_group), embedded)
        for group, of_group in units.items()
    }
    heard = {group: [x[group], mates] for group, mates in _mates(x).items()}
    for edge, one in zip(plan.edges, params["edges"], strict=True):
        heard[edge.target].append(_message(one, edge, weights[edge.leaf.name], x[edge.source]))
    for group, of_group in _attended(sets, sizes, x).items():
        heard[group].append(of_group)
    return {
        group: of_group + _update(sets[group], jnp.concatenate(heard[group], axis=-1), embedded)
        for group, of_group in units.items()
    }


def _mates(x: Tokens) -> Tokens:
    """Mean of each unit's set; the token of the whole gets the sum of these means."""
    means = {group: of_group.mean(axis=1, keepdims=True) for group, of_group in x.items()}
    means[WHOLE] = sum(mean for group, mean in means.items() if group != WHOLE) + jnp.zeros_like(
        means[WHOLE]
    )
    return {group: jnp.broadcast_to(means[group], x[group].shape) for group in x}


def _message(
    params: dict[str, Array],
    edge: _Edge,
    weights: Float[Array, "b u v f"],
    source: Float[Array, "b s f"],
) -> Float[Array, "b t m"]:
    """What each unit hears from those that weights join it with, times these weights."""
    mixed = weights if edge.leaf.fixed == 1 else weights @ params["positions"]
    mixed = mixed.swapaxes(1, 2) if edge.turned else mixed
    values = (source @ params["values"]).reshape(*source.shape[:2], mixed.shape[-1], -1)
    return jnp.einsum("btsp,bspm->btm", mixed, values) / math.sqrt(mixed[0, 0].size)


def _attended(sets: dict[str, Any], sizes: _Sizes, x: Tokens) -> Tokens:
    """Attention among all units of all sets."""
    joined = jnp.concatenate([of_set @ sets[name]["attend"] for name, of_set in x.items()], axis=1)
    split = joined.reshape(*joined.shape[:2], 3, sizes.heads, -1)
    query, key, value = (split[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    heard = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)
    ends = list(accumulate(of_set.shape[1] for of_set in x.values()))[:-1]
    parts = jnp.split(heard.reshape(*joined.shape[:2], -1), ends, axis=1)
    return dict(zip(x, parts, strict=True))


def _update(
    params: dict[str, Array], heard: Float[Array, "b n i"], embedded: Float[Array, "b e"]
) -> Float[Array, "b n f"]:
    hidden = jax.nn.silu(heard @ params["hidden"] + params["hidden_bias"])
    return (1 + (embedded @ params["gate"])[:, None]) * (hidden @ params["back"])


# -------------------------------------------------------------------------------------------- exit
def _initial_exit(key: Array, plan: _Plan, sizes: _Sizes) -> dict[str, Any]:
    """Zero but for one of the two factors between units: a new field returns zero."""
    return {
        "condition": {group: initial_modulation(EMBEDDING, sizes.channels) for group in plan.sets},
        "own": {group: jnp.zeros((sizes.channels, plan.owned(group))) for group in plan.sets},
        "targets": [jnp.zeros((sizes.channels, sizes.rank * leaf.fixed)) for leaf in plan.between],
        "sources": [
            initial_matrix(jax.random.fold_in(key, i), sizes.channels, sizes.rank)
            for i in range(len(plan.between))
        ],
        "skips": [
            {
                "condition": jnp.zeros((EMBEDDING, sizes.reads * leaf.fixed)),
                "constant": jnp.zeros(sizes.reads * leaf.fixed),
            }
            for leaf in plan.leaves
        ],
    }


def _exit(
    params: dict[str, Any],
    plan: _Plan,
    sizes: _Sizes,
    read: Features,
    units: Tokens,
    embedded: Float[Array, "b e"],
) -> Features:
    x = {
        group: modulated(params["condition"][group], normalised(of_group), embedded)
        for group, of_group in units.items()
    }
    found: Features = {}
    for group in plan.sets:
        ends = list(accumulate(leaf.fixed for leaf in plan.own[group]))[:-1]
        parts = jnp.split(x[group] @ params["own"][group], ends, axis=-1)
        found |= dict(zip((leaf.name for leaf in plan.own[group]), parts, strict=False))
    for leaf, target, source in zip(
        plan.between, params["targets"], params["sources"], strict=True
    ):
        one, other = (x[slot.group] for slot in leaf.slots)
        left = (one @ target).reshape(*one.shape[:2], leaf.fixed, sizes.rank)
        product = jnp.einsum("bufr,bvr->buvf", left, other @ source)
        found[leaf.name] = product / math.sqrt(sizes.rank)
    for leaf, skip in zip(plan.leaves, params["skips"], strict=True):
        weights = read[leaf.name]
        factor = embedded @ skip["condition"] + skip["constant"]
        factor = factor.reshape(len(factor), *[1] * len(leaf.slots), sizes.reads * leaf.fixed)
        kept = (factor * weights).reshape(*weights.shape[:-1], leaf.fixed, sizes.reads).sum(-1)
        found[leaf.name] = found[leaf.name].reshape(kept.shape) + kept
    return found
