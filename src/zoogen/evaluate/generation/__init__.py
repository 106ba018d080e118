"""Generators of weights, judged: copies told from new networks, beside real ones and baselines.

``separate`` parts a population into what generators may see and an :class:`Evaluator`, which alone
holds held-out members and test images. ``evaluate_samples`` judges weights; ``render`` writes the
reports on one or several generators as a page of pictures, a table and a JSON file.
"""

from zoogen.evaluate.generation.behaviour import Images
from zoogen.evaluate.generation.conditioning import Conditioned, class_agreement, rank_agreement
from zoogen.evaluate.generation.cost import Cost, training_seconds
from zoogen.evaluate.generation.evaluator import Evaluator, exam_of
from zoogen.evaluate.generation.files import render
from zoogen.evaluate.generation.novelty import Curve, Gain, Point, gain_at_equal_novelty
from zoogen.evaluate.generation.offered import Offered, separate
from zoogen.evaluate.generation.protocol import Beside, evaluate_samples
from zoogen.evaluate.generation.report import Report, from_json, to_json
from zoogen.evaluate.generation.runs import evaluate_runs
from zoogen.evaluate.generation.starts import Start, compare_starts
from zoogen.evaluate.generation.views import Exam
from zoogen.generators.parts import Parts, Shares, split_runs

__all__ = [
    "Beside",
    "Conditioned",
    "Cost",
    "Curve",
    "Evaluator",
    "Exam",
    "Gain",
    "Images",
    "Offered",
    "Parts",
    "Point",
    "Report",
    "Shares",
    "Start",
    "class_agreement",
    "compare_starts",
    "evaluate_runs",
    "evaluate_samples",
    "exam_of",
    "from_json",
    "gain_at_equal_novelty",
    "rank_agreement",
    "render",
    "separate",
    "split_runs",
    "to_json",
    "training_seconds",
]
