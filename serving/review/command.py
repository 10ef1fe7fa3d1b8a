"""The commands ``review export`` and ``review import``."""

from pathlib import Path
from typing import Annotated

import typer

from core.cli import ParamsFile


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The folder of `defunet predict`.")],
    inputs: Annotated[
        Path,
        typer.Option("--inputs", "-i", help="The folder that the names in the results are relative to: the X-rays'."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; it must not exist.")],
    everything: Annotated[bool, typer.Option("--all", help="Also X-rays without a flag.")] = False,
    flag: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only X-rays with this flag; may be repeated.")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only X-rays with such a name in the results, flagged or not; repeatable."
        ),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger images are refused before they are decoded.")
    ] = 60.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Timeout for decoding a file, in seconds.")] = 60.0,
) -> None:
    """Write flagged X-rays, their proposed masks and the reasons for MONAI Label, ITK-SNAP and Label Studio."""
    from serving.review.export import Chosen
    from serving.review.export import export as run
    from serving.xray.findings import FLAGS

    for name in flag or ():
        if name not in FLAGS:
            raise typer.BadParameter(f"no flag {name!r}; there are {', '.join(FLAGS)}", param_hint="--flag")
    if everything and (flag or file):
        raise typer.BadParameter("--all takes every X-ray; leave --flag and --file out")
    counted = run(results, inputs, out, Chosen(everything, flag or (), file or ()), max_megapixels, timeout)
    more = f", {counted.failed} failed and have no mask" if counted.failed else ""
    if counted.again:
        more += f", {counted.again} under a second name left out"
    if not counted.written:
        what = "matches" if flag or file else "is flagged"
        print(f"none of {counted.results} X-rays {what}{more}; nothing was written")
        return
    print(f"{counted.written} of {counted.results} X-rays{more}; {out}: save corrected masks in labels/final")


def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of `defunet review export`.")],
    cohort: Annotated[Path, typer.Option(help="The cohort's folder, such as data.")],
    by: Annotated[str, typer.Option(metavar="NAME", help="Who corrected the masks.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder of the new cohort. Default: the cohort itself is changed."),
    ] = None,
    accept_unchanged: Annotated[
        bool, typer.Option("--accept-unchanged", help="Also import masks in labels/final that equal the proposed ones.")
    ] = False,
    label_studio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also read this export of Label Studio (JSON).")
    ] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Put corrected masks into a cohort, all or none, with a record of who corrected what."""
    from core.params import read_params
    from core.terminal import counted
    from serving.review.cohort import import_masks, needed_params

    checked = read_params(params)
    done = import_masks(folder, cohort, out, by, checked, accept_unchanged, label_studio)
    print(
        f"{done.corrected} corrected, {done.accepted} accepted; not imported: {done.unchanged} left as proposed, "
        f"{done.missing} without a corrected mask"
    )
    added = counted(done.added, "X-ray")
    print(f"{done.out}: masks of {done.replaced} of its X-rays replaced, {added} added; corrections.json")
    for line in needed_params(checked) if done.added else ():
        print(f"params.yaml: {line}")
    print(f"next: make run DATA={done.out}, then make promote")
