"""One table (Markdown) of reports on generators: a row a measure, a column a generator.

Held-out members have a column for each population, left of the generators that are judged by it:
what is real depends on the training members that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.report import Report, Spread, by_population, over_seeds
from zoogen.evaluate.generation.starts import Start

Row = Callable[[Report], str]
Rows = dict[str, tuple[str, Row | None, Row]]
"""Measure → its ideal, its value for held-out members, and its value for a generator."""


def generation_table(reports: Sequence[Report]) -> str:
    """The reports side by side, with what held-out members reach and what is ideal."""
    groups = by_population(reports)
    head = ["measure", "ideal"]
    for first, *others in groups:
        head += [_held_out(first, len(groups)), first.name, *[report.name for report in others]]
    lines = [head, ["---"] * len(head)]
    for name, (ideal, real, of) in _rows(reports).items():
        line = [name, ideal]
        for group in groups:
            line += [real(group[0]) if real else "", *[of(report) for report in group]]
        lines.append(line)
    text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
    return "\n\n".join([text, *_remarks(reports), *_scaling(reports), *_costs(reports)]) + "\n"


def _held_out(report: Report, populations: int) -> str:
    against = f" against {report.members} training runs" if populations > 1 else ""
    return f"held-out members{against}"


def number(value: float, digits: int = 2) -> str:
    """A number for a table; a dash where there is none.

    Example:
        >>> number(0.123), number(float("nan")), number(-0.0), number(float("inf"))
        ('0.12', '–', '0.00', '∞')
    """
    if math.isinf(value):
        return "∞"
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float) -> str:
    """A share in percent."""
    return number(100 * value, 1)


_ACCURACY: Rows = {
    "training runs / fits": ("", None, lambda r: f"{r.members} / {r.fits}"),
    "samples (not finite)": ("≥ 500 (0)", None, lambda r: f"{r.samples} ({r.invalid})"),
    "accuracy %, mean ± std": (
        "as held-out",
        lambda r: _spread(r.real_accuracy),
        lambda r: _spread(r.accuracy),
    ),
    "accuracy %, mean ± std over seeds": ("", None, lambda r: _over_seeds(r, "accuracy", 100)),
    "accuracy %, q10 / 50 / 90 / best": (
        "as held-out",
        lambda r: _quantiles(r, real=True),
        lambda r: _quantiles(r, real=False),
    ),
}  # fmt: skip
_COPYING: Rows = {
    "ZU, all samples": ("0", None, lambda r: number(r.copying.zu)),
    "ZU, mean ± std over seeds": ("0", None, lambda r: _over_seeds(r, "zu")),
    "distance to nearest training member ÷ held-out": (
        "1", lambda r: "1.00", lambda r: number(r.copying.distance_ratio),
    ),
    "duplicates %": ("0", None, lambda r: percent(r.copying.duplicates)),
    "largest overlap of wrong predictions, test images": (
        "as held-out",
        lambda r: number(r.copying.plain_overlap_held_out, 3),
        lambda r: number(r.copying.plain_overlap, 3),
    ),
    "… on the view of the gate": (
        "as held-out",
        lambda r: number(r.copying.overlap_held_out, 3),
        lambda r: number(r.copying.overlap, 3),
    ),
    "distance of functions ÷ held-out (ZU)": (
        "1 (0)", lambda r: "1.00",
        lambda r: f"{number(r.copying.functional_ratio)} ({number(r.copying.functional_zu)})",
    ),
}  # fmt: skip
_DIVERSITY: Rows = {
    "distance of pairs ÷ real": (
        "1", None,
        lambda r: number(r.diversity.distance_ratio) + _collapsed(r),
    ),
    "overlap of pairs ÷ real": ("1", None, lambda r: number(r.diversity.overlap_ratio)),
    "effective rank ÷ real": ("1", None, lambda r: number(r.diversity.rank_ratio)),
    "spread ÷ real, least to largest over tensors": (
        "1", None, lambda r: _range(r.diversity.spread_ratio.values()),
    ),
    "root mean square ÷ real, least to largest": (
        "1", None, lambda r: _range(r.diversity.size_ratio.values()),
    ),
}  # fmt: skip
_YIELD: Rows = {
    "novelty-gated yield %": (
        "as held-out", lambda r: percent(r.novelty.nominal), lambda r: percent(r.novelty.all),
    ),
    "yield %, mean ± std over seeds": ("", None, lambda r: _over_seeds(r, "novel_yield", 100)),
    "… accurate / distant / different %": (
        "", None,
        lambda r: " / ".join(
            map(percent, (r.novelty.accurate, r.novelty.distant, r.novelty.different))
        ),
    ),
    "distinct yield %: new to each other, too": (
        "as held-out", lambda r: percent(r.distinct.nominal), lambda r: percent(r.distinct.share),
    ),
    "distinct yield %, mean ± std over seeds, each by itself": (
        "", None, lambda r: _over_seeds(r, "distinct_yield", 100),
    ),
    "no repetition of another sample %, good or not": (
        "as held-out", lambda r: percent(r.distinct.real_apart),
        lambda r: percent(r.distinct.apart) + _collapsed(r),
    ),
}  # fmt: skip


def _rows(reports: Sequence[Report]) -> Rows:
    """What every report has, then what hangs on baselines, sizes and conditions of these."""
    rows = _ACCURACY | _COPYING | _DIVERSITY | _YIELD
    if any(report.plain_novelty for report in reports):
        rows["yield %, overlaps on the test images as they are"] = (
            "as held-out", _plain("nominal"), _plain("all"),
        )  # fmt: skip
    if any(report.recalibrated for report in reports):
        rows["accuracy %, running statistics computed anew"] = (
            "", None, lambda r: _spread(r.recalibrated),
        )  # fmt: skip
    for name in dict.fromkeys(gain.baseline for report in reports for gain in report.gains):
        rows[f"gain over {name} at equal novelty, points"] = (
            "as held-out", _gain_over(name, real=True), _gain_over(name),
        )  # fmt: skip
    for size in reports[0].ensembles[0].sizes if reports[0].ensembles else ():
        rows[f"gain of {size}-net ensembles, points (of one noised net)"] = (
            "as held-out", _ensemble("real", size, "gains"), _generated_gain(size),
        )  # fmt: skip
        rows[f"gain of {size}-net ensembles ÷ gain of {size} real nets"] = (
            "1", _of_real("real", size, "gain_ratios"), _of_real("generated", size, "gain_ratios"),
        )  # fmt: skip
        rows[f"accuracy of {size}-net ensembles, %"] = (
            "as held-out", _ensemble("real", size, "accuracies"),
            _ensemble("generated", size, "accuracies"),
        )  # fmt: skip
        rows[f"accuracy of {size}-net ensembles ÷ accuracy of {size} real nets"] = (
            "1", _of_real("real", size, "accuracy_ratios"),
            _of_real("generated", size, "accuracy_ratios"),
        )  # fmt: skip
    for name in dict.fromkeys(c.name for report in reports for c in report.conditions):
        rows[f"requested against achieved {name} (shuffled, 97.5 %)"] = (
            "1", _ceiling(name), _agreement(name),
        )  # fmt: skip
    return rows


def _collapsed(report: Report) -> str:
    return " (collapsed)" if report.collapsed else ""


def _plain(quantity: str) -> Row:
    """Yield on the test images as they are, which may be the view of the gate already."""
    return lambda report: percent(getattr(report.plain_novelty or report.novelty, quantity))


def _spread(found: Spread | None) -> str:
    return "–" if found is None else f"{percent(found.mean)} ± {percent(found.std)}"


def _quantiles(report: Report, real: bool) -> str:
    of = report.real_accuracy if real else report.accuracy
    return " / ".join(map(percent, (of.q10, of.q50, of.q90, of.best)))


def _over_seeds(report: Report, quantity: str, scale: float = 1) -> str:
    mean, deviation = report.over_seeds(quantity)
    return f"{number(scale * mean)} ± {number(scale * deviation)} ({len(report.by_seed)})"


def _range(values: object) -> str:
    finite = sorted(v for v in values if math.isfinite(v))  # type: ignore[attr-defined]
    return f"{number(finite[0])} to {number(finite[-1])}" if finite else "–"


def _gain_over(name: str, real: bool = False) -> Row:
    def of(report: Report) -> str:
        gains = report.real_gains if real else report.gains
        gain = next((gain for gain in gains if gain.baseline == name), None)
        if gain is None:
            return "–"
        bounded = math.isfinite(gain.at_least)
        return f"≥ {percent(gain.at_least)}" if bounded else percent(gain.gain)

    return of


def _of_size(report: Report, source: str, size: int, quantity: str) -> float:
    """A quantity of :class:`Ensembles`; NaN where there is none."""
    return next(
        (
            value
            for found in report.ensembles
            if found.source.startswith(source)
            for k, value in zip(found.sizes, getattr(found, quantity), strict=True)
            if k == size
        ),
        math.nan,
    )


def _ensemble(source: str, size: int, quantity: str) -> Row:
    return lambda report: percent(_of_size(report, source, size, quantity))


def _of_real(source: str, size: int, quantity: str) -> Row:
    return lambda report: number(_of_size(report, source, size, quantity), 3)


def _generated_gain(size: int) -> Row:
    ours, noised = (_ensemble(source, size, "gains") for source in ("generated", "one net"))
    return lambda report: f"{ours(report)} ({noised(report)})"


def _agreement(name: str) -> Row:
    def of(report: Report) -> str:
        found = _condition(report, name)
        if found is None:
            return "–"
        return f"{number(found.agreement)} ({number(found.shuffled_high)})"

    return of


def _ceiling(name: str) -> Row:
    """What a model that reads the quantity from weights reaches on held-out members."""

    def of(report: Report) -> str:
        found = _condition(report, name)
        return "" if found is None or math.isnan(found.ceiling) else number(found.ceiling)

    return of


def _condition(report: Report, name: str) -> Conditioned | None:
    return next((found for found in report.conditions if found.name == name), None)


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
