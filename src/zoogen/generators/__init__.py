"""Generators of weights: fitted on a part of a population, they make new members of it."""
