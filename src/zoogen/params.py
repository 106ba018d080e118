"""ParamSpec: the one description of a network's parameters.

It alone knows names, shapes, offsets in the flat vector, and which axes carry permutable units.
Storage, export, alignment and equivariant layers all read it.

Layout: a weight is stored as PyTorch stores it (``[out, in]`` for dense layers,
``[out, in, height, width]`` for convolutions), so that the flat vector of a member equals the
concatenation of its PyTorch ``state_dict``, entry by entry (but for the step counters of batch
norms, which are no weights).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from zoogen.errors import ConfigError

Params = dict[str, Array]


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter.

    Attributes:
        size: number of entries.
        group: name of the set of units that may be permuted along this axis; ``None`` for axes
            that are fixed (inputs, outputs, kernel positions).
        block: consecutive entries that belong to one unit: a dense layer behind a flattened
            ``channel × height × width`` map has ``block = height * width``.
    """

    size: int
    group: str | None = None
    block: int = 1


@dataclass(frozen=True)
class Parameter:
    """A named tensor: its axes and the place of its entries in the flat vector."""

    name: str
    axes: tuple[Axis, ...]
    offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """Units that may be permuted together.

    Attributes:
        name: as it stands in :class:`Axis`.
        size: number of units.
        scaling: continuous symmetry that the activation adds: ``positive`` (relu, leaky relu:
            incoming weights × s, outgoing ÷ s for s > 0), ``sign`` (tanh), ``nonzero`` (units
            that are read as they are, as an attention layer's values), or ``none``.
        parent: group whose units own equal shares of consecutive units of this one, as the heads
            of an attention layer own their dimensions: a parent's units move as a whole, and each
            may order its own share. ``None`` where all units are exchangeable.
    """

    name: str
    size: int
    scaling: str = "none"
    parent: str | None = None


@dataclass(frozen=True)
class ParamSpec:
    """Names, shapes, offsets and symmetry of a network's parameters.

    Attributes:
        parameters: in the order of the flat vector.
        scalings: group and continuous symmetry of its activation.
        parents: nested group, its parent, and the parent's number of units.
        statistics: parameter and ``mean`` or ``variance``: what a norm has seen of its input. They
            are stored, permuted and read as all others, but training gives them no gradient.

    Example:
        >>> spec = ParamSpec.build(
        ...     {"hidden.weight": (Axis(3, "hidden"), Axis(2)), "hidden.bias": (Axis(3, "hidden"),)}
        ... )
        >>> spec.size, spec.groups["hidden"].size
        (9, 3)
        >>> vector = np.arange(9.0)
        >>> swapped = spec.permute(vector, {"hidden": np.array([1, 0, 2])})
        >>> swapped.tolist()
        [2.0, 3.0, 0.0, 1.0, 4.0, 5.0, 7.0, 6.0, 8.0]
    """

    parameters: tuple[Parameter, ...]
    scalings: tuple[tuple[str, str], ...] = ()
    parents: tuple[tuple[str, str, int], ...] = ()
    statistics: tuple[tuple[str, str], ...] = ()

    @classmethod
    def build(
        cls,
        axes: Mapping[str, tuple[Axis, ...]],
        scalings: Mapping[str, str] | None = None,
        parents: Mapping[str, tuple[str, int]] | None = None,
        statistics: Mapping[str, str] | None = None,
    ) -> ParamSpec:
        """Lay out parameters one behind the other in the order given.

        Args:
            axes: parameter name → its axes.
            scalings: group name → continuous symmetry of its activation.
            parents: group name → its parent's name and number of units: ``{"key": ("heads", 4)}``
                where an axis of group ``key`` holds the dimensions of 4 heads, head by head. The
                parent may have axes of its own, but no parent.
            statistics: parameter name → ``mean`` or ``variance``.

        Raises:
            ConfigError: if axes that share a group disagree on the number of units, a group can't
                be nested as ``parents`` says, or statistics name no parameter.
        """
        offset, parameters = 0, []
        for name, parameter_axes in axes.items():
            parameter = Parameter(name, tuple(parameter_axes), offset)
            parameters.append(parameter)
            offset += parameter.size
        nested = tuple((group, *parent) for group, parent in (parents or {}).items())
        _refuse_wrong_statistics(statistics or {}, axes)
        moments = tuple((statistics or {}).items())
        spec = cls(tuple(parameters), tuple((scalings or {}).items()), nested, moments)
        _ = spec.groups  # raises on a contradiction now, not at first use
        return spec

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(parameter.size for parameter in self.parameters)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Group name → :class:`Group`, in order of first appearance, parents before children."""
        scalings = dict(self.scalings)
        parents = {group: (parent, units) for group, parent, units in self.parents}
        groups: dict[str, Group] = {}
        for parameter in self.parameters:
            for axis in parameter.axes:
                if axis.group is None:
                    continue
                units, rest = divmod(axis.size, axis.block)
                parent, families = parents.get(axis.group, (None, 1))
                if parent is not None:
                    groups.setdefault(parent, Group(parent, families, scalings.get(parent, "none")))
                group = groups.setdefault(
                    axis.group, Group(axis.group, units, scalings.get(axis.group, "none"), parent)
                )
                if rest or units != group.size:
                    raise ConfigError(
                        f"parameter {parameter.name!r}: axis of size {axis.size} with block "
                        f"{axis.block} has {axis.size / axis.block:g} units, but group "
                        f"{axis.group!r} has {group.size}; correct the axis"
                    )
        _refuse_wrong_nesting(groups, parents)
        return groups

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    @cached_property
    def trained(self) -> Bool[np.ndarray, " p"]:
        """Which entries of the flat vector get gradients: all but statistics."""
        statistics = dict(self.statistics)
        kinds = [np.full(p.size, p.name not in statistics) for p in self.parameters]
        return np.concatenate(kinds)

    def without_statistics(self, vector: Any) -> Any:
        """Flat weights ``[*m, p]``, NumPy or JAX, with zeros for statistics.

        Lengths, distances and matchings are those of what is trained: statistics follow from it
        and the images, on a scale of their own.

        Raises:
            ConfigError: if the vector has another length than the spec.
        """
        self.refuse_other_lengths(vector)
        return vector * self.trained if self.statistics else vector

    def flatten(self, params: Mapping[str, Any]) -> Any:
        """Concatenate named tensors (with any leading axes) into flat vectors ``[*m, p]``."""
        parts = []
        for parameter in self.parameters:
            leaf = params[parameter.name]
            lead = leaf.shape[: leaf.ndim - len(parameter.axes)]
            parts.append(leaf.reshape(*lead, parameter.size))
        concatenate = np.concatenate if isinstance(parts[0], np.ndarray) else jnp.concatenate
        return concatenate(parts, axis=-1)

    def unflatten(self, vector: Any) -> dict[str, Any]:
        """Cut flat vectors (with any leading axes) into named tensors; inverse of `flatten`.

        Raises:
            ConfigError: if the vector has another length than the spec.
        """
        self.refuse_other_lengths(vector)
        lead = vector.shape[:-1]
        return {
            p.name: vector[..., p.offset : p.offset + p.size].reshape(*lead, *p.shape)
            for p in self.parameters
        }

    def permute(self, vector: Any, permutation: Mapping[str, Int[np.ndarray, " units"]]) -> Any:
        """Reorder units: unit ``i`` of the result is unit ``permutation[group][i]`` of the input.

        The network computes the same function before and after.

        Args:
            vector: flat weights ``[*m, p]``, NumPy or JAX.
            permutation: group name → order of its units; groups left out stay as they are.

        Raises:
            ConfigError: if the vector has another length than the spec, or a group is unknown.
        """
        self.refuse_other_lengths(vector)
        return vector[..., self._entry_order(permutation)]

    def refuse_other_lengths(self, vector: Any) -> None:
        """Refuse flat vectors of another network: cut up, they would lose their tail unnoticed.

        Raises:
            ConfigError: if the last axis of ``vector`` is not as long as the spec.
        """
        if vector.shape[-1:] != (self.size,):
            raise ConfigError(
                f"flat weights: expected {self.size} numbers along the last axis, those of "
                f"{len(self.parameters)} parameters, found shape {tuple(vector.shape)}; take the "
                "spec of the network that the weights belong to"
            )

    def _entry_order(self, permutation: Mapping[str, Any]) -> Int[np.ndarray, " p"]:
        unknown = set(permutation) - set(self.groups)
        if unknown:
            raise ConfigError(
                f"permute: no group {sorted(unknown)[0]!r}; this network has {list(self.groups)}"
            )
        pieces = []
        for parameter in self.parameters:
            entries = np.arange(parameter.size).reshape(parameter.shape) + parameter.offset
            for position, axis in enumerate(parameter.axes):
                if axis.group is not None and axis.group in permutation:
                    order = _expand_blocks(np.asarray(permutation[axis.group]), axis.block)
                    entries = np.take(entries, order, axis=position)
            pieces.append(entries.reshape(-1))
        return np.concatenate(pieces)

    def random_permutation(self, seed: int) -> dict[str, Int[np.ndarray, " units"]]:
        """A uniformly random element of the permutation group."""
        rng = np.random.default_rng(seed)
        orders: dict[str, Int[np.ndarray, " units"]] = {}
        for name, group in self.groups.items():
            if group.parent is None:
                orders[name] = rng.permutation(group.size)
            else:
                parent = orders[group.parent]
                shares = np.tile(np.arange(group.size // parent.size), (parent.size, 1))
                orders[name] = nested_order(parent, rng.permuted(shares, axis=-1))
        return orders

    def to_json(self) -> dict[str, Any]:
        """Plain data from which :meth:`from_json` rebuilds the spec."""
        nested = {group: list(parent) for group, *parent in self.parents}
        return {
            "parameters": [
                {
                    "name": p.name,
                    "offset": p.offset,
                    "shape": list(p.shape),
                    "axes": [{"size": a.size, "group": a.group, "block": a.block} for a in p.axes],
                }
                for p in self.parameters
            ],
            "scalings": dict(self.scalings),
            # Most specs have none of these: they are stored as ever.
            **({"parents": nested} if nested else {}),
            **({"statistics": dict(self.statistics)} if self.statistics else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParamSpec:
        """Rebuild a spec from :meth:`to_json`."""
        axes = {
            p["name"]: tuple(Axis(a["size"], a["group"], a["block"]) for a in p["axes"])
            for p in data["parameters"]
        }
        parents = {group: (name, units) for group, (name, units) in data.get("parents", {}).items()}
        return cls.build(axes, data["scalings"], parents, data.get("statistics"))


def nested_order(parent: Int[Any, "*m families"], shares: Int[Any, "*m families share"]) -> Any:
    """Order of a nested group's units from its parent's order and an order within each share.

    Args:
        parent: the share that comes where.
        shares: of each share's own units, counted from zero; NumPy or JAX.

    Example:
        >>> nested_order(np.array([1, 0]), np.array([[0, 1, 2], [2, 1, 0]])).tolist()
        [3, 4, 5, 2, 1, 0]
    """
    units = parent[..., None] * shares.shape[-1] + shares
    return units.reshape(*parent.shape[:-1], parent.shape[-1] * shares.shape[-1])


def _refuse_wrong_nesting(
    groups: Mapping[str, Group], parents: Mapping[str, tuple[str, int]]
) -> None:
    for name, (parent, units) in parents.items():
        if name not in groups:
            raise ConfigError(
                f"parents: no axis names group {name!r}; the axes name {list(groups)}"
            )
        found = groups[parent]
        if found.size != units or groups[name].size % units or found.parent is not None:
            raise ConfigError(
                f"parents: group {name!r} with {groups[name].size} units can't be nested in "
                f"{units} units of {parent!r}, which has {found.size} and the parent "
                f"{found.parent!r}; a parent has no parent, and its units divide those of the group"
            )


def _refuse_wrong_statistics(
    statistics: Mapping[str, str], names: Mapping[str, tuple[Axis, ...]]
) -> None:
    for name, kind in statistics.items():
        if name not in names or kind not in ("mean", "variance"):
            raise ConfigError(
                f"statistics: found {kind!r} of {name!r}; expected 'mean' or 'variance' of one of "
                f"the parameters {list(names)}"
            )


def _expand_blocks(order: Int[np.ndarray, " units"], block: int) -> Int[np.ndarray, " size"]:
    """Order of entries from an order of units that own ``block`` consecutive entries each."""
    return (order[:, None] * block + np.arange(block)).reshape(-1)
