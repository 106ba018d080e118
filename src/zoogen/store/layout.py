"""Layout: how one array lies on disk, as a record from which its Zarr v3 metadata follow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from zoogen.errors import ConfigError

MAX_BLOCK_MEMBERS = 1024
MAX_SHARD_BYTES = 256 * 10**6
MAX_CHUNK_BYTES = 64 * 2**20

_CRC = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def _no_reserved_name(name: str) -> str:
    if name == "zarr.json" or name.endswith((".partial", "__lock")):
        raise ValueError(f"{name!r} is reserved")
    return name


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100),
    AfterValidator(_no_reserved_name),
]
_NAME: TypeAdapter[str] = TypeAdapter(Name)
Size = Annotated[int, Field(ge=0, lt=2**48)]
DataType = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip


class Record(BaseModel):
    """A record of the manifest: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ArrayEntry(Record):
    """One stored array.

    Attributes:
        dtype: NumPy's and Zarr's name of the data type.
        shape: length of each axis.
        dims: name of each axis.
        chunk: piece that lies in one file: rows of the first axis × all of the others.
        inner: piece with a checksum of its own inside a sharded file, else None.
    """

    dtype: DataType
    shape: tuple[Size, ...]
    dims: tuple[Name, ...]
    chunk: tuple[Size, ...]
    inner: tuple[Size, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ArrayEntry:
        inner = self.inner or self.chunk
        if not 1 <= len(self.shape) == len(self.dims) == len(self.chunk) == len(inner):
            raise ValueError("shape, dims, chunk and inner differ in length")
        if len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims: found {self.dims}, expected distinct names")
        if self.chunk[0] < 1 or self.chunk[1:] != tuple(max(1, n) for n in self.shape[1:]):
            raise ValueError("chunk: expected all of every axis but the first")
        if any(i < 1 or c % i for c, i in zip(self.chunk, inner, strict=True)):
            raise ValueError("inner: expected a divisor of chunk")
        return self

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of one row of the first axis."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def file_count(self) -> int:
        """Files that the complete array has; none where an axis is empty."""
        return 0 if 0 in self.shape else math.ceil(self.shape[0] / self.chunk[0])

    def file(self, index: int) -> str:
        """Path of a chunk's file below the array's directory."""
        return "/".join(["c", str(index), *["0"] * (len(self.shape) - 1)])

    def rows(self, index: int) -> slice:
        """Rows of the first axis that lie in a chunk."""
        start = index * self.chunk[0]
        return slice(start, min(start + self.chunk[0], self.shape[0]))

    def zarr_metadata(self) -> dict[str, Any]:
        """Content of the array's ``zarr.json``."""
        sharded = {
            "chunk_shape": self.inner,
            "codecs": _CRC,
            "index_codecs": _CRC,
            "index_location": "end",
        }
        fill = {"b": False, "f": "NaN"}.get(np.dtype(self.dtype).kind, 0)
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": (
                [{"name": "sharding_indexed", "configuration": sharded}] if self.inner else _CRC
            ),
            "attributes": {},
            "dimension_names": self.dims,
        }


@lru_cache(maxsize=16384)  # every commit and every check asks for all of them
def array_file(entry: ArrayEntry) -> bytes:
    """The ``zarr.json`` of an array."""
    return _spell(entry.zarr_metadata())


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """The ``zarr.json`` of a group."""
    return _spell({"zarr_format": 3, "node_type": "group", "attributes": {"zoogen": attributes}})


def _spell(metadata: Mapping[str, Any]) -> bytes:
    return (json.dumps(metadata, indent=1, allow_nan=False) + "\n").encode()


def check_name(kind: str, name: str) -> str:
    """Return a name that may stand in a path.

    Raises:
        ConfigError: if it may not.
    """
    try:
        return _NAME.validate_python(name, strict=True)
    except ValueError as error:
        raise ConfigError(
            f"{kind} {name!r} can't be a file name: {first_reason(error)}; rename it"
        ) from error


def default_block_size(members: int, member_bytes: int) -> int:
    """Members per block such that a block's weights fill one shard of moderate size.

    Args:
        members: of the cohort.
        member_bytes: bytes of one member's weights, all snapshots.

    Returns:
        At most 1,024 members and 256 MB, at least one member.

    Example:
        >>> default_block_size(5000, 20_000), default_block_size(5000, 10**9)
        (1024, 1)
    """
    return max(1, min(members, MAX_BLOCK_MEMBERS, MAX_SHARD_BYTES // max(1, member_bytes)))


def entries_for(
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    block_size: int | None,
) -> dict[str, ArrayEntry]:
    """Lay out the arrays of one group.

    Args:
        arrays: name → values; of training arrays one block of members.
        dims: name → axis names.
        sizes: axis lengths that the group prescribes; they replace that of a block's member axis.
        block_size: rows per file of training arrays; None for metric arrays.

    Raises:
        ConfigError: naming the array whose axes or data type do not fit.
    """
    lengths = dict(sizes)
    entries = {}
    for name, values in arrays.items():
        check_name("array", name)
        entries[name] = entry = _entry(name, values, tuple(dims.get(name, ())), sizes, block_size)
        for dim, length in zip(entry.dims, entry.shape, strict=True):
            if lengths.setdefault(dim, length) != length:
                raise ConfigError(
                    f"array {name!r}: axis {dim!r} has {length} entries, expected "
                    f"{lengths[dim]}; correct its shape or the name of its axis"
                )
    return entries


def _entry(
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...],
    sizes: Mapping[str, int],
    block_size: int | None,
) -> ArrayEntry:
    shape = tuple(values.shape)
    if block_size is not None:
        if dims[:1] != ("member",):
            raise ConfigError(f"array {name!r}: found axes {dims}, expected 'member' first")
        shape = (sizes["member"], *shape[1:])
    row_bytes = math.prod(shape[1:]) * values.dtype.itemsize
    rows = block_size or max(1, min((*shape[:1], MAX_CHUNK_BYTES // max(1, row_bytes))))
    chunk = (rows, *(max(1, n) for n in shape[1:]))
    inner = (*[1] * (len(chunk) - 1), chunk[-1]) if dims[-1:] == ("parameter",) else None
    try:
        return ArrayEntry(
            dtype=values.dtype.name,  # type: ignore[arg-type]  # pydantic checks it
            shape=shape,
            dims=dims,
            chunk=chunk,
            inner=inner,
        )
    except ValueError as error:
        raise ConfigError(
            f"array {name!r} ({values.dtype.name}, axes {dims}, shape {shape}) can't be stored: "
            f"{first_reason(error)}"
        ) from error


def first_reason(error: ValueError) -> str:
    """The first complaint of a pydantic error, in one line: where, and what."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"])
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
