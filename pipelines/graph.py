"""The steps chained on a cluster: the graph of ``dvc.yaml`` as a Kubeflow pipeline.

Nothing is decided in Kubeflow's own conditions: they count as False when they fail to evaluate. What is run follows
from the parameters, in :func:`pipelines.components.plan`.
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any, NamedTuple

from kfp import dsl

from components.params import Params
from pipelines import components as steps
from pipelines.tasks import sections


class Outputs(NamedTuple):
    """What a run leaves."""

    report: dsl.Artifact
    registered: dsl.Artifact


def build(params: Params, image: str = steps.IMAGE, git_commit: str = "") -> Any:
    """Return the pipeline, ready to be compiled, run or submitted.

    Every section of ``params.yaml`` is a pipeline parameter of its own, JSON, with these values as its default: each
    step is given no more than it reads, so that a change runs again only what depends on it, as with DVC. The plan
    step holds all of them to account before anything else runs.

    Args:
        params: the defaults of the pipeline's parameters.
        image: what every step runs in.
        git_commit: the code in ``image``: the default of the pipeline parameter that is part of every cache key.
    """
    default = sections(params)

    @dsl.pipeline(
        name="lung-segmentation",
        display_name="Chest X-ray lung segmentation",
        description="From X-rays to a registered lung-segmentation model: every network in every scenario, each seed",
    )
    def lung_segmentation(
        source: str,
        data_md5: str,
        git_commit: str = git_commit,
        checkpoints: str = "",
        ingest: str = default["ingest"],
        validate: str = default["validate"],
        preprocess: str = default["preprocess"],
        scenarios: str = default["scenarios"],
        matrix: str = default["matrix"],
        train: str = default["train"],
        evaluate: str = default["evaluate"],
        register: str = default["register"],
    ) -> Outputs:
        """Chain the steps.

        Args:
            source: A folder, a ZIP file or s3://bucket/prefix with X-rays in their publishers' layouts.
            data_md5: What pins the source: data.dvc has it. Other data under an old value would be taken from caches.
            git_commit: The code in the image. Part of every cache key.
            checkpoints: A folder for the full states of trainings; empty, beside each model.
            ingest: Section of params.yaml as JSON.
            validate: Section of params.yaml as JSON.
            preprocess: Section of params.yaml as JSON.
            scenarios: Section of params.yaml as JSON.
            matrix: Section of params.yaml as JSON: the networks, scenarios and seeds that are run.
            train: Section of params.yaml as JSON.
            evaluate: Section of params.yaml as JSON.
            register: Section of params.yaml as JSON.
        """

        def step(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
            return task.set_display_name(name).set_container_image(image)

        planned = step(
            steps.plan(
                ingest=ingest,
                validate=validate,
                preprocess=preprocess,
                scenarios=scenarios,
                matrix=matrix,
                train=train,
                evaluate=evaluate,
                register=register,
            ),
            "Check the parameters",
        )
        cells = planned.outputs["Output"]
        cohort = step(
            steps.ingest(source=source, params=ingest, data_md5=data_md5, git_commit=git_commit).after(planned),
            "Ingest the cohort",
        )
        raw = cohort.outputs["raw"]
        validated = step(steps.validate(raw=raw, params=validate), "Validate the cohort")
        preprocessed = step(
            steps.preprocess(
                raw=raw,
                validation=validated.outputs["validation"],
                params=preprocess,
                scenarios=planned.outputs["scenarios"],
            ),
            "Preprocess, freeze the splits",
        )
        arrays, splits = preprocessed.outputs["arrays"], preprocessed.outputs["splits"]
        with dsl.ParallelFor(cells, name="each cell") as cell:
            trained = step(
                steps.train(
                    cell=cell,
                    arrays=arrays,
                    splits=splits,
                    params=train,
                    experiment=register,
                    checkpoints=checkpoints,
                    data_md5=data_md5,
                ),
                "Train",
            )
            evaluated = step(
                steps.evaluate(model=trained.outputs["model"], arrays=arrays, splits=splits, params=evaluate),
                "Evaluate",
            )

        def gathered() -> dict[str, Any]:
            # Made anew for each consumer: the compiler changes a Collected when it has used it.
            models, evaluations = trained.outputs["model"], evaluated.outputs["evaluation"]
            return {"models": dsl.Collected(models), "evaluations": dsl.Collected(evaluations)}

        reported = step(
            steps.report(**gathered(), cells=cells, arrays=arrays, splits=splits, params=evaluate),
            "Report, beside the paper",
        )
        registered = step(
            steps.register(**gathered(), arrays=arrays, params=planned.outputs["params"], data_md5=data_md5),
            "Register as challenger",
        )
        # The registry is outside the cache's sight: every run offers its model anew.
        registered.set_caching_options(enable_caching=False)
        return Outputs(report=reported.outputs["folder"], registered=registered.outputs["version"])

    return lung_segmentation
