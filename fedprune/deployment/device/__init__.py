"""The device's side of a fleet: joining, models that it got, trying them."""
