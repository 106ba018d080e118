"""The store keeps what it is given, shows what is committed, and speaks Zarr to everybody."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from zoogen.errors import ConfigError, ConflictError, NotFoundError
from zoogen.store import ZooReader, ZooWriter, default_block_size, verify
from zoogen.testing import (
    AXES,
    COHORTS,
    METRIC_AXES,
    SNAPSHOTS,
    extend_tiny_zoo,
    tiny_members,
    tiny_metrics,
    tiny_training,
    write_tiny_zoo,
)

DTYPES = ["bool", "int8", "int64", "uint16", "float16", "float32", "float64"]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("written") / "tiny.zarr").root


@pytest.fixture
def tiny(written: Path, tmp_path: Path) -> ZooReader:
    return ZooReader(shutil.copytree(written, tmp_path / "tiny.zarr"))


def create(path: Path, config_hash: str = "hash"):
    return ZooWriter.create(path, "zoo", {}, config_hash, {})


def table(count: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [str(i) for i in range(count)]})


@st.composite
def training_arrays(draw):
    """Members, block size, and an array with a member axis and up to three others, maybe empty."""
    members, block = draw(st.integers(1, 7)), draw(st.integers(1, 8))
    rest = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    values = draw(npst.arrays(dtype, (members, *rest)))
    last = draw(st.sampled_from(["parameter", "unit"]))
    dims = ("member", *["a", "b", "c"][: max(0, len(rest) - 1)], *([last] if rest else []))
    return members, block, values, dims


@given(training_arrays())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(tmp_path_factory, case):
    members, block_size, values, dims = case
    path = tmp_path_factory.mktemp("zoo")
    with create(path) as writer:
        writer.begin_cohort("c", table(members), {}, [], block_size)
        for block, rows in writer.missing_blocks("c").items():
            writer.write_block("c", block, {"x": values[rows]}, {"x": dims})
        run = writer.begin_run({})
        writer.write_measurements(run, "c", {"x": values}, {"x": dims})
    reader = ZooReader(path)
    for stored in (
        reader.read("c", "x"),
        reader.read_metric("c", "x").values,
        zarr.open_array(path / "training/c/x", mode="r")[...],
    ):
        assert stored.dtype == values.dtype
        np.testing.assert_array_equal(stored, values)
    assert verify(path) == []


SELECTIONS = [
    (None, None),
    (slice(2, 5), None),
    (slice(None, None, -2), slice(1, None)),
    ([6, 0, 0, 3], -1),
    (np.array([-1, 2]), [2, 0]),
    ([], 1),
    ([], None),
    (slice(1, 2), np.array([], int)),
]


@pytest.mark.parametrize(("members", "snapshots"), SELECTIONS)
def test_reading_selects_as_numpy_does(tiny, members, snapshots):
    weights = tiny_training("small")["weights"]
    rows = np.asarray(members, int) if isinstance(members, list) else members
    rows = slice(None) if rows is None else rows
    snaps = slice(None) if snapshots is None else snapshots
    expected = weights[rows][:, snaps]
    found = tiny.read("small", "weights", members, snapshots)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize("cohort", COHORTS)
def test_everything_written_is_read_back(tiny, cohort):
    pd.testing.assert_frame_equal(tiny.members(cohort), tiny_members(cohort))
    for name, values in tiny_training(cohort).items():
        np.testing.assert_array_equal(tiny.read(cohort, name), values)
    metrics = tiny_metrics(cohort)
    assert tiny.metric_names(cohort) == ["hessian_trace", "mode_connectivity"]
    for name in tiny.metric_names(cohort):
        metric = tiny.read_metric(cohort, name)
        np.testing.assert_array_equal(metric.values, metrics[name])
        assert metric.dims == METRIC_AXES[name]
        expected_pairs = metrics["pairs"] if name == "mode_connectivity" else None
        np.testing.assert_array_equal(metric.pairs, expected_pairs)
    labels = tiny.labels()
    assert (labels.cells["phase"] == "IV-B").all()
    assert list(labels.members["id"]) == [i for c in COHORTS for i in tiny_members(c)["id"]]
    assert tiny.manifest.config == {"a": [1, 2.5]}


@pytest.mark.parametrize("cohort", COHORTS)
def test_xarray_opens_every_group_without_a_warning(tiny, cohort):
    training = xr.open_zarr(tiny.root, group=f"training/{cohort}", consolidated=False)
    for name, values in tiny_training(cohort).items():
        assert training[name].dims == AXES[name]
        np.testing.assert_array_equal(training[name], values)
    assert training.attrs["zoogen"]["snapshots"] == SNAPSHOTS
    measured = xr.open_zarr(tiny.root, group=f"measured/0001/{cohort}", consolidated=False)
    np.testing.assert_array_equal(measured["hessian_trace"], tiny_metrics(cohort)["hessian_trace"])
    for group in ("training", "measured"):
        xr.open_datatree(tiny.root, engine="zarr", group=group, consolidated=False).close()


def test_zarr_opens_the_root_group_without_a_warning(tiny):
    root = zarr.open_group(tiny.root, mode="r")
    weights = root["training/small/weights"]
    np.testing.assert_array_equal(weights[...], tiny_training("small")["weights"])
    assert weights.shards == (3, 3, 11)
    assert weights.chunks == (1, 1, 11)
    assert root.attrs["zoogen"]["config_hash"] == "hash-of-tiny"


def test_only_committed_members_are_visible(tmp_path):
    values = {"x": np.arange(5.0)}
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(5), {}, [], 2)
        writer.write_block("c", 2, {"x": values["x"][4:]}, {"x": ("member",)})
        writer.write_block("c", 0, {"x": values["x"][:2]}, {"x": ("member",)})
        assert writer.missing_blocks("c") == {1: slice(2, 4)}
    uncommitted = tmp_path / "training/c/x/c/1"
    uncommitted.write_bytes((tmp_path / "training/c/x/c/0").read_bytes())
    reader = ZooReader(tmp_path)
    assert reader.committed("c").tolist() == [0, 1, 4]
    assert reader.members("c").index.tolist() == [0, 1, 4]
    assert reader.read("c", "x").tolist() == [0.0, 1.0, 4.0]
    with pytest.raises(NotFoundError, match="members 2 to 3 are not committed"):
        reader.read("c", "x", [3])
    assert [(p.kind, p.path) for p in verify(tmp_path)] == [("leftover", "training/c/x/c/1")]


def test_an_open_reader_is_not_disturbed_by_later_commits(tmp_path):
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(2), {}, [], 1)
        writer.write_block("c", 0, {"x": np.zeros(1)}, {"x": ("member",)})
        early = ZooReader(tmp_path)
        writer.write_block("c", 1, {"x": np.ones(1)}, {"x": ("member",)})
    assert early.read("c", "x").tolist() == [0.0]
    assert ZooReader(tmp_path).read("c", "x").tolist() == [0.0, 1.0]


def test_values_equal_to_the_fill_value_are_stored(tmp_path):
    arrays = {"nan": np.full((2, 1, 4), np.nan, np.float32), "zero": np.zeros(2, np.int32)}
    dims = {"nan": ("member", "snapshot", "parameter"), "zero": ("member",)}
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(2), {}, [0], 2)
        writer.write_block("c", 0, arrays, dims)
    assert (tmp_path / "training/c/nan/c/0/0/0").stat().st_size >= arrays["nan"].nbytes
    assert (tmp_path / "training/c/zero/c/0").stat().st_size >= arrays["zero"].nbytes
    np.testing.assert_array_equal(ZooReader(tmp_path).read("c", "nan"), arrays["nan"])


def test_training_state_goes_with_the_commit(tmp_path):
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(2), {}, [], 1)
        first, second = writer.resume_dir("c", 0), writer.resume_dir("c", 1)
        (first / "state").write_text("x")
        writer.write_block("c", 0, {"x": np.zeros(1)}, {"x": ("member",)})
        assert not first.exists()
        assert second.exists()
    assert verify(tmp_path) == []


def test_latest_run_wins_and_an_interrupted_one_goes_on(tmp_path):
    dims = {"a": ("member",), "b": ("member",)}
    with create(tmp_path) as writer:
        for cohort in ("c", "d"):
            writer.begin_cohort(cohort, table(1), {}, [], 1)
        run = writer.begin_run({"probes": 1})
        writer.write_measurements(run, "c", {"a": np.array([1.0]), "b": np.array([1.0])}, dims)
        assert writer.begin_run({"probes": 1}, again=True) == run == "0001"
        assert writer.measured(run) == ["c"]
        writer.finish_run(run)
        assert writer.begin_run({"probes": 1}) == run
        second = writer.begin_run({"probes": 1}, again=True)
        assert second == "0002"
        writer.write_measurements(second, "c", {"a": np.array([2.0])}, dims)
        with pytest.raises(ConflictError, match="already"):
            writer.write_measurements(second, "c", {"a": np.array([2.0])}, dims)
        assert writer.begin_run({"probes": 2}) == "0003"
    reader = ZooReader(tmp_path)
    assert (reader.read_metric("c", "a").values, reader.read_metric("c", "a").run) == (2.0, "0002")
    assert (reader.read_metric("c", "b").values, reader.read_metric("c", "b").run) == (1.0, "0001")
    assert reader.metric_names("d") == []


def test_equal_labels_are_not_repeated_and_new_ones_win(tmp_path):
    cells = pd.DataFrame({"cell": ["x"]})
    with create(tmp_path) as writer:
        assert ZooReader(tmp_path).labels() is None
        first = writer.write_labels(cells.assign(phase="I"), cells, {"rule": "r"})
        assert writer.write_labels(cells.assign(phase="I"), cells, {"rule": "r"}) == first
        assert writer.write_labels(cells.assign(phase="II"), cells, {"rule": "r"}) == "0002"
    assert ZooReader(tmp_path).labels().members["phase"].tolist() == ["II"]
    assert verify(tmp_path) == []


def test_content_hash_depends_on_content_only(tmp_path, tiny):
    def write(path: Path, order: list[int], factor: float = 1.0) -> str:
        for block in order:  # a session each, as after an interruption
            with ZooWriter.create(path, "zoo", {}, "hash", {"session": block}) as writer:
                writer.begin_cohort("c", table(3), {}, [], 1)
                x = np.full(1, block * factor)
                writer.write_block("c", block, {"x": x}, {"x": ("member",)}, {"at": str(path)})
        return ZooReader(path).manifest.content_hash()

    reference = write(tmp_path / "a", [0, 1, 2])
    assert write(tmp_path / "b", [2, 0, 1]) == reference
    assert write(tmp_path / "c", [0, 1, 2], factor=2.0) != reference
    assert write(tmp_path / "d", [0, 1]) != reference
    again = write_tiny_zoo(tmp_path / "again.zarr", host="elsewhere")
    assert again.manifest.content_hash() == tiny.manifest.content_hash()


def test_resuming_a_complete_zoo_changes_nothing(tiny):
    before = {p: p.read_bytes() for p in tiny.root.rglob("*") if p.is_file() and p.name != ".lock"}
    write_tiny_zoo(tiny.root)
    after = {p: p.read_bytes() for p in tiny.root.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before


def test_sessions_are_recorded_where_they_change(tmp_path):
    for version in ("1", "1", "2"):
        with ZooWriter.create(tmp_path, "zoo", {}, "hash", {"jax": version}) as writer:
            pass
    assert [s.provenance["jax"] for s in writer.manifest.sessions] == ["1", "2"]


def test_members_table_goes_stale_when_content_changes(tiny):
    with ZooWriter.open(tiny.root, {}) as writer:
        writer.write_measurements(
            writer.begin_run({"new": 1}), "small", {"m": np.zeros(7)}, {"m": ("member",)}
        )
        assert [(p.kind, p.path) for p in verify(tiny.root)] == [("stale", "members.parquet")]
        writer.write_members_table(table(11))
    assert verify(tiny.root) == []
    assert len(pd.read_parquet(tiny.root / "members.parquet")) == 11


def test_a_cohort_stays_what_it_was_begun_as(tmp_path):
    begun = (table(4), {"p": 1}, [0, 1])
    with create(tmp_path) as writer:
        writer.begin_cohort("c", *begun, block_size=2)
        writer.begin_cohort("c", *begun, block_size=3)
        assert writer.missing_blocks("c") == {0: slice(0, 2), 1: slice(2, 4)}
        for other in (
            (table(5), {"p": 1}, [0, 1]),
            (table(4).assign(rate=0.1), {"p": 1}, [0, 1]),
            (table(4), {"p": 2}, [0, 1]),
            (table(4), {"p": 1}, [0, 2]),
        ):
            with pytest.raises(ConflictError, match="begun with other"):
                writer.begin_cohort("c", *other, block_size=2)


W = np.zeros((2, 2, 3), np.float32)
W_AXES = ("member", "snapshot", "parameter")
BAD_BLOCKS = [
    ({"w": W[:1]}, {"w": W_AXES}, "has 1 members, expected the block's 2"),
    ({"w": W[:, :1]}, {"w": W_AXES}, "'snapshot' has 1 entries, expected 2"),
    ({"w": W}, {"w": ("snapshot", "member", "parameter")}, "'member' first"),
    ({"w": W}, {}, "'member' first"),
    ({"w": W}, {"w": ("member", "parameter")}, "differ in length"),
    ({"w": W}, {"w": ("member", "x", "x")}, "distinct"),
    ({"w": W.astype(complex)}, {"w": W_AXES}, "complex128"),
    ({"w": np.array(["a", "b"])}, {"w": ("member",)}, "str"),
    ({"../w": W}, {"../w": W_AXES}, "file name"),
    ({"zarr.json": W}, {"zarr.json": W_AXES}, "reserved"),
    ({"v": W[:, 0], "w": W[:, 0, :2]}, dict.fromkeys("vw", ("member", "u")), "'u' has 2 entries"),
]


@pytest.mark.parametrize(("arrays", "dims", "message"), BAD_BLOCKS)
def test_blocks_that_do_not_fit_are_refused(tmp_path, arrays, dims, message):
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(4), {}, [0, 1], 2)
        before = writer.manifest
        with pytest.raises(ConfigError, match=message):
            writer.write_block("c", 0, arrays, dims)
        assert writer.manifest is before


def test_blocks_of_a_cohort_have_the_same_arrays(tmp_path):
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(4), {}, [0, 1], 2)
        writer.write_block("c", 0, {"w": W}, {"w": W_AXES})
        with pytest.raises(ConfigError, match="'w': its other blocks have float32"):
            writer.write_block("c", 1, {"w": W.astype(float)}, {"w": W_AXES})
        with pytest.raises(ConflictError, match="block 0 of cohort 'c' is committed"):
            writer.write_block("c", 0, {"w": W}, {"w": W_AXES})
        with pytest.raises(NotFoundError, match="no block 2 of 2"):
            writer.write_block("c", 2, {"w": W}, {"w": W_AXES})


PAIRS = np.array([[0, 1]])
PAIR_AXES = {"m": ("pair",), "pairs": ("pair", "end")}
BAD_METRICS = [
    ({"m": np.zeros(3)}, {"m": ("member",)}, "'member' has 3 entries, expected 4"),
    ({"m": np.zeros(1)}, {"m": ("pair",)}, "expected an integer array 'pairs'"),
    ({"m": np.zeros(1), "pairs": PAIRS + 3}, PAIR_AXES, "members are 4"),
    ({"m": np.zeros(2), "pairs": PAIRS}, PAIR_AXES, "'pair' has"),
    ({"m": np.float64(1)}, {"m": ()}, "can't be stored"),
]


@pytest.mark.parametrize(("arrays", "dims", "message"), BAD_METRICS)
def test_measurements_that_do_not_fit_are_refused(tmp_path, arrays, dims, message):
    with create(tmp_path) as writer:
        writer.begin_cohort("c", table(4), {}, [0, 1], 2)
        with pytest.raises(ConfigError, match=message):
            writer.write_measurements(writer.begin_run({}), "c", arrays, dims)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.read("big", "weights"), "no cohort 'big'; there are: small, wide"),
        (lambda r: r.read("small", "bias"), "no array 'bias'.*weights, train_loss, diverged"),
        (lambda r: r.read("small", "weights", [7]), "no member 7 .* members 0 to 6"),
        (lambda r: r.read("small", "weights", None, 3), "no snapshot 3 .* snapshots 0 to 2"),
        (lambda r: r.read_metric("small", "cka"), "no metric 'cka'.*hessian_trace"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tiny, call, message):
    with pytest.raises(NotFoundError, match=message):
        call(tiny)


def test_members_are_chosen_by_position(tiny):
    with pytest.raises(ConfigError, match="expected positions"):
        tiny.read("small", "weights", np.ones(7, bool))
    with pytest.raises(ConfigError, match="no 'snapshot'"):
        tiny.read("small", "train_loss", None, 0)


@pytest.mark.parametrize(
    ("members", "member_bytes", "expected"),
    [(10, 100, 10), (5000, 100, 1024), (5000, 10**6, 256), (5000, 10**12, 1), (0, 0, 1)],
)
def test_default_block_size(members, member_bytes, expected):
    assert default_block_size(members, member_bytes) == expected


def test_manifest_is_plain_json_with_size_and_digest_of_every_file(tiny):
    manifest = json.loads((tiny.root / "manifest.json").read_text())
    block = manifest["cohorts"]["small"]["blocks"]["1"]
    path = "training/small/weights/c/1/0/0"
    assert block["files"][path]["bytes"] == (tiny.root / path).stat().st_size
    assert block["info"] == {"seconds": 0.5}
    assert (tiny.root / "manifest.backup.json").read_text() == (
        tiny.root / "manifest.json"
    ).read_text()


# ---------------------------------------------------------------------------------- old versions
ARCHIVES = Path(__file__).parent / "data" / "archives"


@pytest.mark.parametrize("version", [1, 2])
def test_zoos_of_every_version_are_read_as_they_were_written(version: int, tmp_path: Path) -> None:
    shutil.unpack_archive(ARCHIVES / f"{version}.zip", tmp_path)
    reader = ZooReader(tmp_path / "tiny.zarr")
    assert reader.manifest.format_version == version
    assert verify(reader.root) == []
    assert list(reader.manifest.extensions) == ["0001"][: version - 1]
    for cohort in reader.cohorts:
        origin = cohort.removesuffix("-0001")
        for name, values in tiny_training(origin).items():
            np.testing.assert_array_equal(reader.read(cohort, name), values)
    trace = reader.read_metric("small", "hessian_trace").values
    np.testing.assert_array_equal(trace, tiny_metrics("small")["hessian_trace"])


def test_an_extended_zoo_of_version_1_becomes_one_of_version_2(tmp_path: Path) -> None:
    shutil.unpack_archive(ARCHIVES / "1.zip", tmp_path)
    before = ZooReader(tmp_path / "tiny.zarr")
    after = extend_tiny_zoo(before.root)
    assert after.manifest.format_version == 2
    assert verify(before.root) == []
    units = dict(after.manifest.units())
    assert all(units[key] == unit for key, unit in before.manifest.units())
    assert before.manifest.metadata_files().items() <= after.manifest.metadata_files().items()


def test_a_zoo_that_is_not_extended_stays_readable_for_version_1(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert "extensions" not in manifest
