"""From stored metrics to stored phases: tables in, matrices to the rule, tables out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from zoogen import phases
from zoogen.errors import ConfigError, NotFoundError, StorageError
from zoogen.phases import Rule
from zoogen.phases.knobs import Knob
from zoogen.store import ZooWriter
from zoogen.zoo import Zoo, open_zoo

ANNEAL, END = "anneal", "end"


def write_labels(writer: ZooWriter, rule: str) -> None:
    """Label every cell before annealing and at the end from stored metrics; store the labels.

    Args:
        writer: of a measured zoo.
        rule: name or TOML file of a rule.

    Raises:
        NotFoundError: if there is no such rule, or no member yet.
    """
    book, zoo = phases.load_rule(rule), open_zoo(writer.root)
    if not zoo.cohorts:
        raise NotFoundError(f"{zoo.path}: no member is trained yet; repeat `zoogen generate`")
    members, cells, info = _labelled(zoo, book, END)
    annealed = [c for c in zoo.cohorts if ANNEAL in list(zoo.snapshots(c)["name"])]
    if annealed:
        earlier_members, earlier_cells, earlier = _labelled(zoo, book, ANNEAL, annealed)
        members = _beside(members, earlier_members, "id")
        cells = _beside(cells, earlier_cells, "cell")
        info["before_annealing"] = {"thresholds": earlier["thresholds"]}
    writer.write_labels(members, cells, info)
    writer.write_members_table(members_table(writer.root))


def _beside(end: pd.DataFrame, earlier: pd.DataFrame, key: str) -> pd.DataFrame:
    """The table at the end with the columns of the earlier one behind, named so."""
    named = earlier.drop(columns="advice", errors="ignore").set_index(key).add_suffix(phases.BEFORE)
    return end.join(named, on=key)


def _labelled(
    zoo: Zoo, rule: Rule, snapshot: str, cohorts: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Labels of members and cells at one snapshot, and where they come from.

    Thresholds that a rule estimates are estimated on the cells of that snapshot.
    """
    cohorts = zoo.cohorts if cohorts is None else cohorts
    table = zoo.members[zoo.members["cohort"].isin(cohorts)]
    cells = list(dict.fromkeys(table["cell"]))
    pairs = np.array(list(combinations(range(int(table["seed"].max()) + 1), 2)), int).reshape(-1, 2)
    by_pair = partial(_by_pair, zoo, cohorts, snapshot, cells, pairs)
    accuracy = _of_members(zoo, cohorts, snapshot, "train_accuracy")
    error = 100 * (1 - _by_seed(table, cells, accuracy))
    # A member that was measured and has no accuracy computes nothing finite any more.
    lost = np.isnan(error) & bool(np.isfinite(accuracy).any())
    diverged = _by_seed(table, cells, _diverged(zoo, cohorts, snapshot))
    labels = phases.label(
        error,
        by_pair("mode_connectivity"),
        by_pair("cka"),
        rule,
        failed=(diverged == 1) | (lost & (diverged == 0)),
        chance_error=100 * (1 - zoo.facts["dataset"]["chance_accuracy"]),
        pairs=pairs,
    )
    of_cells = _cell_labels(cells, labels)
    if snapshot == END and rule.tree is not None and rule.tree.otherwise is not None:
        of_cells["advice"] = phases.advise(_measured(zoo.cells.loc[cells]), rule)
    return _member_labels(table, cells, labels), of_cells, labels.provenance()


def _of_members(zoo: Zoo, cohorts: Sequence[str], snapshot: str, metric: str) -> pd.Series:
    """A metric at a snapshot, of committed members, by id; NaN where it was not measured."""
    parts = []
    for cohort in cohorts:
        table, position = zoo.reader.members(cohort), _position(zoo, cohort, snapshot)
        values = np.full(len(table), np.nan)
        if metric in zoo.reader.metric_names(cohort):
            values = zoo.reader.read_metric(cohort, metric).values[table.index, position]
        parts.append(pd.Series(values, index=table["id"].to_numpy(), dtype=float))
    return pd.concat(parts)


def _diverged(zoo: Zoo, cohorts: Sequence[str], snapshot: str) -> pd.Series:
    """1 for members that had diverged by a snapshot, else 0, by member id."""
    parts = []
    for cohort in cohorts:
        epoch = zoo.snapshots(cohort)["epoch"].iloc[_position(zoo, cohort, snapshot)]
        first = zoo.reader.read(cohort, "diverged_epoch")
        gone = (first >= 0) & (first < epoch)
        parts.append(pd.Series(gone.astype(float), index=zoo.reader.members(cohort)["id"]))
    return pd.concat(parts)


def _position(zoo: Zoo, cohort: str, snapshot: str) -> int:
    names = list(zoo.snapshots(cohort)["name"])
    return len(names) - 1 if snapshot == END else names.index(snapshot)


def _by_seed(
    table: pd.DataFrame, cells: list[str], values: pd.Series
) -> Float[np.ndarray, "cell seed"]:
    """Values of members as a matrix; NaN where there is no such member."""
    matrix = np.full((len(cells), int(table["seed"].max()) + 1), np.nan)
    row = pd.Index(cells).get_indexer(table["cell"])
    matrix[row, table["seed"]] = values.loc[table.index]
    return matrix


def _by_pair(
    zoo: Zoo,
    cohorts: Sequence[str],
    snapshot: str,
    cells: list[str],
    pairs: Int[np.ndarray, "q 2"],
    metric: str,
) -> Float[np.ndarray, "cell q"]:
    """A metric of pairs at a snapshot as a matrix; NaN where it was not measured."""
    matrix = np.full((len(cells), len(pairs)), np.nan)
    column = {tuple(pair): i for i, pair in enumerate(pairs.tolist())}
    row = {cell: i for i, cell in enumerate(cells)}
    for cohort in cohorts:
        if metric not in zoo.reader.metric_names(cohort):
            continue
        table, found = zoo.reader.members(cohort), zoo.reader.read_metric(cohort, metric)
        places, owners = zoo.owners(cohort, found)
        values = found.values[places, _position(zoo, cohort, snapshot)]
        for (one, other), value in zip(owners, values, strict=True):
            seeds = sorted((int(table.at[one, "seed"]), int(table.at[other, "seed"])))
            matrix[row[table.at[one, "cell"]], column[tuple(seeds)]] = value
    return matrix


def _member_labels(table: pd.DataFrame, cells: list[str], labels: phases.Labels) -> pd.DataFrame:
    """A member has its cell's class, confidence and reason, except that one failed by itself."""
    row = pd.Index(cells).get_indexer(table["cell"])
    found, reason = labels.members[row, table["seed"]], np.array(labels.reason, object)[row]
    phase = np.where(found == "", labels.phase[row], found)  # there, though nothing was measured
    alone = (phase == "failed") & (labels.phase[row] != "failed")
    return pd.DataFrame(
        {
            "id": table.index,
            "phase": phase,
            "confidence": np.where(alone, 1.0, labels.confidence[row]),
            "reason": np.where(alone, "this member diverged or sits at chance", reason),
        }
    )


def _cell_labels(cells: list[str], labels: phases.Labels) -> pd.DataFrame:
    shares = {f"share {name}": labels.shares[:, i] for i, name in enumerate(phases.PHASES)}
    return pd.DataFrame(
        {
            "cell": cells,
            "phase": labels.phase,
            "confidence": labels.confidence,
            **shares,
            "reason": labels.reason,
        }
    )


def members_table(path: str | Path) -> pd.DataFrame:
    """The derived table of a zoo: its members with metrics and phases, ids in a column."""
    return open_zoo(path).members.reset_index()


# ------------------------------------------------------------------------------- fit and coverage
def fit_rule(source: str | Path, start: str = "md_tree", name: str = "fitted") -> Rule:
    """Fit a tree on a labelled or unlabelled zoo, or on a CSV file of anyone's measurements.

    Args:
        source: directory of a zoo, or CSV file; see :func:`zoogen.phases.cells_of`.
        start: rule from which thresholds start.
        name: of the new rule.

    Raises:
        NotFoundError: if there is no such zoo, file or rule, or a metric is missing.
        ConfigError: if the file is no table of measurements, or it has too few cells.
    """
    book = phases.load_rule(start)
    if Path(source).is_dir():
        zoo = open_zoo(source)
        return phases.fit_tree(measurements(zoo), book, name, f"zoo {zoo.name}")
    return phases.fit_tree(phases.read_measurements(source), book, name, Path(source).name)


def write_rule(rule: Rule, path: str | Path) -> None:
    """Write a rule as a TOML file.

    Raises:
        ConfigError: if the name does not end in ``.toml``; rules are told from names by it.
        StorageError: if the file can't be written.
    """
    if Path(path).suffix != ".toml":
        raise ConfigError(f"{path}: found no .toml at the end of the name; give RULE.toml")
    try:
        Path(path).write_text(phases.rule_toml(rule), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path}: can't be written: {error.strerror}; choose another --out"
        ) from None


def measurements(zoo: Zoo) -> pd.DataFrame:
    """A zoo's cells at the end, as a table that :func:`zoogen.phases.fit_tree` takes.

    Raises:
        ConfigError: if the zoo names no load or no temperature, or it is not known which way
            they grow.
        NotFoundError: if a metric is missing.
    """
    cells, axes = zoo.cells, zoo.config.grid.axes
    knobs = _knob_keys(zoo)
    columns = {}
    for knob in ("load", "temperature"):
        key = knobs.get(knob, "")
        sign = phases.grows(knob, key)
        if not sign:
            known = ", ".join(phases.DIRECTIONS[knob])
            raise ConfigError(
                f"{zoo.path}: grid.{knob} is {key or 'not named'}; a fit needs one of {known}; "
                f"for others write a CSV file with a column {knob!r} that grows with it"
            )
        columns[knob] = sign * cells[key].astype(float)
    rest = [key for key in axes if key not in knobs.values()]
    facet = cells[rest].astype(str).agg(" ".join, axis=1) if rest else ""
    accuracy = cells["test_accuracy"]
    return _measured(cells).assign(facet=facet, test_accuracy=accuracy, **columns)


def _measured(cells: pd.DataFrame) -> pd.DataFrame:
    """What a tree asks of cells."""
    needed = ("train_accuracy", "test_accuracy", "mode_connectivity", "hessian_trace", "cka")
    missing = [name for name in needed if name not in cells]
    if missing:
        raise NotFoundError(
            f"metric {missing[0]!r} was not measured; a tree needs {', '.join(needed)}: "
            "run `zoogen measure`"
        )
    error = (100 * (1 - cells["train_accuracy"])).rename("train_error")
    return pd.concat([error, cells[["mode_connectivity", "hessian_trace", "cka"]]], axis=1)


def _knob_keys(zoo: Zoo) -> dict[Knob, str]:
    grid = zoo.config.grid
    keys: dict[Knob, str | None] = {"load": grid.load, "temperature": grid.temperature}
    return {knob: key for knob, key in keys.items() if key is not None}


def require_coverage(zoo: Zoo, required: Sequence[str]) -> None:
    """Raise unless every required phase holds a cell at the end.

    Args:
        zoo: labelled; it stays as it is.
        required: phases, from :func:`zoogen.phases.phase_names`.

    Raises:
        NotFoundError: naming the empty phases and, for each, which axis to extend.
    """
    labels = zoo.reader.labels()
    if labels is None:
        raise NotFoundError(f"{zoo.path}: no phase labels yet; run `zoogen label {zoo.path}`")
    held = set(labels.cells["phase"])
    empty = [phase for phase in required if phase not in held]
    if not empty:
        return
    axes = {knob: (key, zoo.plan.axes[key]) for knob, key in _knob_keys(zoo).items()}
    advice = "\n  ".join(phases.remedy(phase, axes) for phase in empty)
    raise NotFoundError(
        f"{zoo.path}: no cell in phase {', '.join(empty)} (required: {', '.join(required)}); "
        f"the zoo is complete and kept. To reach the missing phases try, in the config:\n  {advice}"
    )
