"""The command ``predict``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from model.inference.engines import ENGINES


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="PNG, JPEG, TIFF or DICOM files, folders of them, or quoted patterns."),
    ],
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
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw every mask over its X-ray.")] = False,
    seg: Annotated[bool, typer.Option("--seg/--no-seg", help="Write a DICOM SEG for every DICOM.")] = True,
    review: Annotated[
        bool,
        typer.Option("--review/--no-review", help="Write review.html: all X-rays and outlines, the worst first."),
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Skip the X-rays that an earlier run has finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
    engine: Annotated[
        str, typer.Option(help=f"Inference engine: auto (chosen for the model), {', '.join(ENGINES)}.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="X-rays in a batch.")] = 8,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger pictures are refused before they are decoded.")
    ] = 60.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Timeout for decoding a file, in seconds.")] = 60.0,
    signatures: Annotated[
        Literal["auto", "require", "warn", "off"] | None,
        typer.Option(help="Whether the package must be signed. Default: as params.yaml says."),
    ] = None,
) -> None:
    """Segment the lungs in X-rays: masks, areas, symmetry and flags in results.csv, and a page to look at.

    Exit codes: 0 all done, 1 some failed (one line and one row each), 2 wrong usage, 130 interrupted.
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume keeps results and --overwrite replaces them; use only one of them")
    if engine not in ("auto", *ENGINES):
        raise typer.BadParameter(f"no engine {engine!r}; there are auto, {', '.join(ENGINES)}", param_hint="--engine")
    from core.terminal import loading

    loading(model or "the champion, or else a pretrained model")
    from registry import signatures as configured
    from registry.pretrained import model_or_default
    from serving.predict import Options
    from serving.predict import predict as run

    options = Options(
        overlays,
        seg,
        review,
        overwrite,
        resume,
        batch_size,
        max_megapixels,
        timeout,
        engine,
        signatures or configured(),
    )
    counted = run(paths, model_or_default(model), out, options)
    skipped = f", {counted.skipped} finished before" if counted.skipped else ""
    print(
        f"{counted.inputs} X-rays: {counted.done} done{skipped}, {counted.failed} failed; "
        f"{counted.flagged} to be looked at (flags); {out / 'results.csv'}"
    )
    if review:
        print(f"look at them, the worst first: {out / 'review.html'}")
    if counted.failed:
        raise SystemExit(1)
