"""An opened zoo: tables, weights, members that compute what they computed in training."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen.data import load, normalise
from zoogen.errors import ConfigError, DataUnavailableError, NotFoundError
from zoogen.train import recipe_of, train_block, training_data
from zoogen.zoo import Zoo, open_zoo


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return open_zoo(tiny_zoo)


def test_members_hold_hyper_parameters_metrics_and_phase(zoo: Zoo) -> None:
    table = zoo.members
    assert len(table) == len(zoo) == zoo.plan.n_members == 8
    assert table.index.name == "id"
    assert table.index.is_unique
    assert set(table["network.width"]) == {4, 8}
    assert set(table["train.learning_rate"]) == {0.01, 0.05}
    for column in ("train_loss", "test_accuracy", "hessian_trace", "mode_connectivity", "cka"):
        assert np.isfinite(table[column]).all(), column
    assert table["phase"].notna().all()
    assert not table["diverged"].any()


def test_cells_are_means_of_their_members(zoo: Zoo) -> None:
    cells, members = zoo.cells, zoo.members
    assert len(cells) == 4
    assert (cells["members"] == 2).all()
    for cell, row in cells.iterrows():
        mine = members[members["cell"] == cell]
        assert row["test_accuracy"] == pytest.approx(mine["test_accuracy"].mean())
        assert row["network.width"] == mine["network.width"].iloc[0]
        assert row["phase"]
        assert row["reason"]


def test_a_member_computes_what_was_measured_when_it_was_trained(zoo: Zoo) -> None:
    images, labels = zoo.dataset.test.images[:100], zoo.dataset.test.labels[:100]
    for position in (0, 3, 7):
        member = zoo[position]
        logits = np.asarray(member.apply(images))
        accuracy = (logits.argmax(-1) == labels).mean()
        assert accuracy == pytest.approx(member.info["test_accuracy"], abs=1e-6)
        assert list(member.params) == [p.name for p in member.spec.parameters]


def test_logits_equal_those_of_the_trained_weights_before_storage(zoo: Zoo) -> None:
    cohort = zoo.plan.cohorts[0]
    recipe = recipe_of(cohort.config, load(cohort.config.data))
    trained = train_block(recipe, training_data(zoo.dataset, recipe), cohort.members)
    images = normalise(zoo.dataset.test.images[:9], zoo.dataset.mean, zoo.dataset.std)
    for row, member in enumerate(cohort.members):
        stored = zoo[member.id]
        np.testing.assert_array_equal(stored.vector, trained.weights[row, -1])
        expected = recipe.net.apply(recipe.net.spec.unflatten(trained.weights[row, -1]), images)
        np.testing.assert_allclose(stored.apply(zoo.dataset.test.images[:9]), expected, rtol=1e-6)


def test_weights_of_several_architectures_are_padded_with_nan(zoo: Zoo) -> None:
    weights = zoo.weights()
    assert weights.values.shape == (8, 8 * 64 + 8 + 10 * 8 + 10)
    for row, (identifier, size) in enumerate(zip(weights.ids, weights.sizes, strict=True)):
        np.testing.assert_array_equal(weights.values[row, :size], zoo[identifier].vector)
        assert np.isnan(weights.values[row, size:]).all()
    parts = dict(weights.by_cohort())
    assert sorted(len(part) for part in parts.values()) == [4, 4]
    assert all(np.isfinite(part.values).all() for part in parts.values())


def test_what_holds_arrays_is_shown_in_a_line(zoo: Zoo) -> None:
    member, weights = zoo[0], zoo.weights()
    assert repr(member).startswith(f"<ZooMember {member.id}: mlp of {member.spec.size:,}")
    assert repr(weights).startswith(f"<Weights: {len(zoo):,} members of ")
    assert all(len(repr(one)) < 100 for one in (member, weights))


def test_weights_follow_a_query_and_a_snapshot(zoo: Zoo) -> None:
    chosen = zoo.weights("init", where="`network.width` == 8 and seed == 1")
    assert len(chosen) == 2
    assert (zoo.members.loc[list(chosen.ids), "network.width"] == 8).all()
    for row, identifier in enumerate(chosen.ids):
        np.testing.assert_array_equal(chosen.values[row], zoo.member(identifier, snapshot=0).vector)
    shuffled = zoo.weights(where="test_accuracy >= 0")
    assert list(shuffled.ids) == list(zoo.members.index)


def test_trajectories_are_long_tables_over_time(zoo: Zoo) -> None:
    losses = zoo.trajectory("train_loss")
    assert len(losses) == 8 * 4
    assert list(losses["snapshot"][:4]) == ["init", "epoch 1", "anneal", "end"]
    assert list(losses["epoch"][:4]) == [0, 1, 2, 4]
    final = losses[losses["snapshot"] == "end"].set_index("member")["value"]
    pd.testing.assert_series_equal(
        final, zoo.members.loc[final.index, "train_loss"], check_names=False
    )
    pairs = zoo.trajectory("cka")
    assert len(pairs) == 4 * 4
    assert (pairs["member"] != pairs["other"]).all()
    layers = zoo.trajectory("layer_rotation")
    assert set(layers["layer"]) == {"hidden0.weight", "output.weight"}
    assert set(zoo.trajectory("curve_train_error")["t"]) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (layers.loc[layers["snapshot"] == "init", "value"].abs() < 1e-6).all()


def test_opening_is_lazy_and_needs_no_data_set(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoogen import zoo as module

    def unavailable(_config: object) -> None:
        raise DataUnavailableError("no data here")

    monkeypatch.setattr(module, "load", unavailable)
    opened = open_zoo(tiny_zoo)
    assert opened.weights().values.size
    with pytest.raises(DataUnavailableError):
        _ = opened.dataset


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z: z[99], NotFoundError, "no member 99; expected -8 to 7"),
        (lambda z: z["abc"], NotFoundError, "no member with id 'abc'"),
        (lambda z: z.weights("middle"), NotFoundError, "there are: init, epoch 1, anneal, end"),
        (lambda z: z.weights(9), NotFoundError, "no snapshot 9"),
        (lambda z: z.weights(where="phase == 'VII'"), NotFoundError, "no member matches"),
        (lambda z: z.weights(where="colour > 3"), ConfigError, "columns: "),
        (lambda z: z.weights(where="((("), ConfigError, "no query"),
        (lambda z: z.trajectory("beauty"), NotFoundError, "no metric 'beauty'"),
    ],
)
def test_wrong_requests_say_what_there_is(zoo: Zoo, call, error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        call(zoo)
    assert message in str(caught.value)


def test_xarray_opens_a_zoo_without_a_warning(tiny_zoo: Path, zoo: Zoo) -> None:
    xarray = pytest.importorskip("xarray")
    cohort = zoo.reader.cohorts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = xarray.open_zarr(tiny_zoo, group=f"training/{cohort}", consolidated=False)
        measured = xarray.open_zarr(tiny_zoo, group=f"measured/0001/{cohort}", consolidated=False)
    assert training["weights"].dims == ("member", "snapshot", "parameter")
    assert measured["cka"].dims == ("pair", "snapshot")
    np.testing.assert_array_equal(
        training["weights"].isel(snapshot=-1), zoo.reader.read(cohort, "weights", snapshots=-1)
    )
