"""The protocol: the server's rounds, phase by phase, and each phase's device half; without Flower."""
