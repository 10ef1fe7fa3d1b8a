"""The command ``predict``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.terminal import counted, loading, printable
from model.inference.engines import ENGINES
from serving.predict import Options
from serving.predict import predict as run
from serving.predict.inputs import find
from serving.predict.outputs import require_free

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
    inputs = find(paths, out)
    if not given.resume and not given.overwrite:
        require_free(out)  # before a model is loaded
    loading(model or "the champion, or else a pretrained model")
    from registry.pretrained import model_or_default

    done = run(inputs, model_or_default(model), out, given)
    skipped = f", {done.skipped} finished before" if done.skipped else ""
    print(
        f"{counted(done.inputs, 'X-ray')}: {done.done} done{skipped}, {done.failed} failed, {len(done.flagged)} "
        f"flagged; {out / 'results.csv'}"
    )
    if done.flagged:
        named = [
            f"{printable(row['file'])} ({', '.join(dict.fromkeys(flag['name'] for flag in row['flags']))})"
            for row in done.flagged[:NAMED]
        ]
        more = f" and {len(done.flagged) - NAMED} more" if len(done.flagged) > NAMED else ""
        print(f"flagged, the worst first: {', '.join(named)}{more}")
    if given.review:
        print(f"all X-rays, the worst first: {out / 'review.html'}")
    if done.failed:
        raise SystemExit(1)
