"""Report: boundaries and directions are right, files are readable, the card says what is there."""

from __future__ import annotations

import dataclasses
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from zoogen import phases
from zoogen.config import Config
from zoogen.config.schema import HYPER_PARAMETERS
from zoogen.errors import ConfigError, NotFoundError, StorageError
from zoogen.landscape import METRICS
from zoogen.report import (
    PANELS,
    ReportData,
    bands,
    cuts,
    data_of,
    datacard,
    describe_axis,
    mean_and_error,
    phase_diagrams,
    render,
    rule_lines,
    trajectories,
    write_report,
)
from zoogen.report.axes import _WORDS, Grid, Role, boundary_segments
from zoogen.report.cut import ORDER_PARAMETERS, cuts_of
from zoogen.report.data import PHASE_NAMES, followed
from zoogen.report.panels import COLOURS, _colours
from zoogen.report.trajectories import COURSES, spaced

WIDTHS, RATES = (4, 8, 16, 32), (0.01, 0.1, 1.0)
PHASES = [
    ["III", "unlabelled", "IV-A", "IV-A"],
    ["I", "boundary", "IV-A", "IV-B"],
    ["I", "II", "II", "failed"],
]
LABELS = phases.label(np.zeros(2), np.zeros(2), np.full(2, 0.9)).provenance()


FOLLOWED = [*dict.fromkeys(panel.metric for panel in (*COURSES, *ORDER_PARAMETERS))]
EPOCHS = {"init": 0.0, "epoch 1": 1.0, "anneal": 36.0, "end": 60.0}


def sample(seed: int = 0) -> ReportData:
    """A zoo of 4 widths and 3 rates, three seeds a cell."""
    rng = np.random.default_rng(seed)
    rows = [
        {"network.width": w, "train.learning_rate": r, "phase": PHASES[j][i], "confidence": 0.8}
        for j, r in enumerate(RATES)
        for i, w in enumerate(WIDTHS)
    ]
    cells = pd.DataFrame(rows, index=[f"cell{i}" for i in range(12)])
    for panel in PANELS:
        cells[panel.metric] = rng.uniform(0.1, 1.0, 12)
    cells.loc["cell2", "hessian_trace"] = -0.3
    members = pd.concat(
        [cells.assign(cell=cells.index, seed=s, diverged=cells.phase == "failed") for s in range(3)]
    ).drop(columns=["mode_connectivity", "cka"])
    members.index = members["cell"] + "-" + members["seed"].astype(str)
    return ReportData(
        name="sample", description="A made-up zoo.", location="zoos/x.zarr", dataset="digits",
        licence="BSD", network="MLP", training="sgd", snapshot="end of training (epoch 60)",
        cells=cells, members=members, load=describe_axis("network.width", "load", "mlp"),
        temperature=describe_axis("train.learning_rate", "temperature"), facets=(),
        rule=rule_lines(LABELS), limits=("Few seeds.",), provenance={"zoogen": "0.1"},
        thresholds={"train_error": 0.5, "cka": 0.65},
        trajectories={name: course(name, members, rng) for name in FOLLOWED},
    )  # fmt: skip


def course(name: str, members: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A long table: all members, or the pairs of seeds 0-1, 1-2 of each cell, at four times."""
    owners = pd.DataFrame({"cell": members["cell"], "member": members.index})
    if METRICS[name].axes[0] == "pair":
        owners = owners[members["seed"] < 2]
        owners["other"] = [f"{m[:-1]}{int(m[-1]) + 1}" for m in owners["member"]]
    times = pd.DataFrame({"snapshot": EPOCHS.keys(), "epoch": EPOCHS.values()})
    table = owners.merge(times, how="cross")
    return table.assign(value=rng.uniform(0.1, 1.0, len(table)))


# ----------------------------------------------------------------------------------- pure parts
def test_every_panel_shows_a_metric_that_exists() -> None:
    assert {panel.metric for panel in PANELS} <= METRICS.keys()
    assert all(map(followed, FOLLOWED))


@pytest.mark.parametrize(
    ("labels", "segments"),
    [
        ([["I"]], []),
        ([["I", "I"], ["I", "I"]], []),
        ([["I", "II"]], [((0.5, -0.5), (0.5, 0.5))]),
        ([["I"], ["II"]], [((-0.5, 0.5), (0.5, 0.5))]),
        ([["I", ""]], []),  # no line beside a missing cell
        (
            [["I", "I"], ["I", "II"]],
            [((0.5, 0.5), (0.5, 1.5)), ((0.5, 0.5), (1.5, 0.5))],
        ),
    ],
)
def test_boundaries_lie_between_unlike_neighbours(labels: list, segments: list) -> None:
    found = boundary_segments(np.array(labels))
    assert {tuple(map(tuple, s)) for s in found.tolist()} == set(segments)
    assert len(found) == len(segments)


def test_a_checkerboard_has_every_inner_edge() -> None:
    rows, columns = np.indices((4, 5))
    board = np.where((rows + columns) % 2, "I", "II")
    assert len(boundary_segments(board)) == 4 * 4 + 3 * 5
    assert len(boundary_segments(board.T)) == 4 * 4 + 3 * 5


@pytest.mark.parametrize(
    ("key", "role", "text"),
    [
        ("network.width", "load", "← higher load"),
        ("network.depth", "load", "← higher load"),
        ("data.fraction", "load", "higher load →"),
        ("train.epochs", "temperature", "← hotter"),
        ("train.steps", "temperature", "← hotter"),
        ("train.learning_rate", "temperature", "hotter →"),
        ("train.batch_size", "temperature", "← hotter"),
        ("network.init_scale", "load", ""),  # nobody knows
        ("network.width", "temperature", ""),
        ("network.width", "facet", ""),
    ],
)
def test_arrows_point_to_load_and_heat(key: str, role: Role, text: str) -> None:
    assert describe_axis(key, role).arrow == text


@pytest.mark.parametrize(
    ("key", "family", "label"),
    [
        ("network.width", "mlp", "width (units per hidden layer)"),
        ("network.width", "cnn", "width (channels per layer)"),
        ("train.batch_size", "", "batch size (images per step)"),
        ("train.weight_decay", "", "weight decay"),
    ],
)
def test_axes_have_names_and_units(key: str, family: str, label: str) -> None:
    assert describe_axis(key, "facet", family).label == label


def test_grid_sorts_values_and_leaves_gaps() -> None:
    data = sample()
    cells = data.cells.sample(frac=1, random_state=0).drop("cell5")
    grid = Grid.of(cells, data.load, data.temperature)
    assert grid.load[1] == list(WIDTHS)
    expected = np.array(PHASES)
    expected[1, 1] = ""
    assert (grid.phases() == expected).all()
    assert np.isnan(grid.layout("cka", np.nan)[1, 1])
    assert grid.layout("cka", np.nan)[2, 0] == data.cells.loc["cell8", "cka"]


def test_grid_refuses_a_hidden_axis() -> None:
    data = sample()
    with pytest.raises(ConfigError, match="several cells share"):
        Grid.of(pd.concat([data.cells, data.cells]), data.load, data.temperature)


def test_bands_are_quartiles_of_each_phase_at_each_time() -> None:
    times = pd.DataFrame({"snapshot": ["end", "init"], "epoch": [9.0, 0.0], "scale": [10.0, 1.0]})
    members = pd.DataFrame({"member": list("abcdefg"), "value": [1, 2, 3, 4, 5, 7, np.nan]})
    table = members.merge(times, how="cross")
    table["value"] *= table.pop("scale")
    rows = bands(table, pd.Series(dict(zip("abcdefg", ["I"] * 5 + ["II"] * 2, strict=True))))
    assert rows.set_index(["phase", "snapshot"]).to_dict("index") == {
        ("I", "init"): {"epoch": 0, "low": 2, "median": 3, "high": 4, "count": 5},
        ("I", "end"): {"epoch": 9, "low": 20, "median": 30, "high": 40, "count": 5},
        ("II", "init"): {"epoch": 0, "low": 7, "median": 7, "high": 7, "count": 1},
        ("II", "end"): {"epoch": 9, "low": 70, "median": 70, "high": 70, "count": 1},
    }
    assert list(rows["epoch"]) == [0, 0, 9, 9]


def test_a_pair_counts_where_its_members_share_a_phase() -> None:
    pairs = {"member": ["a", "a", "b"], "other": ["b", "c", "c"], "value": [1.0, 50.0, 70.0]}
    table = pd.DataFrame(pairs).assign(snapshot="end", epoch=1.0)
    (row,) = bands(table, pd.Series({"a": "I", "b": "I", "c": "II"})).itertuples()
    assert (row.phase, row.median) == ("I", 1.0)


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_the_error_of_a_mean_is_that_over_seeds(nothing: float) -> None:
    values = np.array([1.0, 4.0, 5.0, 9.0])
    table = pd.DataFrame({"cell": "x", "member": list("abcd"), "value": values})
    alone = pd.DataFrame({"cell": "y", "member": ["e", "f"], "value": [2.0, nothing]})
    found = mean_and_error(pd.concat([table, alone]))
    assert found.loc["x", "mean"] == values.mean()
    assert found.loc["x", "error"] == pytest.approx(values.std(ddof=1) / 2)
    assert found.loc["y", "mean"] == 2
    assert np.isnan(found.loc["y", "error"])  # one seed says nothing about others


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_over_pairs_counts_seeds_not_pairs(seed: int) -> None:
    """Values a_i + a_j: their mean is twice the mean of a, and so is its error."""
    a = np.random.default_rng(seed).normal(size=7)
    i, j = np.triu_indices(7, 1)
    table = pd.DataFrame({"cell": "x", "member": i, "other": j, "value": a[i] + a[j]})
    found = mean_and_error(table).loc["x"]
    assert found["mean"] == pytest.approx(2 * a.mean())
    assert found["error"] == pytest.approx(2 * a.std(ddof=1) / np.sqrt(7))


def test_cuts_take_the_middle_of_full_rows() -> None:
    data = sample()
    refined = data.cells.iloc[[5]].assign(**{"train.learning_rate": 0.2}, phase="II")
    cells = pd.concat([data.cells, refined.rename(index=lambda _: "new")])
    level, upright = cuts_of(Grid.of(cells, data.load, data.temperature))
    assert (level.at, list(level.cells["network.width"])) == (0.1, list(WIDTHS))
    assert level.cells["phase"].tolist() == PHASES[1]
    # width 8 has the new cell, too: most cells of all columns
    assert (upright.at, list(upright.cells["train.learning_rate"])) == (8, [0.01, 0.1, 0.2, 1.0])
    assert upright.cells["place"].tolist() == [0, 1, 2, 3]


def test_added_cells_stand_for_the_places_about_them_but_not_for_missing_ones() -> None:
    data = sample()
    planned = data.cells.assign(added=False).drop(index=data.cells.index[0])  # one is missing
    new = data.cells.iloc[[5]].assign(**{"train.learning_rate": 0.2}, phase="II", added=True)
    grid = Grid.of(pd.concat([planned, new]), data.load, data.temperature)
    assert grid.phases()[0, 0] == ""
    assert grid.borrowed.tolist() == [
        [False] * 4,
        [False] * 4,
        [True, False, True, True],
        [False] * 4,
    ]
    row = grid.phases()[2]
    assert row[1] == "II"
    assert set(row) <= set(PHASES[1]) | set(PHASES[2])
    assert len(grid.layout("confidence", np.nan)[2]) == 4


def test_every_other_metric_is_drawn_in_the_order_of_the_table() -> None:
    data, table = sample(), course("weight_norm", sample().members, np.random.default_rng(0))
    more = {"ascent_sharpness": table, "train_accuracy": table, "cka_debiased": table}
    figures = trajectories(dataclasses.replace(data, trajectories={**data.trajectories, **more}))
    assert list(figures) == ["trajectories", "trajectories-further"]
    titles = [axes.get_title() for axes in figures["trajectories-further"].axes]
    assert titles[:3] == ["Train accuracy", "CKA debiased", "Ascent sharpness"]


@pytest.mark.parametrize(
    ("values", "kept"),
    [([0], [0]), ([0, 60], [0, 60]), (range(101), range(0, 101, 10)), ([0, 1, 2, 60], [0, 60])],
)
def test_ticks_keep_apart(values: list, kept: list) -> None:
    numbers = np.array(values, float)
    assert spaced(numbers, numbers) == list(kept)


# ---------------------------------------------------------------------------------------- files
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("matplotlib")
    return render(sample(), tmp_path_factory.mktemp("report") / "new" / "folder")


@pytest.fixture(scope="module")
def written(files: list[Path]) -> dict[str, Path]:
    """The phase diagram by its ending."""
    return {path.suffix: path for path in files if path.stem == "phase_diagram"}


def texts_of(svg: Path) -> str:
    root = ET.parse(svg).getroot()
    return " | ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("text"))


def test_all_figures_are_written_and_linked(files: list[Path]) -> None:
    stems = ["phase_diagram", "cut", "trajectories"]
    names = [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert [path.name for path in files] == [*names, "datacard.md"]
    assert all(path.is_file() for path in files)
    card = files[-1].read_text()
    assert [stem for stem in stems if f"![{stem}]({stem}.png)" not in card] == []


@pytest.mark.parametrize("stem", ["cut", "trajectories"])
def test_further_figures_show_every_phase_drawn(files: list[Path], stem: str) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    (png,) = (path for path in files if path.name == f"{stem}.png")
    pixels = np.round(imread(png)[..., :3] * 255).astype(int)
    assert min(pixels.shape[:2]) > 700
    shown = set(np.unique(pixels @ [65536, 256, 1]).tolist())
    middle = {*PHASES[1], *(row[2] for row in PHASES)} - {"boundary"}
    for name in middle if stem == "cut" else {"I", "II", "III", "IV-A", "IV-B", "failed"}:
        red, green, blue = (round(c * 255) for c in to_rgb(COLOURS[name]))
        assert red * 65536 + green * 256 + blue in shown, name


@pytest.mark.parametrize(
    ("stem", "wanted"),
    [
        ("trajectories", [panel.title for panel in COURSES]
         + ["I  under-fitted and under-sized (6 members)", "annealing begins", "epoch (log scale",
            "3 members without a clear phase not drawn",
            "unlabelled  measurement missing (3 members)"]),
        ("cut", [panel.title for panel in ORDER_PARAMETERS]
         + ["along width at learning rate 0.1", "along learning rate at width 16",
            "← higher load", "hotter →", "end of training (epoch 60)"]),
    ],
)  # fmt: skip
def test_further_figures_say_what_they_show(files: list[Path], stem: str, wanted: list) -> None:
    text = texts_of(next(path for path in files if path.name == f"{stem}.svg"))
    assert [words for words in wanted if words not in text] == []


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_metrics_not_followed_have_no_panel(kept: int) -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    tables = {panel.metric: data.trajectories[panel.metric] for panel in COURSES[:kept]}
    if kept < len(COURSES):
        name = COURSES[kept].metric
        tables[name] = data.trajectories[name].assign(value=np.nan)
    figures = trajectories(dataclasses.replace(data, trajectories=tables))
    titles = [a.get_title() for figure in figures.values() for a in figure.axes if a.axison]
    assert titles == [panel.title for panel in COURSES[:kept]]


def test_an_order_parameter_not_measured_has_no_row() -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    tables = {"cka": data.trajectories["cka"]}
    (figure,) = cuts(dataclasses.replace(data, trajectories=tables)).values()
    named = [a.get_ylabel() for a in figure.axes if a.get_ylabel()]
    assert named == ["CKA of logits\n(similarity, 0 to 1)"]
    assert cuts(dataclasses.replace(data, trajectories={})) == {}


def test_time_begins_at_epoch_0_and_marks_the_annealing() -> None:
    pytest.importorskip("matplotlib")
    (figure,) = trajectories(sample()).values()
    for axes in figure.axes[:-1]:
        assert axes.get_xlim()[0] < 0
        assert [tick for tick in axes.get_xticks() if tick in (0, 60)] == [0, 60]
        assert any(list(line.get_xdata()) == [36, 36] for line in axes.lines)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_odd_trajectories_are_drawn(value: float) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = sample()
    # One metric of each scale.
    names = ("hessian_trace", "test_accuracy", "mode_connectivity", "cka")
    tables = {name: data.trajectories[name].assign(value=value) for name in names}
    one_time = {n: t[t["snapshot"] == "init"] for n, t in tables.items()}
    for some in (tables, one_time):
        odd = dataclasses.replace(data, trajectories=some)
        for figure in (*trajectories(odd).values(), *cuts(odd).values()):
            figure.set_dpi(40)
            FigureCanvasAgg(figure).draw()
            limits = [(*axes.get_xlim(), *axes.get_ylim()) for axes in figure.axes]
            assert np.isfinite(limits).all()


def test_a_signed_trace_shows_both_signs() -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    table = data.trajectories["hessian_trace"]
    signs = np.where(table["snapshot"] == "init", -100.0, 1.0)
    tables = {"hessian_trace": table.assign(value=table["value"] * signs)}
    (figure,) = trajectories(dataclasses.replace(data, trajectories=tables)).values()
    axes = figure.axes[0]
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < -10 < 0.1 < axes.get_ylim()[1]


def test_png_is_large_and_shows_the_phases(written: dict[str, Path]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    pixels = np.round(imread(written[".png"])[..., :3] * 255).astype(int)
    assert min(pixels.shape[:2]) > 900
    shown = set(np.unique(pixels @ [65536, 256, 1]).tolist())
    for name in set(np.ravel(PHASES)):
        red, green, blue = (round(c * 255) for c in to_rgb(COLOURS[name]))
        assert red * 65536 + green * 256 + blue in shown, name


def test_svg_parses_and_says_what_the_axes_are(written: dict[str, Path]) -> None:
    text = texts_of(written[".svg"])
    wanted = ["sample: MLP on digits", "width (units per hidden layer)", "learning rate (peak)"]
    wanted += ["← higher load", "hotter →", "end of training (epoch 60)", "CKA of at least 0.65"]
    wanted += [panel.title for panel in PANELS] + [panel.unit for panel in PANELS]
    wanted += [f"{name}  {PHASE_NAMES[name]}" for name in set(np.ravel(PHASES))]
    assert [words for words in wanted if words not in text] == []


def test_the_same_zoo_gives_the_same_files(files: list[Path], tmp_path: Path) -> None:
    for path, before in zip(render(sample(), tmp_path), files, strict=True):
        assert path.read_bytes() == before.read_bytes(), path.name


@pytest.mark.parametrize(("draw", "least"), [(phase_diagrams, 30), (trajectories, 25), (cuts, 15)])
def test_no_text_overlaps_another(draw: Callable, least: int) -> None:
    """Titles, labels, legend and rule text keep clear of each other and of the panels."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    (figure,) = draw(sample()).values()
    FigureCanvasAgg(figure).draw()
    texts, boxes = [], []
    for axes in figure.axes:
        legend = axes.get_legend()
        parts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for part in [*parts, *(legend.get_texts() if legend else [])]:
            if part.get_text():
                texts.append(part.get_text())
                boxes.append(part.get_window_extent())
    assert len(boxes) > least
    clashes = [
        (texts[i], texts[j])
        for i in range(len(boxes))
        for j in range(i)
        if boxes[i].overlaps(boxes[j]) and texts[i] != texts[j]
    ]
    assert clashes == []
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    covered = [
        label.get_text()
        for label in labels
        for axes in figure.axes
        if axes.axison and label.get_text() and label.get_window_extent().overlaps(axes.bbox)
    ]
    assert covered == []


def test_one_figure_per_value_of_a_third_axis() -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    deep = data.cells.rename(index=lambda name: f"deep {name}").assign(**{"network.depth": 3})
    cells = pd.concat([data.cells.assign(**{"network.depth": 2}), deep])
    facets = (describe_axis("network.depth", "facet"),)
    figures = phase_diagrams(dataclasses.replace(data, cells=cells, facets=facets))
    assert list(figures) == ["phase_diagram-depth_2", "phase_diagram-depth_3"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train.weight_decay", [0.1, 0.10001, 0.10002]),
        ("train.weight_decay", [1e-5, 1.0, 1e16, 1e-16]),
        ("network.activation", ["relu", "leaky_relu"]),
        ("data.flip", [False, True]),
    ],
)
def test_every_value_of_a_facet_has_a_file_of_its_own(key: str, values: list) -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    cells = data.cells[["network.width", "train.learning_rate", "phase", "confidence"]]
    parts = [cells.rename(index=lambda name, v=v: f"{v}{name}").assign(**{key: v}) for v in values]
    axis = describe_axis(key, "facet")
    figures = phase_diagrams(dataclasses.replace(data, cells=pd.concat(parts), facets=(axis,)))
    assert len(figures) == len(values)
    assert all(re.fullmatch(r"[\w.+-]+", stem) for stem in figures)
    assert len({figure.texts[0].get_text() for figure in figures.values()}) == len(values)


def test_words_are_those_of_possible_axes() -> None:
    assert set(_WORDS) <= set(HYPER_PARAMETERS)


@pytest.mark.parametrize("kept", [0, 1, 4])
@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_unmeasured_metrics_have_no_panel(kept: int, nothing: float) -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    dropped = [panel.metric for panel in PANELS[kept:]]
    cells = data.cells.drop(columns=dropped[1:]).assign(**{dropped[0]: nothing})
    (figure,) = phase_diagrams(dataclasses.replace(data, cells=cells)).values()
    titles = {axes.get_title() for axes in figure.axes}
    assert titles - {"", "Phase"} == {panel.title for panel in PANELS[:kept]}


@pytest.mark.parametrize("scale", ["linear", "percent", "magnitude", "centred"])
@pytest.mark.parametrize("values", [[0.0] * 12, [-1.0] * 12, [np.nan] * 11 + [3.0], [0.0, 1e9] * 6])
def test_odd_values_are_drawn(scale: str, values: list[float]) -> None:
    norm, name = _colours(np.array(values).reshape(3, 4), scale)
    assert norm.vmin < norm.vmax
    assert name


def test_failed_cells_do_not_stretch_the_colours() -> None:
    pytest.importorskip("matplotlib")
    data = sample()
    cells = data.cells.copy()
    cells.loc[cells.phase == "failed", "weight_norm"] = 1e6
    (figure,) = phase_diagrams(dataclasses.replace(data, cells=cells)).values()
    (panel,) = (a for a in figure.axes if a.get_title() == "Weight norm")
    assert panel.collections[0].norm.vmax <= 1.0


def test_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'zoogen\[plot\]'"):
        phase_diagrams(sample())


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --out"):
        render(dataclasses.replace(sample(), load=None), tmp_path / "file" / "x")


# ------------------------------------------------------------------------------------- datacard
def test_card_tells_what_is_there() -> None:
    card = datacard(sample(), ("phase_diagram",))
    wanted = [
        "# sample", "36 members in 12 cells", "**Diverged**: 3 members",
        "| II | under-fitted | 2 | 16.7% | 6 | 16.7% |", "| boundary | split vote | 1 |",
        "| load: width (units per hidden layer) [← higher load] | `network.width` | 4, 8, 16, 32 |",
        "| temperature: learning rate (peak) [hotter →] |", "zoogen.open_zoo(\"zoos/x.zarr\")",
        "![phase_diagram](phase_diagram.png)", "| zoogen | 0.1 |", "BSD", "- Few seeds.",
        "Rule taxonomy, version 1",
    ]  # fmt: skip
    assert [words for words in wanted if words not in card] == []


def test_card_gives_ranges_of_finite_values() -> None:
    data = sample()
    data.members["cka"] = 0.5  # a zoo gives members the mean over their pairs
    data.members["weight_norm"] = np.r_[np.nan, np.inf, np.arange(34.0)]
    data.members["fisher_trace"], data.members["fisher_trace_stderr"] = 2.0, 0.25
    card = datacard(data)
    assert "| `fisher_trace` | nats | members | 36 of 36 | 2 | 2 | 2 | 0.25 |" in card
    assert "| `fisher_trace_stderr` |" not in card
    assert "| `weight_norm` |  | members | 34 of 36 | 0 | 16.5 | 33 | – | Euclidean norm" in card
    assert "| `cka` |  | cells | 12 of 12 |" in card
    assert card.count("| `cka` |") == 1
    assert "| `seed` |" not in card
    assert "| `network.width` |  | members" not in card


def test_card_lines_of_a_table_have_equal_columns() -> None:
    data = dataclasses.replace(sample(), provenance={"flags": "--a|--b"})
    lines = datacard(data).replace("\\|", "").splitlines()
    tables = [line.count("|") for line in lines if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(heads) == 4
    assert sum(tables) == sum(
        lines[head].count("|") * rows
        for head, rows in zip(heads, [8 + 2, 2 + 2, 9 + 2, 1 + 2], strict=True)
    )


def test_empty_phases_are_named() -> None:
    data = sample()
    data.cells["phase"] = data.members["phase"] = "I"
    assert "No cell in phase II, III, IV-A, IV-B." in datacard(data)


def test_rule_lines_tell_an_estimate_with_its_interval() -> None:
    cka = np.r_[np.linspace(0.4, 0.45, 8), np.linspace(0.8, 0.85, 8)]
    lines = rule_lines(phases.label(np.zeros(16), np.zeros(16), cka).provenance())
    assert lines[0] == "Rule taxonomy, version 1:"
    assert lines[3].startswith("generalising: CKA of at least 0.625 (estimated on this zoo")


# ------------------------------------------------------------------------------------ from a zoo
def zoo_like(**grid: object) -> SimpleNamespace:
    """What a report reads of a zoo."""
    data = sample()
    config = Config.model_validate(
        {
            "name": "sample",
            "train": {"epochs": 60},
            "grid": {
                "load": "network.width",
                "temperature": "train.learning_rate",
                "axes": {"network.width": WIDTHS, "train.learning_rate": RATES},
                **grid,
            },
        }
    )
    manifest = SimpleNamespace(
        created="2025-01-01T00:00:00Z", format_version=1, config_hash="abc",
        content_hash=lambda: "def",
        sessions=[SimpleNamespace(provenance={"device": {"kind": "cpu"}, "zoogen": "0.1"})],
    )  # fmt: skip
    return SimpleNamespace(
        name="sample", path=Path("zoos/x.zarr"), config=config,
        cells=data.cells.assign(cohort="a"),
        members=data.members, plan=SimpleNamespace(n_members=len(data.members)),
        facts={
            "dataset": {
                "name": "digits", "sha256": "123", "source": "an archive", "licence": "CC0",
                "citation": "Someone (1998)", "train_images": 30, "test_images": 10,
                "chance_accuracy": 0.125,
            },
            "image_shape": [1, 8, 8],
        },
        reader=SimpleNamespace(
            cohorts=["a"], manifest=manifest, labels=lambda: SimpleNamespace(info=LABELS)
        ),
        snapshots=lambda _: pd.DataFrame({"epoch": [0.0, 60.0]}),
        metric_names=lambda: sorted(data.trajectories),
        trajectory=lambda name: data.trajectories[name].assign(cohort="a"),
    )  # fmt: skip


def test_an_unfinished_zoo_is_called_so() -> None:
    zoo = zoo_like()
    zoo.plan.n_members += 5
    assert "INCOMPLETE: 5 members missing" in data_of(zoo).name


def test_a_zoo_is_described_from_its_config_and_manifest() -> None:
    data = data_of(zoo_like())
    assert (data.load.key, data.temperature.key) == ("network.width", "train.learning_rate")
    card = datacard(data)
    wanted = ["digits (30 + 10 images, 8×8)", "MLP (relu)", "sgd, momentum 0.9, batch size 64"]
    wanted += ["epoch 60", "CC0. Someone (1998)", "| content hash | def |", "| device.kind | cpu |"]
    wanted += ["| data set | an archive |", "| data set sha256 | 123 |", "failed, is 12.5%"]
    assert [words for words in wanted if words not in card] == []
    assert "learning rate 0.1" not in card  # it varies


@pytest.mark.parametrize("nothing", [np.nan, None])
def test_what_came_after_the_labels_is_unlabelled(nothing: object) -> None:
    zoo = zoo_like()
    new = zoo.cells.index[:2]
    zoo.cells.loc[new, ["phase", "confidence"]] = nothing
    zoo.members["phase"] = zoo.members["phase"].where(~zoo.members["cell"].isin(new), nothing)
    card = datacard(data_of(zoo))
    # of the two cells one was unlabelled before
    assert "| unlabelled | measurement missing | 2 | 16.7% | 6 | 16.7% |" in card


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, "MLP (width 16, relu)"),
        ({"network.family": ["mlp", "cnn"]}, "networks (width 16, relu)"),
        ({"network.activation": ["relu", "tanh"]}, "MLP (width 16)"),
        (
            {"network.family": ["mlp", "cnn"], "network.width": [4, 8],
             "network.activation": ["relu", "tanh"]},
            "networks",
        ),
    ],
)  # fmt: skip
def test_the_network_is_told_without_what_varies(axes: dict, words: str) -> None:
    load = next(iter(axes), None)
    data = data_of(zoo_like(axes=axes, load=load, temperature=None))
    assert data.network == words


def test_width_has_no_unit_where_families_vary() -> None:
    axes = {"network.width": WIDTHS, "network.family": ["mlp", "cnn"]}
    assert data_of(zoo_like(axes=axes, temperature=None)).load.label == "width"


def test_a_zoo_without_a_temperature_gets_no_diagram(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = write_report(zoo_like(temperature=None), tmp_path)
    assert [path.name for path in paths] == ["trajectories.png", "trajectories.svg", "datacard.md"]
    assert "names no load or no temperature axis" in paths[-1].read_text()


def test_trajectories_keep_times_that_all_cohorts_have_and_average_layers() -> None:
    rows = [
        (cohort, f"member {cohort}", snapshot, float(epoch), layer, float(epoch + layer))
        for cohort, last in (("a", 60), ("b", 30))
        for snapshot, epoch in (("init", 0), (f"epoch {last // 2}", last // 2), ("end", last))
        for layer in (0, 1, 5)
    ]
    names = ["cohort", "member", "snapshot", "epoch", "layer", "value"]
    zoo = zoo_like()
    zoo.metric_names = lambda: ["layer_rotation", "margin", "cka_debiased_stderr"]
    zoo.trajectory = lambda _: pd.DataFrame(rows, columns=names).assign(cell="x")
    (table,) = data_of(zoo).trajectories.values()
    found = table.sort_values(["member", "epoch"])[["snapshot", "epoch", "value"]]
    expected = [["init", 0, 2], ["end", 60, 62], ["init", 0, 2], ["end", 30, 32]]
    assert found.to_numpy().tolist() == expected


def test_a_zoo_without_labels_asks_for_them(tmp_path: Path) -> None:
    zoo = zoo_like()
    zoo.reader.labels = lambda: None
    with pytest.raises(NotFoundError, match="zoogen label"):
        write_report(zoo, tmp_path)
