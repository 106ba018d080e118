"""Views: all ways in which units of one leaf can meet units of another.

A linear map from leaf to leaf that commutes with all permutations is a sum of simple ones: take the
mean of the source over the slots that do not meet the target's, apply a matrix to the features,
and repeat the result along the target's slots that do not meet the source's. Where a leaf bears a
group twice, its diagonal (entries whose two units are the same) is a source and a target of its
own. A nested slot meets another only where their parents meet.

So the source and the target enter through the kept slots alone: all maps through equal kept slots
are one matrix from the features of all sources to those of all targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.models.leaves import Features, Leaf

Kind = tuple[tuple[str, int], ...]  # of each kept block: its group, and place of its parent or −1


class View(NamedTuple):
    """A leaf seen along some of its slots.

    Attributes:
        leaf: name of the leaf.
        blocks: block of each slot; slots of one block hold the same unit.
        kept: blocks along which it is seen, in this order.
    """

    leaf: str
    blocks: tuple[int, ...]
    kept: tuple[int, ...]


class Meeting(NamedTuple):
    """Views through which leaves meet along slots of one kind: any source meets any target."""

    sources: tuple[View, ...]
    targets: tuple[View, ...]


def meetings(leaves: tuple[Leaf, ...]) -> tuple[Meeting, ...]:
    """All meetings of leaves: each pair of a source and a target in one of them is one basis map.

    The basis is complete, and no map in it is redundant as long as a group that a leaf bears twice
    has at least four units.

    Example:
        >>> from zoogen.models.leaves import leaves_of
        >>> from zoogen.params import Axis, ParamSpec
        >>> recurrent = ParamSpec.build({"weight": (Axis(5, "state"), Axis(5, "state"))})
        >>> sum(len(m.sources) * len(m.targets) for m in meetings(leaves_of(recurrent)))
        15
    """
    sources: dict[Kind, list[View]] = {}
    targets: dict[Kind, list[View]] = {}
    for leaf in leaves:
        for blocks in equalities(leaf):
            for subset in _closed_subsets(leaf, blocks):
                orders = _by_kind(leaf, blocks, subset)
                # The first leaf's own order of slots names the kind: it needs no transposition.
                kind = next((kind for kind in orders if kind in sources), next(iter(orders)))
                views = [View(leaf.name, blocks, kept) for kept in orders[kind]]
                sources.setdefault(kind, []).extend(views)
                targets.setdefault(kind, []).append(views[0])
    return tuple(Meeting(tuple(sources[kind]), tuple(targets[kind])) for kind in sources)


def equalities(leaf: Leaf) -> list[tuple[int, ...]]:
    """Every way in which slots of one group can hold the same unit: block numbers of slots."""
    found: list[tuple[int, ...]] = [()]
    for slot in leaf.slots:
        longer = []
        for blocks in found:
            parent = None if slot.parent is None else blocks[slot.parent]
            equal = {
                block
                for block, other in zip(blocks, leaf.slots, strict=False)
                if other.group == slot.group and _parent(leaf, blocks, block) == parent
            }
            longer += [(*blocks, block) for block in (len(set(blocks)), *sorted(equal))]
        found = longer
    return found


def _parent(leaf: Leaf, blocks: tuple[int, ...], block: int) -> int | None:
    """The block that a block is nested in."""
    parent = leaf.slots[blocks.index(block)].parent
    return None if parent is None else blocks[parent]


def _closed_subsets(leaf: Leaf, blocks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Subsets of blocks that hold the parent of each of their blocks."""
    count = len(set(blocks))
    for size in range(count, -1, -1):
        for subset in combinations(range(count), size):
            if {_parent(leaf, blocks, block) for block in subset} <= {None, *subset}:
                yield subset


def _by_kind(
    leaf: Leaf, blocks: tuple[int, ...], subset: tuple[int, ...]
) -> dict[Kind, list[tuple[int, ...]]]:
    """Orders of a subset of blocks, by the kind that they make it; the natural order first."""
    orders: dict[Kind, list[tuple[int, ...]]] = {}
    for order in permutations(subset):
        parents = [_parent(leaf, blocks, block) for block in order]
        kind = tuple(
            (leaf.slots[blocks.index(block)].group, -1 if parent is None else order.index(parent))
            for block, parent in zip(order, parents, strict=True)
        )
        orders.setdefault(kind, []).append(order)
    return orders


# --------------------------------------------------------------------------------- what views do
class Gatherer:
    """Sources of one layer: means over slots, each computed once from the next larger one."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._means: dict[View, Float[Array, "b *kept f"]] = {}

    def __call__(self, view: View) -> Float[Array, "b *kept f"]:
        """Means over all blocks that the view does not keep."""
        kept = tuple(sorted(view.kept))
        values = self._mean(view._replace(kept=kept))
        places = [1 + kept.index(block) for block in view.kept]
        return values.transpose(0, *places, values.ndim - 1)

    def _mean(self, view: View) -> Float[Array, "b *kept f"]:
        if view not in self._means:
            missing = sorted(set(view.blocks) - set(view.kept))
            if missing:
                wider = tuple(sorted((*view.kept, missing[0])))
                values = self._mean(view._replace(kept=wider))
                self._means[view] = values.mean(axis=1 + wider.index(missing[0]))
            else:
                self._means[view] = diagonal(self._features[view.leaf], view.blocks)
        return self._means[view]


def diagonal(x: Float[Array, "b *slots f"], blocks: tuple[int, ...]) -> Float[Array, "b *kept f"]:
    """Entries at which slots of one block hold the same unit."""
    if len(set(blocks)) == len(blocks):
        return x
    slots = [1 + block for block in blocks]
    batch, features = 0, 1 + len(slots)
    return jnp.einsum(x, [batch, *slots, features], [batch, *sorted(set(slots)), features])


def spread(values: Float[Array, "b *kept f"], view: View, leaf: Leaf) -> Float[Array, "b *slots f"]:
    """Lay values along a target's slots, ready to be broadcast over those that are not kept."""
    count = len(set(view.blocks))
    by_block = sorted(range(len(view.kept)), key=view.kept.__getitem__)
    values = values.transpose(0, *(1 + place for place in by_block), values.ndim - 1)
    first = [view.blocks.index(block) for block in range(count)]
    shape = [
        leaf.slots[slot].size if slot in first and view.blocks[slot] in view.kept else 1
        for slot in range(len(leaf.slots))
    ]
    values = values.reshape(values.shape[0], *shape, values.shape[-1])
    for slot, block in enumerate(view.blocks):
        if slot != first[block]:
            values = values * _equal(leaf, slot, first[block]).astype(values.dtype)
    return values


def _equal(leaf: Leaf, slot: int, other: int) -> Float[Array, "1 *slots 1"]:
    """One where two slots hold the same unit, else zero."""
    size, ndim = leaf.slots[slot].size, len(leaf.slots) + 2
    shape = [size if place in (1 + slot, 1 + other) else 1 for place in range(ndim)]
    return jnp.eye(size).reshape(shape)
