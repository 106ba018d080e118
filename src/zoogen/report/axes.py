"""Axes of a report: hyper-parameters in words, and the grid of cells over two of them.

Load is data over capacity, temperature the noise of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from zoogen.errors import ConfigError
from zoogen.phases import grows

Role = Literal["load", "temperature", "facet"]

_WIDTH_UNITS = {
    "mlp": "units per hidden layer", "siren": "units per hidden layer",
    "cnn": "channels per layer", "lenet": "channels of layer 1",
    "resnet": "channels per layer", "vit": "units of the stream",
}  # fmt: skip
_WORDS = {
    "data.fraction": ("training fraction", "share of images"),
    "data.label_noise": ("label noise", "share of labels"),
    "network.depth": ("depth", "layers"),
    "network.init_scale": ("initial weights", "factor"),
    "train.learning_rate": ("learning rate", "peak"),
    "train.batch_size": ("batch size", "images per step"),
    "train.epochs": ("training", "epochs"),
    "train.steps": ("training", "steps"),
}


@dataclass(frozen=True)
class Axis:
    """A hyper-parameter that varies.

    Attributes:
        key: dotted, a column of the cells.
        role: ``load`` (horizontal), ``temperature`` (vertical) or ``facet`` (a diagram a value).
        name: in words.
        unit: in words; may be empty.
    """

    key: str
    role: Role
    name: str
    unit: str

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def arrow(self) -> str:
        """Which way its role rises where values grow to the right or up; empty if not known."""
        if self.role == "facet":
            return ""
        words = "hotter" if self.role == "temperature" else "higher load"
        return {1: f"{words} →", -1: f"← {words}", 0: ""}[grows(self.role, self.key)]


def describe_axis(key: str, role: Role, family: str = "") -> Axis:
    """The axis of a dotted key, in words.

    Args:
        key: of the hyper-parameter.
        role: what it is in the report.
        family: of the networks; it gives the unit of their width. Empty if families vary.

    Example:
        >>> axis = describe_axis("network.width", "load", "cnn")
        >>> axis.label, axis.arrow
        ('width (channels per layer)', '← higher load')
    """
    if key == "network.width":
        return Axis(key, role, "width", _WIDTH_UNITS.get(family, ""))
    name, unit = _WORDS.get(key, (key.rsplit(".", 1)[-1].replace("_", " "), ""))
    return Axis(key, role, name, unit)


def value_text(value: Any) -> str:
    """A value on an axis; floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells laid out over load (columns) and temperature (rows), one step apart.

    Attributes:
        load: horizontal axis and its values in growing order.
        temperature: vertical axis and its values.
        cells: one row a cell, with its place in ``row`` and ``column``.
        owner: position in ``cells`` of the cell that stands for a place: its own, or, in rows and
            columns that hold none but cells added by refinement, the nearest one; −1 where there
            is none.
    """

    load: tuple[Axis, list[Any]]
    temperature: tuple[Axis, list[Any]]
    cells: pd.DataFrame
    owner: Int[np.ndarray, "row column"]

    @classmethod
    def of(cls, cells: pd.DataFrame, load: Axis, temperature: Axis) -> Grid:
        """Sort the values of both axes and place the cells.

        Raises:
            ConfigError: if two cells share a place, because a third axis varies.
        """
        across, up = (sorted(set(cells[axis.key])) for axis in (load, temperature))
        placed = cells.assign(
            column=[across.index(v) for v in cells[load.key]],
            row=[up.index(v) for v in cells[temperature.key]],
        )
        if placed.duplicated(["row", "column"]).any():
            raise ConfigError(
                f"phase diagram: several cells share {load.key} and {temperature.key}; "
                "name the other axes that vary as facets"
            )
        owner = _owners(placed, (len(up), len(across)))
        return cls((load, across), (temperature, up), placed, owner)

    @property
    def borrowed(self) -> Bool[np.ndarray, "row column"]:
        """Places that have no cell of their own, and another one stands for them."""
        own = np.zeros(self.owner.shape, bool)
        own[self.cells["row"], self.cells["column"]] = True
        return (self.owner >= 0) & ~own

    def layout(self, column: str, empty: Any) -> Shaped[np.ndarray, "row column"]:
        """A column of the cells as a matrix; ``empty`` where no cell stands for a place."""
        values = np.asarray(self.cells[column])
        matrix = np.full(self.owner.shape, empty, dtype=values.dtype)
        held = self.owner >= 0
        matrix[held] = values[self.owner[held]]
        return matrix

    def phases(self) -> Shaped[np.ndarray, "row column"]:
        """Phases as text; empty text where there is no cell."""
        return self.layout("phase", "").astype(str)


def _owners(cells: pd.DataFrame, shape: tuple[int, int]) -> Int[np.ndarray, "row column"]:
    """Which cell stands for each place of a grid; see :attr:`Grid.owner`."""
    places = cells[["row", "column"]].to_numpy()
    owner = np.full(shape, -1)
    owner[tuple(places.T)] = np.arange(len(cells))
    planned = cells[~cells["added"]] if "added" in cells else cells
    refined = ~np.isin(np.arange(shape[0]), planned["row"])[:, None]
    refined = refined | ~np.isin(np.arange(shape[1]), planned["column"])
    for place in np.argwhere(refined & (owner < 0)):
        owner[tuple(place)] = np.argmin(((places - place) ** 2).sum(axis=1))
    return owner


def boundary_segments(labels: Shaped[np.ndarray, "row column"]) -> Float[np.ndarray, "n 2 2"]:
    """Lines between neighbouring cells whose labels differ.

    Args:
        labels: text of the cell at row, column; empty text where there is no cell.

    Returns:
        ``[segment, end, (x, y)]``; the cell at row r, column c is the unit square about (c, r).

    Example:
        >>> boundary_segments(np.array([["I", "II"]])).tolist()
        [[[0.5, -0.5], [0.5, 0.5]]]
    """
    upright = _differing(labels[:, :-1], labels[:, 1:])
    level = _differing(labels[:-1], labels[1:])
    segments = [[[c + 0.5, r - 0.5], [c + 0.5, r + 0.5]] for r, c in upright]
    segments += [[[c - 0.5, r + 0.5], [c + 0.5, r + 0.5]] for r, c in level]
    return np.array(segments, dtype=float).reshape(-1, 2, 2)


def _differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.argwhere((one != other) & (one != "") & (other != ""))
