"""``python -m serving.http``: segment X-rays over HTTP."""

from core import cli
from serving.http.command import serve

if __name__ == "__main__":
    cli.run(serve)
