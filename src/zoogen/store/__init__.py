"""The store: create, append, commit, verify, repair; the format is ``docs/format.md``.

:class:`ZooWriter` is the only way in, :class:`ZooReader` the way out; :func:`verify` and
:func:`repair` compare a zoo with its manifest. Chunks, shards, checksums, commits and locks stay
in here.
"""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.store.check import Problem, repair, verify
    from zoogen.store.layout import default_block_size
    from zoogen.store.manifest import Cohort, Manifest
    from zoogen.store.reader import LabelTables, Metric, ZooReader
    from zoogen.store.writer import ZooWriter
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "Cohort",
    "LabelTables",
    "Manifest",
    "Metric",
    "Problem",
    "ZooReader",
    "ZooWriter",
    "default_block_size",
    "repair",
    "verify",
]
