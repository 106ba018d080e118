"""Verification: a spec claims exactly the symmetries that its network has."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.errors import ConfigError
from zoogen.networks import Network
from zoogen.params import Group, ParamSpec, nested_order
from zoogen.symmetry.elements import Element, apply
from zoogen.symmetry.units import places

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
ELEMENTS = 3
CLAIMS = {
    "none": ("permutation",),
    "positive": ("permutation", "positive"),
    "sign": ("permutation", "sign"),
    "nonzero": ("permutation", "positive", "sign"),
}


class Finding(NamedTuple):
    """What random elements of one kind on one group did to the logits.

    Attributes:
        group: of units.
        kind: ``permutation``, ``positive`` (scale) or ``sign``.
        claimed: whether the spec says that they change nothing.
        error: largest change of a logit, relative to the largest logit.
    """

    group: str
    kind: str
    claimed: bool
    error: float


def check_symmetry(
    network: Network, tolerance: float | None = None, seed: int = 0
) -> tuple[Finding, ...]:
    """Compare what a network's spec claims with what its function does.

    Random elements of every group must leave the logits of a random member unchanged, and a
    scale or a sign that the spec does not claim must change them. Precision is JAX's default:
    call it under ``jax.enable_x64(True)`` for a check in float64.

    Args:
        network: its ``spec`` is checked against its ``apply``.
        tolerance: of the change relative to the largest logit; 1e-5 in float32, 1e-10 in float64.
        seed: of the member, the images and the elements.

    Returns:
        What was tried on which group, and how much the logits changed.

    Raises:
        ConfigError: naming the group whose label is wrong.

    Example:
        >>> from zoogen.config import NetworkConfig
        >>> from zoogen.networks import build_network
        >>> network = build_network(NetworkConfig(width=3, depth=1), (1, 2, 2), 2)
        >>> [(f.group, f.kind, f.claimed) for f in check_symmetry(network)][:2]
        [('hidden0', 'permutation', True), ('hidden0', 'positive', True)]
    """
    rng, dtype = np.random.default_rng(seed), jnp.result_type(float)
    allowed = tolerance_of(dtype) if tolerance is None else tolerance
    spec, what = network.spec, f"spec of {network.config.family!r}"
    member = random_member(spec, rng)
    images = jnp.asarray(rng.normal(size=(5, *network.image_shape)), dtype)
    findings = findings_of(spec, network.apply, spec.unflatten, (images,), member, rng)
    refuse_wrong_claims(what, findings, allowed)
    for finding in findings:
        if not finding.claimed and finding.error <= allowed:
            raise ConfigError(
                f"{what}, group {finding.group!r}: {finding.kind} leaves the outputs unchanged, "
                f"but the spec does not say so; set its scaling to {finding.kind!r}, or to "
                "'nonzero' if any factor but zero leaves them"
            )
    return findings


def tolerance_of(dtype: Any) -> float:
    """Largest change, relative to the largest output, that counts as rounding."""
    return TOLERANCES[jnp.dtype(dtype).name]


def refuse_wrong_claims(what: str, findings: tuple[Finding, ...], allowed: float) -> None:
    """Refuse claimed symmetries that change the outputs.

    Raises:
        ConfigError: naming the group whose label is wrong.
    """
    for finding in findings:
        # "not ≤" so that outputs that are not finite fail, too
        if finding.claimed and not finding.error <= allowed:
            raise ConfigError(
                f"{what}, group {finding.group!r}: {finding.kind} should leave the outputs "
                f"unchanged, but they change by {finding.error:.1e} of their scale (allowed "
                f"{allowed:.0e}); correct the axes that name this group, or its scaling"
            )


def findings_of(
    spec: ParamSpec,
    function: Callable[..., Any],
    unflatten: Callable[[Float[np.ndarray, "m p"]], Any],
    inputs: tuple[Any, ...],
    member: Float[np.ndarray, " p"],
    rng: np.random.Generator,
) -> tuple[Finding, ...]:
    """Try random elements of every kind on every group.

    Args:
        spec: what is claimed.
        function: ``(params, *inputs) → outputs``, any pytree of numbers.
        unflatten: flat weights ``[m p]`` → the function's params of m members.
        inputs: of the function.
        member: flat weights that elements act on.
        rng: draws the elements.
    """
    trials = [
        (group, kind)
        for group in spec.groups.values()
        for kind in _ACTIONS
        if (group.size > 1 if kind == "permutation" else any(places(spec, group.name)))
    ]
    elements = [_ACTIONS[kind](spec, group, rng) for group, kind in trials for _ in range(ELEMENTS)]
    members = np.stack([member, *[apply(spec, element, member) for element in elements]])
    params = unflatten(members.astype(jnp.result_type(float)))
    outputs = np.asarray(_program(function)(params, *inputs))
    with np.errstate(invalid="ignore"):
        changes = np.abs(outputs[1:] - outputs[0]).max(axis=1) / np.abs(outputs[0]).max()
    errors = changes.reshape(len(trials), ELEMENTS)
    # A symmetry holds for all elements; without one, a single change is proof enough.
    return tuple(
        Finding(group.name, kind, kind in CLAIMS[group.scaling], float(error.max()))
        for (group, kind), error in zip(trials, errors, strict=True)
    )


def random_member(spec: ParamSpec, rng: np.random.Generator) -> Float[np.ndarray, " p"]:
    """Weights that keep signals large through all layers, biases that are not zero, and variances
    that are positive."""
    draws = {p.name: rng.normal(size=p.shape) for p in spec.parameters}
    fans = {p.name: max(1, math.prod(p.shape[1:])) for p in spec.parameters}
    variances = {name for name, kind in spec.statistics if kind == "variance"}
    result: Float[np.ndarray, " p"] = spec.flatten({
        name: np.exp(draw / 2) if name in variances else 1.5 * draw / math.sqrt(fans[name])
        for name, draw in draws.items()
    })  # fmt: skip
    return result


@lru_cache(maxsize=16)
def _program(function: Callable[..., Any]) -> Callable[..., Float[Array, "m o"]]:
    """Compiled for the parameters of several members, whatever their spec says."""

    def run(params: Any, *inputs: Any) -> Float[Array, "m o"]:
        def outputs(member: Any) -> Float[Array, " o"]:
            leaves = jax.tree.leaves(function(member, *inputs))
            return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

        return jax.lax.map(outputs, params)

    return jax.jit(run)


def _cycle(spec: ParamSpec, group: Group, rng: np.random.Generator) -> Element:
    """Random cycles through all units (of a nested group, through each parent's share): no unit
    stays, so that no wrong label goes unseen. What is nested in a unit moves with it."""
    families = 1 if group.parent is None else spec.groups[group.parent].size
    cycles = [_cyclic_order(group.size // families, rng) for _ in range(families)]
    order = nested_order(np.arange(families), np.stack(cycles))
    orders = {group.name: order}
    for child in spec.groups.values():
        if child.parent == group.name:
            shares = np.tile(np.arange(child.size // group.size), (group.size, 1))
            orders[child.name] = nested_order(order, shares)
    return Element(orders, {})


def _cyclic_order(units: int, rng: np.random.Generator) -> Int[np.ndarray, " units"]:
    around, order = rng.permutation(units), np.empty(units, int)
    order[around] = np.roll(around, 1)
    return order


def _scale(spec: ParamSpec, group: Group, rng: np.random.Generator) -> Element:
    return Element({}, {group.name: np.exp(rng.uniform(0.2, 0.8, group.size))})


def _flip(spec: ParamSpec, group: Group, rng: np.random.Generator) -> Element:
    signs = rng.choice([-1.0, 1.0], group.size)
    signs[rng.integers(group.size)] = -1
    return Element({}, {group.name: signs})


_ACTIONS: dict[str, Callable[[ParamSpec, Group, np.random.Generator], Element]] = {
    "permutation": _cycle,
    "positive": _scale,
    "sign": _flip,
}
