"""The directory of a run: begun, or taken up again, and refused where it is another's."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from zoogen.errors import ConflictError
from zoogen.evaluate.config import RunConfig
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Reader
from zoogen.evaluate.rows import FACTS, ROWS, SAMPLES, Json, Run, bytes_of, open_run
from zoogen.evaluate.tasks import IDENTITY, Task
from zoogen.store.disk import LOCK, now, replace_file
from zoogen.zoo import Zoo

FORMAT = 1


def refuse_other_files(folder: Path) -> None:
    """Before anything is written to it.

    Raises:
        ConflictError: if a directory holds other files than those of a run.
    """
    if not folder.exists() or (folder / FACTS).exists():
        return
    if not folder.is_dir():
        raise ConflictError(f"{folder} is a file, expected a directory; choose another --out")
    odd = sorted({p.name for p in folder.iterdir()} - {LOCK, ROWS, SAMPLES, f"{FACTS}.partial"})
    if odd:
        raise ConflictError(
            f"{folder} holds {odd[0]!r} and is no run of `zoogen train-model`; choose another --out"
        )


def begin(
    folder: Path, config: RunConfig, zoo: Zoo, task: Task, readers: Mapping[str, Reader]
) -> Run:
    """Write what the run is.

    Args:
        folder: of the run; it exists.
        config: what is compared.
        zoo: whose members are read.
        task: samples, target and sides.
        readers: that are compared, by name.

    Raises:
        ConflictError: if the directory is that of another comparison, zoo or version of zoogen.
    """
    facts: Json = {
        "format": FORMAT,
        "identity": config.identity(),
        "zoo": {"name": zoo.name, "content_hash": zoo.reader.manifest.content_hash()},
        "config": config.model_dump(mode="json"),
        "task": task.facts(),
        "readers": {name: reader.definition for name, reader in readers.items()},
        "weights": {name: task.weights_for(reader) for name, reader in readers.items()},
        "created": now(),
    }
    if (folder / FACTS).exists():
        earlier = open_run(folder).facts
        _refuse_other_run(folder, earlier, facts)
        _refuse_other_sides(folder, task.problem)
        facts["created"] = earlier["created"]
        for key in ("readers", "weights"):
            facts[key] = {**earlier.get(key, {}), **facts[key]}
    replace_file(folder / SAMPLES, _samples_file(task.problem))
    replace_file(folder / FACTS, bytes_of(facts))
    return Run(folder, facts)


def _refuse_other_run(folder: Path, earlier: Json, facts: Json) -> None:
    if earlier["zoo"]["content_hash"] != facts["zoo"]["content_hash"]:
        one, two = (f["zoo"]["content_hash"][:12] for f in (earlier, facts))
        raise ConflictError(
            f"{folder} holds rows of zoo {earlier['zoo']['name']!r} with content {one}, found "
            f"{facts['zoo']['name']!r} with content {two}; choose another --out"
        )
    if earlier["identity"] != facts["identity"]:
        keys = [
            f"{section}.{key}"
            for section in ("task", "split", "training", "tuning")
            for key, value in facts["config"][section].items()
            if earlier["config"][section].get(key) != value and key != "trials"
        ]
        raise ConflictError(
            f"{folder} holds rows of another config ({', '.join(keys)} differ); only readers, "
            "seeds and tuning.trials may change in a run; choose another --out"
        )
    if earlier["task"]["architectures"] != facts["task"]["architectures"]:
        raise ConflictError(
            f"{folder} holds rows of another version of zoogen, which gave padded weights to all "
            "readers; choose another --out"
        )


def _refuse_other_sides(folder: Path, problem: Problem) -> None:
    """Rows by a version that dealt out the same samples otherwise are not to be compared."""
    file = folder / SAMPLES
    if not file.exists():
        return
    columns = ["side", "target"] if problem.targets.shape[1] == 1 else ["side"]
    earlier, found = (
        pd.read_parquet(source)[[*IDENTITY, *columns]]
        for source in (file, io.BytesIO(_samples_file(problem)))
    )
    if not earlier.equals(found):
        raise ConflictError(
            f"{folder} holds rows on other samples, sides or targets, although its config is the "
            "same: another version of zoogen made them; choose another --out"
        )


def _samples_file(problem: Problem) -> bytes:
    table = problem.samples.table[[*IDENTITY, "unit"]].copy()
    table["side"] = ""
    for side in ("train", "validation", "test"):
        table.loc[getattr(problem.split, side), "side"] = side
    if problem.targets.shape[1] == 1:
        table["target"] = problem.targets[:, 0]
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
