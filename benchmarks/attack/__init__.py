"""Attack the code that reads untrusted files, and count failures: ``python -m benchmarks.attack --count 20000``."""
