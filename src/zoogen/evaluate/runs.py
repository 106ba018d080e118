"""Runs of readers: what is compared is fitted, row by row; the same command resumes."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoogen.config.wording import nearest
from zoogen.errors import ConfigError, ConflictError
from zoogen.evaluate.begun import begin, refuse_other_files
from zoogen.evaluate.config import RunConfig
from zoogen.evaluate.inputs import refuse_mixed
from zoogen.evaluate.memory import peak_bytes, reset_peak
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Fitted, Options, Reader
from zoogen.evaluate.rows import ROWS, Json, Run, bytes_of
from zoogen.evaluate.scoring import CHOOSES, scores
from zoogen.evaluate.table import READERS_OF
from zoogen.evaluate.targets import Asks
from zoogen.evaluate.tasks import Task, blind, task_of
from zoogen.evaluate.tuning import trials_of
from zoogen.progress import Advance, Reporter, silent
from zoogen.provenance import provenance
from zoogen.store.disk import now, replace_file, storage_errors, writer_lock
from zoogen.zoo import Zoo

BASELINES: Mapping[Asks, tuple[str, ...]] = {
    "network": ("mean", "hyper-parameters"), "update": ("zero",), "edit": ("zero", "floor"),
}  # fmt: skip
"""What a target asks for → readers that stand in every table."""
_ASKED: Mapping[Asks, str] = {
    "network": "a target of whole networks", "update": "a number a parameter",
    "edit": "an edited network",
}  # fmt: skip


# ----------------------------------------------------------------------------------- the whole run
def train_models(
    config: RunConfig,
    zoo: Zoo,
    out: str | Path,
    reporter: Reporter = silent,
    readers: Mapping[str, Reader] | None = None,
) -> Run:
    """Fit every reader of a config with an equal budget; finished rows are kept as they are.

    A reader is fitted once with each of its trials, all with seed 0, and with every further seed by
    the trial that is best on the validation samples.

    Args:
        config: what is compared.
        zoo: whose members are read.
        out: directory of the run.
        reporter: shows progress; silent by default.
        readers: name → reader; by default those that zoogen has for such a target.

    Raises:
        ConfigError: if a reader is unknown or can't read these samples, or the task is impossible.
        ConflictError: if the directory belongs to another comparison or zoo, or another process
            writes to it.
        NotFoundError: if the zoo lacks what the task needs.
    """
    task = task_of(zoo, config)
    usual = READERS_OF[task.target.asks]
    chosen = _chosen(config, task, usual if readers is None else readers)
    folder = Path(out)
    with storage_errors(folder):
        refuse_other_files(folder)
        (folder / ROWS).mkdir(parents=True, exist_ok=True)
    with writer_lock(folder), storage_errors(folder):
        run = begin(folder, config, zoo, task, chosen)
        budgets = {name: _budget(config, task, name, reader) for name, reader in chosen.items()}
        left = _left(run, config, budgets)
        with (reporter if left else silent)("train-model", left, "fits") as advance:
            for name, reader in chosen.items():
                _compare(run, task, name, reader, budgets[name], advance)
    return run


def _chosen(config: RunConfig, task: Task, table: Mapping[str, Reader]) -> dict[str, Reader]:
    """The readers of a config after those that stand in every table."""
    baselines = [name for name in BASELINES[task.target.asks] if name in table]
    if not task.problem.samples.hyper_parameters:
        baselines = [name for name in baselines if name != "hyper-parameters"]
    for name in config.readers:
        if name not in table:
            others = [asks for asks, known in READERS_OF.items() if name in known]
            hint = f", which reads for {_ASKED[others[0]]}" if others else nearest(name, table)
            raise ConfigError(
                f"readers: found {name!r}{hint}; allowed for target {task.problem.name!r}, "
                f"{_ASKED[task.target.asks]}: {', '.join(table)}"
            )
    chosen = {name: table[name] for name in dict.fromkeys([*baselines, *config.readers])}
    for name, reader in chosen.items():
        if not reader.mixed:
            refuse_mixed(task.problem.samples, name)
    return chosen


# --------------------------------------------------------------------------------------- one reader
def _budget(config: RunConfig, task: Task, name: str, reader: Reader) -> list[dict[str, Any]]:
    return trials_of(name, task.space_for(reader), config.tuning.trials, config.tuning.seed)


def _left(run: Run, config: RunConfig, budgets: Mapping[str, list[dict[str, Any]]]) -> int:
    """Fits that are still to be made; which trial gets the further seeds may not be known yet."""
    wanted = sum(len(trials) + config.seeds - 1 for trials in budgets.values())
    done = [
        row
        for row in run.rows()
        if (row["seed"] == 0 and row["trial"] < len(budgets.get(row["reader"], ())))
        or (0 < row["seed"] < config.seeds and row["reader"] in budgets)
    ]
    return max(0, wanted - len(done))


def _compare(
    run: Run,
    task: Task,
    name: str,
    reader: Reader,
    trials: list[dict[str, Any]],
    advance: Advance,
) -> None:
    """All rows of one reader."""
    first = [
        _row(run, task, name, reader, number, options, 0, advance)
        for number, options in enumerate(trials)
    ]
    best = best_trial(first, task.problem.kind)
    for seed in range(1, run.config.seeds):
        _row(run, task, name, reader, best, trials[best], seed, advance)


def best_trial(rows: list[Json], kind: str) -> int:
    """The trial whose row of seed 0 is best on the validation samples; of equal ones the first."""
    score = CHOOSES[kind]
    values = {row["trial"]: row["scores"]["validation"][score] for row in rows if row["seed"] == 0}
    return max(sorted(values), key=lambda t: -math.inf if values[t] is None else values[t])


def _row(
    run: Run,
    task: Task,
    name: str,
    reader: Reader,
    trial: int,
    options: Options,
    seed: int,
    advance: Advance,
) -> Json:
    """A finished row as it is, or a new one."""
    found = run.row(name, trial, seed)
    if found is not None:
        if found["options"] != json.loads(json.dumps(dict(options))):
            raise ConflictError(
                f"{run.path}: row {name} trial {trial} has options {found['options']}, this "
                f"version of the reader would be tried with {dict(options)}; choose another --out"
            )
        return found
    with _whole(advance) as shares:  # told to be done after the row is written
        return _new_row(run, task, name, reader, trial, options, seed, shares)


def _new_row(
    run: Run,
    task: Task,
    name: str,
    reader: Reader,
    trial: int,
    options: Options,
    seed: int,
    advance: Advance,
) -> Json:
    problem = task.problem_for(reader)
    reset_peak()
    begin = time.perf_counter()
    training = replace(run.config.training.training, advance=advance)
    given = problem if reader.told else blind(problem)
    fitted = reader.fit(given, options, training, seed)
    spent, peak = time.perf_counter() - begin, peak_bytes()
    row: Json = {
        "reader": name,
        "trial": trial,
        "seed": seed,
        "options": dict(options),
        "scores": dict(_scores(problem, fitted)),
        "parameters": int(fitted.parameters),
        "seconds": round(spent, 4),
        "step_seconds": fitted.step_seconds,
        "peak_bytes": peak,
        "curve": [[int(step), *map(_number, errors)] for step, *errors in fitted.curve],
        "split": run.config.split.model_dump(mode="json"),
        "sides": task.facts()["sides"],
        "weights": task.weights_for(reader),
        "excluded": dict(task.excluded),
        "finished": now(),
        "provenance": provenance(),
    }
    path = run.row_path(name, trial, seed)
    replace_file(path.with_suffix(".npz"), _predictions_file(problem, fitted))
    replace_file(path, bytes_of(row))
    return row


@contextmanager
def _whole(advance: Advance) -> Iterator[Advance]:
    """Progress of one unit of work: what was not told on the way is told at the end."""
    told = 0.0

    def share(part: float) -> None:
        nonlocal told
        told += part
        advance(part)

    yield share
    advance(1 - told)


def _scores(problem: Problem, fitted: Fitted) -> Iterator[tuple[str, Json]]:
    """Scores of every side; none where a prediction is not finite."""
    for side in ("train", "validation", "test"):
        rows = getattr(problem.split, side)
        targets, outputs = problem.targets[rows], np.asarray(fitted.outputs)[rows]
        if np.isfinite(outputs).all():
            found = scores(problem.kind, targets, outputs)
        else:
            found = dict.fromkeys(scores(problem.kind, targets, np.zeros_like(outputs)), math.nan)
        yield side, {name: _number(value) for name, value in found.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _predictions_file(problem: Problem, fitted: Fitted) -> bytes:
    """What was returned for samples that are not trained on; nothing where it is a network each."""
    rows = np.concatenate([problem.split.validation, problem.split.test])
    whole = problem.targets.shape[1] == 1
    outputs = np.asarray(fitted.outputs, np.float32)[rows] if whole else np.zeros((0, 0))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, rows=rows, outputs=outputs)
    return buffer.getvalue()
