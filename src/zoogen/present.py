"""What the command line prints: plans, zoos and problems, as text for people and plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoogen.estimate import Estimate
from zoogen.grid import MEMBER_LIMIT
from zoogen.phases import Coverage, tally
from zoogen.store import Problem
from zoogen.zoo import Zoo

Json = dict[str, Any]
RANGES = (
    "train_accuracy", "test_accuracy", "train_loss", "hessian_trace", "hessian_top",
    "mode_connectivity", "cka", "weight_norm",
)  # fmt: skip


# ----------------------------------------------------------------------------------------- plan
def plan_json(cost: Estimate) -> Json:
    """Totals and one entry a cohort (at most those that were looked at)."""
    plan = cost.plan
    return {
        "name": plan.config.name,
        "cohorts": plan.n_cohorts,
        "cells": plan.n_cells,
        "members": plan.n_members,
        "bytes": cost.bytes,
        "seconds": round(cost.seconds, 1),
        "sampled": cost.sampled,
        "too_large": plan.n_members > MEMBER_LIMIT,
        "axes": {key: list(values) for key, values in plan.axes.items()},
        "per_cohort": [vars(row) for row in cost.cohorts],
    }


def plan_text(cost: Estimate) -> str:
    """One screen: totals, axes, one line a cohort, and a warning where the grid is too large."""
    plan = cost.plan
    lines = [
        f"{plan.config.name}: {plan.n_cohorts:,} cohorts, {plan.n_cells:,} cells × "
        f"{plan.config.grid.seeds:,} seeds = {plan.n_members:,} members",
        f"weights {_bytes(cost.bytes)}, about {_duration(cost.seconds)} on this machine",
        "",
    ]
    lines += [_axis_line(key, values) for key, values in plan.axes.items()]
    lines += ["", *_cohort_lines(cost)]
    if plan.n_members > MEMBER_LIMIT:
        lines += [
            "",
            f"WARNING: more than {MEMBER_LIMIT:,} members; generate will refuse this grid",
        ]
    return "\n".join(lines)


def _axis_line(key: str, values: Sequence[Any]) -> str:
    shown = [
        _number(v) for v in (values if len(values) <= 12 else [*values[:5], "…", *values[-5:]])
    ]
    return f"  {key:<22} {', '.join(shown)}"


def _cohort_lines(cost: Estimate) -> list[str]:
    head = f"{'cohort':<14}{'members':>9}{'params':>10}{'snapshots':>11}{'steps':>9}  "
    lines = [head + "programs differ in"]
    for row in cost.cohorts:
        values = ", ".join(f"{key} {_number(value)}" for key, value in row.values.items())
        lines.append(
            f"{row.cohort:<14}{row.members:>9,}{row.parameters:>10,}{row.snapshots:>11}"
            f"{row.steps:>9,}  {values}"
        )
    if cost.sampled:
        lines.append(f"… and {cost.plan.n_cohorts - len(cost.cohorts):,} more cohorts")
    return lines


# ----------------------------------------------------------------------------------------- info
def info_json(zoo: Zoo) -> Json:
    """What the zoo is and holds."""
    return {
        "name": zoo.name,
        "path": str(zoo.path),
        "description": zoo.config.description,
        "data": zoo.config.data.source,
        "family": zoo.config.network.family,
        "axes": {key: list(values) for key, values in zoo.plan.axes.items()},
        "members": len(zoo),
        "planned_members": zoo.plan.n_members,
        "complete": is_complete(zoo),
        "cohorts": len(zoo.reader.cohorts),
        "snapshots": _snapshot_names(zoo),
        "metrics": zoo.metric_names(),
        "ranges": _ranges(zoo.members),
        "diverged": int(zoo.members["diverged"].sum()) if len(zoo) else 0,
        "bytes": _stored_bytes(zoo),
        "content_hash": zoo.reader.manifest.content_hash(),
        **coverage_json(zoo),
    }


def info_text(zoo: Zoo) -> str:
    """The same on one screen."""
    facts = info_json(zoo)
    state = "complete" if facts["complete"] else "INCOMPLETE: repeat `zoogen generate` to finish it"
    lines = [
        f"{facts['name']}: {facts['description']}".rstrip(": "),
        f"  {facts['family']} on {facts['data']}, {facts['members']:,} of "
        f"{facts['planned_members']:,} members in {facts['cohorts']} cohorts, {state}",
        f"  {_bytes(facts['bytes'])}, content {facts['content_hash'][:12]}, "
        f"{facts['diverged']} diverged",
        f"  snapshots: {', '.join(facts['snapshots'])}",
        "",
        *(_axis_line(key, values) for key, values in facts["axes"].items()),
        "",
        f"  {'at the last snapshot':<22}{'min':>10}{'median':>10}{'max':>10}",
    ]
    for name, (low, middle, high) in facts["ranges"].items():
        lines.append(f"  {name:<22}{low:>10.4g}{middle:>10.4g}{high:>10.4g}")
    return "\n".join([*lines, "", coverage_text(zoo)])


def is_complete(zoo: Zoo) -> bool:
    """Whether all planned members are trained, measured and labelled."""
    runs = zoo.reader.manifest.runs.values()
    measured = any(run.finished for run in runs)
    return len(zoo) == zoo.plan.n_members and measured and zoo.reader.labels() is not None


def coverage_json(zoo: Zoo) -> Json:
    """Cells and members per class; nothing where the zoo is not labelled."""
    table = _coverage(zoo)
    if table is None:
        return {"coverage": None}
    info = zoo.reader.labels().info  # type: ignore[union-attr]
    return {
        "coverage": {"cells": dict(table.cells), "members": dict(table.members)},
        "entropy_bits": table.entropy,
        "empty_phases": list(table.empty),
        "rule": info,
    }


def coverage_text(zoo: Zoo) -> str:
    """The coverage table with the rule that it comes from."""
    table, labels = _coverage(zoo), zoo.reader.labels()
    if table is None or labels is None:
        return "not labelled yet: run `zoogen label`"
    cuts = ", ".join(
        f"{name} {cut['value']:.3g} ({cut['method']})"
        for name, cut in labels.info["thresholds"].items()
    )
    return f"{table}\nrule {labels.info['rule']} v{labels.info['version']}: {cuts}"


def _coverage(zoo: Zoo) -> Coverage | None:
    labels = zoo.reader.labels()
    return None if labels is None else tally(labels.cells["phase"], labels.members["phase"])


def _stored_bytes(zoo: Zoo) -> int:
    units = (unit for _, unit in zoo.reader.manifest.units())
    return sum(file.bytes for unit in units for file in unit.files.values())


def _snapshot_names(zoo: Zoo) -> list[str]:
    names = (name for cohort in zoo.reader.cohorts for name in zoo.snapshots(cohort)["name"])
    return list(dict.fromkeys(names))


def _ranges(members: pd.DataFrame) -> dict[str, list[float]]:
    ranges = {}
    for name in RANGES:
        values = members[name].to_numpy(float) if name in members else np.empty(0)
        known = values[np.isfinite(values)]
        if known.size:
            ranges[name] = [float(f(known)) for f in (np.min, np.median, np.max)]
    return ranges


# --------------------------------------------------------------------------------------- verify
def is_damaged(problems: Sequence[Problem]) -> bool:
    """Whether committed data or what foreign readers need is damaged."""
    return any(problem.kind in {"damaged", "metadata"} for problem in problems)


def verify_json(actions: Sequence[str], problems: Sequence[Problem]) -> Json:
    """Repairs made and problems found."""
    return {
        "intact": not is_damaged(problems),
        "repairs": list(actions),
        "problems": [vars(problem) for problem in problems],
    }


def verify_text(path: Path, actions: Sequence[str], problems: Sequence[Problem]) -> str:
    """A line for each repair and problem, and the verdict."""
    lines = [f"repaired: {action}" for action in actions]
    lines += [str(problem) for problem in problems]
    if is_damaged(problems):
        verdict = f"{path} is damaged; `zoogen verify --repair {path}` drops the damaged parts"
    elif any("dropped" in action for action in actions):
        verdict = f"{path} is consistent; `zoogen generate` makes the dropped parts anew"
    else:
        verdict = f"{path} is intact"
    return "\n".join([*lines, verdict])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} PB"


def _duration(seconds: float) -> str:
    for size, unit in ((31_557_600.0, "years"), (86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
