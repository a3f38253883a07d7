"""Narrower models: devices hold some of the channels."""
