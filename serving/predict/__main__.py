"""``python -m serving.predict``: predict on files and folders of X-rays."""

from core import cli
from serving.predict.command import predict

if __name__ == "__main__":
    cli.run(predict)
