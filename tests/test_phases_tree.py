"""The tree: planted thresholds, known best moves, held-out cells, and what it refuses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen.errors import ConfigError, NotFoundError
from zoogen.phases import (
    LEAVES,
    Rule,
    advise,
    cells_of,
    fit_tree,
    label,
    load_rule,
    read_measurements,
    rule_names,
    rule_toml,
    targets,
)

START = load_rule("md_tree")


def grid(rng: np.random.Generator, side: int = 10) -> pd.DataFrame:
    """Load × temperature with random accuracies and measurements, in the order of `cells_of`."""
    load, heat = (axis.ravel() for axis in np.mgrid[:side, :side])
    count = side**2
    return pd.DataFrame(
        {
            "load": load.astype(float),
            "temperature": heat.astype(float),
            "test_accuracy": rng.uniform(0.2, 0.9, count),
            "train_error": rng.uniform(0, 1, count),
            "mode_connectivity": rng.uniform(-30, 0, count),
            "hessian_trace": np.exp(rng.uniform(4, 9, count)),
            "cka": rng.uniform(0.2, 0.8, count),
        }
    )


# ------------------------------------------------------------------------------------- the target
def square(accuracy: list[list[float]]) -> pd.DataFrame:
    """Cells of a grid whose rows are loads and whose columns are temperatures."""
    rows = [(i, j, a) for i, row in enumerate(accuracy) for j, a in enumerate(row)]
    table = pd.DataFrame(rows, columns=["load", "temperature", "test_accuracy"])
    return table.assign(train_error=1.0, mode_connectivity=-1.0, hessian_trace=1.0, cka=0.5)


def test_the_target_is_the_best_step() -> None:
    found = targets(cells_of(square([[0.1, 0.2, 0.1], [0.5, 0.4, 0.9], [0.3, 0.7, 0.6]])))
    moves = (found["knob"] + " " + found["direction"]).tolist()
    gains = found["gain"].round(6).tolist()
    assert moves[0] == "load up"
    assert gains[0] == 0.4  # 0.1 → 0.5
    assert (moves[1], gains[1]) == ("load up", 0.2)
    assert (moves[2], gains[2]) == ("load up", 0.8)
    assert (moves[4], gains[4]) == ("temperature up", 0.5)
    assert (moves[6], gains[6]) == ("temperature up", 0.4)
    assert (moves[8], gains[8]) == ("load down", 0.3)
    assert found["skipped"][5] == "no move improves it"
    assert found["skipped"][[0, 1, 2, 4, 6, 8]].tolist() == [""] * 6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.assign(test_accuracy=[0.1, 0.5, 0.5, 0.6]), "improve it alike"),
        (lambda t: t[t["load"] == 0], "no neighbour"),
        (lambda t: t.assign(cka=[np.nan, 0.5, 0.5, 0.5]), "measurement is missing"),
        (lambda t: t.assign(facet=["a", "b", "c", "d"]), "no neighbour"),
    ],
)
def test_cells_without_a_target_say_why(change, why: str) -> None:
    found = targets(cells_of(change(square([[0.1, 0.3], [0.4, 0.6]]))))
    assert why in found["skipped"][0]


def test_a_cell_that_is_not_measured_is_a_neighbour_still() -> None:
    table = square([[0.1, 0.3], [0.4, 0.6]]).assign(cka=[0.5, 0.5, np.nan, 0.5])
    found = targets(cells_of(table))
    assert found["skipped"][0] == ""
    assert (found["knob"][0], found["direction"][0]) == ("load", "up")


# ------------------------------------------------------------------------------------ planted trees
# question → planted threshold, the bounds of its values, and what makes the tree ask it
PLANTED = {
    "train_error": (0.3, (0.0, 1.0), {}),
    "mode_connectivity": (-4.0, (-30.0, 0.0), {"train_error": 0.0}),
    "log_trace": (5.5, (4.0, 9.0), {"train_error": 30.0}),
    "cka": (0.7, (0.2, 0.8), {"train_error": 0.0}),
}


def planted(question: str, rng: np.random.Generator) -> tuple[pd.DataFrame, float, float]:
    """A grid whose knob one threshold decides, and the fitted cells' values on its two sides."""
    cut, (low, high), fixed = PLANTED[question]
    table = grid(rng).assign(**fixed)
    best = targets(cells_of(table))
    load, usable = (best["knob"] == "load").to_numpy(), (best["skipped"] == "").to_numpy()
    values = np.where(load, rng.uniform(cut, high, len(table)), rng.uniform(low, cut, len(table)))
    if question == "log_trace":
        table["hessian_trace"] = np.exp(values)
    else:
        table[question] = values
    return table, values[usable & ~load].max(), values[usable & load].min()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("question", PLANTED)
def test_planted_thresholds_are_found(question: str, seed: int) -> None:
    table, below, above = planted(question, np.random.default_rng(seed))
    fitted = fit_tree(table, START, "planted")
    tree = fitted.tree
    assert tree is not None
    assert tree.score is not None
    found = tree.log_trace if question == "log_trace" else getattr(fitted.thresholds, question)
    assert below < found.value < above
    assert sum(leaf.agreeing for leaf in tree.leaves.values()) == tree.score.cells
    assert tree.score.accuracy > 0.95
    assert tree.score.baseline < 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_planted_thresholds_are_found_together(seed: int) -> None:
    """Under-fitted cells go by the trace, fitted ones by CKA."""
    rng = np.random.default_rng(seed)
    table, _, _ = planted("cka", rng)
    under = rng.random(len(table)) < 0.5
    load = (targets(cells_of(table))["knob"] == "load").to_numpy()
    trace = np.where(load, rng.uniform(4, 5.5, len(table)), rng.uniform(5.5, 9, len(table)))
    table = table.assign(
        train_error=np.where(under, 30.0, 0.0),
        hessian_trace=np.exp(np.where(under, trace, rng.uniform(4, 9, len(table)))),
        cka=np.where(under, rng.uniform(0.2, 0.8, len(table)), table["cka"]),
    )
    fitted = fit_tree(table, START, "planted")
    assert fitted.tree is not None
    assert abs(fitted.tree.log_trace.value - 5.5) < 0.4
    assert abs((fitted.thresholds.cka.value or 0) - 0.7) < 0.06
    assert sum(x.agreeing for x in fitted.tree.leaves.values()) == fitted.tree.score.cells  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_is_not_predicted(seed: int) -> None:
    """Measurements that have nothing to do with the target are worth nothing on held-out cells."""
    score = fit_tree(grid(np.random.default_rng(seed)), START, "noise").tree.score  # type: ignore[union-attr]
    assert score is not None
    assert score.gain < 3 * score.gain_stderr
    assert 0.3 < score.accuracy < 0.7


# ----------------------------------------------------------------------------------- held-out cells
def test_rows_of_a_cell_stay_together() -> None:
    """A cell's members never stand on both sides: copies of rows change nothing."""
    table = grid(np.random.default_rng(3), side=6)
    copies = pd.concat([table] * 4).sample(frac=1, random_state=0)
    assert fit_tree(copies, START, "same") == fit_tree(table, START, "same")


def test_a_planted_leak_is_not_rewarded() -> None:
    """Few cells with many members and a random knob: the tree learns cells by heart, in vain."""
    by_heart, held_out = [], []
    for seed in range(6):
        table = grid(np.random.default_rng(seed), side=4)
        members = pd.concat([table] * 30, ignore_index=True)
        tree = fit_tree(members, START, "leak").tree
        assert tree is not None
        assert tree.score is not None
        by_heart.append(sum(x.agreeing for x in tree.leaves.values()) / tree.score.cells)
        held_out.append(tree.score.accuracy)
    assert np.mean(by_heart) > 0.85
    assert np.mean(held_out) < 0.65


# ------------------------------------------------------------------------------------ the rule file
@pytest.fixture(scope="module")
def fitted() -> Rule:
    return fit_tree(planted("cka", np.random.default_rng(0))[0], START, "mine", "a table")


def test_rules_are_written_as_they_are_read(fitted: Rule, tmp_path: Path) -> None:
    for rule in [*map(load_rule, rule_names()), fitted]:
        path = tmp_path / "rule.toml"
        path.write_text(rule_toml(rule))
        assert load_rule(path) == rule
        assert load_rule(path).sha256 == rule.sha256


def test_odd_names_survive_toml(fitted: Rule) -> None:
    odd = fitted.model_copy(update={"description": 'a "quoted" \\ név\n\t'})
    assert Rule.model_validate(tomllib.loads(rule_toml(odd))) == odd


def test_a_fitted_rule_labels_phases_and_gives_advice(fitted: Rule) -> None:
    cut = fitted.thresholds.cka.value
    assert cut is not None
    cka = np.array([cut - 0.01, cut + 0.01])
    assert label(np.zeros(2), np.zeros(2), cka, fitted).phase.tolist() == ["IV-A", "IV-B"]
    cells = pd.DataFrame(
        {"train_error": 0.0, "mode_connectivity": 0.0, "hessian_trace": 1.0, "cka": [*cka, np.nan]}
    )
    advice = advise(cells, fitted)
    assert [text.split(" ")[0] for text in advice] == ["temperature", "load", ""]


def test_only_what_moved_names_the_fit_as_its_source(fitted: Rule) -> None:
    assert fitted.tree is not None
    assert fitted.tree.log_trace.source == START.tree.log_trace.source  # type: ignore[union-attr]
    assert "fitted on" in fitted.thresholds.cka.source


@pytest.mark.parametrize("trace", [-5.0, 0.0])
def test_a_negative_trace_is_the_smoothest(trace: float) -> None:
    table = planted("log_trace", np.random.default_rng(0))[0]
    fitted = fit_tree(table, START, "trace")
    cells = table.iloc[:1].assign(hessian_trace=trace)
    smooth = table.iloc[:1].assign(hessian_trace=1.0)
    assert advise(cells, fitted) == advise(smooth, fitted) != [""]


def test_thresholds_stay_within_their_bounds() -> None:
    for seed in range(3):
        table = grid(np.random.default_rng(seed), side=6)
        table["train_error"] *= 50
        found = fit_tree(table, START, "bounded").thresholds
        assert 0 <= found.train_error.value <= 1
        assert -30 <= found.mode_connectivity.value <= 0  # type: ignore[operator]


def test_leaf_names_cover_the_questions(fitted: Rule) -> None:
    """Each of the eight answers gets its own advice."""
    rows = [
        (error, mc, np.exp(trace), cka)
        for error in (0.0, 90.0) for mc in (1.0, -29.0)
        for trace, cka in ((-9.0, 0.0), (20.0, 1.0))
    ]  # fmt: skip
    cells = pd.DataFrame(rows, columns=["train_error", "mode_connectivity", "hessian_trace", "cka"])
    assert fitted.tree is not None
    leaf = fitted.tree.otherwise
    assert leaf is not None
    for n, name in enumerate(LEAVES):
        other = {"knob": "temperature", "direction": "up"}
        marked = leaf.model_copy(update=other)
        tree = fitted.tree.model_copy(
            update={"leaves": {name: marked}, "otherwise": leaf.model_copy(
                update={"knob": "load", "direction": "down"})}
        )  # fmt: skip
        advice = advise(cells, fitted.model_copy(update={"tree": tree}))
        assert [i for i, text in enumerate(advice) if text == "temperature up"] == [n]


# --------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="cka"), "column 'cka' is missing"),
        (lambda t: t.assign(cka="high"), "expected numbers"),
        (lambda t: t.assign(test_accuracy=70.0), "shares from 0 to 1"),
        (lambda t: t.assign(test_accuracy=0.5), "'no move improves it': 36"),
        (lambda t: t.iloc[:7], "a fit needs 10"),
    ],
)
def test_bad_tables_are_refused(change, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit_tree(change(grid(np.random.default_rng(0), side=6)), START, "x")
    assert words in str(caught.value)


@pytest.mark.parametrize("rule", ["taxonomy", "adaptive"])
def test_a_rule_without_a_tree_is_no_start(rule: str) -> None:
    with pytest.raises(ConfigError, match="start from 'md_tree'"):
        fit_tree(grid(np.random.default_rng(0), side=6), load_rule(rule), "x")


def test_an_unfitted_tree_gives_no_advice() -> None:
    with pytest.raises(ConfigError, match="no fitted tree"):
        advise(grid(np.random.default_rng(0), side=2), START)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="give a zoo or a CSV"):
        read_measurements(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ConfigError, match="can't be read as CSV"):
        read_measurements(tmp_path / "empty.csv")
