"""What is sent to Kubeflow: the pipeline, compiled with the parameters of a file and what was set over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import UserError
from components.params import Params, check, read_yaml
from components.provenance import data_md5
from pipelines import compile as compiler
from pipelines.tasks import sections

PIN = Path("data.dvc")


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Args:
        text: as ``compile`` writes it.
        spec: as Kubeflow's API takes it.
        parameters: their names, and whether a run must give them.
    """

    text: str
    spec: dict[str, Any]
    parameters: dict[str, bool]


def overridden(path: Path, changes: Sequence[str]) -> tuple[Params, set[str]]:
    """Read a parameter file, set ``section.key=value`` over it, and check the whole.

    Args:
        path: the file.
        changes: each a dotted key and a value in YAML, for instance ``matrix.networks=[unet]``.

    Returns:
        The parameters, and the names of the sections that were touched.

    Raises:
        UserError: a change cannot be read, or what comes out is wrong; every wrong key is listed.
    """
    values, touched = read_yaml(path), set()
    for change in changes:
        key, equals, text = change.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise UserError(f"--set '{change}': takes section.key=value, for instance --set train.epochs=3")
        place = values
        for name in names[:-1]:
            if not isinstance(place, dict) or not isinstance(place.setdefault(name, {}), dict):
                raise UserError(f"--set '{change}': {path} has nothing below {key.rpartition('.')[0]}")
            place = place[name]
        place[names[-1]] = _value(change, text)
        touched.add(names[0])
    return check(values, f"{path} with --set" if changes else str(path)), touched


def _value(change: str, text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"--set '{change}': the value is not valid YAML: {' '.join(str(error).split())}") from None


def package(params: Params, image: str) -> Package:
    """Compile the pipeline with these parameters as its defaults: the one place that knows the compiler."""
    text = compiler.compiled(params, image, compiler.code_version())
    pipeline, *platform = [document for document in yaml.safe_load_all(text) if document]
    declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    spec = {"pipeline_spec": pipeline, "platform_spec": platform[0]} if platform else pipeline
    return Package(text, spec, {name: not about.get("isOptional") for name, about in declared.items()})


def arguments(built: Package, params: Params, touched: set[str], given: dict[str, str | None]) -> dict[str, str]:
    """Return what the run gives the pipeline: the said values, and each touched section so that Kubeflow shows it."""
    values = {name: text for name, text in sections(params).items() if name in touched}
    values |= {name: text for name, text in given.items() if text is not None}
    if unknown := sorted(set(values) - set(built.parameters)):
        raise UserError(f"the compiled pipeline has no parameter {', '.join(unknown)}; leave it out")
    if missing := sorted(name for name, needed in built.parameters.items() if needed and name not in values):
        raise UserError(f"the compiled pipeline asks for {', '.join(missing)}, which nothing gives")
    return values


def cohort(source: str | None, md5: str | None) -> tuple[str, str]:
    """Return where the cluster finds the cohort and what pins it, both from ``data.dvc`` unless they were said."""
    if source is None:
        source = _pinned_source()
    if source is None:
        raise UserError(f"which cohort? say --source; {PIN} pins none that a cluster could read, an s3:// address")
    if md5 is None:
        md5 = data_md5(PIN)
    if md5 is None:
        raise UserError(f"{source}: nothing pins it here; say --data-md5, or pin it in {PIN}: make data DATA={source}")
    return source, md5


def _pinned_source() -> str | None:
    if not PIN.exists():
        return None
    path = str(read_yaml(PIN)["deps"][0]["path"]) if "deps" in (read_yaml(PIN) or {}) else ""
    return path if path.startswith("s3://") else None


def shown(values: dict[str, str]) -> str:
    """Return arguments in one line, sections of parameters by their name alone."""
    return ", ".join(name if _is_section(text) else f"{name} {text}" for name, text in values.items() if text)


def _is_section(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
