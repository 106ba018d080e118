"""Studies: what one can do with a finished zoo, cell by cell, as a table and as phase diagrams.

A study takes stored weights, combines, changes or trains them on, and compares the test accuracy
with that of the members as they are or of an equal training. :data:`STUDIES` is the one table of
them. :func:`sparsify` writes what pruning leaves as a zoo of its own.
"""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.studies.cohort import Subjects, subjects
    from zoogen.studies.draw import study_diagrams, write_study
    from zoogen.studies.estimates import Estimate, Replicates
    from zoogen.studies.pruning import ROUNDS, Pruning
    from zoogen.studies.run import Study, gains_by_phase, run_study
    from zoogen.studies.table import STUDIES, Kind, kind_of
    from zoogen.studies.trainees import Trainees
    from zoogen.studies.twin import sparsify
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "ROUNDS",
    "STUDIES",
    "Estimate",
    "Kind",
    "Pruning",
    "Replicates",
    "Study",
    "Subjects",
    "Trainees",
    "gains_by_phase",
    "kind_of",
    "run_study",
    "sparsify",
    "study_diagrams",
    "subjects",
    "write_study",
]
