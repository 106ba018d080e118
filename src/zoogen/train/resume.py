"""Resume state of a running block, kept by orbax: written now and then, gone when it is done."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

from zoogen.errors import StorageError

Tree = TypeVar("Tree")

_log = logging.getLogger(__name__)


class Checkpoint:
    """The latest state of one block in training.

    Args:
        directory: where it lies (whoever commits the block removes it); ``None`` keeps nothing.
        seconds: least time between two saves, so that short blocks never pay for one.
    """

    def __init__(self, directory: Path | None, seconds: float) -> None:
        self._directory = directory.absolute() if directory else None
        self._seconds = seconds
        self._saved_at = time.monotonic()

    def restore(self, start: Tree) -> Tree:
        """The latest saved state, or ``start`` when there is none that is intact and fits.

        A checkpoint that is damaged, or that has other arrays than ``start``, is removed with a
        warning in the log: it costs the work since, never the run.

        Raises:
            StorageError: if a damaged checkpoint can't be removed.
        """
        directory = self._directory
        if directory is None or not directory.is_dir() or not any(directory.iterdir()):
            return start  # before orbax, whose import takes a second
        with _quiet():
            try:
                return _restored(directory, start)
            except Exception as error:  # its readers raise a dozen unrelated types
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        _log.warning("%s: checkpoint discarded, its block begins anew (%s)", directory, reason)
        _empty(directory)
        return start

    def save_if_due(self, state: Tree, step: int) -> None:
        """Save, if the last save is long enough ago; a killed save leaves the one before.

        Raises:
            StorageError: if it can't be written, for example because the disk is full.
        """
        if self._directory is None or time.monotonic() - self._saved_at < self._seconds:
            return
        with _quiet():
            try:
                _save(self._directory, state, step)
            except (OSError, ValueError) as error:  # tensorstore reports a full disk as the latter
                raise StorageError(
                    f"{self._directory}: the checkpoint of step {step} can't be written "
                    f"({_cause(error)}); free space, then repeat the command"
                ) from error
        self._saved_at = time.monotonic()


def _restored(directory: Path, start: Tree) -> Tree:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(directory) as manager:
        step = manager.latest_step()
        if step is None:
            return start
        template = jax.tree.map(np.asarray, start)
        wanted = _sealed(template)
        found = manager.restore(step, args=ocp.args.StandardRestore(wanted))
    if _shapes(found) != _shapes(wanted):  # orbax returns whatever shapes were saved
        raise ValueError("it holds arrays of other shapes")
    state: Tree = found["state"]
    if not np.array_equal(found["sha256"], _digest(state)):
        raise ValueError("its checksum differs")
    return state


def _save(directory: Path, state: Tree, step: int) -> None:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    sealed = _sealed(jax.tree.map(np.asarray, state))
    with ocp.CheckpointManager(directory, options=options) as manager:
        manager.save(step, args=ocp.args.StandardSave(sealed))


def _sealed(state: Tree) -> dict[str, Any]:
    """A state with its checksum: orbax restores flipped bits of an array without noticing."""
    return {"state": state, "sha256": _digest(state)}


def _digest(state: Any) -> UInt8[np.ndarray, "32"]:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _cause(error: Exception) -> str:
    """What the operating system said, without tensorstore's pages about where."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split(" [os_error_code")[0].rsplit(": ", 1)[-1][:200]


def _empty(directory: Path) -> None:
    """Remove all checkpoints: orbax would refuse to save earlier steps beside a later one."""
    try:
        shutil.rmtree(directory)
        directory.mkdir()
    except OSError as error:
        raise StorageError(
            f"{directory}: the damaged checkpoint can't be removed ({error.strerror}); remove it, "
            "then repeat the command"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what orbax logs, tracebacks included, about errors that it raises as well."""
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("absl", "asyncio")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield
