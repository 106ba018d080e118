"""Rows: a directory with one raw row for every fit of a reader, as it lies on disk.

``run.json`` says what is compared on which zoo, ``samples.parquet`` which sample is on which side.
A row is ``rows/READER-trialT-seedS.json`` with predictions of validation and test samples beside it
(``.npz``); the JSON file comes last, at once, so that a row is there as a whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoogen.config import validated
from zoogen.errors import CorruptZooError, NotFoundError
from zoogen.evaluate.config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

Json = dict[str, Any]
FACTS, SAMPLES, ROWS = "run.json", "samples.parquet", "rows"


@dataclass(frozen=True)
class Run:
    """A directory of raw rows.

    Attributes:
        path: of the directory.
        facts: what ``run.json`` says.
    """

    path: Path
    facts: Json

    @cached_property
    def config(self) -> RunConfig:
        """What is compared."""
        return validated(RunConfig, self.facts["config"], str(self.path / FACTS))

    @property
    def samples(self) -> pd.DataFrame:
        """One row a sample: member, cell, snapshot, ``side``, ``target``, and the ``unit`` whose
        samples are all on one side."""
        import pandas as pd

        return pd.read_parquet(self.path / SAMPLES)

    def rows(self) -> list[Json]:
        """All finished rows, by reader, trial and seed."""
        found = [json_of(path) for path in sorted((self.path / ROWS).glob("*.json"))]
        return sorted(found, key=lambda row: (row["reader"], row["trial"], row["seed"]))

    def row(self, reader: str, trial: int, seed: int) -> Json | None:
        """One row, if it is finished."""
        path = self.row_path(reader, trial, seed)
        return json_of(path) if path.exists() else None

    def predictions(self, row: Json) -> tuple[np.ndarray, np.ndarray]:
        """Places of validation and test samples, and what the reader of a row returned for them."""
        path = self.row_path(row["reader"], row["trial"], row["seed"]).with_suffix(".npz")
        with np.load(path) as arrays:
            return arrays["rows"], arrays["outputs"]

    def row_path(self, reader: str, trial: int, seed: int) -> Path:
        """File of one row."""
        return self.path / ROWS / f"{reader}-trial{trial}-seed{seed}.json"


def open_run(path: str | Path) -> Run:
    """Open a directory of rows.

    Raises:
        NotFoundError: if it is none.
        CorruptZooError: if ``run.json`` can't be read.
    """
    folder = Path(path)
    if not (folder / FACTS).is_file():
        raise NotFoundError(f"{folder}: no run of `zoogen train-model` here (no {FACTS})")
    facts = json_of(folder / FACTS)
    if "task" not in facts:
        raise NotFoundError(f"{folder}: its {FACTS} is not that of a run of `zoogen train-model`")
    return Run(folder, facts)


def json_of(path: Path) -> Json:
    """A table in a file of a run.

    Raises:
        CorruptZooError: if it is damaged.
    """
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise CorruptZooError(
            f"{path} is damaged: {error}; delete it and repeat `zoogen train-model`"
        ) from None


def bytes_of(facts: Json) -> bytes:
    """A table as it stands in a file; the counterpart of :func:`json_of`."""
    return (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()
