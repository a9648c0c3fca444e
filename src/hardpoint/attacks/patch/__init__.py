"""Attacks that put a patch into images."""
