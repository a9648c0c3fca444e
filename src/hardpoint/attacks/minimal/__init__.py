"""Attacks that look for the nearest adversarial input, with gradients."""
