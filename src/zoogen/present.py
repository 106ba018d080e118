"""What the command line prints: plans, zoos and problems, as text for people and plain JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoogen.config import FIRST_GROUPS, Config, Draw
from zoogen.grid import MEMBER_LIMIT, round_of
from zoogen.landscape import GROUPS, METRICS, NOTES, WITHOUT_ERROR, Metric
from zoogen.phases import (
    BEFORE,
    CkaCut,
    ConnectivityCut,
    Coverage,
    Cut,
    Rule,
    load_rule,
    rule_names,
    tally,
)

if TYPE_CHECKING:
    import pandas as pd

    from zoogen.estimate import Estimate
    from zoogen.generators import Run
    from zoogen.refinement import Proposal
    from zoogen.store import Problem
    from zoogen.studies import Study
    from zoogen.zoo import Zoo

Json = dict[str, Any]
RANGES = (
    "train_accuracy", "test_accuracy", "train_loss", "hessian_trace", "hessian_top",
    "mode_connectivity", "cka", "weight_norm", "mse", "psnr",
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
        **_draws_json(plan.config),
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
    lines += _draw_lines(plan.config)
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


def _draws_json(config: Config) -> Json:
    random = config.grid.random
    return {"random": random.model_dump(mode="json", by_alias=True)} if random else {}


def _draw_lines(config: Config) -> list[str]:
    """One line a hyper-parameter that is drawn."""
    draws = config.grid.random.draws if config.grid.random else {}
    return [f"  {key:<22} {_draw_text(draw)}" for key, draw in draws.items()]


def _draw_text(draw: Draw) -> str:
    text = ", ".join(map(_number, draw.choices or ()))
    if draw.choices is None:
        text = f"{_number(draw.from_)} to {_number(draw.to)}, {draw.spacing}"
    where = [f"{key} is {' or '.join(map(str, values))}" for key, values in draw.where.items()]
    return f"{text} where {' and '.join(where)}" if where else text


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
        **_draws_json(zoo.config),
        "members": len(zoo),
        "planned_members": zoo.plan.n_members,
        "complete": zoo.is_complete,
        "added_cells": {name: len(cells) for name, cells in zoo.plan.further.items()},
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
    state = "complete" if facts["complete"] else f"INCOMPLETE: repeat `{zoo.made_by}` to finish it"
    added = facts["added_cells"]
    lines = [
        f"{facts['name']}: {facts['description']}".rstrip(": "),
        f"  {facts['family']} on {facts['data']}, {facts['members']:,} of "
        f"{facts['planned_members']:,} members in {facts['cohorts']} cohorts, {state}",
        f"  {_bytes(facts['bytes'])}, content {facts['content_hash'][:12]}, "
        f"{facts['diverged']} diverged",
        f"  snapshots: {', '.join(facts['snapshots'])}",
        *([f"  {sum(added.values())} cells added, in {len(added)} rounds"] if added else []),
        "",
        *(_axis_line(key, values) for key, values in facts["axes"].items()),
        *_draw_lines(zoo.config),
        "",
        f"  {'at the last snapshot':<22}{'min':>10}{'median':>10}{'max':>10}",
    ]
    for name, (low, middle, high) in facts["ranges"].items():
        lines.append(f"  {name:<22}{low:>10.4g}{middle:>10.4g}{high:>10.4g}")
    return "\n".join([*lines, "", coverage_text(zoo)])


def coverage_json(zoo: Zoo) -> Json:
    """Cells and members per class; nothing where the zoo is not labelled."""
    table = _coverage(zoo)
    if table is None:
        return {"coverage": None}
    info = zoo.reader.labels().info  # type: ignore[union-attr]
    earlier = _coverage(zoo, BEFORE)
    return {
        "coverage": {"cells": dict(table.cells), "members": dict(table.members)},
        "coverage_before_annealing": earlier
        and {"cells": dict(earlier.cells), "members": dict(earlier.members)},
        "entropy_bits": table.entropy,
        "empty_phases": list(table.empty),
        "rule": info,
    }


def coverage_text(zoo: Zoo) -> str:
    """The coverage table with the rule that it comes from."""
    if zoo.config.network.fits_image:
        return f"{len(zoo):,} members, an image each; no phases, which are those of classifiers"
    table, labels = _coverage(zoo), zoo.reader.labels()
    if table is None or labels is None:
        return "not labelled yet: run `zoogen label`"
    cuts = ", ".join(
        f"{name} {cut['value']:.3g} ({cut['method']})"
        for name, cut in labels.info["thresholds"].items()
    )
    lines = [str(table), f"rule {labels.info['rule']} v{labels.info['version']}: {cuts}"]
    earlier = _coverage(zoo, BEFORE)
    if earlier is not None:
        counts = ", ".join(f"{name} {cells}" for name, cells, *_ in earlier.rows())
        lines.append(f"cells before annealing: {counts}")
    return "\n".join(lines)


def _coverage(zoo: Zoo, when: str = "") -> Coverage | None:
    """Counts at the end, or at another time that was labelled, else nothing."""
    labels, column = zoo.reader.labels(), f"phase{when}"
    if labels is None or column not in labels.cells:
        return None
    return tally(labels.cells[column].dropna(), labels.members[column].dropna())


# ----------------------------------------------------------------------------------- refinement
def proposals_json(found: Sequence[Proposal]) -> Json:
    """The cells with their scores and reasons."""
    return {"cells": [asdict(proposal) for proposal in found]}


def proposals_text(found: Sequence[Proposal]) -> str:
    """One line a cell, best first."""
    if not found:
        return "no cell to add: the grid tells apart what its axes can tell apart"
    lines = [f"{len(found)} cells to add, best first:"]
    for proposal in found:
        values = ", ".join(f"{key} {_digits(value)}" for key, value in proposal.values.items())
        lines.append(f"  {proposal.score:4.2f}  {values}  ({proposal.reason})")
    return "\n".join(lines)


def refined_text(zoo: Zoo, before: Zoo) -> str:
    """What a refinement did: its cells with their phases, and the coverage of the whole zoo.

    Args:
        zoo: as it is now.
        before: as it was opened before the call.
    """
    number = max(zoo.plan.further, key=int, default="")
    if number in before.plan.further and before.is_complete:
        number = ""
    if not number:
        return "\n".join([proposals_text([]), "", coverage_text(zoo)])
    cells = zoo.cells[zoo.cells["cohort"].map(round_of) == number]
    if number in before.plan.further:
        lines = [f"finished refinement {int(number)} ({len(cells)} cells); repeat to add more:"]
    else:
        lines = [f"refinement {int(number)} added {len(cells)} cells:"]
    for _, cell in cells.iterrows():
        values = ", ".join(f"{key} {_digits(cell[key])}" for key in zoo.plan.axes)
        known = np.isfinite(cell["confidence"])
        sure = f"{cell['confidence']:.2f}" if known else "unknown: fewer than two pairs"
        lines.append(f"  {values}: {cell['phase']}, confidence {sure}")
    return "\n".join([*lines, "", coverage_text(zoo)])


# -------------------------------------------------------------------------------------- studies
def study_json(study: Study, files: Sequence[Path]) -> Json:
    """The whole table, who was left out, and the files; unknown numbers are null."""
    table = study.table.astype(object).where(study.table.notna(), None)
    return {
        "study": study.name,
        "definition": study.kind.definition,
        "members": study.members,
        "diverged": study.diverged,
        "cells_without_result": list(study.missing),
        "rows": table.to_dict("records"),
        "files": [str(path) for path in files],
    }


def study_text(study: Study, files: Sequence[Path]) -> str:
    """The mean gain of the cells of each phase at each setting, and the files."""
    heads = "".join(f"{study.kind.setting.format(s):>16}" for s in study.settings)
    wide = max(map(len, study.variants))
    lines = [
        f"{study.name}: {study.kind.definition}",
        f"{study.members:,} members; {study.diverged:,} diverged members left out; "
        f"{len(study.missing):,} cells lack {study.kind.needs}",
        "",
        "gain in points of test accuracy, mean ± standard error over the cells of a phase "
        "(those that have all settings):",
        f"{'phase':<12}{'':<{wide}}{'cells':>6}{heads}",
    ]
    from zoogen.studies import gains_by_phase

    found = gains_by_phase(study.table)
    by_phase = found.sort_values("phase", kind="stable")  # variants as they came
    for (phase, variant), rows in by_phase.groupby(["phase", "variant"], sort=False):
        at = rows.set_index("setting").reindex(study.settings)
        entries = "".join(
            f"{_mean_and_error(*v):>16}" for v in zip(at["mean"], at["error"], strict=True)
        )
        lines.append(f"{phase:<12}{variant:<{wide}}{int(rows['cells'].max()):>6}{entries}")
    return "\n".join([*lines, "", *map(str, files)])


def _mean_and_error(mean: float, error: float) -> str:
    """In points; nothing where there is no mean, no error where there is none."""
    if np.isnan(mean):
        return "–"
    return f"{100 * mean:+.2f}" + (f" ± {100 * error:.2f}" if np.isfinite(error) else "")


# ------------------------------------------------------------------------------------ generators
def run_json(run: Run) -> Json:
    """What was fitted on what, how long it took, and the losses at every look."""
    losses = run.state.get("losses")
    return {
        "name": run.config.name,
        "generator": run.config.generator,
        "zoo": run.facts["zoo"],
        "members": run.facts["members"],
        "conditions": [quantity.name for quantity in run.conditioning.quantities],
        "seconds": round(run.facts["fit"]["seconds"], 1),
        "losses": [] if losses is None else losses.tolist(),
    }


def run_text(run: Run) -> str:
    """One screen."""
    table = run_json(run)
    sizes = ", ".join(
        f"{count:,} {name.replace('_', '-')}" for name, count in table["members"].items()
    )
    lines = [
        f"{table['name']}: generator {table['generator']!r} on zoo {table['zoo']!r}",
        f"members: {sizes}; fitted in {_duration(table['seconds'])}",
        f"conditions: {', '.join(table['conditions']) or 'none'}",
    ]
    if table["losses"]:
        lines += ["", "step      loss  validation"]
        lines += [f"{step:6.0f}  {loss:8.4f}  {held:8.4f}" for step, loss, held in table["losses"]]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------- phases
def rules_json() -> list[Json]:
    """The rules that zoogen ships, as data."""
    rules = [load_rule(name) for name in rule_names()]
    return [rule.model_dump(mode="json", exclude_none=True) | {"sha256": rule.sha256}
            for rule in rules]  # fmt: skip


def rules_text() -> str:
    """One line a rule that zoogen ships."""
    rules = [load_rule(name) for name in rule_names()]
    return "\n".join(
        f"{rule.name:<12}v{rule.version}  {rule.sha256[:12]}  {rule.description}" for rule in rules
    )


def fit_json(rule: Rule, out: Path) -> Json:
    """A fitted rule and where it was written."""
    return {"file": str(out), "rule": rule.model_dump(mode="json", exclude_none=True)}


def fit_text(rule: Rule, out: Path) -> str:
    """Thresholds, advice and accuracy of a fitted tree on one screen."""
    tree, cuts = rule.tree, rule.thresholds
    if tree is None or tree.score is None:
        return f"{out}: rule {rule.name}, no fitted tree"
    score = tree.score
    asked: dict[str, Cut | ConnectivityCut | CkaCut] = {
        "train error": cuts.train_error, "mode connectivity": cuts.mode_connectivity,
        "log Hessian trace": tree.log_trace, "CKA": cuts.cka,
    }  # fmt: skip
    lines = [f"{out}: a tree fitted on {score.cells} cells of {score.data}"]
    lines += [f"  without a target: {n} cells, {why}" for why, n in score.skipped.items()]
    lines += ["", f"  {'question':<20}{'threshold':>11}   bounds"]
    for name, cut in asked.items():
        bounds = "fixed" if cut.bounds is None else f"{cut.bounds[0]:g} to {cut.bounds[1]:g}"
        bounds += "" if cut.source.startswith("fitted") else ", start value kept"
        lines.append(f"  {name:<20}{cut.value:>11.4g}   {bounds}")
    lines += ["", f"  {'leaf':<20}{'turn':<18}{'cells':>6}{'agree':>7}"]
    lines += [
        f"  {name:<20}{leaf.knob + ' ' + leaf.direction:<18}{leaf.cells:>6}{leaf.agreeing:>7}"
        for name, leaf in tree.leaves.items()
    ]
    if score.gain < 2 * score.gain_stderr:
        told = "NOT BETTER than always naming the majority knob; see the bounds above"
    else:
        told = "better than always naming the majority knob"
    checked = f"{score.folds}-fold cross-validation by cell, {score.repeats} times"
    return "\n".join([
        *lines, "", f"  {checked}:",
        f"  knob predicted     {score.accuracy:.1%}, majority {score.baseline:.1%}, "
        f"difference {100 * score.gain:+.1f} ± {100 * score.gain_stderr:.1f} points",
        f"  and its direction  {score.move_accuracy:.1%}, majority {score.move_baseline:.1%}",
        f"  {told}",
    ])  # fmt: skip


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


# -------------------------------------------------------------------------------------- metrics
def metrics_json() -> list[Json]:
    """One entry a metric."""
    return [asdict(metric) for metric in METRICS.values()]


def metrics_text() -> str:
    """One line a metric, under its group."""
    lines = []
    for group in GROUPS:
        lines.append(f"{group}{' (taken by default)' if group in FIRST_GROUPS else ''}")
        for metric in (m for m in METRICS.values() if m.group == group):
            unit = f" [{metric.unit}]" if metric.unit else ""
            facts = f"error: {_error(metric)}; gradients: {metric.cost}"
            lines += [f"  {metric.name:<34}{metric.definition}{unit}", f"  {'':<34}{facts}"]
    return "\n".join(lines)


def _error(metric: Metric) -> str:
    """The metric that holds the error, or why there is none."""
    return WITHOUT_ERROR.get(metric.error, metric.error)


def metrics_markdown() -> str:
    """The page of all metrics, made from the table alone."""
    lines = [
        "# Metrics", "",
        "Made by `zoogen metrics --markdown` from `zoogen.landscape.METRICS`. Groups are chosen by",
        "`[landscape] metrics = [...]` in a config or `zoogen measure ZOO --metrics a,b`.",
        "*Error*: the metric that holds the standard error (of an eigenvalue, a bound), or why",
        "there is none. *Gradients*: gradient evaluations for one member or pair at one snapshot,",
        "by the settings of `[landscape]`; a Hessian product counts as two, and `with NAME` adds",
        "none to that metric's. What a run took, in evaluations and seconds, stands under `cost`",
        "in the manifest. *Symmetric*: unchanged when the hidden units of one member are",
        "reordered.",
    ]  # fmt: skip
    for group in GROUPS:
        default = ", taken by default" if group in FIRST_GROUPS else ""
        lines += ["", f"## {group}{default}", "",
                  "| name | definition | unit | range | axes | error | gradients | symmetric | "
                  "reference |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for m in (m for m in METRICS.values() if m.group == group):
            low, high = ("" if end is None else f"{end:g}" for end in (m.low, m.high))
            symmetric = "yes" if m.permutation_symmetric else "no"
            error = f"`{m.error}`" if m.error in METRICS else _error(m)
            cells = (f"`{m.name}`", m.definition, m.unit, f"{low} … {high}", ", ".join(m.axes),
                     error, m.cost, symmetric, m.reference)  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Notes", *(f"\n{textwrap.fill(note, 100)}" for note in NOTES)]
    return "\n".join(lines)


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


def _digits(value: Any) -> str:
    """As many digits as an axis has, so that two cells never look the same."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
