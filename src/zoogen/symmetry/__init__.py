"""Symmetry: elements of a network's symmetry group, canonical forms, and alignment of members."""

from zoogen.symmetry.activations import activation_matching
from zoogen.symmetry.canonical import Canonical, balanced, canonical, with_fixed_signs
from zoogen.symmetry.check import Finding, check_symmetry
from zoogen.symmetry.elements import Element, apply, compose, identity, invert, random_element
from zoogen.symmetry.matching import Matching
from zoogen.symmetry.populations import Aligned, align_members, align_population
from zoogen.symmetry.sinkhorn import Descent, sinkhorn_matching
from zoogen.symmetry.tracing import Traced, trace_spec
from zoogen.symmetry.weights import weight_matching

__all__ = [
    "Aligned",
    "Canonical",
    "Descent",
    "Element",
    "Finding",
    "Matching",
    "Traced",
    "activation_matching",
    "align_members",
    "align_population",
    "apply",
    "balanced",
    "canonical",
    "check_symmetry",
    "compose",
    "identity",
    "invert",
    "random_element",
    "sinkhorn_matching",
    "trace_spec",
    "weight_matching",
    "with_fixed_signs",
]
