"""What makes up for pruning: solved weights, teachers, fewer examples."""
