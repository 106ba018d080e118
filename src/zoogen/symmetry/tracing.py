"""Tracing: the spec of any network from the program of its function.

Every axis of every value in the program is a tuple of atoms (`atoms`). Rules per primitive say
which atoms meet (`primitives`); what reaches an input, an output or an unknown primitive is fixed.
Atoms that stay free are groups of units (`labels`). All that a spec claims is tried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from zoogen.errors import ConfigError
from zoogen.params import ParamSpec
from zoogen.symmetry.atoms import Dim, fix, fixed, free
from zoogen.symmetry.check import (
    CLAIMS,
    Finding,
    findings_of,
    random_member,
    refuse_wrong_claims,
    tolerance_of,
)
from zoogen.symmetry.labels import Labels, Layout, label
from zoogen.symmetry.primitives import Value, Walk, constant

MEMBERS = 3
"""Members on which a symmetry must hold: in a dead one everything does."""

_SPREAD = 0.5  # of the logarithm of entries that must stay positive


@dataclass(frozen=True)
class Traced:
    """A network's parameters as flat vectors of a spec that was found by tracing.

    Attributes:
        spec: names (keys joined by dots), sizes and symmetries. Axes stand in PyTorch order,
            what a parameter gives before what it reads; where the network has them otherwise, or
            has heads and their dimensions on two axes, :meth:`flatten` reorders and merges them.
        layouts: parameter → how it is reordered.
        places: of the spec's parameters among the leaves of the network's tree.
        tree: structure of the network's parameters.
        findings: what was tried on each group, and how much the outputs changed.
        opaque: primitives that tracing has no rule for; all that they touch is fixed.
    """

    spec: ParamSpec
    layouts: Mapping[str, Layout]
    places: tuple[int, ...]
    tree: Any
    findings: tuple[Finding, ...] = ()
    opaque: tuple[str, ...] = ()

    def flatten(self, params: Any) -> Any:
        """Parameters as the network has them, with any leading axes → flat vectors ``[*m p]``."""
        leaves = jax.tree.leaves(params)
        ordered = {}
        for place, (name, layout) in zip(self.places, self.layouts.items(), strict=True):
            leaf = leaves[place]
            lead = leaf.shape[: leaf.ndim - len(layout.shape)]
            axes = [*range(len(lead)), *(len(lead) + i for i in layout.order)]
            split = leaf.reshape((*lead, *layout.atoms)).transpose(axes)
            ordered[name] = split.reshape((*lead, *self.spec[name].shape))
        return self.spec.flatten(ordered)

    def unflatten(self, values: Any) -> Any:
        """Flat vectors ``[*m p]`` → parameters as the network has them; inverse of `flatten`."""
        lead, named = values.shape[:-1], self.spec.unflatten(values)
        leaves: list[Any] = [None] * len(self.places)
        for place, (name, layout) in zip(self.places, self.layouts.items(), strict=True):
            split = named[name].reshape((*lead, *(layout.atoms[i] for i in layout.order)))
            back = [*range(len(lead)), *(len(lead) + int(i) for i in np.argsort(layout.order))]
            leaves[place] = split.transpose(back).reshape((*lead, *layout.shape))
        return jax.tree.unflatten(self.tree, leaves)


def trace_spec(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    tolerance: float | None = None,
    seed: int = 0,
) -> Traced:
    """Find the symmetry of a network in the program that its function is.

    Units are what no input, no output and no order along an axis tells apart; units that meet
    (in a product, a sum, a residual stream) move together. Where heads own dimensions, or norms
    own channels, groups are nested. Continuous symmetries are those that nothing on a group's way
    breaks and that random elements confirm. The spec never claims too much; it may claim too
    little where a primitive is unknown, or where axes are cut and joined unevenly.

    Args:
        apply: ``(params, *inputs) → outputs``, traceable and deterministic.
        params: any pytree of arrays or of ``jax.ShapeDtypeStruct``; leaves that are positive
            throughout (variances) stay so in the trial.
        inputs: arrays or shapes of floating-point arrays, as ``apply`` takes them.
        tolerance: of changes of the output, relative to the largest; 1e-5 in float32, 1e-10 in
            float64.
        seed: of the trial.

    Returns:
        The spec, and functions from the network's parameters to flat vectors and back.

    Raises:
        ConfigError: if there are no parameters, or a random permutation of a group that was found
            changes the output.

    Example:
        >>> params = {"hidden": {"kernel": np.ones((2, 5))}, "output": {"kernel": np.ones((5, 3))}}
        >>> apply = lambda p, x: jnp.tanh(x @ p["hidden"]["kernel"]) @ p["output"]["kernel"]
        >>> traced = trace_spec(apply, params, np.ones((4, 2), np.float32))
        >>> [(group.name, group.size, group.scaling) for group in traced.spec.groups.values()]
        [('hidden', 5, 'sign')]
        >>> traced.spec["hidden.kernel"].shape, traced.flatten(params).shape
        ((5, 2), (25,))
    """
    leaves, tree = jax.tree.flatten(params)
    if not leaves:
        raise ConfigError("trace_spec: expected parameters, found none; pass the network's pytree")
    numbers = dict(_named(jax.tree.unflatten(tree, range(len(leaves)))))  # JAX sorts keys
    names = [name for name, _ in _named(params)]
    places = tuple(numbers[name] for name in names)
    dims, walk = _traced(apply, params, inputs)
    labels = label({name: dims[place] for name, place in zip(names, places, strict=True)}, walk)
    spec = ParamSpec.build(labels.axes, parents=labels.parents)
    bare = Traced(spec, labels.layouts, places, tree, opaque=tuple(sorted(walk.opaque)))
    return _tried(bare, labels, apply, params, inputs, tolerance, seed)


def _named(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys joined by dots and leaves, in the order in which mappings hold them."""
    if isinstance(tree, Mapping):
        children = [(str(key), value) for key, value in tree.items()]
    else:
        pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
        if not pairs or not pairs[0][0]:
            yield from [(prefix or "params", leaf) for _, leaf in pairs]
            return
        keystr = partial(jax.tree_util.keystr, simple=True, separator=".")
        children = [(keystr(path), value) for path, value in pairs]
    for key, value in children:
        yield from _named(value, f"{prefix}.{key}" if prefix else key)


def _traced(
    apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...]
) -> tuple[list[tuple[Dim, ...]], Walk]:
    """Atoms of every leaf's axes after a walk through the program."""
    closed = jax.make_jaxpr(apply)(params, *inputs)
    leaves = jax.tree.leaves(params)
    used = {id(v) for equation in closed.jaxpr.eqns for v in equation.invars}
    variables = closed.jaxpr.invars
    operands = [
        Value(tuple((free if id(v) in used else fixed)(n) for n in np.shape(leaf)))
        for v, leaf in zip(variables, leaves, strict=False)
    ]
    given = [Value(tuple(fixed(n) for n in v.aval.shape)) for v in variables[len(leaves) :]]
    walk = Walk()
    constants = [constant(c) for c in closed.consts]
    for value in walk.walk(closed.jaxpr, constants, [*operands, *given]):
        for dim in value.dims:
            fix(dim)
    return [value.dims for value in operands], walk


def _tried(
    bare: Traced,
    labels: Labels,
    apply: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    tolerance: float | None,
    seed: int,
) -> Traced:
    """Refuse permutations that change the output, and add the scalings that do not."""
    rng, dtype = np.random.default_rng(seed), jnp.result_type(float)
    drawn = tuple(jax.tree.map(lambda x: _drawn(x, rng, dtype), inputs))
    members = [_member(bare, params, rng) for _ in range(MEMBERS)]
    tries = [findings_of(bare.spec, apply, bare.unflatten, drawn, m, rng) for m in members]
    found = tuple(max(same, key=_error) for same in zip(*tries, strict=True))
    allowed = tolerance_of(dtype) if tolerance is None else tolerance
    refuse_wrong_claims("traced spec", found, allowed)
    scalings = {group: _scaling(group, found, labels, allowed) for group in bare.spec.groups}
    spec = ParamSpec.build(labels.axes, scalings, labels.parents)
    claims = tuple(f._replace(claimed=f.kind in CLAIMS[scalings[f.group]]) for f in found)
    return replace(bare, spec=spec, findings=claims)


def _error(finding: Finding) -> float:
    return np.inf if np.isnan(finding.error) else finding.error


def _scaling(group: str, found: tuple[Finding, ...], labels: Labels, allowed: float) -> str:
    """The largest continuous symmetry that held in all trials and that nothing breaks."""
    held = {f.kind for f in found if f.group == group and f.error <= allowed}
    kinds = held - labels.broken.get(group, frozenset())
    return next(name for name in ("nonzero", "positive", "sign", "none") if kinds >= _scales(name))


def _scales(scaling: str) -> set[str]:
    return {kind for kind in CLAIMS[scaling] if kind != "permutation"}


def _drawn(given: Any, rng: np.random.Generator, dtype: Any) -> Any:
    """An input as it is given; a normal one where only its shape is."""
    if not isinstance(given, jax.ShapeDtypeStruct):
        real = np.issubdtype(np.asarray(given).dtype, np.floating)
        return jnp.asarray(given, dtype if real else None)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ConfigError(
            f"trace_spec: expected values of an input of type {given.dtype}, found its shape "
            f"{given.shape} alone; pass an array that the network can take"
        )
    return jnp.asarray(rng.normal(size=given.shape), dtype)


def _member(traced: Traced, params: Any, rng: np.random.Generator) -> Float[np.ndarray, " p"]:
    """A random member; entries of leaves that are given positive throughout stay positive."""
    member = random_member(traced.spec, rng)
    leaves = jax.tree.leaves(params)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return member
    given = traced.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
    for parameter in traced.spec.parameters:
        here = slice(parameter.offset, parameter.offset + parameter.size)
        if (given[here] > 0).all():
            member[here] = given[here] * np.exp(_SPREAD * rng.normal(size=parameter.size))
    return member
