"""The command ``drift``."""

from pathlib import Path
from typing import Annotated

import typer

DRIFT = 7  # exit code


def drift(
    predictions: Annotated[
        list[Path],
        typer.Argument(
            metavar="PREDICTIONS...", help="results.json of predict or its folder, or the file of serve --record."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model that made them, as for predict. Default: as for predict."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write drift.html and drift.json into this folder.")
    ] = None,
    window: Annotated[int, typer.Option(min=5, help="Pictures of a device between two tests.")] = 25,
    level: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="Probability of an alarm in a stream without a change.")
    ] = 0.01,
    prometheus: Annotated[
        Path | None, typer.Option(help="Write gauges for the textfile collector of Prometheus' node exporter.")
    ] = None,
) -> None:
    """Compare predictions with the images that their model was trained on, by device and day.

    Exit codes: 0 no alarm, 1 an error, 2 wrong usage, 7 an alarm.
    """
    import tempfile

    from core.files import sha256
    from model.inference.package import Contract
    from model.weights import WEIGHTS
    from registry import signatures
    from registry.fetch import fetch
    from registry.pretrained import model_or_default
    from serving.drift import read, references, require_model, watch
    from serving.drift.outputs import lines, write_gauges, write_page

    observed = read(predictions)
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch(model_or_default(model), Path(scratch), signatures=signatures())
        require_model(predictions, sha256(folder / WEIGHTS))
        contract = Contract.read(folder)
    reference = references(contract.training, contract.quality)
    found = watch(observed, reference, window, level)
    for line in lines(found, len(observed), window):
        print(line)
    if out is not None:
        print(write_page(found, reference, window, level, out))
    if prometheus is not None:
        write_gauges(found, prometheus)
    if found.alarms:
        raise SystemExit(DRIFT)
