"""From stored metrics to stored phases: tables in, matrices to the rule, tables out."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from zoogen import phases
from zoogen.store import ZooWriter
from zoogen.zoo import Zoo, open_zoo


def write_labels(writer: ZooWriter, rule: str) -> None:
    """Label every cell from the metrics at the last snapshot, and store the labels.

    Args:
        writer: of a measured zoo.
        rule: name or TOML file of a rule.

    Raises:
        NotFoundError: if there is no such rule, or a metric that it needs is missing.
    """
    zoo = open_zoo(writer.root)
    table = zoo.members
    cells = list(dict.fromkeys(table["cell"]))
    pairs = np.array(list(combinations(range(int(table["seed"].max()) + 1), 2)), int).reshape(-1, 2)
    error = 100 * (1 - _by_seed(table, cells, "train_accuracy"))
    labels = phases.label(
        error,
        _by_pair(zoo, cells, pairs, "mode_connectivity"),
        _by_pair(zoo, cells, pairs, "cka"),
        rule,
        failed=_by_seed(table, cells, "diverged") == 1,
        chance_error=100 * (1 - zoo.facts["dataset"]["chance_accuracy"]),
        pairs=pairs,
    )
    writer.write_labels(
        _member_labels(table, cells, labels), _cell_labels(cells, labels), labels.provenance()
    )
    writer.write_members_table(members_table(writer.root))


def _by_seed(table: pd.DataFrame, cells: list[str], column: str) -> Float[np.ndarray, "cell seed"]:
    """A column of the members table as a matrix; NaN where there is no such member."""
    matrix = np.full((len(cells), int(table["seed"].max()) + 1), np.nan)
    matrix[pd.Index(cells).get_indexer(table["cell"]), table["seed"]] = table[column]
    return matrix


def _by_pair(
    zoo: Zoo, cells: list[str], pairs: Int[np.ndarray, "q 2"], metric: str
) -> Float[np.ndarray, "cell q"]:
    """A metric of pairs at the last snapshot as a matrix; NaN where it was not measured."""
    matrix = np.full((len(cells), len(pairs)), np.nan)
    column = {tuple(pair): i for i, pair in enumerate(pairs.tolist())}
    row = {cell: i for i, cell in enumerate(cells)}
    for cohort in zoo.reader.cohorts:
        table, found = zoo.reader.members(cohort), zoo.reader.read_metric(cohort, metric)
        if found.pairs is None:
            continue
        for (one, other), value in zip(found.pairs, found.values[:, -1], strict=True):
            seeds = sorted((int(table.at[one, "seed"]), int(table.at[other, "seed"])))
            matrix[row[table.at[one, "cell"]], column[tuple(seeds)]] = value
    return matrix


def _member_labels(table: pd.DataFrame, cells: list[str], labels: phases.Labels) -> pd.DataFrame:
    row = pd.Index(cells).get_indexer(table["cell"])
    return pd.DataFrame(
        {
            "id": table.index,
            "phase": labels.members[row, table["seed"]],
            "confidence": labels.confidence[row],
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
