"""fedprune: federated pruning that ends in tiny models."""

__version__ = "0.1.0"
