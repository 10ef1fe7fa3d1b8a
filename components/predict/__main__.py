"""``python -m components.predict``: find the lungs in files and folders of X-rays."""

from components import cli
from components.predict.command import predict

if __name__ == "__main__":
    cli.run(predict)
