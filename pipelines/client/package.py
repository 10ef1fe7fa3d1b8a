"""Compile the pipeline for submission, with the parameters of a file and of ``--set``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.errors import UserError
from core.params import Params, check, read_yaml
from core.provenance import data_md5, pinned_source
from core.s3 import is_s3
from core.terminal import say
from pipelines import compile as compiler
from pipelines.cluster import read_cluster
from pipelines.rules import named_image
from pipelines.size import require_fit
from pipelines.tasks import cells_of, sections

PIN = Path("data.dvc")


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Args:
        text: the YAML that ``python -m pipelines.compile`` writes.
        spec: the specification for Kubeflow's API.
        parameters: the pipeline parameters by name; True if a run must set the parameter.
        service_account: the service account of the cluster settings.
    """

    text: str
    spec: dict[str, Any]
    parameters: dict[str, bool]
    service_account: str | None


def overridden(path: Path, changes: Sequence[str]) -> tuple[Params, set[str]]:
    """Read a parameter file, apply ``section.key=value`` overrides, and validate the result.

    Args:
        path: the file.
        changes: overrides, each a dotted key and a YAML value, for example ``matrix.networks=[unet]``.

    Returns:
        The parameters, and the names of the changed sections.

    Raises:
        UserError: a change cannot be parsed, or the result is invalid; every wrong key is listed.
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


def package(params: Params, cluster: Path, image: str | None) -> Package:
    """Compile the pipeline with these parameters as its defaults."""
    settings = read_cluster(cluster)
    text = compiler.compiled(params, named_image(image), compiler.code_version(), settings, compiler.pinned_cohort(PIN))
    say(f"with {require_fit(text, cells_of(params.matrix))}")
    pipeline, *platform = [document for document in yaml.safe_load_all(text) if document]
    declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    spec = {"pipeline_spec": pipeline, "platform_spec": platform[0]} if platform else pipeline
    needed = {name: not about.get("isOptional") for name, about in declared.items()}
    return Package(text, spec, needed, settings.service_account)


def arguments(built: Package, params: Params, touched: set[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run: the given values and the changed sections, so that Kubeflow shows them.

    Raises:
        UserError: the pipeline has no such parameter, or a required one is missing.
    """
    values: dict[str, Any] = {name: text for name, text in sections(params).items() if name in touched}
    values |= {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(values) - set(built.parameters)):
        raise UserError(f"the compiled pipeline has no parameter {', '.join(unknown)}; leave it out")
    if missing := sorted(name for name, needed in built.parameters.items() if needed and name not in values):
        raise UserError(f"the compiled pipeline asks for {', '.join(missing)}, which nothing gives")
    return values


def cohort(source: str | None, md5: str | None) -> tuple[str, str]:
    """Return the cohort's address and its MD5; ``data.dvc`` has the defaults.

    Raises:
        UserError: there is no S3 address or no MD5, or ``source`` is not the pinned one and ``md5`` is None.
    """
    pinned = pinned_source(PIN)
    source = source or (pinned if pinned and is_s3(pinned) else None)
    if source is None:
        raise UserError(f"which cohort? pass --source; {PIN} pins none that a cluster could read, an s3:// address")
    if md5 is not None:
        return source, md5
    if (md5 := data_md5(PIN)) is None:
        raise UserError(f"{source}: nothing pins it here; pass --data-md5, or pin it in {PIN}: make data DATA={source}")
    if source != pinned:
        # Kubeflow's cache would return results of other data for this hash.
        raise UserError(
            f"--source {source}: {PIN} pins {pinned or 'other data'}; pass --data-md5 {md5} if it holds the same data, "
            f"else --data-md5 of its own (make data DATA={source} pins it)"
        )
    return source, md5


def shown(values: dict[str, Any]) -> str:
    """Return the arguments in one line; parameter sections are only named."""
    return ", ".join(name if str(value).startswith("{") else f"{name} {value}" for name, value in values.items())
