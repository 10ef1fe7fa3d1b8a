"""Attack what reads files from outside, and count what survives: ``python -m benchmarks.attack --count 20000``."""
