"""``python -m tracking``: send the unsent records of training runs to MLflow."""

from typing import Annotated

import typer

from core import cli
from tracking.unsent import send_records


def main(
    places: Annotated[
        list[str] | None,
        typer.Argument(help="Records, folders of checkpoints, or s3://bucket/prefix.", show_default="checkpoints"),
    ] = None,
) -> None:
    """Send the unsent records of training runs to MLFLOW_TRACKING_URI. Sending twice logs nothing twice."""
    for place in places or ["checkpoints"]:
        if not send_records(place):
            print(f"{place}: no records are waiting")


if __name__ == "__main__":
    cli.run(main)
