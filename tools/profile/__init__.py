"""Apply a profile, a named set of parameters, to ``params.yaml``; keeps comments and other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from core.errors import UserError
from core.files import write_file
from core.params import check, read_params, read_yaml

PROFILES = Path(__file__).parents[2] / "profiles"


def apply_profile(name: str, params: Path) -> list[str]:
    """Write a profile's values to a parameter file, after validation of the result.

    Args:
        name: name of a file in ``profiles/``, without suffix.
        params: the file to change.

    Returns:
        The changes, such as ``train.epochs: 16 -> 175``.

    Raises:
        UserError: there is no such profile, or a value is invalid.
    """
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        raise UserError(f"unknown profile {name!r}; known are {', '.join(known)}")
    read_params(params)
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    document = yaml.load(params.read_text())
    try:
        changed = _merge(document, read_yaml(PROFILES / f"{name}.yaml"))
    except KeyError as error:
        raise UserError(f"profile {name}: sets {error.args[0]}, which {params} does not have") from None
    with write_file(params) as partial:
        yaml.dump(document, partial)
        check(read_yaml(partial), f"profile {name} on {params}")
    return changed


def _merge(document: Any, values: dict[str, Any], where: str = "") -> list[str]:
    changed = []
    for key, value in values.items():
        if key not in document:
            raise KeyError(f"{where}{key}")
        if isinstance(value, dict):
            changed += _merge(document[key], value, f"{where}{key}.")
        elif document[key] != value:
            changed.append(f"{where}{key}: {document[key]} -> {value}")
            document[key] = _flow(value) if isinstance(value, list) else value
    return changed


def _flow(values: list[Any]) -> CommentedSeq:
    """Return a list in YAML's flow style, so that the comment after it stays on the same line."""
    sequence = CommentedSeq(CommentedMap(value) if isinstance(value, dict) else value for value in values)
    for part in (sequence, *(part for part in sequence if isinstance(part, CommentedMap))):
        part.fa.set_flow_style()
    return sequence
