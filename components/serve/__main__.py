"""``python -m components.serve``: segment X-rays over HTTP."""

from components import cli
from components.serve.command import serve

if __name__ == "__main__":
    cli.run(serve)
