"""A model for each device: masks or weights of its own."""
