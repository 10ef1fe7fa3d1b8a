"""The command ``predict``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.terminal import loading, printable
from model.inference.engines import ENGINES
from serving.predict import Options
from serving.predict import predict as run

NAMED = 5  # flagged X-rays that the last lines name


@cli.spliced("options", Options)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="PNG, JPEG, TIFF or DICOM files, folders of them, or quoted patterns."),
    ],
    options: Callable[[], Options],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the results.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A model of the MLflow registry, a package's folder, pretrained or pretrained/NAME. Default: the "
            "champion of params.yaml's register.model, else pretrained.",
        ),
    ] = None,
) -> None:
    """Segment the lungs in X-rays: masks, areas, symmetry and flags in results.csv, and a page to look at.

    Exit codes: 0 all done, 1 some failed (one line and one row each), 2 wrong usage, 130 interrupted.
    """
    given = options()
    if given.resume and given.overwrite:
        raise typer.BadParameter("--resume keeps results and --overwrite replaces them; use only one of them")
    if given.engine not in ("auto", *ENGINES):
        raise typer.BadParameter(
            f"no engine {given.engine!r}; there are auto, {', '.join(ENGINES)}", param_hint="--engine"
        )
    loading(model or "the champion, or else a pretrained model")
    from registry.pretrained import model_or_default

    counted = run(paths, model_or_default(model), out, given)
    skipped = f", {counted.skipped} finished before" if counted.skipped else ""
    print(
        f"{counted.inputs} X-rays: {counted.done} done{skipped}, {counted.failed} failed, {len(counted.flagged)} "
        f"flagged; {out / 'results.csv'}"
    )
    if counted.flagged:
        named = [
            f"{printable(row['file'])} ({', '.join(dict.fromkeys(flag['name'] for flag in row['flags']))})"
            for row in counted.flagged[:NAMED]
        ]
        more = f" and {len(counted.flagged) - NAMED} more" if len(counted.flagged) > NAMED else ""
        print(f"flagged, the worst first: {', '.join(named)}{more}")
    if given.review:
        print(f"all X-rays, the worst first: {out / 'review.html'}")
    if counted.failed:
        raise SystemExit(1)
