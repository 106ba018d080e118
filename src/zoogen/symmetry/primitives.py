"""How JAX's primitives carry units from the axes of what they read to those of what they give.

A rule gets the axes of its operands, says which move together or not at all, and returns the axes
of its results. A primitive without a rule fixes all that it touches: a spec may claim too little,
never too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zoogen.symmetry.atoms import (
    Dim,
    break_symmetries,
    finest,
    fix,
    fixed,
    free,
    regroup,
    root,
    twins,
    unify,
)


class Value(NamedTuple):
    """What is known of an array: the atoms of its axes, and its number if it is a known constant.

    A number is known where all entries are equal.
    """

    dims: tuple[Dim, ...]
    number: float | None = None


@dataclass
class Walk:
    """What a walk through a program notes.

    Attributes:
        values: all that was seen; an atom may depend on another where it never stands without it.
        sums: of every product, the atoms that it sums over and those that it keeps apart: the
            order of the former can't depend on the latter.
        opaque: primitives without a rule.
    """

    values: list[Value] = field(default_factory=list)
    sums: list[tuple[Dim, Dim]] = field(default_factory=list)
    opaque: set[str] = field(default_factory=set)

    def run(self, closed: Any, operands: Sequence[Value]) -> list[Value]:
        """Walk through a closed jaxpr."""
        return self.walk(closed.jaxpr, [constant(c) for c in closed.consts], operands)

    def walk(
        self, jaxpr: Any, constants: Sequence[Value], operands: Sequence[Value]
    ) -> list[Value]:
        """Walk through the equations of a jaxpr and return its results."""
        known: dict[Any, Value] = {}
        known.update(zip(jaxpr.constvars, constants, strict=True))
        known.update(zip(jaxpr.invars, operands, strict=True))

        def read(variable: Any) -> Value:
            return constant(variable.val) if hasattr(variable, "val") else known[variable]

        for equation in jaxpr.eqns:
            name = equation.primitive.name
            rule = RULES.get(name, _opaque)
            results = rule(self, equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
            self.values.extend(results)
        return [read(v) for v in jaxpr.outvars]


Rule = Callable[[Walk, Any, list[Value]], list[Value]]


def constant(array: Any) -> Value:
    """A constant: along an axis where its entries differ, units may not move."""
    entries = np.asarray(array) if _is_numeric(array) else None
    if entries is None:
        return Value(tuple(fixed(size) for size in np.shape(array)))
    dims = [
        free(size) if size and (entries == entries.take([0], axis=place)).all() else fixed(size)
        for place, size in enumerate(entries.shape)
    ]
    equal = entries.size > 0 and bool((entries == entries.flat[0]).all())
    return Value(tuple(dims), float(entries.flat[0].real) if equal else None)


def _is_numeric(array: Any) -> bool:
    dtype = np.dtype(bool) if isinstance(array, bool) else getattr(array, "dtype", None)
    return isinstance(array, int | float) or (isinstance(dtype, np.dtype) and dtype.kind in "biuf")


def _shapes(equation: Any) -> list[tuple[int, ...]]:
    return [tuple(getattr(v.aval, "shape", ())) for v in equation.outvars]


# ----------------------------------------------------------------------------------- entry by entry
_COMPARISONS = {"max", "min", "gt", "ge", "lt", "le", "eq", "ne"}
_CURVED = {
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "erf", "erf_inv", "round", "sin", "sinh",
    "tan", "tanh",
}  # fmt: skip
_LOPSIDED = {
    "ceil", "clamp", "cos", "cosh", "digamma", "erfc", "exp", "exp2", "expm1", "floor",
    "is_finite", "lgamma", "log", "log1p", "logistic", "rem", "sign",
}  # fmt: skip


def _elementwise(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    (shape,) = _shapes(equation)
    arrays = [v for v in operands if v.dims]
    _note_broken(equation.primitive.name, operands)
    if len(arrays) == 1:  # a parameter times a number is still that parameter
        return [Value(arrays[0].dims)]
    dims = []
    for place, size in enumerate(shape):
        whole = [v.dims[place] for v in arrays if _size(v.dims[place]) == size]
        for other in whole[1:]:
            unify(whole[0], other)
        dims.append(twins(whole[0]))
    return [Value(tuple(dims))]


def _note_broken(name: str, operands: list[Value]) -> None:
    """Continuous symmetries that can't hold, however they look on the numbers that are tried: a
    threshold other than zero may lie outside of them."""
    numbers = [v.number for v in operands if v.number is not None]
    if name in _LOPSIDED or (name in _COMPARISONS and any(number != 0 for number in numbers)):
        kinds: tuple[str, ...] = ("positive", "sign")
    elif name in _CURVED:
        kinds = ("positive",)
    elif name in _COMPARISONS and numbers:
        kinds = ("sign",)
    else:
        return
    for value in operands:
        for dim in value.dims:
            break_symmetries(dim, kinds)


def _same(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    return operands[: len(equation.outvars)]


# ------------------------------------------------------------------------------------ order of axes
def _broadcast(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    (shape,) = _shapes(equation)
    dims = [free(size) for size in shape]
    given = [int(np.prod([a.size for a in dim])) for dim in operands[0].dims]
    places = zip(operands[0].dims, given, equation.params["broadcast_dimensions"], strict=True)
    for dim, size, place in places:
        if size == shape[place]:
            dims[place] = dim
    return [Value(tuple(dims), operands[0].number)]


def _reshape(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    (shape,) = _shapes(equation)
    atoms = [atom for dim in operands[0].dims for atom in dim]
    return [Value(tuple(regroup(atoms, shape)), operands[0].number)]


def _transpose(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    dims = tuple(operands[0].dims[place] for place in equation.params["permutation"])
    return [Value(dims, operands[0].number)]


def _squeeze(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    gone = equation.params["dimensions"]
    kept = tuple(dim for place, dim in enumerate(operands[0].dims) if place not in gone)
    return [Value(kept, operands[0].number)]


# ----------------------------------------------------------------------------------------- parts
def _where_size_stays(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """Whatever leaves an axis whole leaves its units (slices, dynamic slices)."""
    (shape,) = _shapes(equation)
    dims = [_part(dim, size) for dim, size in zip(operands[0].dims, shape, strict=True)]
    return [Value(tuple(dims))]


def _part(dim: Dim, size: int) -> Dim:
    if _size(dim) == size:
        return twins(dim)
    fix(dim)
    return fixed(size)


def _size(dim: Dim) -> int:
    return math.prod(atom.size for atom in dim)


def _slice(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    dims = []
    for dim, start, end, stride in zip(operands[0].dims, starts, ends, strides, strict=True):
        size = end - start
        fits = stride == 1 and start % max(size, 1) == 0
        dims.append(_share(dim, size) if fits else _part(dim, len(range(start, end, stride))))
    return [Value(tuple(dims))]


def _share(dim: Dim, size: int) -> Dim:
    """One of equal shares of an axis, such as the queries of a fused attention layer: units move
    alike in all shares, and shares keep their places."""
    whole = _size(dim)
    if whole == size or size < 2 or whole % size or all(atom.fixed for atom in finest(dim)):
        return _part(dim, size)
    shares, inner = regroup(dim, (whole // size, size))
    fix(shares)
    return twins(inner)


def _split(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    place, sizes = equation.params["axis"], equation.params["sizes"]
    dims = operands[0].dims
    equal = len(set(sizes)) == 1
    cut = _share if equal else _part
    return [
        Value(tuple(cut(d, size) if i == place else twins(d) for i, d in enumerate(dims)))
        for size in sizes
    ]


def _concatenate(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """Copies of one axis side by side are places × units; other pieces can't move."""
    along = equation.params["dimension"]
    first = operands[0].dims
    for other in operands[1:]:
        for place, (a, b) in enumerate(zip(first, other.dims, strict=True)):
            if place != along:
                unify(a, b)
    dims = [twins(dim) for dim in first]
    pieces = [[root(atom) for atom in finest(value.dims[along])] for value in operands]
    if all(piece == pieces[0] for piece in pieces) and pieces[0]:
        dims[along] = (*fixed(len(pieces)), *twins(first[along]))
    else:
        for value in operands:
            fix(value.dims[along])
        dims[along] = fixed(sum(_size(value.dims[along]) for value in operands))
    return [Value(tuple(dims))]


def _pad(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    (shape,) = _shapes(equation)
    given = zip(operands[0].dims, shape, equation.params["padding_config"], strict=True)
    dims = []
    for dim, size, padding in given:
        if any(padding):
            fix(dim)
        dims.append(_part(dim, size))
    return [Value(tuple(dims))]


def _update(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    whole, part = operands[:2]
    for a, b in zip(whole.dims, part.dims, strict=True):
        if _size(a) == _size(b):
            unify(a, b)
        else:
            fix(a)
            fix(b)
    return [Value(tuple(twins(dim) for dim in whole.dims))]


def _gather(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """Rows of a table: what is looked up as a whole keeps its units."""
    (shape,) = _shapes(equation)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    table, places = operands[0].dims, list(operands[1].dims[:-1])
    dropped = (*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ()))
    offsets = [i for i in range(len(table)) if i not in dropped]
    for i in dropped:
        fix(table[i])
    dims = []
    for place, size in enumerate(shape):
        if place in numbers.offset_dims:
            source = offsets[numbers.offset_dims.index(place)]
            dims.append(_part(table[source], sizes[source]))
        else:
            dims.append(_part(places.pop(0), size))
    return [Value(tuple(dims))]


# ------------------------------------------------------------------------------------------- sums
def _reduce(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    gone = equation.params["axes"]
    kept = [dim for place, dim in enumerate(operands[0].dims) if place not in gone]
    return [Value(tuple(twins(dim) for dim in kept))]


def _reduce_to_place(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    for place in equation.params["axes"]:
        fix(operands[0].dims[place])
    return _reduce(walk, equation, operands)


def _along(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """Running sums, sorts: the axis has an order, the others have none."""
    place = equation.params.get("axis", equation.params.get("dimension"))
    for value in operands:
        fix(value.dims[place])
        for a, b in zip(operands[0].dims, value.dims, strict=True):
            unify(a, b)
    return [Value(tuple(twins(dim) for dim in value.dims)) for value in operands]


def _reverse(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    for place in equation.params["dimensions"]:
        fix(operands[0].dims[place])
    return [Value(tuple(twins(dim) for dim in operands[0].dims))]


def _window(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """Pooling: windows of one entry leave an axis as it is."""
    (shape,) = _shapes(equation)
    dims = []
    for dim, size, window in zip(
        operands[0].dims, shape, equation.params["window_dimensions"], strict=True
    ):
        if window != 1:
            fix(dim)
        dims.append(_part(dim, size))
    return [Value(tuple(dims))]


def _product(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    (summed, batched) = equation.params["dimension_numbers"]
    left, right = operands
    for pairs in (summed, batched):
        for i, j in zip(*pairs, strict=True):
            unify(left.dims[i], right.dims[j])
    kept = [
        [dim for place, dim in enumerate(value.dims) if place not in (*summed[s], *batched[s])]
        for s, value in enumerate((left, right))
    ]
    for side, value in enumerate((left, right)):
        gone = tuple(atom for place in summed[side] for atom in value.dims[place])
        _read(gone, "weight")
        walk.sums.append((gone, tuple(atom for dims in kept for dim in dims for atom in dim)))
    dims = [left.dims[place] for place in batched[0]] + kept[0] + kept[1]
    return [Value(tuple(twins(dim) for dim in dims))]


def _read(dim: Dim, role: str) -> None:
    for atom in (*dim, *finest(dim)):
        atom.role = role


def _convolution(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    if equation.params["batch_group_count"] != 1:
        return _opaque(walk, equation, operands)
    maps, kernels = operands
    batch, channels, *positions = (maps.dims[i] for i in numbers.lhs_spec)
    outputs, inputs, *kernel = (kernels.dims[i] for i in numbers.rhs_spec)
    (shape,) = _shapes(equation)
    if groups == 1:
        unify(channels, inputs)
    else:
        of_maps = regroup(channels, (groups, _size(inputs)))
        of_kernels = regroup(outputs, (groups, _size(outputs) // groups))
        unify(of_maps[0], of_kernels[0])
        unify(of_maps[1], inputs)
    _read(inputs, "weight")
    walk.sums.append((inputs, outputs if groups == 1 else ()))
    for dim in (*positions, *kernel):
        fix(dim)
    for dim in kernel:
        _read(dim, "kernel")
    dims = [fixed(size) for size in shape]
    dims[numbers.out_spec[0]], dims[numbers.out_spec[1]] = twins(batch), twins(outputs)
    return [Value(tuple(dims))]


# ----------------------------------------------------------------------------- programs in programs
def _call(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    inner = next(equation.params[key] for key in _INNER if key in equation.params)
    if hasattr(inner, "consts"):
        return walk.run(inner, operands)
    return walk.walk(inner, (), operands)


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def _scan(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    """What is carried keeps its units from step to step; steps have an order."""
    constants, carried = equation.params["num_consts"], equation.params["num_carry"]
    state = [Value(value.dims) for value in operands[constants : constants + carried]]
    steps = operands[constants + carried :]
    for value in steps:
        fix(value.dims[0])
    each = [Value(value.dims[1:]) for value in steps]
    walk.values.extend(each)
    results = walk.run(equation.params["jaxpr"], [*operands[:constants], *state, *each])
    _unify_all(state, results[:carried])
    length = equation.params["length"]
    return [
        *(Value(tuple(twins(dim) for dim in value.dims)) for value in results[:carried]),
        *(Value((fixed(length), *value.dims)) for value in results[carried:]),
    ]


def _while(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    of_condition, of_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    state = [Value(value.dims) for value in operands[of_condition + of_body :]]
    walk.run(equation.params["cond_jaxpr"], [*operands[:of_condition], *state])
    constants = operands[of_condition : of_condition + of_body]
    results = walk.run(equation.params["body_jaxpr"], [*constants, *state])
    _unify_all(state, results)
    return [Value(tuple(twins(dim) for dim in value.dims)) for value in results]


def _cond(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    results = [walk.run(branch, operands[1:]) for branch in equation.params["branches"]]
    for other in results[1:]:
        _unify_all(results[0], other)
    return [Value(value.dims) for value in results[0]]


def _unify_all(left: Sequence[Value], right: Sequence[Value]) -> None:
    for a, b in zip(left, right, strict=True):
        for of_a, of_b in zip(a.dims, b.dims, strict=True):
            unify(of_a, of_b)


# ----------------------------------------------------------------------------------------- the rest
def _opaque(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    walk.opaque.add(equation.primitive.name)
    return _ordered(walk, equation, operands)


def _ordered(walk: Walk, equation: Any, operands: list[Value]) -> list[Value]:
    for value in operands:
        for dim in value.dims:
            fix(dim)
    return [Value(tuple(fixed(size) for size in shape)) for shape in _shapes(equation)]


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow "
    "is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or pow rem round "
    "rsqrt select_n sign sin sinh sqrt square sub tan tanh xor"
)
_SAME = (
    "convert_element_type copy copy_p device_put optimization_barrier pvary reduce_precision "
    "sharding_constraint stop_gradient"
)
_CALLS = (
    "checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit "
    "pjit remat remat2"
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_CALLS.split(), _call),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        _reduce,
    ),
    **dict.fromkeys(("argmax", "argmin"), _reduce_to_place),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"), _along),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "cond": _cond,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "dynamic_slice": _where_size_stays,
    "dynamic_update_slice": _update,
    "gather": _gather,
    "iota": _ordered,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "scan": _scan,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "while": _while,
}
