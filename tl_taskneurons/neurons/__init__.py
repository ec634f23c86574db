"""Scores of neurons, sets of neurons, and interventions on them."""
