"""The leaderboard: raw rows of runs → one table a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zoogen.errors import NotFoundError
from zoogen.evaluate.intervals import RESAMPLES, Interval, paired_difference
from zoogen.evaluate.rows import Json, Run
from zoogen.evaluate.runs import BASELINES, best_trial
from zoogen.evaluate.scoring import SCORES
from zoogen.evaluate.splits import UNITS
from zoogen.evaluate.tasks import PADDED

TITLES = {
    "tau": "Kendall τ", "spearman": "Spearman ρ", "r2": "R²", "mae": "MAE",
    "accuracy": "accuracy", "macro_f1": "macro-F1", "psnr": "PSNR dB", "mse": "MSE ×1e-2",
}  # fmt: skip
_FACTORS = {"mse": 100.0}  # on scores as they are shown
ENOUGH = 3  # seeds below which a spread says little
YARDSTICK = "statistics-trees"  # the best known reader that learns nothing about weight space
_ROLES = {
    "mean": "trivial baseline",
    "zero": "trivial baseline",
    "floor": "is told the test targets: a bound",
    "hyper-parameters": "ceiling of what needs no weights",
}


@dataclass(frozen=True)
class Standing:
    """One reader's best trial.

    Attributes:
        reader: its name.
        trial: number of the trial.
        options: of the trial.
        trials: number of trials that were tried.
        rows: of the trial, one a seed.
        scores: score → mean and standard deviation over seeds on the test samples; NaN where a
            prediction was not finite.
        parameters: fitted numbers, mean over seeds.
        step_ms: milliseconds of an optimiser step, median over seeds; None without steps.
        seconds: of a fit, mean over seeds.
        peak_mb: largest memory of the process in a fit, in MB.
    """

    reader: str
    trial: int
    options: Json
    trials: int
    rows: tuple[Json, ...]
    scores: dict[str, tuple[float, float]]
    parameters: float
    step_ms: float | None
    seconds: float
    peak_mb: float

    @property
    def seeds(self) -> int:
        """How many fits the mean goes over."""
        return len(self.rows)


@dataclass(frozen=True)
class Board:
    """The standings of one run.

    Attributes:
        run: where the rows are.
        standings: baselines first, then the best first.
        missing: readers of the config without a row yet.
    """

    run: Run
    standings: tuple[Standing, ...]
    missing: tuple[str, ...]

    @property
    def yardstick(self) -> Standing:
        """Whom the others are compared with: trees on statistics, or else the best reader."""
        usual = [s for s in self.standings if s.reader == YARDSTICK]
        others = [s for s in self.standings if s.reader not in _ROLES]
        return (usual or others or list(self.standings))[0]

    @cached_property
    def differences(self) -> Mapping[str, Interval]:
        """Reader → interval of its first score minus that of the yardstick, on resampled test
        samples; without readers whose predictions are not finite or lack a sample, empty where
        none are stored."""
        table, task = self.run.samples, self.run.facts["task"]
        places = np.flatnonzero(table["side"] == "test")
        outputs = {s.reader: self._outputs(s, places) for s in self.standings}
        theirs = outputs.get(self.yardstick.reader)
        if not theirs:
            return {}
        truth = table["target"].to_numpy()[places]
        units = table["unit" if "unit" in table else "cell"].iloc[places]
        return {
            name: paired_difference(task["kind"], truth, ours, theirs, units)
            for name, ours in outputs.items()
            if ours and name != self.yardstick.reader
        }

    def _outputs(self, standing: Standing, places: np.ndarray) -> list[np.ndarray]:
        """Predictions of test samples, one array a seed; none that are not finite or not stored."""
        found = [self.run.predictions(row) for row in standing.rows]
        if not all(len(outputs) and np.isin(places, rows).all() for rows, outputs in found):
            return []
        kept = [outputs[np.isin(rows, places)] for rows, outputs in found]
        return kept if all(np.isfinite(outputs).all() for outputs in kept) else []


def board_of(run: Run) -> Board:
    """Choose the best trial of each reader by validation, and average it over seeds.

    Raises:
        NotFoundError: if no row is finished.
    """
    rows = run.rows()
    kind = run.facts["task"]["kind"]
    names = list(dict.fromkeys([*run.facts["readers"], *(row["reader"] for row in rows)]))
    found = [_standing(run, kind, [r for r in rows if r["reader"] == name]) for name in names]
    present = [standing for standing in found if standing is not None]
    if not present:
        raise NotFoundError(f"{run.path}: no fit is finished; repeat `zoogen train-model`")
    first = next(iter(SCORES[kind]))
    first = first if first in present[0].scores else "r2"
    trivial = [name for names in BASELINES.values() for name in names]
    ordered = sorted(
        present,
        key=lambda s: (
            trivial.index(s.reader) if s.reader in trivial else len(trivial),
            -np.nan_to_num(s.scores[first][0], nan=-np.inf),
        ),
    )
    missing = tuple(name for name, s in zip(names, found, strict=True) if s is None)
    return Board(run, tuple(ordered), missing)


def _standing(run: Run, kind: str, rows: list[Json]) -> Standing | None:
    tried = [r for r in rows if r["seed"] == 0 and r["trial"] < run.config.tuning.trials]
    if not tried:
        return None
    best = best_trial(tried, kind)
    own = [r for r in rows if r["trial"] == best and r["seed"] < run.config.seeds]
    steps = [r["step_seconds"] for r in own if r["step_seconds"] is not None]
    return Standing(
        own[0]["reader"],
        best,
        own[0]["options"],
        len(tried),
        tuple(own),
        {name: _spread(own, name) for name in own[0]["scores"]["test"]},
        float(np.mean([r["parameters"] for r in own])),
        float(1000 * np.median(steps)) if steps else None,
        float(np.mean([r["seconds"] for r in own])),
        max(r["peak_bytes"] for r in own) / 1e6,
    )


def _spread(rows: list[Json], score: str) -> tuple[float, float]:
    """Mean and standard deviation (n − 1) over seeds; NaN for the deviation of one."""
    values = np.array([r["scores"]["test"][score] for r in rows], float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")


# ---------------------------------------------------------------------------------------- as text
def markdown(boards: Sequence[Board]) -> str:
    """One section a run: what, on which split, and the table."""
    return "\n\n".join(_section(board) for board in boards) + "\n"


def _section(board: Board) -> str:
    facts, config = board.run.facts, board.run.config
    task = facts["task"]
    lines = [f"## {config.name}: {task['target']} on {facts['zoo']['name']}", ""]
    lines += [f"- **Target** {_target(task)}", f"- **Split** {_split(board)}"]
    lines += [f"- **Samples** {_samples(board)}", f"- **Protocol** {_protocol(board)}"]
    if board.missing:
        lines.append(f"- **Not finished** {', '.join(board.missing)}: repeat `zoogen train-model`")
    few = [s.reader for s in board.standings if s.seeds < ENOUGH]
    if few:
        lines.append(f"- **Fewer than {ENOUGH} seeds** {', '.join(few)}")
    if board.differences:
        lines.append(f"- **Intervals** {_intervals(board)}")
    scores = list(board.standings[0].scores)
    apart = [f"Δ {board.yardstick.reader}"] if board.differences else []
    heads = ["reader", *(TITLES[s] for s in scores), *apart]
    heads += ["parameters", "ms/step", "s/fit", "peak MB"]
    table = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    table += [_cells(board, standing, scores) for standing in board.standings]
    return "\n".join([*lines, "", *(f"| {' | '.join(row)} |" for row in table)])


def _target(task: Json) -> str:
    unit = f" ({task['unit']})" if task["unit"] else ""
    classes = f"; classes {', '.join(task['classes'])}" if task["classes"] else ""
    return f"{task['definition']}{unit}, {task['kind']}{classes}"


def _split(board: Board) -> str:
    split = board.run.config.split
    words = {
        "cell": "by cell: all members of a cell on one side",
        "image": "by image: all members that show an image on one side",
        "seed": "by seed: other members of a test member's cell are trained on",
        "region": f"held-out region `{split.region}`, the other cells by cell",
    }
    by_image = split.by == "cell" and board.run.facts["task"]["level"] == "image"
    sides = board.run.facts["task"]["sides"]
    counts = ", ".join(f"{count:,} {side}" for side, count in sides.items())
    return f"{words['image' if by_image else split.by]} (split seed {split.seed}); {counts} samples"


def _samples(board: Board) -> str:
    task, config = board.run.facts["task"], board.run.config
    times = config.task.snapshots
    shown = times if isinstance(times, str) else ", ".join(times)
    excluded = "; ".join(f"{count} {reason}" for reason, count in task["excluded"].items())
    return (
        f"{task['samples']:,}, of {task['members']:,} members in {task['cells']:,} cells, "
        f"snapshots {shown}, content {board.run.facts['zoo']['content_hash'][:12]}; left out: "
        f"{excluded or 'none'}{_padding(board)}"
    )


def _padding(board: Board) -> str:
    """Who got members of several architectures padded, and who as they are."""
    weights = board.run.facts.get("weights", {})
    laid = [s.reader for s in board.standings if weights.get(s.reader) == PADDED]
    if not laid:
        return ""
    count = board.run.facts["task"]["architectures"]
    return f"; {count} architectures, padded for {', '.join(laid)}, as they are for the others"


def _protocol(board: Board) -> str:
    config = board.run.config
    tuning, training = config.tuning, config.training
    chosen = (
        "defaults" if tuning.trials == 1
        else f"best of at most {tuning.trials} trials by validation with seed 0"
    )  # fmt: skip
    seeds = (
        "one seed" if config.seeds == 1
        else f"{config.seeds} seeds, mean ± standard deviation"
    )  # fmt: skip
    return (
        f"{chosen}, then {seeds}; {training.steps:,} steps of {training.batch_size} samples for "
        "readers trained by gradients"
    )


def _intervals(board: Board) -> str:
    config, task = board.run.config, board.run.facts["task"]
    units = "images" if task["level"] == "image" else f"{UNITS[config.split.by]}s"
    score = TITLES[next(iter(board.standings[0].scores))]
    return (
        f"{score} minus that of {board.yardstick.reader}, mean over seeds: 95 % of {RESAMPLES:,} "
        f"resamples of the test samples, whole {units} at a time, fits as they are"
    )


def _cells(board: Board, standing: Standing, scores: list[str]) -> list[str]:
    role = f" ({_ROLES[standing.reader]})" if standing.reader in _ROLES else ""
    step = "–" if standing.step_ms is None else f"{standing.step_ms:.1f}"
    return [
        standing.reader + role,
        *(_shown(*standing.scores[name], _FACTORS.get(name, 1.0)) for name in scores),
        *([_apart(board.differences.get(standing.reader))] if board.differences else []),
        f"{standing.parameters:,.0f}",
        step,
        f"{standing.seconds:.1f}",
        f"{standing.peak_mb:,.0f}",
    ]


def _shown(mean: float, deviation: float, factor: float) -> str:
    mean, deviation = factor * mean, factor * deviation
    if not np.isfinite(mean):
        return "not finite"
    return f"{mean:.3f}" if not np.isfinite(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def _apart(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.low:+.3f} … {interval.high:+.3f}"


def as_json(board: Board) -> Json:
    """The same as plain data."""
    facts = board.run.facts
    return {
        "name": board.run.config.name,
        "zoo": facts["zoo"],
        "task": facts["task"],
        "config": facts["config"],
        "missing": list(board.missing),
        "yardstick": board.yardstick.reader,
        "readers": [
            {**_plain(standing), "difference": board.differences.get(standing.reader)}
            for standing in board.standings
        ],
    }


def _plain(standing: Standing) -> dict[str, Any]:
    return {
        "reader": standing.reader,
        "trial": standing.trial,
        "options": standing.options,
        "trials": standing.trials,
        "seeds": standing.seeds,
        "scores": {
            name: {"mean": _finite(mean), "std": _finite(deviation)}
            for name, (mean, deviation) in standing.scores.items()
        },
        "parameters": standing.parameters,
        "step_ms": standing.step_ms,
        "seconds": standing.seconds,
        "peak_mb": standing.peak_mb,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
