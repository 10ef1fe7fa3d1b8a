"""Evaluations and models written by the contract of core.results, and a reader of the page made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.evaluate.overlays import difference_regions, figure_regions, write_regions
from components.report import report
from core.cell import CASES, HISTORY, OVERLAYS, PROVENANCE, RELIABILITY, ROC, ROWS, RUN, SCORED, Cell
from core.cohort import COLUMNS, write_manifest
from core.results import AGES, FEW, METRICS, ROW_METRICS, SEXES, Row, age_group
from model.weights import CONFIG

REPOSITORY = Path(__file__).parents[2]

SCENARIOS = {
    "mixed": (("montgomery", "shenzhen"), ("montgomery", "shenzhen")),
    "montgomery-to-shenzhen": (("montgomery",), ("shenzhen",)),
    "shenzhen-to-montgomery": (("shenzhen",), ("montgomery",)),
}
COUNTS = {"montgomery": 20, "shenzhen": 32}
SIZE = 64
PIXELS = SIZE * SIZE


def write_cohort(root: Path, scenarios: list[str], synthetic: bool) -> pd.DataFrame:
    rows = []
    for site, count in COUNTS.items():
        for number in range(count):
            abnormal = number % 2
            row: dict[str, object] = dict.fromkeys(COLUMNS) | {
                "id": f"{site[:2].upper()}_{number:04d}_{abnormal}",
                "site": site,
                "label": ("normal", "abnormal")[abnormal],
                "image": "images/x.png",
                "mask": "masks/x.png",
                "sex": "FM"[number % 3 == 0],
                "age": float(10 + 3 * number),
            }
            rows.append(row | {name: "" for name, kind in COLUMNS.items() if kind == "string" and row[name] is None})
    manifest = pd.DataFrame(rows)
    arrays, splits = root / "arrays", root / "splits"
    arrays.mkdir(parents=True)
    splits.mkdir()
    write_manifest(arrays, manifest)
    np.save(arrays / "images.npy", np.stack([xray_of(str(id)) for id in manifest["id"]]))
    for name in ("original", "dilated"):
        np.save(arrays / f"masks-{name}.npy", np.zeros((len(manifest), SIZE, SIZE), np.uint8))
    card: dict[str, object] = {
        "name": "sample <one> & only",
        "synthetic": synthetic,
        "description": "52 X-rays drawn for a test.",
    }
    card["sites"] = {site: {"images": count + 3, "masks": count, "unpaired": 3} for site, count in COUNTS.items()}
    (arrays / "arrays.json").write_text(json.dumps(card | {"size": SIZE, "interpolation": "area", "kernel": 3}))
    for scenario in scenarios:
        trained, tested = SCENARIOS.get(scenario, SCENARIOS["mixed"])
        split: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for site in COUNTS:
            ids = list(manifest["id"][manifest["site"] == site])
            if site in trained:
                split["train"] += ids[:-8]
                split["validation"] += ids[-8:-4]
            if site in tested:
                split["test"] += ids[-4:] if site in trained else ids
        (splits / f"{scenario}.json").write_text(json.dumps(split))
    return manifest


def metrics_of(tp: float, fp: float, fn: float, tn: float) -> dict[str, float]:
    accuracy = (tp + tn) / (tp + fp + fn + tn)
    dice = 2 * tp / (2 * tp + fp + fn)
    return {
        "dice": dice,
        "accuracy": accuracy,
        "jaccard": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": dice,
        "auc": 1 - (1 - accuracy) / 2,
        "paper_iou": (1 + accuracy) / 2,
    }


def lungs(shift: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    inside = [((columns - x - shift) / 0.14) ** 2 + ((rows - 0.5 - shift) / 0.3) ** 2 < 1 for x in (0.3, 0.7)]
    return np.asarray(inside[0] | inside[1])


def xray_of(id: str) -> np.ndarray:
    """Return an X-ray, uint8 (SIZE, SIZE), the same under every network's prediction and unlike any other's."""
    noise = np.random.default_rng(list(map(ord, id))).normal(0, 6, (SIZE, SIZE))
    grey = 60 + 90 * np.mgrid[:SIZE, :SIZE][1] / SIZE + noise
    return np.clip(np.where(lungs(0), 0.6 * grey, grey), 0, 255).astype(np.uint8)


def draw_overlay(path: Path, xray: Path, kind: str, id: str, random: np.random.Generator) -> None:
    truth, prediction = lungs(0), lungs(random.uniform(-0.05, 0.05))
    cv2.imwrite(str(xray), xray_of(id))
    write_regions(path, (figure_regions if kind == "figure" else difference_regions)(prediction, truth))


def write_cell(root: Path, cell: Cell, manifest: pd.DataFrame, synthetic: bool, quality: float) -> None:
    random = np.random.default_rng([cell.seed, *map(ord, cell.network + cell.scenario)])
    split = json.loads((root / "splits" / f"{cell.scenario}.json").read_text())
    places = manifest.set_index("id")[["site", "label", "sex", "age"]]
    cases = []
    for name, ids in split.items():
        for id, masks in product(ids, ("original", "dilated")):
            lung = PIXELS * random.uniform(0.2, 0.3)
            wrong = lung * (1 - quality) * random.gamma(2, 0.5)
            fp, fn = wrong * (0.4 if masks == "dilated" else 0.6), wrong * 0.5
            counts = {"tp": lung - fn, "fp": fp, "fn": fn, "tn": PIXELS - lung - fp}
            more = {"hd95": 40 * wrong / lung, "assd": 9 * wrong / lung}
            more |= {"stored_hd95": 160 * wrong / lung, "stored_assd": 36 * wrong / lung}
            more |= {"nsd2": 1 - 3 * wrong / lung, "nsd4": 1 - 2 * wrong / lung, "soft_dice": 1 - wrong / lung}
            more |= {"stored_dice": 1 - 0.9 * wrong / lung, "mirror_agreement": 1 - 0.5 * wrong / lung}
            more |= {"expected_dice": 1 - 0.6 * wrong / lung}
            place = {"id": id, **places.loc[id], "split": name, "masks": masks}
            figures = metrics_of(**counts) | more
            soft = {"soft_overlap": counts["tp"], "soft_square": counts["tp"] + counts["fp"]}
            cases.append(place | {metric: figures[metric] for metric in METRICS} | counts | soft)
    frame = pd.DataFrame(cases)
    rows = []
    for name, masks in product(split, ("original", "dilated")):
        part = frame[(frame["split"] == name) & (frame["masks"] == masks)]
        sites = ["all", *sorted(part["site"].unique())] if name == "test" else ["all"]
        labels = ["all", "abnormal", "normal"] if name == "test" else ["all"]
        groups = [(site, label, "all", "all") for site, label in product(sites, labels)]
        groups += [(site, "all", sex, "all") for site, sex in product(sites, SEXES)]
        groups += [(site, "all", "all", age) for site, age in product(sites, AGES)]
        for group in groups:
            known = (part["site"], part["label"], part["sex"], part["age"].map(age_group))
            matches = [values == wanted for values, wanted in zip(known, group, strict=True) if wanted != "all"]
            chosen = part[np.logical_and.reduce(matches)] if matches else part
            if chosen.empty:
                continue
            key = {"network": cell.network, "scenario": cell.scenario, "seed": cell.seed, "split": name}
            key |= dict(zip(("site", "label", "sex", "age"), group, strict=True)) | {"masks": masks}
            means = {metric: float(chosen[metric].mean()) for metric in METRICS}
            means["soft_dice_batch2"] = means["soft_dice"] - 0.001
            spread = 1.96 * float(chosen["dice"].std()) / len(chosen) ** 0.5
            ends = [means["dice"] - spread, min(1.0, means["dice"] + spread)] if len(chosen) > 1 else None
            size = {"n_images": len(chosen), "few": len(chosen) < FEW}
            rows.append(key | size | {"reduction": "per_image", "dice_ci95": ends} | means)
            pooled: dict[str, object] = {**dict.fromkeys(ROW_METRICS), "soft_dice": means["soft_dice"]}
            pooled |= {"dice_ci95": None, "reduction": "pooled"}
            pooled |= metrics_of(*(float(chosen[count].sum()) for count in ("tp", "fp", "fn", "tn")))
            rows.append(key | size | pooled)
    evaluation, model = root / "evaluations" / cell.folder, root / "models" / cell.folder
    (evaluation / "overlays").mkdir(parents=True)
    model.mkdir(parents=True)
    (evaluation / ROWS).write_text(json.dumps(rows))
    frame.to_csv(evaluation / CASES, index=False)
    fpr = np.linspace(0, 1, 101)
    pd.DataFrame({"fpr": fpr, "tpr": 1 - (1 - fpr) ** (20 + 300 * quality)}).to_csv(evaluation / ROC, index=False)
    edges = np.linspace(0, 1, 16)
    bins = {"low": edges[:-1], "high": edges[1:], "predicted": edges[:-1] + 1 / 30}
    bins |= {"observed": np.clip(bins["predicted"] * quality, 0, 1), "pixels": 100 + np.arange(15)}
    pd.DataFrame(bins).to_csv(evaluation / RELIABILITY, index=False)

    test = frame[(frame["split"] == "test") & (frame["masks"] == "original")].sort_values("dice", ascending=False)
    overlays = []
    for kind, chosen in (
        ("worst", test.tail(4)),
        ("best", test.head(4)),
        ("figure", test.sort_values("id").groupby("site").head(2)),
    ):
        for case in chosen.itertuples():
            file, xray = f"overlays/{kind}-{case.id}.png", f"overlays/xray-{case.id}.png"
            draw_overlay(evaluation / file, evaluation / xray, kind, str(case.id), random)
            place = {"id": case.id, "site": case.site, "label": case.label, "dice": case.dice, "hd95": case.hd95}
            overlays.append({"file": file, "xray": xray, "kind": kind} | place)
    (evaluation / OVERLAYS).write_text(json.dumps(overlays))

    epoch = np.arange(1, 13)
    validation = quality - 0.5 * np.exp(-epoch / 2)
    history = {
        "epoch": epoch,
        "size": SIZE,
        "learning_rate": 0.002 * np.sin(np.pi * epoch / 13),
        "train_loss": -validation + 0.02,
    }
    history |= {"train_dice": validation - 0.02, "validation_loss": -validation, "validation_dice": validation}
    pd.DataFrame(history).to_csv(model / HISTORY, index=False)
    config = {
        "network": cell.network, "width": 0.125, "in_channels": 1, "parameters": 715_473, "scenario": cell.scenario,
        "seed": cell.seed, "input": {"size": SIZE, "interpolation": "area", "intensity_percentiles": [0.5, 99.5]},
        "train": {"masks": "original", "epochs": 12, "batch_size": 8, "learning_rate": 0.002, "schedule": "cosine"},
        "cohort": {"name": "sample <one> & only", "synthetic": synthetic, "description": ""},
    }  # fmt: skip
    (model / CONFIG).write_text(json.dumps(config))
    record = {
        "params": config["train"],
        "manifest": "0" * 64,
        "files": {},
        "code": {"model/training/losses.py": "1" * 64},
    }
    (model / PROVENANCE).write_text(json.dumps(record | {"precision": "float32", "weights": "2" * 64}))
    scored = record | {"params": {"threshold": 0.5}, "files": {"weights": "2" * 64}}
    (evaluation / SCORED).write_text(json.dumps(scored))
    run = {
        "mlflow_run_id": "5f1c", "commit": "0123456789abcdef", "dirty": cell.seed > 0, "seconds": 51.3 + cell.seed,
        "images_per_second": 95.04, "epochs": 12, "best_epoch": 12, "started": "2026-01-02T03:04:05+00:00",
        "stages": [], "precision": "float32", "weights": "2" * 64,
        "hardware": {"cpu": "Xeon", "cores": 2, "memory_gib": 7.8, "gpu": None}, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    (model / RUN).write_text(json.dumps(run))


QUALITY = {
    "unet": 0.93, "res_unet": 0.945, "bcdu_net": 0.958, "incept_res_unet": 0.95, "r2_unet": 0.955,
    "att_r2_unet": 0.956, "defu_net": 0.965, "unet_bn": 0.94, "res_enc_unet": 0.96,
}  # fmt: skip


def write_run(
    root: Path, networks: list[str], scenarios: list[str], seeds: tuple[int, ...] = (0,), synthetic: bool = True
) -> Path:
    """Write everything that the report reads below ``root``."""
    manifest = write_cohort(root, scenarios, synthetic)
    for network, scenario, seed in product(networks, scenarios, seeds):
        loss = 0.0 if scenario == "mixed" else 0.04
        write_cell(root, Cell(network, scenario, seed), manifest, synthetic, QUALITY.get(network, 0.9) - loss)
    return root


def make(
    root: Path,
    out: Path,
    cells: list[Cell] | None = None,
    resamples: int = 200,
    seed: int = 0,
    *,
    mixed: bool = False,
) -> list[Row]:
    """Report on what :func:`write_run` left, through the function."""
    parts = (root / name for name in ("evaluations", "models", "arrays", "splits"))
    return report(*parts, out, cells, resamples=resamples, seed=seed, mixed=mixed)


def command(root: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Report on what :func:`write_run` left, through the command."""
    call = [sys.executable, "-m", "components.report", "--out", str(out), *more]
    for name in ("evaluations", "models", "arrays", "splits"):
        call += [f"--{name}", str(root / name)]
    return subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=os.environ)


class Page(HTMLParser):
    """What a page holds: elements, tables as rows of cell texts, and every address that a browser would follow."""

    VOID = ("meta", "link", "img", "input", "br", "use", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.addresses: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self._table: list[list[str]] | None = None
        self._in_cell = False
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            if found.get(name) is not None:
                self.addresses.append((tag, str(found[name])))
        if tag == "table":
            self._table = self.tables.setdefault(found.get("id") or f"table-{len(self.tables)}", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._in_cell = True
        elif tag == "span" and self._in_cell and self._table is not None:
            self._table[-1][-1] += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "table":
            self._table = None
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if self._in_cell and self._table is not None:
            self._table[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def rows(self, table: str) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[table]]
