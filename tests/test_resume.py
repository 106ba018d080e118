"""Resume: what was saved comes back, or the block begins anew; never other numbers, no crash."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zoogen.errors import StorageError
from zoogen.train.resume import Checkpoint

State = dict[str, Any]

# Where tensorstore fails, tasks that orbax left behind find their event loop closed, some of them
# while the next test is at work.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def a_state(seed: int) -> State:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=5000).astype(np.float32)
    return {"params": {"w": weights, "b": np.full(3, np.nan)}, "position": np.int64(seed)}


START = jax.tree.map(np.zeros_like, a_state(0))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "resume").mkdir()
    return tmp_path / "resume"


def save(directory: Path, state: State, step: int) -> None:
    Checkpoint(directory, 0.0).save_if_due(state, step)


def restore(directory: Path, start: State = START) -> State:
    return Checkpoint(directory, 0.0).restore(start)


def same(found: State, expected: State) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def files(directory: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(directory.rglob(pattern)) if path.is_file()]


def largest(directory: Path) -> Path:
    return max(files(directory, "*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_latest_state_comes_back(directory: Path, seed: int) -> None:
    checkpoint = Checkpoint(directory, 0.0)
    checkpoint.save_if_due(a_state(0), 4)
    checkpoint.save_if_due(a_state(seed), 10)
    found = restore(directory)
    same(found, a_state(seed))
    assert found["params"]["w"].dtype == np.float32


def test_no_save_before_its_time(directory: Path) -> None:
    Checkpoint(directory, 3600.0).save_if_due(a_state(1), 4)
    assert not any(directory.iterdir())


def test_without_a_checkpoint_orbax_is_not_even_imported(directory: Path) -> None:
    places = [None, str(directory), str(directory / "absent")]
    code = (
        "import sys, pathlib; from zoogen.train.resume import Checkpoint\n"
        f"for place in {places}:\n"
        "    assert Checkpoint(place and pathlib.Path(place), 0.0).restore(7) == 7\n"
        "assert 'orbax.checkpoint' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def each(pattern: str, damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage_all(directory: Path) -> None:
        found = files(directory, pattern)
        assert found
        for path in found:
            damage(path)

    return damage_all


DAMAGES = {
    "truncated metadata": each("_METADATA", truncate),
    "truncated manifest": each("manifest.ocdbt", truncate),
    "flipped manifest": each("manifest.ocdbt", flip),
    "missing manifest": each("manifest.ocdbt", Path.unlink),
    "truncated arrays": lambda directory: truncate(largest(directory)),
    "flipped arrays": lambda directory: flip(largest(directory)),
    "no items": lambda directory: shutil.rmtree(directory / "9" / "default"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_discarded(
    directory: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    save(directory, a_state(1), 9)
    damage(directory)
    with caplog.at_level(logging.WARNING):
        assert restore(directory) is START
    assert [record.name for record in caplog.records] == ["zoogen.train.resume"]
    assert f"{directory}: checkpoint discarded" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
    assert "Traceback" not in capfd.readouterr().err
    save(directory, a_state(2), 3)  # an earlier step than that of the discarded one
    same(restore(directory), a_state(2))


@pytest.mark.parametrize(
    "start",
    [
        {"params": {"w": np.zeros(4), "b": np.zeros(3)}, "position": np.int64(0)},
        {"params": {"w": np.zeros(5000)}, "position": np.int64(0)},
        {"params": {"w": np.zeros(5000), "c": np.zeros(3)}, "position": np.int64(0)},
        {**START, "momentum": np.zeros(2)},
    ],
    ids=["shape", "fewer arrays", "other names", "more arrays"],
)
def test_a_checkpoint_of_another_program_is_discarded(directory: Path, start: State) -> None:
    save(directory, a_state(1), 9)
    assert restore(directory, start) is start
    assert not any(directory.iterdir())


def test_a_save_that_was_killed_leaves_the_one_before(directory: Path) -> None:
    save(directory, a_state(1), 3)
    shutil.copytree(directory / "3", directory / "6.orbax-checkpoint-tmp")
    same(restore(directory), a_state(1))


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_clear_line(directory: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(StorageError, match=r"step 9 can't be written \(File too large\)") as caught:
        save(directory, a_state(1), 9)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "Traceback" not in capfd.readouterr().err


def test_a_directory_that_is_a_file_is_one_clear_line(directory: Path) -> None:
    directory.rmdir()
    directory.write_text("")
    with pytest.raises(StorageError, match=r"resume: .* can't be written \(Not a directory\)"):
        save(directory, a_state(1), 9)
