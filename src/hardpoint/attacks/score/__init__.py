"""Attacks that see scores."""
