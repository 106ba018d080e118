"""Tasks on weights: targets, splits that do not leak, readers, and how they compare.

:func:`load_run` reads the config of a comparison, :func:`train_models` fits its readers on a zoo
and leaves raw rows behind, :func:`board_of` makes a table of them.
"""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.evaluate.config import RunConfig, load_run
    from zoogen.evaluate.leaderboard import Board, Standing, as_json, board_of, markdown
    from zoogen.evaluate.problem import Block, Problem, Samples, Split
    from zoogen.evaluate.readers import Fitted, Reader, Training
    from zoogen.evaluate.rows import Run, open_run
    from zoogen.evaluate.runs import train_models
    from zoogen.evaluate.samples import samples_of
    from zoogen.evaluate.scoring import SCORES, scores
    from zoogen.evaluate.splits import split_of
    from zoogen.evaluate.table import EDITORS, PARAMETER_READERS, READERS
    from zoogen.evaluate.targets import TARGETS, Target
    from zoogen.evaluate.tasks import Task, task_of
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "EDITORS", "PARAMETER_READERS", "READERS", "SCORES", "TARGETS", "Block", "Board", "Fitted",
    "Problem", "Reader", "Run", "RunConfig", "Samples", "Split", "Standing", "Target", "Task",
    "Training", "as_json", "board_of", "load_run", "markdown", "open_run", "samples_of", "scores",
    "split_of", "task_of", "train_models",
]  # fmt: skip
