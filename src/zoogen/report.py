"""Report: a zoo as phase diagrams (PNG, SVG) and a datacard (Markdown) that need no code to read.

Both are drawn from :class:`ReportData`, plain tables and texts; :func:`report` fills it from a
zoo. The same zoo gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from zoogen.errors import ConfigError, StorageError
from zoogen.phases import PHASES, tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Role = Literal["load", "temperature"]

# ------------------------------------------------------------------------------ what is shown
PHASE_NAMES = {
    "I": "under-fitted and under-sized",
    "II": "under-fitted",
    "III": "under-sized",
    "IV-A": "over-fitted",
    "IV-B": "generalising",
    "boundary": "split vote",
    "failed": "diverged or at chance",
    "unlabelled": "not measured",
}

# Okabe & Ito (2008), *Color universal design*: told apart by colour-blind readers too.
_COLOURS = {
    "I": "#D55E00", "II": "#E69F00", "III": "#0072B2", "IV-A": "#56B4E9", "IV-B": "#009E73",
    "boundary": "#E8E8E8", "failed": "#4D4D4D", "unlabelled": "#FFFFFF",
}  # fmt: skip
_INK = {"I": "white", "III": "white", "IV-B": "white", "failed": "white"}
_MARKS = {"boundary": "?", "failed": "×", "unlabelled": "–"}
_CERTAIN = 0.9  # cells below this confidence carry a dot


@dataclass(frozen=True)
class Panel:
    """How one metric is drawn.

    Attributes:
        metric: column of the cells.
        title: over the panel.
        unit: beside its colour bar.
        scale: ``linear``; ``percent`` (a share, times 100); ``magnitude`` (logarithm of the
            absolute value, with a mark on negative cells); ``centred`` (diverging about 0).
    """

    metric: str
    title: str
    unit: str
    scale: Literal["linear", "percent", "magnitude", "centred"] = "linear"


PANELS = (
    Panel("train_loss", "Train loss", "nats", "magnitude"),
    Panel("train_accuracy", "Train accuracy", "%", "percent"),
    Panel("test_accuracy", "Test accuracy", "%", "percent"),
    Panel("generalisation_gap", "Generalisation gap", "points of accuracy", "percent"),
    Panel("hessian_trace", "Hessian trace", "|trace|, log scale", "magnitude"),
    Panel("hessian_top_eigenvalue", "Top Hessian eigenvalue", "|λ|, log scale", "magnitude"),
    Panel("mode_connectivity", "Mode connectivity", "points of train error", "centred"),
    Panel("cka", "CKA of logits", "similarity, 0 to 1"),
    Panel("weight_norm", "Weight norm", "ℓ2 norm"),
)


@dataclass(frozen=True)
class Axis:
    """A hyper-parameter as an axis: dotted key, words and unit."""

    key: str
    name: str
    unit: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


_WIDTH_UNITS = {
    "mlp": "units per hidden layer", "cnn": "channels per layer", "lenet": "channels of layer 1",
}  # fmt: skip
_AXES = {
    "data.fraction": ("training fraction", "share of images"),
    "data.train_examples": ("training set", "images"),
    "data.label_noise": ("label noise", "share of labels"),
    "network.depth": ("depth", "layers"),
    "network.init_scale": ("initial weights", "factor"),
    "train.learning_rate": ("learning rate", "peak"),
    "train.batch_size": ("batch size", "images per step"),
    "train.epochs": ("training", "epochs"),
    "train.steps": ("training", "steps"),
}
# +1: the quantity rises with the value, -1: it falls. Load is data over capacity; noisy labels
# ask for more capacity. Temperature is the noise of training.
_DIRECTIONS: dict[Role, dict[str, int]] = {
    "load": {
        "network.width": -1, "network.depth": -1,
        "data.fraction": +1, "data.train_examples": +1, "data.label_noise": +1,
    },
    "temperature": {
        "train.learning_rate": +1, "train.momentum": +1, "train.weight_decay": +1,
        "train.batch_size": -1, "train.epochs": -1, "train.steps": -1,
    },
}  # fmt: skip


def describe_axis(key: str, family: str = "") -> Axis:
    """The axis of a dotted key, in words.

    Example:
        >>> describe_axis("network.width", "cnn").label
        'width (channels per layer)'
    """
    if key == "network.width":
        return Axis(key, "width", _WIDTH_UNITS.get(family, ""))
    name, unit = _AXES.get(key, (key.rsplit(".", 1)[-1].replace("_", " "), ""))
    return Axis(key, name, unit)


def arrow(key: str, role: Role) -> str:
    """Which way load or temperature rises along an axis whose values grow to the right or up.

    Returns:
        Text with an arrow, empty where the direction is not known.

    Example:
        >>> arrow("network.width", "load"), arrow("train.learning_rate", "temperature")
        ('← higher load', 'hotter →')
    """
    words = {"load": "higher load", "temperature": "hotter"}[role]
    direction = _DIRECTIONS[role].get(key, 0)
    return {1: f"{words} →", -1: f"← {words}", 0: ""}[direction]


# -------------------------------------------------------------------------------------- the data
@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything a report says, as plain tables and texts.

    Attributes:
        name: of the zoo.
        description: what it is for.
        dataset: name of the data set.
        network: architecture in words.
        training: how members were trained, in words.
        snapshot: which snapshot the numbers belong to, in words.
        cells: one row a cell: hyper-parameters (dotted keys), mean metrics, ``phase``,
            ``confidence``.
        members: one row a member: ``cell``, ``seed``, hyper-parameters, metrics, ``phase``,
            ``diverged``.
        grid: dotted key → values of each axis that varies.
        load: horizontal axis of the diagram; without it none is drawn.
        temperature: vertical axis.
        facets: further axes that vary; there is one diagram per combination of their values.
        labelling: :meth:`zoogen.phases.Labels.provenance`.
        provenance: label → text (versions, hashes, device, time).
        licence: of the data set.
        limits: known limits, one sentence each.
        location: path of the zoo, for the lines that open it.
    """

    name: str
    description: str
    dataset: str
    network: str
    training: str
    snapshot: str
    cells: pd.DataFrame
    members: pd.DataFrame
    grid: Mapping[str, Sequence[Any]]
    load: Axis | None
    temperature: Axis | None
    facets: tuple[Axis, ...] = ()
    labelling: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    limits: tuple[str, ...] = ()
    location: str = "ZOO"


def report(zoo: Any, out: Path | str) -> list[Path]:
    """Write phase diagrams and datacard of a zoo.

    Args:
        zoo: an open zoo.
        out: directory; made if absent.

    Returns:
        The files written: ``phase_diagram*.png``, ``phase_diagram*.svg``, ``datacard.md``.

    Raises:
        ConfigError: if matplotlib is missing.
        StorageError: if the directory cannot be written.
    """
    return write(data_of(zoo), out)  # TODO


def write(data: ReportData, out: Path | str) -> list[Path]:
    """Write phase diagrams (where load and temperature are known) and datacard; see `report`."""
    folder = Path(out)
    figures = phase_diagrams(data) if data.load and data.temperature else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [path for name, fig in figures.items() for path in _save(fig, folder / name)]
        card = folder / "datacard.md"
        card.write_text(datacard(data, tuple(figures)), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"report: {folder} can't be written: {error.strerror}; choose another --out"
        ) from None
    return [*paths, card]


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    # Fixed ids and no date: the same zoo gives the same file. Text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "zoogen", "svg.fonttype": "none"}):
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


# ------------------------------------------------------------------------------ phase diagrams
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.6,
}


def phase_diagrams(data: ReportData) -> dict[str, Figure]:
    """Draw one figure per combination of the facets' values.

    Returns:
        File stem → figure: a large panel of phases beside one panel per metric of
        :data:`PANELS` that was measured, all over load (horizontal) and temperature.

    Raises:
        ConfigError: if matplotlib is missing, or the zoo names no load or no temperature axis.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "phase diagram: matplotlib is missing; install it with `pip install 'zoogen[plot]'`"
        ) from None
    if data.load is None or data.temperature is None:
        raise ConfigError("phase diagram: name grid.load and grid.temperature in the config")
    with matplotlib.rc_context(_STYLE):
        return {
            "-".join(["phase_diagram", *map(_slug, titles)]): _diagram(data, cells, titles)
            for titles, cells in _facets(data)
        }


def _facets(data: ReportData) -> Iterator[tuple[list[str], pd.DataFrame]]:
    keys = [axis.key for axis in data.facets]
    if not keys:
        yield [], data.cells
        return
    for values, cells in data.cells.groupby(keys, dropna=False):
        pairs = zip(data.facets, values, strict=True)
        yield [f"{axis.name} {_text(value)}" for axis, value in pairs], cells


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text)


def _diagram(data: ReportData, cells: pd.DataFrame, facet: list[str]) -> Figure:
    from matplotlib.figure import Figure

    assert data.load is not None
    assert data.temperature is not None
    grid = Grid.of(cells, data.load, data.temperature)
    panels = [p for p in PANELS if p.metric in cells and cells[p.metric].notna().any()]
    rows, columns = 3, -(-len(panels) // 3)
    figure = Figure(figsize=(4.3 + 2.6 * columns, 7.6), layout="constrained")
    figure.get_layout_engine().set(rect=(0.005, 0.005, 0.99, 0.915), hspace=0.04, wspace=0.03)
    spec = figure.add_gridspec(rows, 2 + columns, width_ratios=[0.8, 0.8, *[1] * columns])
    _title(figure, data, cells, facet)
    main = figure.add_subplot(spec[:2, :2])
    _phase_panel(main, grid, data)
    _legend(figure.add_subplot(spec[2, :2]), cells, data.labelling)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        axes = figure.add_subplot(spec[row, 2 + column])
        _metric_panel(axes, grid, panel)
        lowest = place + columns >= len(panels)
        _label_axes(axes, grid, bottom=lowest, left=column == 0)
    return figure


def _title(figure: Figure, data: ReportData, cells: pd.DataFrame, facet: list[str]) -> None:
    head = f"{data.name}: {data.network} on {data.dataset}"
    members = int(data.members["cell"].isin(cells.index).sum())
    facts = [f"{len(cells)} cells, {members} members", "mean over seeds", data.snapshot]
    figure.text(0.01, 0.985, ", ".join([head, *facet]), size=12, weight="bold", va="top")
    figure.text(0.01, 0.948, " · ".join(facts), size=9, color="#444444", va="top")


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells laid out over load (columns) and temperature (rows), one step apart.

    Attributes:
        load: horizontal axis and its values in growing order.
        temperature: vertical axis and its values.
        cells: one row a cell, with its place in ``row`` and ``column``.
    """

    load: tuple[Axis, list[Any]]
    temperature: tuple[Axis, list[Any]]
    cells: pd.DataFrame

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
        return cls((load, across), (temperature, up), placed)

    def layout(self, column: str, empty: Any) -> Shaped[np.ndarray, "row column"]:
        """A column of the cells as a matrix; ``empty`` where there is no cell."""
        values = np.asarray(self.cells[column])
        matrix = np.full((len(self.temperature[1]), len(self.load[1])), empty, dtype=values.dtype)
        matrix[self.cells["row"], self.cells["column"]] = values
        return matrix

    def phases(self) -> Shaped[np.ndarray, "row column"]:
        """Phases as text; empty text where there is no cell."""
        return self.layout("phase", "").astype(str)


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


def _frame(axes: Axes, grid: Grid) -> None:
    """Limits, ticks and phase boundaries that all panels share."""
    from matplotlib.collections import LineCollection

    labels = grid.phases()
    rows, columns = labels.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5), facecolor="#F4F4F4")
    for axis, (_, values) in ((axes.xaxis, grid.load), (axes.yaxis, grid.temperature)):
        step = -(-len(values) // 12)
        axis.set_ticks(range(0, len(values), step), [_text(v) for v in values[::step]])
        axis.set_tick_params(length=2, pad=2)
    if max(len(_text(v)) for v in grid.load[1]) > 4:
        axes.tick_params(axis="x", labelrotation=45)
    segments = boundary_segments(labels)
    # Black on white: visible on dark and on light cells.
    for colour, width in (("white", 2.2), ("black", 1.1)):
        lines = LineCollection(segments, colors=colour, linewidths=width, capstyle="projecting")
        axes.add_collection(lines, autolim=False)


def _label_axes(axes: Axes, grid: Grid, bottom: bool, left: bool) -> None:
    load, temperature = grid.load[0], grid.temperature[0]
    if bottom:
        axes.set_xlabel("\n".join(filter(None, [load.label, arrow(load.key, "load")])))
    if left:
        hint = arrow(temperature.key, "temperature")
        axes.set_ylabel("\n".join(filter(None, [hint, temperature.label])))
    axes.tick_params(labelbottom=bottom, labelleft=left)


def _phase_panel(axes: Axes, grid: Grid, data: ReportData) -> None:
    from matplotlib.patches import Rectangle

    large = max(len(grid.load[1]), len(grid.temperature[1])) > 12
    for row, column, phase, confidence in grid.cells[
        ["row", "column", "phase", "confidence"]
    ].itertuples(index=False):
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, **_fill(phase))
        axes.add_patch(box)
        if not large:
            mark, ink = _MARKS.get(phase, phase), _INK.get(phase, "black")
            axes.text(column, row, mark, ha="center", va="center", color=ink, size=8)
        if phase in PHASES and confidence < _CERTAIN:
            axes.plot(column + 0.34, row + 0.32, **_DOT)
    axes.set_title("Phase", weight="bold")
    _frame(axes, grid)
    _label_axes(axes, grid, bottom=True, left=True)


_DOT: dict[str, Any] = {
    "marker": "o", "markersize": 3.2, "markerfacecolor": "white", "markeredgecolor": "black",
    "markeredgewidth": 0.6, "linestyle": "none",
}  # fmt: skip


def _fill(phase: str) -> dict[str, Any]:
    hatch = "////" if phase == "boundary" else None
    return {"facecolor": _COLOURS[phase], "edgecolor": "#9A9A9A" if hatch else "white",
            "hatch": hatch, "linewidth": 0.4}  # fmt: skip


def _legend(axes: Axes, cells: pd.DataFrame, labelling: Mapping[str, Any]) -> None:
    """What the colours mean, how many cells each has, and the rule that gave them."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    counts = cells["phase"].value_counts()
    shown = [name for name in PHASE_NAMES if name in PHASES or name in counts]
    entries: list[Any] = [
        Patch(**_fill(name), label=f"{name}  {PHASE_NAMES[name]} ({counts.get(name, 0)})")
        for name in shown
    ]
    entries.append(Line2D([], [], **_DOT, label=f"confidence below {_CERTAIN:g}"))
    axes.axis("off")
    axes.legend(
        handles=entries, ncols=2, loc="upper left", bbox_to_anchor=(0, 1), frameon=False,
        borderpad=0, borderaxespad=0, handlelength=1.4, handleheight=1.2, columnspacing=1.0,
        title="cells per phase", title_fontsize=8, alignment="left",
    )  # fmt: skip
    lines = rule_lines(labelling)
    axes.text(
        0, 0, "\n".join(lines), transform=axes.transAxes, size=7, color="#444444", va="bottom"
    )


def rule_lines(labelling: Mapping[str, Any]) -> list[str]:
    """The rule and its thresholds in words, one line each."""
    if not labelling:
        return ["no labels stored"]
    lines = [f"rule {labelling['rule']} version {labelling['version']}"]
    units = {"train_error": "%", "mode_connectivity": "points of train error", "cka": ""}
    for name, cut in labelling["thresholds"].items():
        how = cut["method"]
        if cut["low"] != cut["high"]:
            how += f", 5–95 %: {cut['low']:.3g} to {cut['high']:.3g}"
        unit = units.get(name, "")
        lines.append(f"{name.replace('_', ' ')} {cut['value']:.3g} {unit}".rstrip() + f" ({how})")
    return lines


def _metric_panel(axes: Axes, grid: Grid, panel: Panel) -> None:
    factor = 100.0 if panel.scale == "percent" else 1.0
    values = grid.layout(panel.metric, np.nan).astype(float) * factor
    norm, colours = _colours(values, panel.scale)
    shown = np.abs(values) if panel.scale == "magnitude" else values
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(shown), norm=norm, cmap=colours, rasterized=False,
    )  # fmt: skip
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=18)
    bar.set_label(panel.unit, size=7, labelpad=2)
    bar.ax.tick_params(length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    axes.set_title(panel.title)
    _frame(axes, grid)
    if panel.scale == "magnitude":
        for row, column in np.argwhere(values < 0):
            axes.text(column, row, "−", ha="center", va="center", color="white", weight="bold")


def _colours(values: Float[np.ndarray, "row column"], scale: str) -> tuple[Any, str]:
    """Norm and colour map; both maps are perceptually even and safe for colour-blind readers."""
    from matplotlib.colors import CenteredNorm, LogNorm, Normalize

    finite = values[np.isfinite(values)]
    if scale == "centred":
        return CenteredNorm(0, halfrange=max(np.abs(finite).max(), 1e-12)), "PuOr_r"
    if scale == "magnitude" and (finite != 0).any():
        sizes = np.abs(finite[finite != 0])
        return LogNorm(sizes.min(), max(sizes.max(), sizes.min() * 1.01)), "cividis"
    return Normalize(finite.min(), max(finite.max(), finite.min() + 1e-9)), "viridis"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


# ------------------------------------------------------------------------------------- datacard
def datacard(data: ReportData, figures: Sequence[str] = ()) -> str:
    """The card of a zoo as Markdown.

    Args:
        data: what to say.
        figures: stems of the phase diagrams beside the card.
    """
    sections = [
        (f"# {data.name}", [data.description] if data.description else []),
        ("## What it is", _what(data)),
        ("## Phases", [*_figure_links(figures), *_phase_tables(data)]),
        ("## Grid", _table(["axis", "key", "values"], _grid_rows(data))),
        ("## Measurements", _measurements(data)),
        ("## How to load", _loading(data)),
        ("## Format", ["A Zarr v3 group with `members.parquet` and `manifest.json`; xarray opens "
                       "its arrays. `zoogen verify` checks every byte against the manifest."]),
        ("## Provenance", _table(["what", "value"], list(data.provenance.items()))),
        ("## Licence of the data set", [data.licence]),
        ("## Known limits", [f"- {limit}" for limit in data.limits]),
    ]  # fmt: skip
    parts = ["\n\n".join(filter(None, [head, "\n".join(body)])) for head, body in sections]
    return "\n\n".join(parts) + "\n"


def _what(data: ReportData) -> list[str]:
    diverged = int(data.members["diverged"].sum()) if "diverged" in data.members else 0
    facts = {
        "Data set": data.dataset,
        "Network": data.network,
        "Training": data.training,
        "Size": f"{len(data.members)} members in {len(data.cells)} cells",
        "Diverged": f"{diverged} members",
        "Numbers below": data.snapshot,
    }
    return [f"- **{name}**: {text}" for name, text in facts.items()]


def _figure_links(figures: Sequence[str]) -> list[str]:
    if not figures:
        return ["No diagram: the config names no load or no temperature axis.", ""]
    return [*(f"![{stem}]({stem}.png)" for stem in figures), ""]


def _phase_tables(data: ReportData) -> list[str]:
    counts = tally(data.cells["phase"], data.members["phase"])
    rows = [
        (name, PHASE_NAMES[name], cells, f"{share:.1%}", members, f"{part:.1%}")
        for name, cells, share, members, part in counts.rows()
    ]
    empty = f" No cell in phase {', '.join(counts.empty)}." if counts.empty else ""
    return [
        *_table(["phase", "meaning", "cells", "share", "members", "share"], rows),
        "",
        f"Entropy over the five phases: {counts.entropy:.2f} of {np.log2(len(PHASES)):.2f} bits."
        + empty,
        "",
        *(f"- {line}" for line in rule_lines(data.labelling)),
    ]


def _grid_rows(data: ReportData) -> list[tuple[str, str, str]]:
    roles = {axis.key: f"facet: {axis.name}" for axis in data.facets}
    for role, axis in (("load", data.load), ("temperature", data.temperature)):
        if axis is not None:
            hint = arrow(axis.key, "load" if role == "load" else "temperature")
            roles[axis.key] = f"{role}: {axis.label}" + (f" [{hint}]" if hint else "")
    return [
        (roles.get(key, key), f"`{key}`", ", ".join(map(_text, values)))
        for key, values in data.grid.items()
    ]


_NO_MEASUREMENT = {"cell", "seed", "phase", "confidence", "diverged", "reason", "snapshot"}


def _measurements(data: ReportData) -> list[str]:
    of_members = _ranges(data.members, "members", set())
    of_cells = _ranges(data.cells, "cells", set(data.members.columns))
    return _table(
        ["metric", "over", "measured", "least", "median", "greatest"], of_members + of_cells
    )


def _ranges(table: pd.DataFrame, over: str, skip: set[str]) -> list[tuple[Any, ...]]:
    """One row a metric: count, least, median and greatest of the finite values."""
    rows = []
    for name in table.select_dtypes("number"):
        if name in _NO_MEASUREMENT | skip or "." in name:
            continue
        values = table[name].to_numpy(float)
        finite = values[np.isfinite(values)]
        spread = (
            [f"{v:.4g}" for v in np.quantile(finite, [0, 0.5, 1])] if finite.size else ["–"] * 3
        )
        rows.append((name, over, f"{finite.size} of {len(values)}", *spread))
    return rows


def _loading(data: ReportData) -> list[str]:
    return [
        "```python",
        "import zoogen",
        f'zoo = zoogen.open_zoo("{data.location}")  # zoo.members, zoo.cells: DataFrames',
        "weights = zoo.weights(snapshot=-1, where=\"phase == 'IV-B'\")",
        "```",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines]
