"""Where a version comes from, as its own files say: never what happens to be there at the moment of registering."""

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


def origin_tags(model: Path, evaluation: Path, cohort: Arrays, params: Params) -> dict[str, str]:
    """Return code, data and parameters of a trained and evaluated cell, as tags of its version.

    Commit and whether files differed from it are those of the training, ``unknown`` where it is not recorded
    (:func:`core.runs.read_run`), as of a model that came by `dvc pull`. ``image`` and ``kubeflow.run`` are what
    the environment says in IMAGE and KUBEFLOW_RUN_ID, else ``none``.

    Args:
        model: the folder that training left.
        evaluation: the folder that evaluation left.
        cohort: the arrays.
        params: all parameters, which must be those of the files: their hash becomes a tag.

    Raises:
        UserError: weights, evaluation, arrays and parameters do not belong together; every difference is a line.
    """
    learnt, scored = read_record(model / PROVENANCE, "train"), read_record(evaluation / SCORED, "evaluate")
    run = read_run(model)
    problems = [*_files(model, learnt, scored, cohort), *_params(params, learnt, scored, cohort.info)]
    if problems:
        raise UserError(
            f"{model}: what is here now is not what its weights were made of, so no version is registered; run "
            "`dvc repro`, or `dvc checkout` after params.yaml or dvc.lock was put back",
            problems,
        )
    return {
        "git.commit": run.get("commit") or "unknown",
        "git.dirty": str(run.get("dirty", "unknown")).lower(),
        "data.md5": cohort.info.get("data_md5") or "not pinned",
        "params.hash": params_hash(params),
        "code.train": code_digest(learnt["code"]),
        "code.evaluate": code_digest(scored["code"]),
        "split.sha256": learnt["files"]["split"],
        "images.sha256": learnt["files"]["images"],
        "image": os.environ.get("IMAGE") or "none",
        "kubeflow.run": os.environ.get("KUBEFLOW_RUN_ID") or "none",
    }


def _files(model: Path, learnt: dict[str, Any], scored: dict[str, Any], cohort: Arrays) -> list[str]:
    found = []
    weights = sha256(model / WEIGHTS)
    for whose, digest in (("its training left", learnt["weights"]), ("were evaluated", scored["files"]["weights"])):
        if weights != digest:
            found.append(f"{model / WEIGHTS} has sha256 {weights[:12]}, those that {whose} {digest[:12]}")
    for whose, record in (("training", learnt), ("evaluation", scored)):
        if record["manifest"] != cohort.info["manifest_sha256"]:
            found.append(f"the {whose} had another cohort than the arrays (manifest {record['manifest'][:12]})")
    return found


def _params(params: Params, learnt: dict[str, Any], scored: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """Return where the parameters differ from those of the files: ``train.epochs: 24 in the files, 12 now``."""
    preprocess = params.preprocess.model_dump(mode="json")
    kept = ("size", "interpolation", "intensity_percentiles", "dilation", "splits", "seed")
    pairs = {
        "train": (learnt["params"], params.train.model_dump(mode="json")),
        "evaluate": (scored["params"], params.evaluate.model_dump(mode="json")),
        "preprocess": ({name: info.get(name) for name in kept}, {name: preprocess[name] for name in kept}),
    }
    lines = [line for name, (was, now) in pairs.items() for line in differences(was, now, f"{name}.")]
    return [line.replace(" -> ", " in the files, ") + " in the parameters now" for line in lines]
