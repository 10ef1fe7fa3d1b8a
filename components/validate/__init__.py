"""The validate step: check a raw cohort with a Great Expectations suite before training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.validate.docs import INDEX, copy, link_plainly, remove_unlinked
from components.validate.suite import expectations, table
from core.cohort import COHORT, MANIFEST, PASSED, read_manifest, require_whole
from core.errors import UserError
from core.files import read_json, sha256, write_folder, write_json
from core.params import ValidateParams, params_hash

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

RESULT = "validation.json"  # every expectation's result, passed or not
DOCS = Path("docs") / INDEX  # Great Expectations' Data Docs
LISTED = 10  # images named per expectation in validation.json
SHOWN = 5  # images named per site in the error


@dataclass(frozen=True)
class ValidationSummary:
    """Counts of a successful validation."""

    images: int
    paired: int
    unpaired: int
    sites: dict[str, dict[str, int]]  # images, paired and unpaired of each site
    expectations: int  # number of expectations, all met
    docs: Path


def validate(raw: Path, params: ValidateParams, out: Path, publish: str | None = None) -> ValidationSummary:
    """Validate a raw cohort's manifest and the presence of its files; write the result and the Data Docs.

    ``out`` always has ``validation.json`` and ``docs/index.html``, and ``passed.json`` only after success. Images
    without a mask are counted but are not a failure.

    Args:
        raw: output of ingest.
        params: the bounds of the expectations (:func:`components.validate.suite.expectations`).
        out: output folder; an earlier one is replaced.
        publish: folder or ``s3://bucket/prefix`` for a copy of the Data Docs, also if validation fails. It is for pods,
            whose files are lost on failure: the error names the copy and the cohort's source instead of paths in the
            pod. Empty: no copy. None: no copy, and the error names ``raw`` and ``out``.

    Raises:
        UserError: there is no manifest, ``raw`` is one shard of a cohort, or expectations failed; all are listed with
            their sites and first images.
    """
    require_whole(raw, COHORT, "components.ingest.merge")
    manifest = read_manifest(raw)
    frame = table(raw, manifest, params.large_component)
    with write_folder(out) as partial:
        results = [_entry(result) for result in _run(frame, params, partial / DOCS.parent)]
        failed = [entry for entry in results if not entry["success"]]
        counts = _counts(frame)
        sites = {str(site): _counts(rows) for site, rows in frame.groupby("site")}
        write_json(
            partial / RESULT,
            {
                "success": not failed,
                "params": params_hash(params),
                "statistics": {"evaluated": len(results), "failed": len(failed), **counts, "sites": sites},
                "expectations": results,
            },
        )
        if not failed:
            # Only facts of the cohort, so that DVC does not rerun preprocess if it also passes other bounds.
            write_json(partial / PASSED, {"manifest_sha256": sha256(raw / MANIFEST), **counts})
    copied = copy(out / DOCS.parent, publish, sha256(out / RESULT)[:12]) if publish else ""
    if failed:
        called, shown = (raw, out / DOCS) if publish is None else (_source(raw), copied)
        raise UserError(
            f"{called}: {len(failed)} of {len(results)} expectations failed; correct these images, or the bounds under "
            "validate in params.yaml" + (f"; all results: {shown}" if shown else ""),
            [_problem(entry) for entry in failed],
        )
    return ValidationSummary(expectations=len(results), docs=out / DOCS, sites=sites, **counts)


def _run(frame: pd.DataFrame, params: ValidateParams, docs: Path) -> list[ExpectationValidationResult]:
    """Run Great Expectations on ``frame``, return its results, and build the Data Docs in ``docs``."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the library is imported
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.update_data_docs_site(
        "local_site",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
            "show_how_to_buttons": False,
        },
    )
    asset = context.data_sources.add_or_update_pandas("cohort").add_dataframe_asset("manifest")
    suite = context.suites.add_or_update(gx.ExpectationSuite(name="cohort", expectations=expectations(params)))
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name="cohort", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name="cohort",
            validation_definitions=[definition],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["site", "id"]},
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    context.build_data_docs()
    link_plainly(docs)
    remove_unlinked(docs)
    (result,) = outcome.run_results.values()
    checked: ExpectationSuiteValidationResult = result
    for item in checked.results:
        if item.exception_info and item.exception_info.get("raised_exception"):
            raise RuntimeError(f"{item.expectation_config}: {item.exception_info['exception_traceback']}")
    order = [expectation.meta["name"] for expectation in expectations(params)]
    return sorted(checked.results, key=lambda item: order.index(_config(item).meta["name"]))


def _source(raw: Path) -> str:
    """Return the source of the cohort, as recorded by ingest."""
    return str(read_json(raw / COHORT)["source"])


def _counts(frame: pd.DataFrame) -> dict[str, int]:
    pairing = frame["pairing"]
    return {
        "images": len(frame),
        "paired": int((pairing == "paired").sum()),
        "unpaired": int((pairing == "unpaired").sum()),
    }


def _config(result: ExpectationValidationResult) -> ExpectationConfiguration:
    if result.expectation_config is None:
        raise RuntimeError("Great Expectations returned a result without its expectation")
    return result.expectation_config


def _entry(result: ExpectationValidationResult) -> dict[str, Any]:
    """Return one expectation's result as plain values, with the failed images by site."""
    config = _config(result)
    found = result.result
    where = pd.DataFrame(found.get("unexpected_index_list") or [], columns=["site", "id"]).fillna("unknown")
    observed = found.get("observed_value")
    return {
        "name": config.meta["name"],
        "title": config.description,
        "type": config.type,
        "success": bool(result.success),
        "severity": str(config.severity.value),
        "site": config.meta["site"],
        "observed": None if observed is None else int(observed),
        "unexpected_count": int(found.get("unexpected_count", 0)),
        "by_site": {str(site): len(rows) for site, rows in where.groupby("site")},
        "images": {str(site): list(rows["id"].head(LISTED)) for site, rows in where.groupby("site")},
    }


def _problem(entry: dict[str, Any]) -> str:
    """Return the error line of a failed expectation."""
    if not entry["by_site"]:
        return f"{entry['name']} (expected: {entry['title']}): found {entry['observed']}"
    sites = []
    for site, count in entry["by_site"].items():
        shown = entry["images"][site][:SHOWN]
        sites.append(f"{site} {count} ({', '.join(shown)}{', ...' if count > len(shown) else ''})")
    return f"{entry['name']} (expected: {entry['title']}): {'; '.join(sites)}"
