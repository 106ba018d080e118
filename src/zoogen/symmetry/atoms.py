"""Atoms: the factors of axes that tracing keeps apart, and which of them must move together.

An axis is a tuple of atoms, slowest first: the flattened maps of a convolution are channels ×
rows × columns, the output of a query layer heads × dimensions. Two atoms that meet are one set of
units (union–find); an atom that meets two is split. What can't be split so is fixed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence


class Atom:
    """A factor of an axis; equal only to itself.

    Attributes:
        size: units.
        role: ``weight`` once a parameter's own atom was summed over in a product, ``kernel`` if
            that is a position of a kernel.
    """

    __slots__ = ("_above", "_broken", "_fixed", "_parts", "role", "size")

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size = size
        self.role = ""
        self._above: Atom | None = None
        self._parts: tuple[Atom, ...] = ()
        self._fixed = fixed
        self._broken: frozenset[str] = frozenset()

    @property
    def fixed(self) -> bool:
        """Whether its units may not move."""
        return root(self)._fixed

    @property
    def broken(self) -> frozenset[str]:
        """Continuous symmetries that something on the way breaks."""
        return root(self)._broken

    def twin(self) -> Atom:
        """Another atom of the same set of units."""
        twin = Atom(self.size)
        twin._above = root(self)
        return twin


Dim = tuple[Atom, ...]


def root(atom: Atom) -> Atom:
    """The atom that stands for all that move together with this one."""
    while atom._above is not None:
        atom = atom._above
    return atom


def finest(dim: Iterable[Atom]) -> list[Atom]:
    """The atoms of an axis as far as they are split; those of one unit are left out."""
    result: list[Atom] = []
    for atom in dim:
        parts = root(atom)._parts
        if parts and not atom._parts:
            atom._parts = tuple(part.twin() for part in parts)
        if parts:
            result.extend(finest(atom._parts))
        elif atom.size != 1:
            result.append(atom)
    return result


def twins(dim: Dim) -> Dim:
    """The same units on the axis of another value."""
    return tuple(atom.twin() for atom in finest(dim))


def fix(dim: Iterable[Atom]) -> None:
    """Forbid that units along an axis move."""
    for atom in finest(dim):
        root(atom)._fixed = True


def break_symmetries(dim: Iterable[Atom], kinds: Iterable[str]) -> None:
    """Note continuous symmetries that something along an axis breaks."""
    for atom in finest(dim):
        root(atom)._broken |= set(kinds)


def unify(a: Iterable[Atom], b: Iterable[Atom]) -> None:
    """Let two axes of one size move together; where their atoms do not fit, fix them."""
    left, right = deque(finest(a)), deque(finest(b))
    while left and right:
        x, y = left.popleft(), right.popleft()
        if x.size == y.size:
            _join(x, y)
        elif x.size % y.size == 0:
            left.extendleft(reversed(split(x, y.size)))
            right.appendleft(y)
        elif y.size % x.size == 0:
            right.extendleft(reversed(split(y, x.size)))
            left.appendleft(x)
        else:
            fix([x, y, *left, *right])
            return


def split(atom: Atom, outer: int) -> list[Atom]:
    """Cut an atom, and all that move with it, into ``outer`` shares of equal size."""
    whole = root(atom)
    whole._parts = (Atom(outer), Atom(atom.size // outer))
    for part in whole._parts:
        part._fixed, part._broken = whole._fixed, whole._broken
    return finest([atom])


def regroup(atoms: Sequence[Atom], sizes: Sequence[int]) -> list[Dim]:
    """Distribute atoms in their order over axes of given sizes; fix them where they don't fit."""
    rest = deque(finest(atoms))
    dims: list[Dim] = []
    for size in sizes:
        dim: list[Atom] = []
        missing = size
        while missing > 1:
            atom = rest.popleft()
            if missing % atom.size and atom.size % missing:
                fix(atoms)
                return [fixed(size) for size in sizes]
            if atom.size > missing:
                rest.extendleft(reversed(split(atom, missing)))
                continue
            dim.append(atom)
            missing //= atom.size
        dims.append(tuple(dim))
    return dims


def fixed(size: int) -> Dim:
    """A new axis whose entries may not move."""
    return (Atom(size, fixed=True),)


def free(size: int) -> Dim:
    """A new axis along which nothing differs yet."""
    return (Atom(size),)


def _join(a: Atom, b: Atom) -> None:
    above, below = root(a), root(b)
    if above is below:
        return
    below._above = above
    above._fixed |= below._fixed
    above._broken |= below._broken
    if above._parts and below._parts:
        unify(above._parts, below._parts)
    above._parts = above._parts or below._parts
    if above._fixed:
        fix(above._parts)
