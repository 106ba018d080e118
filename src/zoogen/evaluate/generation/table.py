"""One table (Markdown) of reports on generators: a row a measure, a column a generator.

Held-out members have a column for each population, left of the generators that are judged by it:
what is real depends on the training members that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoogen.evaluate.generation.conditioning import OfClass
from zoogen.evaluate.generation.measures import measures, number, percent
from zoogen.evaluate.generation.report import Report, by_population, over_seeds
from zoogen.evaluate.generation.starts import Start


def generation_table(reports: Sequence[Report]) -> str:
    """The reports side by side, with what held-out members reach and what is ideal."""
    groups = by_population(reports)
    head = ["measure", "ideal"]
    for first, *others in groups:
        head += [_held_out(first, len(groups)), first.name, *[report.name for report in others]]
    lines = [head, ["---"] * len(head)]
    for name, (ideal, real, of) in measures(reports).items():
        line = [name, ideal]
        for group in groups:
            line += [real(group[0]) if real else "", *[of(report) for report in group]]
        lines.append(line)
    text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
    below = [part for of in (_remarks, _scaling, _classes, _costs) for part in of(reports)]
    return "\n\n".join([text, *below]) + "\n"


def _held_out(report: Report, populations: int) -> str:
    against = f" against {report.members} training runs" if populations > 1 else ""
    return f"held-out members{against}"


def _remarks(reports: Sequence[Report]) -> list[str]:
    notes = [f"- {report.name}: {note}." for report in reports for note in report.notes]
    notes += [f"- {r.name}, {c.name}: {c.how}." for r in reports for c in r.conditions]
    reasons = [
        f"- {report.name}, gain over {gain.baseline}: {gain.reason}."
        for report in reports
        for gain in report.gains
        if gain.reason
    ]
    groups = by_population(reports)
    words = [_gate(group, len(groups)) for group in groups]
    words += _without_gain(reports[0])
    words.append("Standard deviations over seeds, their number in brackets.")
    return [*words, *(["\n".join([*notes, *reasons])] if notes or reasons else [])]


def _gate(group: Sequence[Report], populations: int) -> str:
    """By what generators of one population are judged."""
    first, gate = group[0], group[0].novelty.gate
    whose = f" of {', '.join(report.name for report in group)}" if populations > 1 else ""
    distance, overlap = number(gate.distance_ratio), number(gate.overlap, 3)
    return (
        f"Yield{whose}: accuracy ≥ {percent(gate.accuracy)} %, distance ≥ {distance} of the "
        f"held-out median, overlap ≤ {overlap} on {first.view}, where {percent(first.leak)} % of "
        "training members with noise of 0.05 pass. Gains are at equal overlap on these images."
    )


def _without_gain(report: Report) -> list[str]:
    """Sizes of ensembles that real networks do not gain by."""
    for found in report.ensembles:
        if found.source == "real":
            kept = zip(found.sizes, found.gain_ratios, strict=True)
            none = [str(size) for size, share in kept if math.isnan(share)]
            return [
                f"Ensembles of {', '.join(none)} real networks gain less than one test image, or "
                "there are too few: no ratio to their gain is told, compare accuracies."
            ] * bool(none)
    return []


def _scaling(reports: Sequence[Report]) -> list[str]:
    """From few to many training runs, where there are several numbers of them."""
    lines = [
        [
            report.name, str(point.members), str(len(point.by_seed)),
            *(
                f"{number(scale * mean, digits)} ± {number(scale * deviation, digits)}"
                for quantity, scale, digits in SCALED
                for mean, deviation in [over_seeds(point.by_seed, quantity)]
            ),
            percent(point.nominal),
            f"{percent(point.distinct.share)} ({percent(point.distinct.nominal)})",
            percent(point.distinct.apart),
        ]
        for report in reports
        for point in report.scaling
    ]  # fmt: skip
    if not lines:
        return []
    head = [
        "", "training runs", "seeds", "accuracy %", "ZU", "distance ÷ held-out", "overlap",
        "yield %", "distinct yield %, each seed by itself", "held-out yield %",
        "distinct yield %, all seeds (held-out)", "no repetition %",
    ]  # fmt: skip
    words = "From few to many training runs, mean ± std over seeds; one held-out part for all\n\n"
    return [words + _markdown([head, ["---"] * len(head), *lines])]


SCALED = (
    ("accuracy", 100, 1), ("zu", 1, 2), ("distance_ratio", 1, 2), ("overlap", 1, 3),
    ("novel_yield", 100, 1), ("distinct_yield", 100, 1),
)  # fmt: skip


def _classes(reports: Sequence[Report]) -> list[str]:
    """Class by class, where cells of networks were asked for one."""
    lines = [
        [
            f"{report.name}: {found.name}", "{} ({})".format(*found.cells),
            f"{percent(found.agreement)} ({percent(found.ceiling)})",
            *(_means(found, metric, digits) for metric, (_, digits) in MEANS.items()),
        ]
        for report in reports
        for condition in report.conditions
        for found in condition.by_class
    ]  # fmt: skip
    if not lines:
        return []
    head = ["asked for", "cells", "have it %", *(words for words, _ in MEANS.values())]
    words = "Cells of networks that were asked for one class (held-out members that have it)\n\n"
    return [words + _markdown([head, ["---"] * len(head), *lines])]


MEANS = {
    "test_accuracy": ("test accuracy %", 1),
    "train_error": ("training error %", 2),
    "mode_connectivity": ("mode connectivity", 2),
    "cka": ("CKA", 2),
}
"""Metric of cells → its name in the table, and digits."""


def _means(found: OfClass, metric: str, digits: int) -> str:
    ours, real = (number(value, digits) for value in found.means[metric])
    return f"{ours} ({real})"


def _costs(reports: Sequence[Report]) -> list[str]:
    """Starts and costs, each a table of its own, where they were measured."""
    tables = []
    starts = [(r.name, s) for r in reports for s in r.starts]
    if starts:
        epochs = starts[0][1].epochs
        head = ["from", "data", *[f"{e} epochs" for e in epochs]]
        lines = [head, ["---"] * len(head)]
        lines += [
            [f"{name}: {start.name}", start.data, *_after_training(start)] for name, start in starts
        ]
        words = f"Accuracy % after training {starts[0][1].networks} networks (best learning rate)"
        tables.append(f"{words}\n\n{_markdown(lines)}")
    rows = cost_rows(reports)
    if len(rows) > 1:
        tables.append("Cost\n\n" + _markdown([rows[0], ["---"] * len(rows[0]), *rows[1:]]))
    return tables


def _after_training(start: Start) -> list[str]:
    return [
        f"{percent(accuracy)} ({rate:g})" if epoch else percent(accuracy)
        for epoch, accuracy, rate in zip(start.epochs, start.accuracy, start.rates, strict=True)
    ]


def cost_rows(reports: Sequence[Report]) -> list[list[str]]:
    """Head and one row a generator of what it costs; the head alone where nothing is known."""
    rows = [["", "fit, s", "nets/s", "fresh nets/s", "population, s", "cheaper from, nets"]]
    for report in reports:
        cost = report.cost
        if cost is not None:
            fresh = 1 / cost.fresh_seconds if cost.fresh_seconds > 0 else math.inf
            rows.append([
                report.name, number(cost.fit_seconds, 1), number(cost.rate, 1), number(fresh, 1),
                number(cost.population_seconds, 1), number(cost.break_even, 0),
            ])  # fmt: skip
    return rows


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
