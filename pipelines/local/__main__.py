"""``python -m pipelines.local``: run the whole Kubeflow pipeline on this machine."""

from core import cli
from pipelines.local.run import main

if __name__ == "__main__":
    cli.run(main)
