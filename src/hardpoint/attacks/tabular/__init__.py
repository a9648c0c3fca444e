"""Attacks on tables under constraints."""
