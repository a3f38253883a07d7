"""Masks that change while training goes on."""
