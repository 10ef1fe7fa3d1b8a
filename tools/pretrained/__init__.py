"""Make a pretrained package: a trained cell with weights in float16, as an MLflow model, as in ``pretrained/``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.evaluate import Work, evaluate
from components.register import pyfunc_arguments
from components.register.build import CODE, build
from components.register.half import halve
from core.cell import PROVENANCE, RUN, Cell
from core.errors import UserError
from core.files import read_json, sha256, write_folder, write_json
from core.inputs import read_record
from core.params import Params
from core.runs import read_run
from core.templating import environment as templates
from model.inference.package import CARD, CONTRACT
from model.weights import CONFIG, WEIGHTS
from registry.fetch import NESTED, PACKAGE
from registry.seal import seal

FLAVOUR = "python_function"
TEMPLATE = "README.md.j2"


def make(
    model: Path, raw: Path, arrays: Path, splits: Path, params: Params, out: Path, licence: str, terms: str
) -> str:
    """Round a trained cell's weights to float16, score them, and write an MLflow model of their package.

    The card has the scores of the rounded weights. Equal inputs give equal bytes.

    Args:
        model: output of train.
        raw: output of ingest.
        arrays: output of preprocess.
        splits: the folder of the frozen splits.
        params: all parameters; must equal those of the training run.
        out: output folder, named like the model; replaced if it exists.
        licence: licence of the weights, in a few words.
        terms: the terms in Markdown, for the README.

    Returns:
        A summary in one line.

    Raises:
        UserError: model, data and parameters do not match, or a weight is too large for float16.
    """
    config = read_json(model / CONFIG)
    cell = Cell(config["network"], config["scenario"], config["seed"])
    with tempfile.TemporaryDirectory() as scratch:
        rounded, evaluation = Path(scratch) / "model", Path(scratch) / "evaluation"
        _round(model, rounded)
        work = Work(cell, arrays, splits / f"{cell.scenario}.json", rounded, params.evaluate)
        evaluate(work, raw, evaluation)
        about = {"name": out.name, "licence": licence}
        package = build(rounded, evaluation, arrays, params, Path(scratch) / PACKAGE, about)
        digest = seal(package)
        with write_folder(out) as folder:
            _save_model(package, params, folder, digest)
            _write_readme(folder, terms)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return f"{out}: {cell.folder}, {size / 2**20:.1f} MiB"


def _round(model: Path, out: Path) -> None:
    """Write a copy of a trained cell with weights in float16, and with the new digest in its records."""
    trained, run = read_record(model / PROVENANCE, "train"), read_run(model)
    out.mkdir()
    shutil.copyfile(model / CONFIG, out / CONFIG)
    try:
        halve(model / WEIGHTS, out / WEIGHTS)
    except OverflowError as error:
        raise UserError(f"{error}; register this model in float32") from error
    digest = sha256(out / WEIGHTS)
    write_json(out / PROVENANCE, trained | {"weights": digest, "rounded_from": trained["weights"]})
    if run:
        # Drop the MLflow run: scores of the rounded weights must not be logged there.
        nowhere = {"mlflow_run_id": None, "mlflow_training": digest}
        write_json(out / RUN, {name: run[name] for name in ("commit", "dirty")} | {"weights": digest} | nowhere)


def _save_model(package: Path, params: Params, out: Path, digest: str) -> None:
    """Save an MLflow model without paths of this machine, without times, and without a second copy of the code."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    about, there = Model(model_uuid=digest[:32]), out / "model"
    save_model(there, mlflow_model=about, **pyfunc_arguments(package, params))
    shutil.rmtree(there / "code")
    flavour: dict[str, Any] = about.flavors[FLAVOUR]
    flavour["code"] = f"{NESTED}/{CODE}"
    flavour["artifacts"] = {PACKAGE: {"path": NESTED, "uri": NESTED}}
    flavour["model_code_path"] = Path(flavour["model_code_path"]).name
    about.utc_time_created = ""
    about.save(there / "MLmodel")
    for path in there.iterdir():
        if path.name != "__pycache__":
            path.replace(out / path.name)
    shutil.rmtree(there)


def _write_readme(out: Path, terms: str) -> None:
    card, contract, trained = (read_json(out / NESTED / name) for name in (CARD, CONTRACT, PROVENANCE))
    text = templates(Path(__file__).with_name("templates"), html=False).get_template(TEMPLATE)
    sites = len({row["site"] for row in card["metrics"]} - {"all"})
    given = {"sites": sites, "package": NESTED, "terms": terms.strip(), "rounded_from": trained["rounded_from"]}
    (out / "README.md").write_text(text.render(card=card, contract=contract, **given))
