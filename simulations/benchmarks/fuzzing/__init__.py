"""Inputs from outside, mutated: what each door makes of them."""
