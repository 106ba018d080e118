"""Report: a zoo as phase diagrams (PNG, SVG) and a datacard (Markdown) that need no code to read.

Both are drawn from :class:`ReportData`, plain tables and texts; :func:`write_report` fills it from
a zoo. The same zoo gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from zoogen.config import Config
from zoogen.errors import ConfigError, DataUnavailableError, NotFoundError, StorageError
from zoogen.landscape import METRICS
from zoogen.phases import PHASES, tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoogen.zoo import Zoo

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
    Panel("train_loss", "Train loss", "nats, log scale", "magnitude"),
    Panel("train_accuracy", "Train accuracy", "%", "percent"),
    Panel("test_accuracy", "Test accuracy", "%", "percent"),
    Panel("generalisation_gap", "Generalisation gap", "points of accuracy", "percent"),
    Panel("hessian_trace", "Hessian trace", "|trace|, log scale", "magnitude"),
    Panel("hessian_top", "Top Hessian eigenvalue", "|λ|, log scale", "magnitude"),
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


def write_report(zoo: Zoo, out: Path | str) -> list[Path]:
    """Write phase diagrams and datacard of a zoo.

    Args:
        zoo: an open zoo, labelled.
        out: directory; made if absent.

    Returns:
        The files written: ``phase_diagram*.png``, ``phase_diagram*.svg``, ``datacard.md``.

    Raises:
        ConfigError: if matplotlib is missing.
        NotFoundError: if the zoo has no labels yet.
        StorageError: if the directory cannot be written.
    """
    return render(data_of(zoo), out)


def render(data: ReportData, out: Path | str) -> list[Path]:
    """Write phase diagrams (where load and temperature are known) and datacard as files."""
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


# ---------------------------------------------------------------------------------- from a zoo
def data_of(zoo: Zoo) -> ReportData:
    """What a report says about a zoo, read from its config, tables and manifest.

    Raises:
        NotFoundError: if the zoo has no labels yet.
    """
    config, labels = zoo.config, zoo.reader.labels()
    if labels is None:
        raise NotFoundError(f"{zoo.path}: no phase labels yet; run `zoogen label {zoo.path}`")
    varying = _varying(config)
    load, temperature = config.grid.load, config.grid.temperature
    axis = partial(describe_axis, family=config.network.family)
    dataset, licence = _dataset_texts(zoo)
    return ReportData(
        name=zoo.name,
        description=config.description,
        dataset=dataset,
        network=network_text(config),
        training=training_text(config),
        snapshot=_last_snapshot(zoo),
        cells=zoo.cells,
        members=zoo.members,
        grid={key: sorted(set(zoo.cells[key])) for key in varying},
        load=axis(load) if load else None,
        temperature=axis(temperature) if temperature else None,
        facets=tuple(axis(key) for key in varying if key not in (load, temperature)),
        labelling=labels.info,
        provenance=_provenance(zoo),
        licence=licence,
        limits=limits_of(config),
        location=str(zoo.path),
    )


def _varying(config: Config) -> list[str]:
    named = [config.grid.load, config.grid.temperature, *config.grid.axes]
    return list(dict.fromkeys(key for key in named if key))


def _dataset_texts(zoo: Zoo) -> tuple[str, str]:
    """Name and licence; a card can be written where the data set itself can't be had."""
    try:
        dataset = zoo.dataset
    except DataUnavailableError:
        return zoo.config.data.source, "unknown (the data set is not at hand here)"
    _, height, width = dataset.image_shape
    size = f"{len(dataset.train):,} + {len(dataset.test):,} images, {height}×{width}"
    return f"{dataset.name} ({size})", f"{dataset.licence}. {dataset.citation}"


def _last_snapshot(zoo: Zoo) -> str:
    """The last snapshot in words; its time only where all cohorts share it."""
    last = [zoo.snapshots(cohort).iloc[-1] for cohort in zoo.reader.cohorts]
    epochs = {f"{row['epoch']:.3g}" for row in last}
    return "end of training" + (f" (epoch {epochs.pop()})" if len(epochs) == 1 else "")


def _provenance(zoo: Zoo) -> dict[str, str]:
    manifest = zoo.reader.manifest
    facts = {
        "created": manifest.created,
        "format version": str(manifest.format_version),
        "config hash": manifest.config_hash,
        "content hash": manifest.content_hash(),
    }
    return facts | _flat(manifest.sessions[-1].provenance)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    facts: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            facts |= _flat(value, f"{prefix}{key}.")
        else:
            facts[prefix + key] = str(value)
    return facts


def network_text(config: Config) -> str:
    """The architecture in words, without what varies over the grid."""
    varying, network = set(_varying(config)), config.network
    family = {"mlp": "MLP", "cnn": "CNN", "lenet": "LeNet-like CNN"}[network.family]
    parts = []
    if "network.depth" not in varying and network.depth is not None:
        parts.append(f"depth {network.depth}")
    if "network.width" not in varying:
        parts.append(f"width {network.width}")
    if "network.activation" not in varying:
        parts.append(network.activation)
    return f"{family} ({', '.join(parts)})" if parts else family


def training_text(config: Config) -> str:
    """Optimiser, schedule and length of training in words, without what varies over the grid."""
    varying, train = set(_varying(config)), config.train
    length = f"{train.epochs} epochs" if train.epochs else f"{train.steps} steps"
    shown = {
        "optimizer": train.optimizer, "learning_rate": f"learning rate {train.learning_rate:g}",
        "momentum": f"momentum {train.momentum:g}", "batch_size": f"batch size {train.batch_size}",
        "weight_decay": f"weight decay {train.weight_decay:g}",
        "schedule": f"{train.schedule} schedule",
    }  # fmt: skip
    parts = [text for key, text in shown.items() if f"train.{key}" not in varying]
    if not varying & {"train.epochs", "train.steps"}:
        parts.append(length)
    return ", ".join(parts)


def limits_of(config: Config) -> tuple[str, ...]:
    """What the numbers can't show, from the config."""
    landscape, probe = config.landscape, config.data.probe_examples
    return (
        f"All metrics, losses and accuracies too, are taken on fixed probe sets of at most "
        f"{probe} training and {probe} test images.",
        f"Curvature: at most {landscape.hessian_examples} training images, "
        f"{landscape.hessian_probes} random probes per trace (its standard error is stored beside "
        f"it), {landscape.lanczos_steps} Lanczos steps per eigenvalue.",
        f"Mode connectivity: curves of {landscape.curve_epochs} epochs on the training probe set; "
        f"a longer search may find a lower path, so that barriers are upper bounds.",
        f"Confidence comes from resampling {config.grid.seeds} seeds per cell; with few seeds it "
        f"is coarse and too high. It holds no error of the train error and CKA within a member.",
        f"Phases depend on the rule {config.phases.rule!r} and its thresholds above.",
    )


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


# Geometry of a figure in inches: the phases to the left with their legend below, squares of
# metrics to the right.
_ROWS = 3
_SIDE, _STEP, _PITCH = 1.75, 2.12, 2.5
_HEIGHT = 7.5
_MAIN = (0.95, 2.5, 4.1, 4.18)
_LEGEND = (0.15, 0.1, 4.9, 1.76)
_RIGHT = 6.05


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
    columns = -(-len(panels) // _ROWS)
    size = (_RIGHT + columns * _PITCH, _HEIGHT) if panels else (_RIGHT, _HEIGHT)
    figure = Figure(figsize=size)
    _title(figure, data, cells, facet)
    _phase_panel(_place(figure, *_MAIN), grid)
    _legend(_place(figure, *_LEGEND), cells, data.labelling)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        left, bottom = _RIGHT + column * _PITCH, _MAIN[1] + _MAIN[3] - _SIDE - row * _STEP
        axes = _place(figure, left, bottom, _SIDE, _SIDE)
        bar = _place(figure, left + _SIDE + 0.06, bottom, 0.11, _SIDE)
        _metric_panel(axes, bar, grid, panel)
        _label_axes(axes, grid, bottom=place + columns >= len(panels), left=column == 0)
    return figure


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches; a layout solver would give other last digits in every run."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _title(figure: Figure, data: ReportData, cells: pd.DataFrame, facet: list[str]) -> None:
    head = f"{data.name}: {data.network} on {data.dataset}"
    members = int(data.members["cell"].isin(cells.index).sum())
    width = figure.get_figwidth()
    facts = [f"{len(cells)} cells, {members} members", "mean over seeds", data.snapshot]
    figure.text(0.15 / width, 0.985, ", ".join([head, *facet]), size=12, weight="bold", va="top")
    figure.text(0.15 / width, 0.95, " · ".join(facts), size=9, color="#444444", va="top")


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
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.patch.set(hatch="xxxx", edgecolor="#D0D0D0")  # shows where nothing was measured
    for axis, (_, values) in ((axes.xaxis, grid.load), (axes.yaxis, grid.temperature)):
        step = -(-len(values) // 12)
        axis.set_ticks(range(0, len(values), step), [_text(v) for v in values[::step]])
        axis.set_tick_params(length=2, pad=2)
    if max(len(_text(v)) for v in grid.load[1]) > 4:
        axes.tick_params(axis="x", labelrotation=45)
    segments: Any = boundary_segments(labels)
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


def _phase_panel(axes: Axes, grid: Grid) -> None:
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
    dark = phase in PHASES or phase == "failed"
    return {
        "facecolor": _COLOURS[phase],
        "edgecolor": "white" if dark else "#9A9A9A",
        "hatch": "////" if phase == "boundary" else None,
        "linewidth": 0.4,
    }


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
        borderpad=0, borderaxespad=0, handlelength=1.4, handleheight=1.2, columnspacing=1.2,
        title="cells per phase", title_fontsize=8, alignment="left",
    )  # fmt: skip
    axes.text(
        0, 0, "\n".join(rule_lines(labelling)), transform=axes.transAxes, size=7.5,
        color="#444444", va="bottom", linespacing=1.4,
    )  # fmt: skip


def rule_lines(labelling: Mapping[str, Any]) -> list[str]:
    """The rule and its thresholds in words, one line each."""
    if not labelling:
        return ["no labels stored"]
    lines = [f"Rule {labelling['rule']}, version {labelling['version']}:"]
    for name, cut in labelling["thresholds"].items():
        how = _METHODS.get(cut["method"], cut["method"])
        if cut["low"] != cut["high"]:
            how += f"; 5–95 %: {cut['low']:.3g} to {cut['high']:.3g}"
        number = f"{cut['value']:.3g}".replace("-", "−")
        lines.append(f"{_MEANINGS.get(name, name + ' {}').format(number)} ({how})")
    return lines


_MEANINGS = {
    "train_error": "under-fitted: train error above {} %",
    "mode_connectivity": "under-sized: mode connectivity below {} points",
    "cka": "generalising: CKA of at least {}",
}
_METHODS = {
    "otsu": "estimated on this zoo", "fallback": "fixed, as no estimate was possible"
}  # fmt: skip


def _metric_panel(axes: Axes, colours_beside: Axes, grid: Grid, panel: Panel) -> None:
    factor = 100.0 if panel.scale == "percent" else 1.0
    values = grid.layout(panel.metric, np.nan).astype(float) * factor
    # Diverged and collapsed nets would take up the whole scale; they lie beyond its ends.
    trained = np.where(grid.phases() == "failed", np.nan, values)
    norm, colours = _colours(trained if np.isfinite(trained).any() else values, panel.scale)
    shown = np.abs(values) if panel.scale == "magnitude" else values
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(shown), norm=norm, cmap=colours, rasterized=False,
    )  # fmt: skip
    bar = axes.figure.colorbar(mesh, cax=colours_beside, extend=_beyond(shown, norm))
    if panel.scale == "magnitude":
        _log_ticks(bar)
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


def _log_ticks(bar: Any) -> None:
    """Powers of ten, or 1, 2, 5 where there are fewer than two of them, in short numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = np.log10(bar.norm.vmax / bar.norm.vmin)
    bar.locator = LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=7)
    bar.formatter = FuncFormatter(lambda value, _: _short(value))
    bar.update_ticks()
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """A tick label of at most six characters.

    Example:
        >>> _short(0.02), _short(1e5), _short(2e-12)
        ('0.02', '1e5', '2e−12')
    """
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}".replace("-", "−")


def _beyond(values: Float[np.ndarray, "row column"], norm: Any) -> str:
    """Which ends of a colour bar are pointed, because cells lie beyond them."""
    low, high = bool(np.nanmin(values) < norm.vmin), bool(np.nanmax(values) > norm.vmax)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[low, high]


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


_NO_MEASUREMENT = {"cell", "seed", "row", "members", "confidence", "diverged"}


def _measurements(data: ReportData) -> list[str]:
    head = ["metric", "unit", "over", "measured", "least", "median", "greatest", "definition"]
    of_pairs = {name for name, metric in METRICS.items() if metric.axes[0] == "pair"}
    of_members = _ranges(data.members, "members", of_pairs)
    of_cells = _ranges(data.cells, "cells", set(data.members.columns) - of_pairs)
    return _table(head, of_members + of_cells)


def _ranges(table: pd.DataFrame, over: str, skip: set[str]) -> list[tuple[Any, ...]]:
    """One row a metric: unit, count, least, median and greatest of the finite values."""
    rows = []
    for name in table.select_dtypes("number"):
        if name in _NO_MEASUREMENT | skip or "." in name or name.startswith("share "):
            continue
        metric, values = METRICS.get(name), table[name].to_numpy(float)
        unit, definition = (metric.unit, metric.definition) if metric else ("", "")
        finite = values[np.isfinite(values)]
        spread = [f"{v:.4g}" for v in np.quantile(finite, [0, 0.5, 1])] if finite.size else "–––"
        count = f"{finite.size} of {len(values)}"
        rows.append((f"`{name}`", unit, over, count, *spread, definition))
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
