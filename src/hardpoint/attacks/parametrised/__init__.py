"""Attacks on perturbations that a few numbers describe."""
