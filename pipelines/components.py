"""The steps as Kubeflow components, from the signatures and docstrings of :mod:`pipelines.steps`.

They are container components, not kfp's lightweight components, which contain their Python source: Kubeflow copies a
component about ten times into the run's object, whose size is limited (:mod:`pipelines.size`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from kfp import dsl
from kfp.dsl import component_factory, structures
from kfp.dsl.container_component_class import ContainerComponent

from pipelines import steps
from pipelines.artifacts import OUTPUT, Status

# The image of every step.
IMAGE = "defu-net-pipeline-python:0.1.0"


def component(body: Callable[..., Any]) -> ContainerComponent:
    """Return a step as a component that runs ``python -m pipelines.step`` with the executor input.

    Args:
        body: a function of :mod:`pipelines.steps`.
    """

    def declared() -> None:
        """Placeholder for ``body`` with kfp's annotations."""

    hints = get_type_hints(body, include_extras=True)
    signature = inspect.signature(body)
    parameters = [
        parameter.replace(annotation=_kfp_type(hints[parameter.name])) for parameter in signature.parameters.values()
    ]
    declared.__name__, declared.__doc__ = body.__name__, body.__doc__
    fields = hints["return"] is not type(None) and list(get_type_hints(hints["return"]).items())
    # A new type, because kfp does not evaluate annotations, and those of the fields are strings.
    returned = NamedTuple("Outputs", fields) if fields else None
    vars(declared)["__signature__"] = signature.replace(parameters=parameters, return_annotation=returned)
    # kfp's decorator for container components does not support return values.
    spec = component_factory.extract_component_interface(declared)
    spec.implementation = structures.Implementation(
        structures.ContainerSpecImplementation(
            image=IMAGE,
            command=["python", "-m", "pipelines.step", body.__name__],
            args=["--executor_input", "{{$}}"],
        )
    )
    return ContainerComponent(spec, body)


def _kfp_type(hint: Any) -> Any:
    """Return kfp's annotation for one of :mod:`pipelines.artifacts`; other annotations are returned unchanged."""
    if hint is Status:
        return dsl.PipelineTaskFinalStatus
    if not hasattr(hint, "__metadata__"):
        return hint
    kind, *marks = get_args(hint)
    wrap = dsl.Output if OUTPUT in marks else dsl.Input
    if get_origin(kind) is list:
        return wrap[list[getattr(dsl, get_args(kind)[0].__name__)]]  # type: ignore[misc]
    return wrap[getattr(dsl, kind.__name__)]


plan = component(steps.plan)
ingest = component(steps.ingest)
ingest_shard = component(steps.ingest_shard)
merge_cohort = component(steps.merge_cohort)
validate = component(steps.validate)
preprocess = component(steps.preprocess)
preprocess_shard = component(steps.preprocess_shard)
merge_arrays = component(steps.merge_arrays)
train = component(steps.train)
evaluate = component(steps.evaluate)
evaluate_shard = component(steps.evaluate_shard)
merge_evaluation = component(steps.merge_evaluation)
train_and_evaluate = component(steps.train_and_evaluate)
gather = component(steps.gather)
report = component(steps.report)
register = component(steps.register)
promote = component(steps.promote)
outcome = component(steps.outcome)
