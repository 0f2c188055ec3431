"""Where the milliseconds of the network go, and what each measure gains: ``python -m experiments.speed``."""
