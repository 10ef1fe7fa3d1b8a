"""``python -m pipelines.compile --out build/pipeline.yaml``: compile the Kubeflow pipeline, and each step, to YAML."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from core import cli
from core.files import write_file, write_folder
from core.params import Params, read_params
from core.provenance import data_md5, git_state, pinned_source
from core.s3 import is_s3
from pipelines.cluster import CLUSTER, STEPS, Cluster, read_cluster
from pipelines.rules import named_image
from pipelines.size import require_fit
from pipelines.tasks import cells_of


def compiled(
    params: Params,
    image: str | None = None,
    git_commit: str = "",
    cluster: Cluster | None = None,
    cohort: tuple[str, str] | None = None,
) -> str:
    """Return the pipeline as YAML for Kubeflow; equal arguments give equal text.

    Args:
        params: the defaults of the pipeline's parameters.
        image: the image of every step; None: the image in ``cluster``.
        git_commit: the commit of the code in the image.
        cluster: the cluster settings of the steps; None reads ``pipelines/cluster.yaml``.
        cohort: the defaults of ``source`` and ``data_md5``; None: both are required.
    """
    from pipelines.graph import build

    return _text(build(params, image, git_commit, cluster or read_cluster(), cohort))


def pinned_cohort(pin: Path = Path("data.dvc")) -> tuple[str, str] | None:
    """Return the ``s3://`` address of the pinned cohort and its MD5; None if the pin has no such address.

    A cluster cannot read a local folder. Then the MD5 must not be a default either: it would apply to any source that
    the user enters.
    """
    source, md5 = pinned_source(pin), data_md5(pin)
    return (source, md5) if source and md5 and is_s3(source) else None


def compiled_steps(image: str) -> dict[str, str]:
    """Return every step as a reusable Kubeflow component in YAML, by name; all use ``image``.

    A component has no cluster settings: the pipeline that uses it sets them.
    """
    from pipelines import components as steps

    texts: dict[str, str] = {}
    for name in STEPS:
        component = copy.deepcopy(getattr(steps, name))
        component.component_spec.implementation.container.image = image
        texts[name] = _text(component)
    return texts


def _text(component: Any) -> str:
    from kfp.compiler import Compiler

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"  # the compiler reads the format from the suffix
        Compiler().compile(component, str(package))
        return package.read_text()


def code_version() -> str:
    """Return the commit of the code, with ``-dirty`` if files differ from it; ``unknown`` outside a repository."""
    commit, dirty = git_state()
    return f"{commit}-dirty" if commit and dirty else commit or "unknown"


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("build/pipeline.yaml"),
    params: cli.ParamsFile = Path("params.yaml"),
    cluster: Annotated[Path, typer.Option(help="The cluster settings, validated as a whole.")] = CLUSTER,
    image: Annotated[str | None, typer.Option(help="The image of every step; overrides the cluster settings.")] = None,
    components: Annotated[
        Path | None, typer.Option(help="A folder to write as well: every step as a component of its own.")
    ] = None,
) -> None:
    """Compile the Kubeflow pipeline, with the parameters of a file as its defaults."""
    choices, settings, image = read_params(params), read_cluster(cluster), named_image(image)
    cohort = pinned_cohort()
    text = compiled(choices, image, code_version(), settings, cohort)
    print(require_fit(text, cells_of(choices.matrix)))
    with write_file(out) as partial:
        partial.write_text(text)
    print(f"{out}: upload it on Kubeflow's page; `defunet submit` compiles and starts a run at once")
    pinned = f"source {cohort[0]}, data_md5 {cohort[1]}, from data.dvc" if cohort else ""
    print(f"{out}: {pinned or 'fill in source and data_md5: data.dvc pins no s3:// address'}")
    if components is not None:
        with write_folder(components) as folder:
            for name, step in compiled_steps(image or settings.image).items():
                (folder / f"{name}.yaml").write_text(step)
        print(f"{components}: load one with kfp.components.load_component_from_file")


if __name__ == "__main__":
    cli.run(main)
