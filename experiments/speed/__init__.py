"""Time and memory of the network, and the gain of each measure: ``python -m experiments.speed``."""
