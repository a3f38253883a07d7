"""What dies is learnt along with the weights: penalties, sparse optimisers, trained scores."""
