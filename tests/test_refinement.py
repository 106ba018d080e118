"""Refinement: cells where labels change, added to a zoo that keeps all it had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen import factory, store, studies
from zoogen.errors import ConfigError, NotFoundError
from zoogen.refinement import propose
from zoogen.zoo import Zoo, open_zoo

WIDTHS, RATES = (4, 8, 16, 32), (0.01, 0.1, 1.0)
AXES = {"network.width": WIDTHS, "train.learning_rate": RATES}


def grid(phase: str = "IV-B", confidence: float = 1.0, **at: str) -> pd.DataFrame:
    """All cells of a grid with one phase; ``w8_r1="I"`` gives one cell another."""
    rows = [
        {"network.width": w, "train.learning_rate": r, "phase": at.get(f"w{w}_r{i}", phase),
         "confidence": confidence}
        for w in WIDTHS for i, r in enumerate(RATES)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def places(found: list) -> set[tuple]:
    return {tuple(proposal.values.values()) for proposal in found}


def test_a_uniform_certain_grid_needs_nothing() -> None:
    assert propose(grid(), AXES, 10) == []


def test_cells_lie_half_way_across_every_boundary_and_nowhere_else() -> None:
    found = propose(grid(w8_r1="III"), AXES, 10)
    assert places(found) == {(6, 0.1), (11, 0.1), (8, 0.03162), (8, 0.3162)}
    assert {p.reason for p in found} >= {"network.width 4 to 8: IV-B to III"}


def test_a_boundary_of_the_plane_is_found_at_every_height() -> None:
    narrow = {f"w{w}_r{i}": "III" for w in (4, 8) for i in range(3)}
    found = propose(grid(**narrow), AXES, 10)
    assert places(found) == {(11, rate) for rate in RATES}


def test_the_better_cells_come_first() -> None:
    cells = grid(w4_r0="I")
    cells.loc[cells["network.width"] == 32, "confidence"] = 0.6
    found = propose(cells, AXES, 20)
    assert {p.values["network.width"] for p in found[:2]} == {4, 6}, "a change of label beats doubt"
    assert all(a.score > 0.19 for a in found)
    assert propose(cells, AXES, 2) == found[:2]


def test_votes_count_as_much_as_labels() -> None:
    cells = grid().assign(**{f"share {name}": 0.0 for name in ("I", "II", "III", "IV-A")})
    cells["share IV-B"] = 1.0
    split = (cells["network.width"] == 4) & (cells["train.learning_rate"] == 0.1)
    cells.loc[split, ["confidence", "share III", "share IV-B"]] = (0.7, 0.3, 0.7)
    found = propose(cells, AXES, 10)
    assert len(found) == 3
    assert found[0].score == pytest.approx(0.3 + 0.15)


def test_a_small_budget_is_spread_over_the_boundaries() -> None:
    cells = grid(w4_r0="I", w4_r1="I", w32_r2="II")
    chosen = places(propose(cells, AXES, 2))
    assert {rate for _, rate in chosen} & {1.0, 0.3162}, "one of the far corner"
    assert {width for width, _ in chosen} & {4, 6}, "one of the near one"


@pytest.mark.parametrize("phase", ["failed", "unlabelled"])
def test_boundaries_with_failed_cells_do_not_count(phase: str) -> None:
    assert propose(grid(w8_r1=phase), AXES, 10) == []


def test_neighbouring_whole_numbers_have_nothing_between_them() -> None:
    cells = pd.DataFrame({"network.depth": [1, 2], "phase": ["I", "II"], "confidence": 1.0})
    assert propose(cells, {"network.depth": (1, 2)}, 5) == []


def test_no_cell_comes_so_near_to_another_that_the_axes_can_not_tell() -> None:
    """Ends of an axis have six digits, middles four."""
    rates = (0.0309261, 0.123207)
    cells = pd.DataFrame([
        {"network.width": w, "train.learning_rate": r, "phase": p, "confidence": 1.0}
        for w, r, p in ((4, rates[0], "I"), (4, rates[1], "II"), (4, 0.0617276, "I"),
                        (8, rates[0], "I"), (8, rates[1], "II"))
    ])  # fmt: skip
    axes = {"network.width": (4, 8), "train.learning_rate": rates}
    found = propose(cells, axes, 10)
    assert places(found) == {(8, 0.06173), (4, 0.08721)}


def test_repeated_refinement_closes_in_and_ends() -> None:
    """A boundary at 0.2 is bracketed ever closer, until the axis can't tell its cells apart."""
    axes = {"train.momentum": (0.1, 0.9)}
    cells = pd.DataFrame({"train.momentum": [0.1, 0.9]})
    for _ in range(20):
        cells = cells.assign(
            phase=np.where(cells["train.momentum"] < 0.2, "I", "II"), confidence=1.0
        )
        found = propose(cells, axes, 1)
        if not found:
            break
        cells = pd.concat([cells, pd.DataFrame([found[0].values])], ignore_index=True)
    below, above = (
        cells[side]["train.momentum"] for side in (cells.phase == "I", cells.phase == "II")
    )
    assert below.max() < 0.2 <= above.min()
    assert 1.05 < above.min() / below.max() < 1.35
    assert len(cells) < 9


def test_what_can_not_be_refined_is_told() -> None:
    with pytest.raises(ConfigError, match="budget: found 0"):
        propose(grid(), AXES, 0)
    names = pd.DataFrame({"network.init": ["he_normal"], "phase": ["I"], "confidence": 1.0})
    with pytest.raises(ConfigError, match="no axis of the grid has two numbers"):
        propose(names, {"network.init": ("he_normal",)}, 3)


# ---------------------------------------------------------------------------------------- a zoo


@pytest.fixture
def split_zoo(copied_zoo: Path) -> Zoo:
    """The tiny zoo with labels that change between its two widths."""
    return relabel(open_zoo(copied_zoo))


def relabel(zoo: Zoo) -> Zoo:
    """Label the wide members IV-B and all others III."""
    members = zoo.members
    wide = members["network.width"] == 8
    path = zoo.path
    labels = zoo.reader.labels()
    assert labels is not None
    by_id = labels.members.assign(
        phase=np.where(wide.loc[labels.members["id"]], "IV-B", "III"), confidence=1.0
    )
    of_cell = zoo.cells["network.width"].loc[labels.cells["cell"]].to_numpy()
    cells = labels.cells.assign(phase=np.where(of_cell == 8, "IV-B", "III"), confidence=1.0)
    with store.ZooWriter.open(path, {}) as writer:
        writer.write_labels(by_id, cells, labels.info)
        writer.write_members_table(zoo.members.reset_index())
    return open_zoo(path)


def files_of(zoo: Zoo) -> dict[str, str]:
    """Every committed file of members and measurements with its hash."""
    units = zoo.reader.manifest.units()
    return {path: f.sha256 for key, unit in units if key[0] != "labels"
            for path, f in unit.files.items()}  # fmt: skip


def test_refining_adds_cohorts_and_leaves_the_rest_alone(split_zoo: Zoo) -> None:
    path, before = split_zoo.path, files_of(split_zoo)
    asked = factory.proposals(path, 4)
    zoo = factory.refine(path, 4)
    after = files_of(zoo)
    assert {name: after[name] for name in before} == before
    assert store.verify(path) == []
    assert zoo.is_complete
    added = zoo.members[~zoo.members.index.isin(split_zoo.members.index)]
    axes = list(zoo.config.grid.axes)
    assert {tuple(row) for row in added[axes].itertuples(index=False)} == places(asked)
    assert len(added) == 2 * len(asked)
    assert added["cohort"].str.endswith("-0001").all()
    assert np.isfinite(added[["train_accuracy", "hessian_trace", "cka"]]).all(axis=None)
    assert zoo.reader.manifest.format_version == 2
    assert split_zoo.reader.manifest.format_version == 1


def test_added_members_are_what_a_grid_with_their_values_would_hold(
    split_zoo: Zoo, tmp_path: Path
) -> None:
    zoo = factory.refine(split_zoo.path, 1)
    values = zoo.plan.further["0001"][0]
    grid = {"axes": {key: (value,) for key, value in values.items()}}
    config = zoo.config.model_copy(update={"grid": zoo.config.grid.model_copy(update=grid)})
    alone = factory.generate(config, tmp_path / "alone.zarr")
    assert set(alone.members.index) <= set(zoo.members.index)
    for member in alone.members.index:
        np.testing.assert_array_equal(alone[member].vector, zoo[member].vector)


def test_further_rounds_and_further_runs_cover_everything(split_zoo: Zoo) -> None:
    path = split_zoo.path
    factory.measure(path, ["sharpness"])
    relabel(factory.refine(path, 1))
    zoo = factory.refine(path, 1)
    assert list(zoo.plan.further) == ["0001", "0002"]
    assert "ascent_sharpness" in zoo.metric_names()
    assert np.isfinite(zoo.members["ascent_sharpness"]).all()


def test_cells_are_proposed_and_judged_by_one_rule(split_zoo: Zoo, tmp_path: Path) -> None:
    path = factory.label(split_zoo.path, "adaptive").path
    relabel(open_zoo(path))
    with pytest.raises(ConfigError, match="labelled by rule 'adaptive'"):
        factory.refine(path, 1, "taxonomy")
    labels = factory.refine(path, 1).reader.labels()
    assert labels is not None
    assert labels.info["rule"] == "adaptive"


@pytest.mark.parametrize("stage", ["_train_blocks", "_measure_cohort", "write_labels"])
def test_an_interrupted_round_is_finished_and_nothing_more(
    split_zoo: Zoo, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(factory, stage, killed)
        with pytest.raises(Killed):
            factory.refine(split_zoo.path, 2)
    assert not open_zoo(split_zoo.path).is_complete
    with pytest.raises(NotFoundError, match="not complete"):
        factory.proposals(split_zoo.path, 2)
    zoo = factory.refine(split_zoo.path, 2)
    assert zoo.is_complete
    assert list(zoo.plan.further) == ["0001"]


def test_generate_finishes_a_refinement_too(tiny_config: Path, split_zoo: Zoo) -> None:
    factory.measure(split_zoo.path, ["sharpness"])
    zoo = factory.refine(split_zoo.path, 1)
    file = next(f for f in files_of(zoo) if f.startswith("training/") and "-0001/weights" in f)
    (zoo.path / file).unlink()
    assert store.repair(zoo.path)
    assert not open_zoo(zoo.path).is_complete
    again = factory.generate(tiny_config, zoo.path)
    assert again.is_complete
    assert files_of(again) == files_of(zoo)


def test_a_refined_zoo_has_a_complete_twin_which_is_not_refined_itself(
    split_zoo: Zoo, tmp_path: Path
) -> None:
    zoo = factory.refine(split_zoo.path, 1)
    out = tmp_path / "twin.zarr"
    studies.sparsify(zoo, out, studies.Pruning(0.5, 1, 1))
    twin = factory.complete(out)
    assert twin.is_complete
    assert set(twin.members.index) == set(zoo.members.index)
    with pytest.raises(ConfigError, match="derived from zoo 'tiny'"):
        factory.refine(out, 1)


def test_the_command_line(split_zoo: Zoo, run) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("refine", split_zoo.path, "--budget", 2, "--dry-run")
    assert code == 0
    assert "III to IV-B" in out
    assert open_zoo(split_zoo.path).plan.further == {}
    code, out, _ = run("refine", split_zoo.path, "--budget", 2)
    assert code == 0
    assert "refinement 1 added 2 cells" in out
    code, out, _ = run("info", split_zoo.path)
    assert "2 cells added, in 1 rounds" in out
    code, _, err = run("refine", split_zoo.path, "--budget", 0)
    assert code == 2
    assert "budget" in err
