"""Test tools: a tiny zoo that needs no training, and faults to put into stored files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoogen.store import ZooReader, ZooWriter

COHORTS = {"small": 7, "wide": 4}
BLOCK_SIZE = 3
SNAPSHOTS = [0, 1, 5]
PARAMETERS = 11
AXES = {
    "weights": ("member", "snapshot", "parameter"),
    "train_loss": ("member", "epoch"),
    "diverged": ("member",),
}
METRIC_AXES = {
    "hessian_trace": ("member", "snapshot"),
    "mode_connectivity": ("pair", "snapshot"),
    "pairs": ("pair", "end"),
}


def tiny_members(cohort: str) -> pd.DataFrame:
    """Ids and hyper-parameters of a cohort of the tiny zoo."""
    count = COHORTS[cohort]
    return pd.DataFrame(
        {
            "id": [f"{cohort}-{i}" for i in range(count)],
            "cell": [f"{cohort}-cell{i // 2}" for i in range(count)],
            "seed": [i % 2 for i in range(count)],
            "train.learning_rate": [0.1 * (i // 2) for i in range(count)],
        }
    )


def tiny_training(cohort: str) -> dict[str, np.ndarray]:
    """Training arrays of a whole cohort of the tiny zoo; always the same."""
    rng, count = np.random.default_rng(len(cohort)), COHORTS[cohort]
    weights = rng.normal(size=(count, len(SNAPSHOTS), PARAMETERS)).astype(np.float32)
    weights[-1] = np.nan  # a diverged member
    return {
        "weights": weights,
        "train_loss": rng.random((count, 5)),
        "diverged": np.isnan(weights[:, -1, 0]),
    }


def tiny_metrics(cohort: str) -> dict[str, np.ndarray]:
    """Measurements of a cohort of the tiny zoo; always the same."""
    rng, count = np.random.default_rng(7), COHORTS[cohort]
    pairs = np.array([(i, i + 1) for i in range(0, count - 1, 2)], np.int32)
    return {
        "hessian_trace": rng.normal(size=(count, len(SNAPSHOTS))).astype(np.float32),
        "mode_connectivity": rng.normal(size=(len(pairs), len(SNAPSHOTS))).astype(np.float32),
        "pairs": pairs,
    }


def write_tiny_zoo(path: str | Path, **provenance: Any) -> ZooReader:
    """Write the tiny zoo, or complete one that was interrupted: two cohorts, a run, labels.

    Args:
        path: of the zoo.
        provenance: recorded with the session.

    Example:
        >>> import tempfile
        >>> write_tiny_zoo(tempfile.mkdtemp() + "/tiny.zarr").cohorts
        ['small', 'wide']
    """
    with ZooWriter.create(path, "tiny", {"a": [1, 2.5]}, "hash-of-tiny", provenance) as writer:
        for cohort in COHORTS:
            table, spec = tiny_members(cohort), {"parameters": [cohort]}
            writer.begin_cohort(cohort, table, spec, SNAPSHOTS, BLOCK_SIZE)
            arrays = tiny_training(cohort)
            for block, rows in writer.missing_blocks(cohort).items():
                (writer.resume_dir(cohort, block) / "state").write_text("half-way")
                part = {name: values[rows] for name, values in arrays.items()}
                writer.write_block(cohort, block, part, AXES, {"seconds": 0.5})
        run = writer.begin_run({"probes": 8})
        for cohort in COHORTS:
            if cohort not in writer.measured(run):
                writer.write_measurements(run, cohort, tiny_metrics(cohort), METRIC_AXES)
        writer.finish_run(run)
        members = pd.concat([tiny_members(c) for c in COHORTS], ignore_index=True)
        cells = pd.DataFrame({"cell": members["cell"].unique(), "phase": "IV-B"})
        writer.write_labels(members[["id"]].assign(phase="IV-B"), cells, {"rule": "taxonomy"})
        writer.write_members_table(members)
    return ZooReader(path)


def extend_tiny_zoo(path: str | Path) -> ZooReader:
    """Add a third cohort to the tiny zoo, as a refinement does: format version 2."""
    with ZooWriter.open(path, {}) as writer:
        writer.extend({"cells": [{"train.learning_rate": 0.05}]})
        table = tiny_members("wide").assign(id=[f"added-{i}" for i in range(COHORTS["wide"])])
        writer.begin_cohort("wide-0001", table, {"parameters": ["wide"]}, SNAPSHOTS, BLOCK_SIZE)
        for block, rows in writer.missing_blocks("wide-0001").items():
            part = {name: values[rows] for name, values in tiny_training("wide").items()}
            writer.write_block("wide-0001", block, part, AXES)
        writer.write_members_table(table)
    return ZooReader(path)


def flip_bit(path: Path, bit: int) -> None:
    """Flip one bit of a file, as a failing medium does; twice is as before."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def truncate(path: Path, size: int) -> None:
    """Cut a file to ``size`` bytes, as a full disk or a broken copy does."""
    path.write_bytes(path.read_bytes()[:size])
