"""``python -m tools.profile paper``: apply a profile to params.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from tools.profile import apply_profile


def main(
    name: Annotated[
        str, typer.Argument(help="comparison, fast, medium, modern, paper or small: a file below profiles/.")
    ],
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Write a profile's values to params.yaml; `git diff params.yaml` shows them, PROFILE small restores them."""
    changed = apply_profile(name, params)
    print("\n".join([f"{params}: profile {name}, {len(changed)} value(s) changed", *(f"  {line}" for line in changed)]))


if __name__ == "__main__":
    cli.run(main)
