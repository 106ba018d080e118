"""Weight matching: the element that brings one member's weights closest to another's."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import ThreadpoolController

from zoogen.params import ParamSpec
from zoogen.symmetry.assignment import best_order, picked
from zoogen.symmetry.elements import Element, act, apply
from zoogen.symmetry.matching import (
    Matching,
    comparable,
    complete,
    is_signed,
    overwrite,
    paired,
    select,
    unmatched,
)
from zoogen.symmetry.units import Place, by_unit, places, refuse_nested_groups

CHUNK_ENTRIES = 2**19  # weights of the pairs that are matched side by side: they stay in cache
GAIN = 1e-7  # smallest relative gain that counts; below lies the rounding of float32


def weight_matching(
    spec: ParamSpec,
    a: Float[np.ndarray, "*q p"],
    b: Float[np.ndarray, "q p"],
    start: Element | None = None,
    restarts: int = 0,
    seed: int = 0,
    max_sweeps: int = 100,
) -> Matching:
    """Match the units of ``b`` to those of ``a`` by their weights, for many pairs at once.

    Maximises the inner product ⟨a, g·b⟩ over the permutations g of all groups (and the signs of
    sign groups), which minimises the distance |a − g·b|: one group at a time, exactly, the others
    held fixed, until no group changes. The default start assigns each group by those weights alone
    whose other end is an input, an output or a group that is assigned already; so the result does
    not depend on the order in which the units of ``b`` happen to stand, and an equivalent member
    is recognised. Pairs that end below the identity start again from there. Positive scales are
    not searched: bring both members to one scale first (:func:`~zoogen.symmetry.canonical`) where
    that matters. Running statistics move with their units, but do not count.

    Args:
        spec: of the network.
        a: flat weights to align with; one member, or one per pair.
        b: flat weights that are aligned.
        start: elements to start from instead, ``[q, units]`` or one for all.
        restarts: further runs from random elements; the best run of each pair counts.
        seed: of the restarts; all pairs share them.
        max_sweeps: bound on the passes of a run.

    Raises:
        ConfigError: if the spec has nested groups, or the weights another length than it.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"hidden.weight": (Axis(3, "hidden"), Axis(2))})
        >>> a = np.array([[1.0, 0.0, 0.0, 1.0, -1.0, 0.0]])
        >>> b = spec.permute(a, {"hidden": np.array([2, 0, 1])})
        >>> weight_matching(spec, a, b).elements.permutations["hidden"].tolist()
        [[1, 2, 0]]

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation
        symmetries, 2022. We differ in the start, and in the signs.
    """
    refuse_nested_groups(spec, "weight matching")
    a, b = (spec.without_statistics(values) for values in paired(spec, a, b))
    given = start if start is None else complete(spec, start, len(b))
    random = [_random(spec, seed + i, len(b)) for i in range(restarts)]
    whole = unmatched(spec, len(b))
    rows = max(1, CHUNK_ENTRIES // max(spec.size, 1))
    with _blas().limit(limits=1, user_api="blas"):
        for begin in range(0, len(b), rows):
            here = slice(begin, begin + rows)
            chosen = begin + np.flatnonzero(comparable(a[here], b[here]))
            starts = [select(chosen, start) for start in (given, *random)]
            overwrite(whole, chosen, _match(spec, a[chosen], b[chosen], starts, max_sweeps))
    return whole


@cache
def _blas() -> ThreadpoolController:
    """Products of single pairs are too small for two threads: a second one doubles the CPU time,
    gains nothing, and stalls where cores are busy. (SciPy's solver holds the interpreter lock, so
    that threads over chunks gain nothing either.)"""
    return ThreadpoolController()


def _random(spec: ParamSpec, seed: int, pairs: int) -> Element:
    return complete(spec, Element(dict(spec.random_permutation(seed)), {}), pairs)


# ------------------------------------------------------------------------------ pairs of one chunk
def _match(
    spec: ParamSpec, a: np.ndarray, b: np.ndarray, starts: list[Element | None], max_sweeps: int
) -> Matching:
    """The best run of each pair."""
    best = _descend(spec, a, b, starts[0], max_sweeps)
    for start in starts[1:]:
        other = _descend(spec, a, b, start, max_sweeps)
        better = np.flatnonzero(other.after > best.after + GAIN * np.abs(best.after))
        overwrite(best, better, select(better, other))
    worse = np.flatnonzero(best.after < best.before)
    if worse.size:  # a start that led below the identity: start there
        start = complete(spec, Element({}, {}), worse.size)
        overwrite(best, worse, _descend(spec, a[worse], b[worse], start, max_sweeps))
    return best


def _descend(
    spec: ParamSpec, a: np.ndarray, b: np.ndarray, start: Element | None, max_sweeps: int
) -> Matching:
    """Sweep over the groups until nothing changes; pairs that are done leave."""
    result = unmatched(spec, len(b))
    problem = _problem(spec, a, b)
    element = _anchored(spec, problem) if start is None else start
    active = np.arange(len(b))
    for sweep in range(1, max_sweeps + 1):
        element, changed = _sweep(spec, problem, element)
        overwrite(result.elements, active, element)
        result.sweeps[active] = sweep
        if not changed.all():
            problem, element, active = select(changed, (problem, element, active))
        if not active.size:
            break
    result.before[:] = _inner(a, b)
    result.after[:] = _inner(a, apply(spec, result.elements, b))
    return result


class _Problem(NamedTuple):
    """Two members of each pair, laid out for similarities of units.

    Attributes:
        a, b: named parameters ``[q, *shape]``.
        rows: group → per place that another group touches, the rows of ``a`` by unit.
        fixed: group → similarities ``[q, n, n]`` by the other places, which never change.
    """

    a: dict[str, np.ndarray]
    b: dict[str, np.ndarray]
    rows: dict[str, list[np.ndarray]]
    fixed: dict[str, np.ndarray]


def _problem(spec: ParamSpec, a: np.ndarray, b: np.ndarray) -> _Problem:
    parts_a, parts_b = spec.unflatten(a), spec.unflatten(b)
    rows, fixed = {}, {}
    for group, size in ((g.name, g.size) for g in spec.groups.values()):
        rows[group] = [_of_units(place, parts_a) for place in _touched(spec, group)]
        fixed[group] = np.zeros((len(b), size, size), b.dtype)
        for place in _untouched(spec, group):
            fixed[group] += _similarity(_of_units(place, parts_a), _of_units(place, parts_b))
    return _Problem(parts_a, parts_b, rows, fixed)


def _touched(spec: ParamSpec, group: str) -> list[Place]:
    return [place for place in places(spec, group) if place.others]


def _untouched(spec: ParamSpec, group: str) -> list[Place]:
    return [place for place in places(spec, group) if not place.others]


def _of_units(place: Place, parts: dict[str, np.ndarray]) -> Float[np.ndarray, "q n r"]:
    return by_unit(place, parts[place.parameter.name])


def _similarity(a: Float[np.ndarray, "q n r"], b: Float[np.ndarray, "q n r"]) -> np.ndarray:
    return a @ b.swapaxes(-1, -2)


def _anchored(spec: ParamSpec, problem: _Problem) -> Element:
    """Groups one after another, each by the weights whose other end is assigned already."""
    element = complete(spec, Element({}, {}), _pairs(problem))
    known: set[str] = set()
    for group in spec.groups:
        similarity = _similarities(spec, problem, element, group, known)
        element = _replaced(element, group, *best_order(similarity, is_signed(spec, group)))
        known.add(group)
    return element


def _sweep(
    spec: ParamSpec, problem: _Problem, element: Element
) -> tuple[Element, Bool[np.ndarray, " q"]]:
    """Reassign every group once, where that gains; and which pairs changed."""
    changed = np.zeros(_pairs(problem), bool)
    for group in spec.groups:
        similarity = _similarities(spec, problem, element, group)
        proposed = _replaced(element, group, *best_order(similarity, is_signed(spec, group)))
        if any(group in place.others for place in places(spec, group)):
            old, new = (_exact_value(spec, problem, e, group) for e in (element, proposed))
        else:
            old, new = (_value(similarity, e, group) for e in (element, proposed))
        gained = new - old > GAIN * np.abs(new)
        element = _where(gained, proposed, element)
        changed |= gained
    return element, changed


def _similarities(
    spec: ParamSpec,
    problem: _Problem,
    element: Element,
    group: str,
    known: Set[str] | None = None,
) -> Float[np.ndarray, "q n n"]:
    """Inner products of units of ``a`` and ``b``, the other groups of ``b`` moved by the element.

    With ``known``, only by weights whose other end is in those groups; by all where none are.
    """
    pairs = list(zip(_touched(spec, group), problem.rows[group], strict=True))
    if known is not None:
        among = [(place, rows) for place, rows in pairs if place.others <= known]
        pairs = among if among or _untouched(spec, group) else pairs
    total = problem.fixed[group]
    for place, rows in pairs:
        of_b = problem.b[place.parameter.name]
        moved = act(place.parameter, element, of_b, skip=place.position)
        total = total + _similarity(rows, by_unit(place, moved))
    return total


def _value(similarity: np.ndarray, element: Element, group: str) -> Float[np.ndarray, " q"]:
    """What a group's order and signs add to the objective."""
    values = picked(similarity, np.asarray(element.permutations[group]))
    if group in element.factors:
        values = values * element.factors[group]
    return values.sum(axis=-1, dtype=np.float64)


def _exact_value(
    spec: ParamSpec, problem: _Problem, element: Element, group: str
) -> Float[np.ndarray, " q"]:
    """The same for a group that lies along two axes of one parameter: there, similarities are
    those under the old order of the other axis, and a better sum of them may be a worse match."""
    names = {place.parameter.name for place in places(spec, group)}
    total = np.zeros(_pairs(problem))
    for name in names:
        total += _inner(problem.a[name], act(spec[name], element, problem.b[name]))
    return total


def _replaced(element: Element, group: str, order: np.ndarray, signs: np.ndarray | None) -> Element:
    factors = element.factors if signs is None else {**element.factors, group: signs}
    return Element({**element.permutations, group: order}, factors)


def _where(condition: Bool[np.ndarray, " q"], then: Element, other: Element) -> Element:
    return jax.tree.map(lambda x, y: np.where(condition[:, None], x, y), then, other)


def _inner(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " q"]:
    product = np.multiply(a, b, dtype=np.float64)
    return product.reshape(len(a), -1).sum(axis=-1)


def _pairs(problem: _Problem) -> int:
    return len(next(iter(problem.b.values())))
