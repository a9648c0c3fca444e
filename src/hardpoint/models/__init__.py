"""Adapters: what is attacked or protected."""
