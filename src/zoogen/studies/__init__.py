"""Studies: what one can do with a finished zoo, cell by cell, as a table and as phase diagrams.

A study takes stored weights, changes or combines them without training, and compares the test
accuracy with that of the members as they are. :data:`STUDIES` is the one table of them.
"""

from zoogen.studies.cohort import Subjects, subjects
from zoogen.studies.draw import study_diagrams, write_study
from zoogen.studies.estimates import Estimate, Replicates
from zoogen.studies.run import STUDIES, Kind, Study, run_study

__all__ = [
    "STUDIES",
    "Estimate",
    "Kind",
    "Replicates",
    "Study",
    "Subjects",
    "run_study",
    "study_diagrams",
    "subjects",
    "write_study",
]
