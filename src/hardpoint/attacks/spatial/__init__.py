"""Attacks that move the pixels of images."""
