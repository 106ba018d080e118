"""No fault of medium, process or user makes the store lose what it committed or lie about it."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen.errors import (
    ConflictError,
    CorruptZooError,
    FormatVersionError,
    NotFoundError,
    StorageError,
)
from zoogen.store import ZooReader, ZooWriter, repair, verify
from zoogen.store.manifest import Manifest
from zoogen.testing import (
    COHORTS,
    flip_bit,
    tiny_members,
    tiny_metrics,
    tiny_training,
    truncate,
    write_tiny_zoo,
)

SHARD = "training/small/weights/c/1/0/0"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("written") / "tiny.zarr").root


@pytest.fixture
def tiny(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "tiny.zarr")


def damage_of(path: Path) -> list[str]:
    return [problem.path for problem in verify(path) if problem.kind == "damaged"]


def assert_reads_right(path: Path) -> None:
    """Every committed value equals what was written; raises CorruptZooError where damaged."""
    reader = ZooReader(path)
    for cohort in reader.cohorts:
        rows = reader.committed(cohort)
        pd.testing.assert_frame_equal(reader.members(cohort), tiny_members(cohort).loc[rows])
        for name in reader.array_names(cohort):
            expected = tiny_training(cohort)[name][rows]
            np.testing.assert_array_equal(reader.read(cohort, name), expected)
        for name in reader.metric_names(cohort):
            expected = tiny_metrics(cohort)[name]
            np.testing.assert_array_equal(reader.read_metric(cohort, name).values, expected)
    reader.labels()


def assert_repaired(path: Path, content_hash: str) -> None:
    """Repair leaves a clean zoo, twice is once, and the same command completes it."""
    assert repair(path) != []
    assert verify(path) == []
    assert repair(path) == []
    assert_reads_right(path)
    assert write_tiny_zoo(path).manifest.content_hash() == content_hash
    assert verify(path) == []


@pytest.fixture(scope="module")
def content_hash(written: Path) -> str:
    return ZooReader(written).manifest.content_hash()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_single_bit_flip_is_found_and_never_read_as_data(written, tmp_path, seed):
    path = shutil.copytree(written, tmp_path / "tiny.zarr")
    units = [unit for _, unit in ZooReader(path).manifest.units()]
    files = sorted(f for unit in units for f in unit.files)
    rng = random.Random(seed)
    for _ in range(100):
        file = path / rng.choice(["manifest.json", SHARD, rng.choice(files)])
        bit = rng.randrange(8 * file.stat().st_size)
        flip_bit(file, bit)
        try:
            found = damage_of(path)
        except FormatVersionError:  # the flip made a higher version of the 1
            found = ["manifest.json"]
        assert found == [file.relative_to(path).as_posix()], bit
        with pytest.raises((CorruptZooError, FormatVersionError)):
            assert_reads_right(path)
        flip_bit(file, bit)
    assert verify(path) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipped_zarr_metadata_are_found_and_do_not_mislead(tiny, seed):
    rng = random.Random(seed)
    files = sorted(tiny.rglob("zarr.json"))
    for _ in range(20):
        file = rng.choice(files)
        bit = rng.randrange(8 * file.stat().st_size)
        flip_bit(file, bit)
        found = [(p.kind, p.path) for p in verify(tiny)]
        assert found == [("metadata", file.relative_to(tiny).as_posix())]
        flip_bit(file, bit)
    flip_bit(tiny / "training/small/weights/zarr.json", 1000)
    assert_reads_right(tiny)


FAULTS = {
    "flipped": lambda file: flip_bit(file, 77),
    "deleted": lambda file: file.unlink(),
    "cut": lambda file: truncate(file, 100),
    "emptied": lambda file: truncate(file, 0),
    "grown": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "link": lambda file: file.symlink_to(file.rename(file.parents[6] / "elsewhere")),
    "directory": lambda file: (file.unlink(), file.mkdir()),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_shard_is_named_refused_and_repaired(tiny, content_hash, fault):
    FAULTS[fault](tiny / SHARD)
    (problem,) = (p for p in verify(tiny) if p.kind == "damaged")
    assert problem.path == SHARD
    assert "cohort small, members 3 to 5" in str(problem)
    assert problem.expected != problem.found
    reader = ZooReader(tiny)
    with pytest.raises(CorruptZooError, match=r"training/small/weights.*verify --repair"):
        reader.read("small", "weights", [3, 4])
    undamaged = reader.read("small", "weights", [0, 6])
    np.testing.assert_array_equal(undamaged, tiny_training("small")["weights"][[0, 6]])
    assert_repaired(tiny, content_hash)


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("training/wide/train_loss/c/0/0", "cohort wide, members 0 to 2"),
        ("tables/small.parquet", "member table of cohort small"),
        ("measured/0001/wide/pairs/c/0/0", "measurements of cohort wide in run 0001"),
        ("labels/0001/cells.parquet", "phase labels 0001"),
    ],
)
def test_every_unit_is_dropped_and_made_again(tiny, content_hash, file, where):
    flip_bit(tiny / file, 50)
    with pytest.raises(CorruptZooError, match=file.removesuffix("/c/0/0")):
        assert_reads_right(tiny)
    before = {p: p.read_bytes() for p in (tiny / "training/small").rglob("0") if p.is_file()}
    copy = shutil.copytree(tiny, tiny.with_name("copy.zarr"))
    (action,) = (a for a in repair(copy) if a.startswith("dropped"))
    assert where in action
    if file.startswith("tables"):
        with pytest.raises(NotFoundError, match="dropped by a repair"):
            ZooReader(copy).members("small")
        assert len(ZooReader(copy).committed("small")) == COHORTS["small"]
        write_tiny_zoo(copy)
        assert verify(copy) == []
    else:
        assert_repaired(tiny, content_hash)
    assert {p: p.read_bytes() for p in before} == before


def test_linked_directory_is_not_followed_by_repair(tiny, content_hash):
    outside = tiny.with_name("outside")
    (tiny / "training/small").rename(outside)
    (tiny / "training/small").symlink_to(outside)
    with pytest.raises(CorruptZooError, match="symbolic link"):
        ZooReader(tiny).read("small", "weights")
    kept = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    assert_repaired(tiny, content_hash)
    assert {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} == kept


def test_foreign_codec_never_runs(tiny, content_hash):
    file = tiny / "training/small/weights/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
    metadata["shape"] = [10**9, 3, 11]
    file.write_text(json.dumps(metadata))
    assert [(p.kind, p.path) for p in verify(tiny)] == [
        ("metadata", "training/small/weights/zarr.json")
    ]
    assert_reads_right(tiny)
    assert_repaired(tiny, content_hash)


def test_small_file_cannot_become_a_large_array(tiny):
    manifest = ZooReader(tiny).manifest
    entry = manifest.cohorts["small"].arrays["weights"]
    huge = entry.model_copy(
        update={"shape": (7, 3, 2**40), "chunk": (3, 3, 2**40), "inner": (1, 1, 2**40)}
    )
    arrays = {**manifest.cohorts["small"].arrays, "weights": huge}
    (tiny / "manifest.json").write_bytes(manifest.with_cohort("small", arrays=arrays).to_bytes())
    with pytest.raises(CorruptZooError, match="expected at least"):
        ZooReader(tiny).read("small", "weights")


@pytest.mark.parametrize(
    "change",
    [
        {"cohorts": {"../up": {}}},
        {"name": 1},
        {"surprise": 1},
        {"labels": {"1": {}}},
        {"extensions": {"0001": {"plan": {}, "since": ""}}},
        {"cohorts": []},
    ],
)
def test_manifest_that_contradicts_the_format_is_refused(tiny, change):
    document = json.loads((tiny / "manifest.json").read_text()) | change
    write_signed(tiny, document)
    with pytest.raises(
        CorruptZooError, match=r"manifest.json is damaged: expected format version 1"
    ):
        ZooReader(tiny)


def write_signed(path: Path, document: dict) -> None:
    """Write a manifest with a right checksum, whatever it says."""
    text = json.dumps(document | {"checksum": "0" * 64})
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(text.replace("0" * 64, digest, 1))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\x00", b'{"format_version": "1"}'])
def test_manifest_of_other_content_is_refused(tiny, content):
    (tiny / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptZooError, match=r"manifest.json is damaged.*verify --repair"):
        ZooReader(tiny)


def test_newer_format_asks_for_an_upgrade(tiny):
    write_signed(tiny, json.loads((tiny / "manifest.json").read_text()) | {"format_version": 3})
    for use in (ZooReader, verify, repair, write_tiny_zoo):
        with pytest.raises(FormatVersionError, match=r"format version 3.*reads up to 2; upgrade"):
            use(tiny)


@pytest.mark.parametrize("fault", [lambda f: flip_bit(f, 999), lambda f: f.unlink()])
def test_manifest_is_restored_from_its_backup(tiny, content_hash, fault):
    fault(tiny / "manifest.json")
    with pytest.raises(CorruptZooError, match="manifest"):
        ZooReader(tiny)
    with pytest.raises(CorruptZooError, match="manifest"):
        write_tiny_zoo(tiny)
    assert damage_of(tiny) == ["manifest.json"]
    assert_repaired(tiny, content_hash)


def test_zoo_without_an_intact_manifest_says_so(tiny):
    flip_bit(tiny / "manifest.json", 999)
    flip_bit(tiny / "manifest.backup.json", 999)
    with pytest.raises(CorruptZooError, match=r"neither .* nor .* is intact"):
        repair(tiny)


def test_damaged_copies_are_stale_and_rewritten(tiny, content_hash):
    flip_bit(tiny / "manifest.backup.json", 999)
    flip_bit(tiny / "members.parquet", 99)
    assert [(p.kind, p.path) for p in verify(tiny)] == [
        ("stale", "manifest.backup.json"),
        ("stale", "members.parquet"),
    ]
    assert_repaired(tiny, content_hash)


def test_members_table_that_was_never_committed_is_stale(tmp_path):
    with ZooWriter.create(tmp_path, "zoo", {}, "hash", {}):
        (tmp_path / "members.parquet").write_text("half")
    assert [(p.kind, p.path) for p in verify(tmp_path)] == [("stale", "members.parquet")]
    assert repair(tmp_path) == ["deleted stale members.parquet"]
    assert verify(tmp_path) == []


def test_repair_leaves_files_of_the_user_alone(tiny):
    notes = tiny / "notes.txt"
    notes.write_text("mine")
    leftovers = [tiny / "training/small/weights/c/9/0/0", tiny / "manifest.json.partial"]
    leftovers += [tiny / f"{SHARD}.__lock", tiny / "measured/0009/small/m/c/0"]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    assert {p.path for p in verify(tiny)} == {p.relative_to(tiny).as_posix() for p in leftovers}
    actions = repair(tiny)
    assert len(actions) == len(leftovers)
    assert all(action.startswith("deleted leftover") for action in actions)
    assert not any(path.exists() for path in leftovers)
    assert not (tiny / "measured/0009").exists()
    assert notes.read_text() == "mine"
    assert verify(tiny) == []


def test_shallow_verify_reads_no_data_but_sees_what_is_gone(tiny):
    flip_bit(tiny / SHARD, 77)
    assert verify(tiny, deep=False) == []
    (tiny / SHARD).unlink()
    assert [p.path for p in verify(tiny, deep=False)] == [SHARD]


@pytest.mark.parametrize(
    ("prepare", "found"),
    [
        (lambda path: None, "nothing is there"),
        (lambda path: path.write_text("x"), "a file, not a directory"),
        (lambda path: path.mkdir(), "a directory without manifest.json"),
    ],
)
def test_what_is_no_zoo_is_not_found(tmp_path, prepare, found):
    path = tmp_path / "zoo.zarr"
    prepare(path)
    before = sorted(tmp_path.rglob("*"))
    for use in (ZooReader, verify, repair, lambda p: ZooWriter.open(p, {}).__enter__()):
        with pytest.raises(NotFoundError, match=f"no zoo at .*{found}"):
            use(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_writer_takes_no_foreign_place(tmp_path, tiny):
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").write_text("x")
    for place, found in [("file", "is a file"), ("photos", "holds 'me.jpg'")]:
        with pytest.raises(ConflictError, match=f"{found}.*choose another path"):
            write_tiny_zoo(tmp_path / place)
    with (
        pytest.raises(ConflictError, match="config hash-of-tiny, this config is other; choose"),
        ZooWriter.create(tiny, "tiny", {}, "other", {}),
    ):
        pass


WRITER = """
import sys, time
from zoogen.store import ZooWriter
with ZooWriter.open(sys.argv[1], {}):
    print("holding", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_refused_until_the_first_dies(tiny):
    first = subprocess.Popen([sys.executable, "-c", WRITER, str(tiny)], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"holding\n"
        for use in (write_tiny_zoo, repair):
            with pytest.raises(
                ConflictError, match=f"process {first.pid} on {os.uname().nodename}"
            ):
                use(tiny)
        assert_reads_right(tiny)
    finally:
        first.kill()
        first.communicate()
    write_tiny_zoo(tiny)


@pytest.mark.parametrize("place", ["file/zoo.zarr", "/proc/zoo.zarr"])
def test_unwritable_place_is_one_clear_line(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"can't write to .*choose another place") as caught:
        write_tiny_zoo(tmp_path / place)
    assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, sys
from zoogen.errors import StorageError
from zoogen.testing import write_tiny_zoo
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        write_tiny_zoo(f"{sys.argv[1]}/{limit}")
    except StorageError as error:
        print(error)
"""


def test_full_disk_keeps_what_is_committed(tmp_path, content_hash):
    """At 300 bytes no manifest fits, at 600 no table, at 5000 a few blocks."""
    limits = ["300", "600", "5000"]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *limits]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for limit, line in zip(limits, done.stdout.splitlines(), strict=True):
        assert f"can't write to {tmp_path}/{limit}: " in line
        assert "File too large" in line
    partly = ZooReader(tmp_path / "5000")
    assert len(partly.committed("small")) > 0
    assert damage_of(partly.root) == []
    assert_reads_right(partly.root)
    for limit in limits:
        assert write_tiny_zoo(tmp_path / limit).manifest.content_hash() == content_hash
        assert verify(tmp_path / limit) == []


@pytest.mark.slow
def test_twenty_kills_lose_nothing_that_was_committed(tmp_path, content_hash):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoogen.testing"])
    rng, kills, zoo = random.Random(0), 0, 0
    committed: Manifest | None = None
    while kills < 20:
        path = tmp_path / f"{zoo}.zarr"
        worker = context.Process(target=write_tiny_zoo, args=(path,))
        worker.start()
        started = time.monotonic() + 30
        while not (path / ".lock").exists() and time.monotonic() < started:
            time.sleep(0.001)
        worker.join(rng.uniform(0, 0.25))
        worker.kill()
        worker.join()
        killed = worker.exitcode != 0
        kills += killed
        if (path / "manifest.json").exists():
            problems = verify(path)
            assert {p.kind for p in problems} <= {"leftover", "stale", "metadata"}, problems
            assert_reads_right(path)
            committed = assert_no_unit_lost(committed, ZooReader(path).manifest)
        if not killed:
            assert ZooReader(path).manifest.content_hash() == content_hash
            zoo, committed = zoo + 1, None
    assert write_tiny_zoo(path).manifest.content_hash() == content_hash
    assert verify(path) == []


def assert_no_unit_lost(before: Manifest | None, after: Manifest) -> Manifest:
    held = dict(after.units())
    assert all(held[key] == unit for key, unit in (before.units() if before else ()))
    return after
