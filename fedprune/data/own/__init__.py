"""A device's own recordings: what is read from its folder, and what becomes of it."""
