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
from zoogen.networks.architecture import Apply
from zoogen.params import Group, Params, ParamSpec, nested_order
from zoogen.symmetry.elements import Element, apply
from zoogen.symmetry.units import places

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
ELEMENTS = 3


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
    dtype = jnp.result_type(float)
    allowed = TOLERANCES[dtype.name] if tolerance is None else tolerance
    findings = _findings(network, np.random.default_rng(seed), dtype)
    for finding in findings:
        # "not ≤" so that logits that are not finite fail, too
        if finding.claimed and not finding.error <= allowed:
            raise ConfigError(
                f"spec of {network.config.family!r}, group {finding.group!r}: {finding.kind} "
                f"should leave the logits unchanged, but they change by {finding.error:.1e} of "
                f"their scale (allowed {allowed:.0e}); correct the axes that name this group, or "
                "its scaling"
            )
    for finding in findings:
        if not finding.claimed and finding.error <= allowed:
            raise ConfigError(
                f"spec of {network.config.family!r}, group {finding.group!r}: {finding.kind} "
                f"leaves the logits unchanged, but the spec does not say so; set its scaling to "
                f"{finding.kind!r}"
            )
    return findings


def _findings(network: Network, rng: np.random.Generator, dtype: Any) -> tuple[Finding, ...]:
    spec = network.spec
    vector = _random_member(spec, rng)
    images = jnp.asarray(rng.normal(size=(5, *network.image_shape)), dtype)
    trials = [
        (group, kind)
        for group in spec.groups.values()
        for kind in _ACTIONS
        if (group.size > 1 if kind == "permutation" else any(places(spec, group.name)))
    ]
    elements = [_ACTIONS[kind](spec, group, rng) for group, kind in trials for _ in range(ELEMENTS)]
    members = np.stack([vector, *[apply(spec, element, vector) for element in elements]])
    params = spec.unflatten(jnp.asarray(members, dtype))
    logits = np.asarray(_program(network.apply)(params, images))
    changes = np.abs(logits[1:] - logits[0]).max(axis=(1, 2)) / np.abs(logits[0]).max()
    errors = changes.reshape(len(trials), ELEMENTS)
    # A symmetry holds for all elements; without one, a single change is proof enough.
    return tuple(
        Finding(group.name, kind, kind in ("permutation", group.scaling), float(error.max()))
        for (group, kind), error in zip(trials, errors, strict=True)
    )


def _random_member(spec: ParamSpec, rng: np.random.Generator) -> Float[np.ndarray, " p"]:
    """Weights that keep signals large through all layers, and biases that are not zero."""
    draws = {p.name: rng.normal(size=p.shape) for p in spec.parameters}
    fans = {p.name: max(1, math.prod(p.shape[1:])) for p in spec.parameters}
    result: Float[np.ndarray, " p"] = spec.flatten(
        {name: 1.5 * draw / math.sqrt(fans[name]) for name, draw in draws.items()}
    )
    return result


@lru_cache(maxsize=16)
def _program(function: Apply) -> Callable[[Params, Array], Array]:
    """Compiled for the parameters of several members, whatever their spec says."""

    def run(params: Params, images: Array) -> Float[Array, "m b k"]:
        return jax.lax.map(lambda member: function(member, images), params)

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
