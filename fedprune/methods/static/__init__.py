"""Masks that are drawn once, before training."""
