"""``python -m tools.show``: print what a run came to."""

from core import cli
from tools.show import main

if __name__ == "__main__":
    cli.run(main)
