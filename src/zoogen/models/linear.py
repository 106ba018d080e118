"""The equivariant linear layer: all linear maps of weights that commute with their symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.models.leaves import Features, Leaf
from zoogen.models.views import Gatherer, Meeting, View, meetings, spread


class Weights(NamedTuple):
    """What a layer learns.

    Attributes:
        matrices: one per meeting, features of all its sources → features of all its targets.
        bias: one number per feature of each target that keeps no slot: the invariants.
    """

    matrices: tuple[Float[Array, "i o"], ...]
    bias: Float[Array, " o"]


class Linear(NamedTuple):
    """A layer as pure functions.

    Attributes:
        init: ``key → weights``.
        apply: ``(weights, features) → features``.
    """

    init: Callable[[Array], Weights]
    apply: Callable[[Weights, Features], Features]


def equivariant_linear(
    leaves: tuple[Leaf, ...], inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> Linear:
    """The complete affine equivariant layer between features of leaves.

    Features of a leaf are arrays ``[b *slots f]``. All pairs of leaves interact. The number of
    free weights per channel pair is the dimension of the space of equivariant maps, as long as
    ``f`` is the leaf's ``fixed`` times channels and no leaf bears a group of fewer than four units
    twice.

    Args:
        leaves: of a spec, see :func:`~zoogen.models.leaves.leaves_of`.
        inputs: features that come in, per leaf.
        outputs: features that go out, per leaf.

    Returns:
        Initial weights and biases are normal with variance 1 / (2 × number of features that one
        matrix reads); biases are not zero, because at zero the layer can't tell some inputs apart.

    Example:
        >>> from zoogen.models.leaves import leaves_of
        >>> from zoogen.params import Axis, ParamSpec
        >>> axes = {"weight": (Axis(5, "hidden"), Axis(3)), "bias": (Axis(5, "hidden"),)}
        >>> leaves = leaves_of(ParamSpec.build(axes))
        >>> entries = {leaf.name: leaf.fixed for leaf in leaves}
        >>> layer = equivariant_linear(leaves, entries, entries)
        >>> [matrix.shape for matrix in layer.init(jax.random.key(0)).matrices]
        [(4, 4), (4, 4)]

    Reference:
        Navon, Shamsian, Achituve, Fetaya, Chechik and Maron, Equivariant architectures for
        learning in deep weight spaces, 2023; Zhou, Yang, Burns, Cardace, Jiang, Sokota, Kolter
        and Finn, Permutation equivariant neural functionals, 2023. We differ in the form: one
        matrix per set of slots that are kept, instead of one layer per pair of leaves.
    """
    places = {leaf.name: leaf for leaf in leaves}
    plan = meetings(leaves)

    def init(key: Array) -> Weights:
        matrices, bias = [], jnp.zeros(0)
        for index, meeting in enumerate(plan):
            of_matrix, of_bias = jax.random.split(jax.random.fold_in(key, index))
            shape = _width(meeting.sources, inputs), _width(meeting.targets, outputs)
            deviation = 1 / math.sqrt(2 * shape[0])
            matrices.append(deviation * jax.random.normal(of_matrix, shape))
            if _is_invariant(meeting):
                bias = deviation * jax.random.normal(of_bias, shape[1:])
        return Weights(tuple(matrices), bias)

    def apply(weights: Weights, features: Features) -> Features:
        gather = Gatherer(features)
        terms: dict[str, list[Array]] = {name: [] for name in places}
        for meeting, matrix in zip(plan, weights.matrices, strict=True):
            values = _concatenated([gather(view) for view in meeting.sources]) @ matrix
            if _is_invariant(meeting):
                values = values + weights.bias
            for view, part in zip(meeting.targets, _parts(values, meeting, outputs), strict=True):
                terms[view.leaf].append(spread(part, view, places[view.leaf]))
        # Smallest first: all but the last sum then are over few entries.
        return {name: reduce(add, sorted(parts, key=_size)) for name, parts in terms.items()}

    return Linear(init, apply)


def _is_invariant(meeting: Meeting) -> bool:
    return not meeting.targets[0].kept


def _width(views: tuple[View, ...], features: Mapping[str, int]) -> int:
    return sum(features[view.leaf] for view in views)


def _concatenated(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _parts(values: Array, meeting: Meeting, outputs: Mapping[str, int]) -> list[Array]:
    ends = np.cumsum([outputs[view.leaf] for view in meeting.targets])
    return jnp.split(values, ends[:-1], axis=-1)


def _size(values: Array) -> int:
    return int(values.size)
