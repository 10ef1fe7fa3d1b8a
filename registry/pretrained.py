"""The model packages shipped with the project, in ``pretrained/``."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from core.terminal import say
from model.inference.package import CONTRACT
from registry import CHAMPION, champion_uri
from registry.fetch import NESTED
from tracking.store import answered, connect, has_store

FOLDER = Path(__file__).parents[1] / "pretrained"
PRETRAINED = "pretrained"
DEFAULT = "cxr-lungs"


def names() -> list[str]:
    """Return the names of the packages."""
    return sorted(path.name for path in FOLDER.glob("*") if (path / NESTED / CONTRACT).is_file())


def named(model: str) -> str:
    """Return the folder of ``pretrained`` or ``pretrained/NAME``, from any current folder; other models are unchanged.

    A package at this path in the current folder takes precedence.

    Raises:
        UserError: there is no such package.
    """
    first, _, name = model.partition("/")
    if first != PRETRAINED or any(Path(model, inside, CONTRACT).is_file() for inside in ("", NESTED)):
        return model
    name = name.rstrip("/") or DEFAULT
    if name not in names():
        there = ", ".join(f"{PRETRAINED}/{each}" for each in names()) or "none"
        raise UserError(f"{model}: no such package; there are: {there}")
    return str(FOLDER / name)


def model_or_default(model: str | None) -> str:
    """Return the model that a user named, else the registry's champion, else the pretrained package.

    A note is printed if the pretrained package is used.

    Raises:
        UserError: there is no such pretrained package, or the registry does not answer.
    """
    if model:
        return named(model)
    champion = champion_uri()
    if has_store():
        name = champion.removeprefix("models:/").rpartition("@")[0]
        client = connect(existing=True)
        with answered(champion):
            versions = client.search_registered_models(filter_string=f"name = '{name}'")
        if any(CHAMPION in each.aliases for each in versions):
            return champion
    if DEFAULT not in names():
        return champion  # its error names the fix
    way = "`defunet promote`" if has_store() else "`make run`, then `defunet promote`"
    say(
        f"note: no version is {CHAMPION} yet ({way} makes one); {PRETRAINED}/{DEFAULT} is used meanwhile, for research "
        f"only: {FOLDER / DEFAULT / 'README.md'}"
    )
    return str(FOLDER / DEFAULT)
