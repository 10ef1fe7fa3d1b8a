"""``python -m tools.show``: show the results of a run in a terminal."""

from core import cli
from tools.show import main

if __name__ == "__main__":
    cli.run(main)
