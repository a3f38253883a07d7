"""No pruning: references."""
