"""A fair table: any methods, densities and seeds over the same partition, first weights, sampler and optimiser."""
