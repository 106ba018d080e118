"""The leaderboard as a figure: predictions against truth on test samples, and curves of fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zoogen.errors import StorageError
from zoogen.evaluate.leaderboard import TITLES, Board, Standing, markdown
from zoogen.report.canvas import GREY, head_line, place, save, stem, style
from zoogen.store.disk import put_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches.
_SIDE, _ACROSS, _DOWN = 1.7, 2.3, 2.4
_LEFT, _TOP, _FOOT = 0.65, 0.95, 0.05
_COLUMNS = 5


def write_leaderboard(boards: list[Board], out: Path | str) -> list[Path]:
    """Write ``table.md``, and for every run a figure as PNG and SVG.

    Raises:
        ConfigError: if matplotlib is missing.
        StorageError: if the directory can't be written.
    """
    folder = Path(out)
    try:
        put_file(folder / "table.md", markdown(boards).encode())
        with style():
            drawn = [(folder / _name(boards, b), leaderboard_figure(b)) for b in boards]
            return [folder / "table.md", *(p for base, fig in drawn for p in save(fig, base))]
    except OSError as error:
        raise StorageError(
            f"leaderboard: {folder} can't be written: {error.strerror}; choose another --out"
        ) from None


def _name(boards: list[Board], board: Board) -> str:
    """File stem of a run's figure; numbered where two runs have one name."""
    names = [b.run.config.name for b in boards]
    words = [] if names.count(board.run.config.name) == 1 else [str(boards.index(board) + 1)]
    return stem(board.run.config.name, words)


def leaderboard_figure(board: Board) -> Figure:
    """A panel a reader, of its best trial with seed 0, and the curves of those with steps."""
    from matplotlib.figure import Figure

    whole = [s for s in board.standings if _has_predictions(board, s)]
    curved = [s for s in board.standings if s.rows[0]["curve"]]
    panels = len(whole) + bool(curved)
    columns = min(_COLUMNS, max(panels, 3))
    rows = max(1, -(-panels // columns))
    height = _TOP + rows * _DOWN + _FOOT
    figure = Figure(figsize=(_LEFT + columns * _ACROSS, height))
    axes = [
        place(
            figure,
            _LEFT + (number % columns) * _ACROSS,
            height - _TOP - _SIDE - (number // columns) * _DOWN,
            _SIDE,
            _SIDE,
        )
        for number in range(panels)
    ]
    samples = board.run.samples
    for place_, standing in zip(axes, whole, strict=False):
        _predictions(place_, board, standing, samples)
    if curved:
        _curves(axes[-1], curved)
    _head(figure, board)
    return figure


def _head(figure: Figure, board: Board) -> None:
    task, config = board.run.facts["task"], board.run.config
    sides = ", ".join(f"{count:,} {side}" for side, count in task["sides"].items())
    unit = "image" if task["level"] == "image" else config.split.by
    by = f"region {config.split.region}" if config.split.region else f"by {unit}"
    title = f"{config.name}: {task['target']} on {board.run.facts['zoo']['name']}"
    head_line(figure, title, [f"split {by}", sides, "test samples, best trial, seed 0"])


def _has_predictions(board: Board, standing: Standing) -> bool:
    return bool(len(board.run.predictions(standing.rows[0])[1]))


def _predictions(axes: Axes, board: Board, standing: Standing, samples: pd.DataFrame) -> None:
    rows, outputs = board.run.predictions(standing.rows[0])
    inside = (samples["side"].iloc[rows] == "test").to_numpy()
    truth, guess = samples["target"].to_numpy()[rows[inside]], outputs[inside]
    task = board.run.facts["task"]
    if task["kind"] == "classification":
        _confusion(axes, truth.astype(int), guess.argmax(axis=1), task["classes"])
    else:
        _scatter(axes, truth, guess[:, 0], f"{task['target']} {task['unit']}".strip())
    first = next(iter(standing.scores))
    axes.set_title(f"{standing.reader}\n{TITLES[first]} {standing.scores[first][0]:.3f}", size=8)


def _scatter(axes: Axes, truth: np.ndarray, guess: np.ndarray, words: str) -> None:
    """Both axes as long as the truth, in all panels; what is predicted beyond lies on the edge."""
    low, high = np.nanmin(truth), np.nanmax(truth)
    margin = 0.12 * ((high - low) or 1.0)
    ends = low - margin, high + margin
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.6)
    axes.plot(
        truth, np.clip(guess, *ends), "o", markersize=2.2, alpha=0.6, markeredgewidth=0,
        clip_on=False,
    )  # fmt: skip
    axes.set_xlim(*ends)
    axes.set_yticks(axes.get_xticks())
    axes.set_ylim(*ends)  # last, since ticks beyond them move them
    axes.set_xlabel(f"true {words}", size=7, labelpad=1)
    axes.set_ylabel("predicted", size=7, labelpad=3)


def _confusion(axes: Axes, truth: np.ndarray, guess: np.ndarray, classes: list[str]) -> None:
    """Shares of the samples of each true class, numbers of samples in the fields."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (truth, guess), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, column in np.argwhere(counts):
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, counts[row, column], ha="center", va="center", size=6,
            color="white" if dark else GREY,
        )  # fmt: skip
    axes.set_xticks(range(len(classes)), classes, size=6, rotation=0 if len(classes) <= 6 else 90)
    axes.set_yticks(range(len(classes)), classes, size=6)
    axes.set_xlabel("predicted", size=7, labelpad=1)
    axes.set_ylabel("true", size=7, labelpad=3)


def _curves(axes: Axes, standings: list[Standing]) -> None:
    """Validation error over the steps, of the best trial with seed 0."""
    for standing in standings:
        curve = np.array(
            [[step, np.nan if error is None else error] for step, _, error in _curve(standing)],
            float,
        )
        axes.plot(curve[:, 0], curve[:, 1], linewidth=1, label=standing.reader)
    low, high = axes.dataLim.intervaly
    axes.set_yscale("log" if low > 0 and high > 10 * low else "linear")
    axes.set_title("Validation error while fitting", size=8)
    axes.set_xlabel("step", size=7, labelpad=1)
    axes.legend(fontsize=5, frameon=False)


def _curve(standing: Standing) -> list[list[float | None]]:
    return list(standing.rows[0]["curve"])
