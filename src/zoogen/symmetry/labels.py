"""Labels: from atoms that tracing left free to the axes, groups and parents of a spec."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zoogen.params import Axis
from zoogen.symmetry.atoms import Atom, Dim, finest, root
from zoogen.symmetry.primitives import Walk


class Layout(NamedTuple):
    """How the entries of a parameter are reordered for the spec.

    Attributes:
        shape: in the network.
        atoms: the same with every axis cut into its atoms.
        order: of the atoms in the spec.
    """

    shape: tuple[int, ...]
    atoms: tuple[int, ...]
    order: tuple[int, ...]


class Labels(NamedTuple):
    """What a spec is built from.

    Attributes:
        axes: parameter → its axes.
        layouts: parameter → how it is reordered.
        parents: group → its parent's name and number of units.
        broken: group → continuous symmetries that it can't have.
    """

    axes: dict[str, tuple[Axis, ...]]
    layouts: dict[str, Layout]
    parents: dict[str, tuple[str, int]]
    broken: dict[str, frozenset[str]]


class _Cut(NamedTuple):
    """An axis of a spec: a unit (with its parent before it) or none, and fixed atoms."""

    unit: tuple[Atom, ...]
    rest: tuple[Atom, ...]


def label(parameters: Mapping[str, tuple[Dim, ...]], walk: Walk) -> Labels:
    """Name the free atoms of parameters, nest those that never stand alone, and lay out axes.

    Args:
        parameters: name → atoms of each axis.
        walk: through the program, finished.
    """
    leads = _leads(parameters, walk)
    cuts = {name: _cut(dims, leads) for name, dims in parameters.items()}
    names = _names(cuts, leads)
    groups = {root(unit[-1]) for of_leaf in cuts.values() for unit, _ in of_leaf if unit}
    parents = {
        names[child]: (names[parent], parent.size)
        for child, parent in leads.items()
        if child in groups
    }
    axes = {name: tuple(_axis(c, names) for c in of_leaf) for name, of_leaf in cuts.items()}
    layouts = {name: _layout(dims, cuts[name]) for name, dims in parameters.items()}
    return Labels(axes, layouts, parents, {names[atom]: atom.broken for atom in names})


# ------------------------------------------------------------------------------------------ nesting
def _leads(parameters: Mapping[str, tuple[Dim, ...]], walk: Walk) -> dict[Atom, Atom]:
    """Child → parent, of units that may be ordered within each unit of the parent on its own.

    So it is where a child never stands without its parent, and where no sum over the child pairs
    two different units of the parent.
    """
    values = [list(dims) for dims in parameters.values()]
    together = _together([*values, *(list(value.dims) for value in walk.values)])
    for summed, kept in walk.sums:
        for atom in _free(summed):
            if atom in together:
                together[atom] -= set(_free(kept))
    order = list(dict.fromkeys(atom for dims in values for dim in dims for atom in _free(dim)))
    leads: dict[Atom, Atom] = {}
    for child in order:
        for parent in order:
            mutual = child in together[parent] and order.index(child) < order.index(parent)
            free = parent not in leads and child not in leads.values()
            if parent in together[child] and free and not mutual:
                leads.setdefault(child, parent)
    for dims in values:  # an axis has room for one child of a parent
        taken: set[Atom] = set()
        for atom in (atom for dim in dims for atom in _free(dim)):
            parent_of = leads.get(atom)
            if parent_of in taken:
                del leads[atom]
            elif parent_of is not None:
                taken.add(parent_of)
    return leads


def _together(values: Iterable[list[Dim]]) -> dict[Atom, set[Atom]]:
    """Atom → those of which there is exactly one wherever it stands."""
    together: dict[Atom, set[Atom]] = {}
    for dims in values:
        counts = Counter(atom for dim in dims for atom in _free(dim))
        single = {atom for atom, count in counts.items() if count == 1}
        for atom in counts:
            others = single - {atom}
            together[atom] = together[atom] & others if atom in together else others
    return together


def _free(dim: Iterable[Atom]) -> list[Atom]:
    return [root(atom) for atom in finest(dim) if not atom.fixed]


# ------------------------------------------------------------------------------------------- layout
def _cut(dims: tuple[Dim, ...], leads: Mapping[Atom, Atom]) -> list[_Cut]:
    """Axes of the spec in their order: outputs, inputs, kernel positions."""
    here = {root(atom): atom for dim in dims for atom in finest(dim) if not atom.fixed}
    children = {leads[child]: child for child in here if child in leads}
    taken: set[Atom] = set()
    cuts: list[_Cut] = []
    for dim in sorted(dims, key=lambda dim: _rank(dim, dims)):
        units: list[tuple[Atom, ...]] = []
        for atom in finest(dim):
            own = root(atom)
            child = children.get(own, own)
            if atom.fixed or child in taken:
                continue
            pair = (here[leads[child]], here[child]) if child in leads else (atom,)
            units.append(pair)
            if child in leads:
                taken.add(child)
        rest = tuple(atom for atom in finest(dim) if atom.fixed)
        cuts += [_Cut(unit, ()) for unit in units[:-1]]
        if units or rest or math.prod(atom.size for atom in dim) == 1:
            cuts.append(_Cut(units[-1] if units else (), rest))
    return cuts


def _rank(dim: Dim, dims: tuple[Dim, ...]) -> int:
    """What a parameter gives stands before what it reads, positions of kernels last."""
    roles = [_roles(each) for each in dims]
    if any(roles):
        own = _roles(dim)
        return 2 if "kernel" in own else 1 if own else 0
    return 0 if _free(dim) else 1


def _roles(dim: Dim) -> set[str]:
    return {atom.role for atom in (*dim, *finest(dim))} - {""}


def _axis(cut: _Cut, names: Mapping[Atom, str]) -> Axis:
    block = math.prod(atom.size for atom in cut.rest)
    units = math.prod(atom.size for atom in cut.unit)
    if not cut.unit:
        return Axis(block)
    return Axis(units * block, names[root(cut.unit[-1])], block)


def _layout(dims: tuple[Dim, ...], cuts: list[_Cut]) -> Layout:
    atoms = [atom for dim in dims for atom in finest(dim)]
    order = [atoms.index(atom) for unit, rest in cuts for atom in (*unit, *rest)]
    shape = tuple(math.prod(atom.size for atom in dim) for dim in dims)
    return Layout(shape, tuple(atom.size for atom in atoms), tuple(order))


# -------------------------------------------------------------------------------------------- names
def _names(cuts: Mapping[str, list[_Cut]], leads: Mapping[Atom, Atom]) -> dict[Atom, str]:
    """Groups are named after the first parameter that gives them, else the first that reads."""
    names: dict[Atom, str] = {}
    for gives in (True, False):
        for name, of_leaf in cuts.items():
            for place, cut in enumerate(of_leaf):
                if cut.unit and (place == 0) == gives and root(cut.unit[-1]) not in names:
                    names[root(cut.unit[-1])] = _unused(name, names)
    for child, parent in leads.items():
        if parent not in names:
            names[parent] = f"{names[child]}.parent"
    return names


def _unused(name: str, names: Mapping[Atom, str]) -> str:
    prefix = name.rpartition(".")[0] or name
    return name if prefix in names.values() else prefix
