"""``python -m tools.check``: check the requirements of the steps on a machine or pod."""

from typing import Annotated

import typer

from core import cli
from core.errors import UserError
from tools.check import check


def main(
    source: Annotated[str | None, typer.Option(help="The cohort: a folder, a ZIP file or s3://bucket/prefix.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="The storage of checkpoints: a folder or s3://bucket/prefix.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="Required number of CUDA GPUs.")] = 0,
    argo_namespace: Annotated[
        str | None, typer.Option(help="Namespace of Argo's workflow controller; checks its retry policy.")
    ] = None,
) -> None:
    """Check that MLflow, the cohort, the checkpoint storage and the GPUs can be reached and work."""
    failed = total = 0
    for found in check(source, checkpoints, gpus, argo_namespace):
        print(f"{'ok' if found.good else 'FAILED':<8}{found.name:<15}{found.text}", flush=True)
        failed, total = failed + (not found.good), total + 1
    if failed:
        raise UserError(f"{failed} of {total} checks failed; the lines above say what to do")


if __name__ == "__main__":
    cli.run(main)
