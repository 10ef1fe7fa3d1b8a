"""The command of :mod:`benchmarks.attack`."""

from benchmarks.attack.command import attack
from core import cli

if __name__ == "__main__":
    cli.run(attack)
