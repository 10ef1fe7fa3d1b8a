"""``python -m pipelines.compile --out build/pipeline.yaml``: the Kubeflow pipeline as YAML."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from components import cli
from components.files import write_file
from components.params import Params, read_params
from components.provenance import git_state
from pipelines.components import IMAGE


def compiled(params: Params, image: str = IMAGE, git_commit: str = "") -> str:
    """Return the pipeline as the YAML that Kubeflow takes; equal arguments give equal text."""
    from kfp.compiler import Compiler

    from pipelines.graph import build

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"  # the compiler goes by the name's ending
        Compiler().compile(build(params, image, git_commit), str(package))
        return package.read_text()


def code_version() -> str:
    """Return the commit of the code, marked where files differ from it, or ``unknown`` outside a repository."""
    commit, dirty = git_state()
    return f"{commit}-dirty" if commit and dirty else commit or "unknown"


def main(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("build/pipeline.yaml"),
    params: cli.ParamsFile = Path("params.yaml"),
    image: Annotated[str, typer.Option(help="The image that every step runs in.")] = IMAGE,
) -> None:
    """Compile the Kubeflow pipeline, with the parameters of a file as its defaults."""
    text = compiled(read_params(params), image, code_version())
    with write_file(out) as partial:
        partial.write_text(text)
    print(f"{out}: upload it to Kubeflow, or create a run from it with kfp.Client().create_run_from_pipeline_package")


if __name__ == "__main__":
    cli.run(main)
