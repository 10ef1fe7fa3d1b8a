"""The model card (Mitchell et al. 2019, "Model Cards for Model Reporting"), generated from the run's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.cohort import Arrays
from core.params import Params
from core.provenance import versions
from core.results import Row
from core.templating import environment as templates

TEMPLATE = "README.md.j2"
FIGURES = ("dice", "jaccard", "hd95")


def describe(
    config: Mapping[str, Any],
    cohort: Arrays,
    splits: Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    params: Params,
    origin: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of a model card as plain values.

    Args:
        config: ``config.json`` of the model.
        cohort: the arrays of training and test.
        splits: ids of the train, validation and test images.
        rows: rows of the evaluation.
        params: all parameters.
        origin: result of :func:`registry.origin.origin_tags`.
    """
    shown = [
        row
        for row in rows
        if (row["split"], row["reduction"], row["sex"], row["age"]) == ("test", "per_image", "all", "all")
    ]
    return {
        "name": params.register_.model,
        "licence": cohort.info.get("licence"),
        **{name: config[name] for name in ("network", "width", "norm", "options", "parameters", "scenario", "seed")},
        "data": {
            **cohort.card,
            "images": [row for split, ids in splits.items() for row in _counts(cohort, split, ids)],
        },
        "metrics": [
            {name: row[name] for name in ("masks", "site", "label", "n_images", "dice_ci95", *FIGURES)}  # type: ignore[literal-required]
            for row in shown
        ],
        "train": config["train"],
        "lineage": dict(origin),
        "versions": versions(),
    }


def _counts(cohort: Arrays, split: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    chosen = cohort.manifest.iloc[cohort.rows(list(ids))]
    counts = chosen.groupby(["site", "label"], as_index=False).size()
    return [
        {"split": split, "site": str(row["site"]), "label": str(row["label"]), "images": int(row["size"])}
        for row in counts.to_dict("records")
    ]


def write_readme(path: Path, card: Mapping[str, Any], contract: Mapping[str, Any]) -> None:
    """Write the card as Markdown, with the metadata block of model hubs."""
    environment = templates(Path(__file__).with_name("templates"), html=False)
    environment.filters["figure"] = lambda value, digits=4: "not defined" if value is None else f"{value:.{digits}f}"
    path.write_text(environment.get_template(TEMPLATE).render(card=card, contract=contract))
