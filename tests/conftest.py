"""Shared fixtures: devices, a compilation cache, and a tiny zoo."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# One cache of compiled programs for all workers and for the processes that tests start.
_CACHE = Path(tempfile.gettempdir()) / f"zoogen-tests-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")

import jax  # noqa: E402

from zoogen.population import use_all_cores  # noqa: E402

use_all_cores()  # before anything starts JAX

MANY_MAPPINGS = 10_000

TINY = """
name = "tiny"
description = "a zoo for tests"
[data]
train_examples = 300
test_examples = 100
probe_examples = 100
[network]
depth = 1
[train]
epochs = 4
batch_size = 50
learning_rate = 0.05
schedule = "step"
snapshots = [1]
[grid]
seeds = 2
load = "network.width"
temperature = "train.learning_rate"
[grid.axes]
"network.width" = [4, 8]
"train.learning_rate" = [0.01, 0.05]
[landscape]
hessian_examples = 60
hessian_probes = 4
lanczos_steps = 4
curve_epochs = 1
[sizes]
tiny = 0.5
"""


@pytest.fixture(scope="module", autouse=True)
def _programs_are_forgotten() -> Iterator[None]:
    """Programs leave memory once they are many.

    Every program maps memory, a process may have 65,530 mappings by default, and XLA crashes
    where it gets no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPPINGS:
        import jax  # not above: it reads the environment when it is imported

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two widths × two rates × two seeds, four epochs on 300 digits."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_zoo(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished zoo of ``tiny_config``; tests only read it."""
    from zoogen import factory

    path = tmp_path_factory.mktemp("zoo") / "tiny.zarr"
    factory.generate(tiny_config, path)
    return path


@pytest.fixture
def copied_zoo(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the tiny zoo for tests that change it."""
    return Path(shutil.copytree(tiny_zoo, tmp_path / "copy.zarr"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, standard output, standard error."""
    from zoogen import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def params_of() -> Callable[..., Any]:
    """``(weight model, dtype) → params``, none of them zero; NumPy draws them without a program."""

    def draw(model: Any, dtype: str = "float32") -> Any:
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(model.init, jax.random.key(0))

        def of_leaf(leaf: Any) -> np.ndarray:
            size = np.sqrt(max(1, *leaf.shape[:-1], 1))
            return (rng.standard_normal(leaf.shape) / size).astype(dtype)

        return jax.tree.map(of_leaf, shapes)

    return draw
