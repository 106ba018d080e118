"""Resume state of a running block, kept by orbax: written now and then, gone when it is done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


class Checkpoint:
    """The latest state of one block in training.

    Args:
        directory: where it lies (whoever commits the block removes it); ``None`` keeps nothing.
        seconds: least time between two saves, so that short blocks never pay for one.
    """

    def __init__(self, directory: Path | None, seconds: float) -> None:
        self._directory = directory
        self._seconds = seconds
        self._saved_at = time.monotonic()

    def restore(self, start: Tree) -> Tree:
        """The latest saved state, or ``start`` when there is none."""
        if self._directory is None or not self._directory.is_dir():
            return start
        import orbax.checkpoint as ocp

        with ocp.CheckpointManager(self._directory.absolute()) as manager:
            step = manager.latest_step()
            if step is None:
                return start
            template = jax.tree.map(np.asarray, start)
            return manager.restore(step, args=ocp.args.StandardRestore(template))

    def save_if_due(self, state: Tree, step: int) -> None:
        """Save, if the last save is long enough ago; a killed save leaves the one before."""
        if self._directory is None or time.monotonic() - self._saved_at < self._seconds:
            return
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        with ocp.CheckpointManager(self._directory.absolute(), options=options) as manager:
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, state)))
        self._saved_at = time.monotonic()
