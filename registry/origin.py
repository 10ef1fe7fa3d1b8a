"""Lineage tags of a version, from the records in its files and not from the working tree at registration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.cell import PROVENANCE, SCORED
from core.cohort import Arrays
from core.errors import UserError
from core.files import sha256
from core.inputs import code_digest, differences, read_record
from core.params import Params, params_hash
from core.runs import read_run
from model.weights import WEIGHTS

# Parameters of train that were added later, with the behaviour of earlier training runs.
ADDED = {"start_from": "random"}


def origin_tags(model: Path, evaluation: Path, cohort: Arrays, params: Params) -> dict[str, str]:
    """Return code, data and parameters of a trained and evaluated cell as tags of its version.

    ``git.commit`` and ``git.dirty`` are from the training run; ``unknown`` if they are not recorded
    (:func:`core.runs.read_run`), for example after `dvc pull`. ``image`` and ``kubeflow.run`` are the environment
    variables IMAGE and KUBEFLOW_RUN_ID, else ``none``.

    Args:
        model: output folder of train.
        evaluation: output folder of evaluate.
        cohort: the arrays.
        params: all parameters; must equal those in the records. Their hash is a tag.

    Raises:
        UserError: weights, evaluation, arrays and parameters do not match; every difference is one line.
    """
    trained, scored = read_record(model / PROVENANCE, "train"), read_record(evaluation / SCORED, "evaluate")
    run = read_run(model)
    problems = [*_files(model, trained, scored, cohort), *_params(params, trained, scored, cohort.info)]
    if problems:
        raise UserError(
            f"{model}: the current files and parameters are not those of its weights, so no version is registered; run "
            "`dvc repro`, or `dvc checkout` after restoring params.yaml or dvc.lock",
            problems,
        )
    return {
        "git.commit": run.get("commit") or "unknown",
        "git.dirty": str(run.get("dirty", "unknown")).lower(),
        "data.md5": cohort.info.get("data_md5") or "not pinned",
        "params.hash": params_hash(params),
        "code.train": code_digest(trained["code"]),
        "code.evaluate": code_digest(scored["code"]),
        "split.sha256": trained["files"]["split"],
        "images.sha256": trained["files"]["images"],
        "image": os.environ.get("IMAGE") or "none",
        "kubeflow.run": os.environ.get("KUBEFLOW_RUN_ID") or "none",
    }


def _files(model: Path, trained: dict[str, Any], scored: dict[str, Any], cohort: Arrays) -> list[str]:
    found = []
    weights = sha256(model / WEIGHTS)
    for whose, digest in (("its training left", trained["weights"]), ("were evaluated", scored["files"]["weights"])):
        if weights != digest:
            found.append(f"{model / WEIGHTS} has sha256 {weights[:12]}, those that {whose} {digest[:12]}")
    for whose, record in (("training", trained), ("evaluation", scored)):
        if record["manifest"] != cohort.info["manifest_sha256"]:
            found.append(f"the {whose} had another cohort than the arrays (manifest {record['manifest'][:12]})")
    return found


def _params(params: Params, trained: dict[str, Any], scored: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """Return one line per parameter that differs from the records."""
    preprocess = params.preprocess.model_dump(mode="json")
    names = ("size", "interpolation", "intensity_percentiles", "dilation", "splits", "seed")
    pairs = {
        "train": (ADDED | trained["params"], params.train.model_dump(mode="json")),
        "evaluate": (scored["params"], params.evaluate.model_dump(mode="json")),
        "preprocess": ({name: info.get(name) for name in names}, {name: preprocess[name] for name in names}),
    }
    lines = [line for name, (was, now) in pairs.items() for line in differences(was, now, f"{name}.")]
    return [line.replace(" -> ", " in the files, ") + " in the parameters now" for line in lines]
