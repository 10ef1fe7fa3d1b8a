"""A cohort passes whole or not at all, and a failure says which images to look at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from components.validate import ValidationSummary, validate
from core.cohort import MANIFEST, read_manifest, require_pass, write_manifest
from core.errors import UserError
from core.files import exclusive, sha256
from core.params import read_params
from tests.browser import Browser
from tests.components.tiny_cohort import VALIDATE, ellipse, publish, raw_cohort, save, validate_params
from tests.services import Bucket

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_cohort(source, tmp_path_factory.mktemp("cohort") / "raw")


@pytest.fixture
def raw(whole: Path, tmp_path: Path) -> Path:
    """A sound cohort that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "raw"))


def edit(raw: Path, image: str, **values: Any) -> None:
    manifest = read_manifest(raw)
    for column, value in values.items():
        manifest.loc[manifest["id"] == image, column] = value
    write_manifest(raw, manifest)


def result(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "validation.json").read_text())
    return value


def failed(out: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in result(out)["expectations"] if not entry["success"]}


def command(raw: Path, out: Path, params: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "components.validate", str(raw), "--params", str(params), "--out", str(out)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


def params_file(path: Path, **changes: Any) -> Path:
    """Write the shipped parameters with another ``validate`` section (JSON is YAML)."""
    values = read_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    path.write_text(json.dumps(values | {"validate": VALIDATE | changes}))
    return path


def linked_pages(index: Path) -> list[Path]:
    links = re.findall(r'href="([^"#:]+\.html)"', index.read_text())
    return [index.parent / link for link in links]


def test_a_sound_cohort_passes_and_unpaired_images_are_counted(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "validation"
    counts = {"montgomery": {"images": 8, "masks": 8}, "shenzhen": {"images": 8, "masks": 6}}
    summary = validate(raw, validate_params(expected=counts), out)
    sites = {
        "montgomery": {"images": 8, "paired": 8, "unpaired": 0},
        "shenzhen": {"images": 8, "paired": 6, "unpaired": 2},
    }
    assert summary == ValidationSummary(
        images=16, paired=14, unpaired=2, sites=sites, expectations=25, docs=out / "docs" / "index.html"
    )
    assert result(out)["success"] is True
    assert result(out)["statistics"] == {
        "evaluated": 25,
        "failed": 0,
        "images": 16,
        "paired": 14,
        "unpaired": 2,
        "sites": sites,
    }
    assert failed(out) == {}
    passed = json.loads((out / "passed.json").read_text())
    assert passed["manifest_sha256"] == sha256(raw / MANIFEST)
    require_pass(out, raw)


def test_the_docs_can_be_read_without_scripts(raw: Path, tmp_path: Path) -> None:
    docs = validate(raw, validate_params(), tmp_path / "validation").docs
    pages = linked_pages(docs)
    assert len(pages) >= 2
    assert all(page.is_file() for page in pages)
    assert "no image occurs twice under two names" in pages[0].read_text()
    assert ".partial-" not in "".join(page.read_text() for page in [docs, *pages])


def test_the_same_cohort_passes_with_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    """Otherwise everything after a repeated validation would run again."""
    texts = []
    for name in ("one", "two"):
        validate(raw, validate_params(), tmp_path / name)
        texts.append([(tmp_path / name / file).read_bytes() for file in ("passed.json", "validation.json")])
    assert texts[0] == texts[1]
    validate(raw, validate_params(lung_fraction=[0.06, 0.6]), tmp_path / "other bounds")
    assert (tmp_path / "other bounds" / "passed.json").read_bytes() == texts[0][0]


@pytest.mark.slow
def test_every_fault_of_a_cohort_is_told_at_once(tmp_path: Path) -> None:
    """Damage done to the publishers' files, found by the command."""
    source = publish(tmp_path / "source")
    montgomery, shenzhen = source / "MontgomerySet", source / "ChinaSet_AllFiles"
    for half in ("leftMask", "rightMask"):
        save(montgomery / "ManualMask" / half / "MCUCXR_0001_1.png", ellipse(60, 80, 0.3))  # another size
        save(montgomery / "ManualMask" / half / "MCUCXR_0002_0.png", np.zeros((64, 80), np.uint8))  # empty
    mask = ellipse(64, 64, 0.3) | ellipse(64, 64, 0.7)
    grey = mask.copy()
    grey[30:34, 30:34] = 100
    save(shenzhen / "mask" / "CHNCXR_0001_1_mask.png", grey)  # not binary
    save(shenzhen / "mask" / "CHNCXR_0002_0_mask.png", np.full((64, 64), 255, np.uint8))  # all lung
    third = mask.copy()
    third[:12, 28:36] = 255
    save(shenzhen / "mask" / "CHNCXR_0003_1_mask.png", third)  # a third large component
    # The picture of 0004_0 under another name, as other bytes.
    picture = cv2.imread(str(shenzhen / "CXR_png" / "CHNCXR_0004_0.png"), cv2.IMREAD_UNCHANGED)
    twin = shenzhen / "CXR_png" / "CHNCXR_0999_0.png"
    assert cv2.imwrite(str(twin), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert twin.read_bytes() != (shenzhen / "CXR_png" / "CHNCXR_0004_0.png").read_bytes()

    raw, out = raw_cohort(source, tmp_path / "raw"), tmp_path / "validation"
    counts = {"montgomery": {"images": 8, "masks": 7}, "shenzhen": {"images": 8, "masks": 6}}
    ran = command(raw, out, params_file(tmp_path / "params.yaml", expected=counts, bit_depths=[8]))

    assert ran.returncode == 1
    assert ran.stdout == ""
    first, *problems = ran.stderr.splitlines()
    assert first.startswith(f"error: {raw}: 8 of 25 expectations failed")
    assert f"{out}/docs/index.html" in first
    told = {line.split(maxsplit=1)[0]: line for line in problems}
    named = {
        "equal_size": ["montgomery 1 (MCUCXR_0001_1)"],
        "lung_fraction": ["montgomery 1 (MCUCXR_0002_0)", "shenzhen 1 (CHNCXR_0002_0)"],
        "large_components": ["montgomery 1 (MCUCXR_0002_0)", "shenzhen 1 (CHNCXR_0003_1)"],
        "binary_mask": ["shenzhen 1 (CHNCXR_0001_1)"],
        "no_duplicate_image": ["shenzhen 2 (CHNCXR_0004_0, CHNCXR_0999_0)"],
        "allowed_bit_depth": ["montgomery 8 (MCUCXR_0001_1, MCUCXR_0002_0,", ", ...)"],
        "expected_masks_montgomery": ["expected: montgomery has 7 masks): found 8"],
        "expected_images_shenzhen": ["expected: shenzhen has 8 images): found 9"],
    }
    assert set(told) == set(named)
    for name, texts in named.items():
        assert all(text in told[name] for text in texts), told[name]

    assert not (out / "passed.json").exists()
    assert result(out)["success"] is False
    duplicates = failed(out)["no_duplicate_image"]
    assert duplicates["unexpected_count"] == 2
    assert duplicates["by_site"] == {"shenzhen": 2}
    assert duplicates["images"] == {"shenzhen": ["CHNCXR_0004_0", "CHNCXR_0999_0"]}
    assert any("CHNCXR_0999_0" in page.read_text() for page in linked_pages(out / "docs" / "index.html"))


def test_each_fault_of_a_manifest_fails_its_own_expectation(raw: Path, tmp_path: Path) -> None:
    edit(raw, "MCUCXR_0001_1", mask_width=pd.NA)
    edit(raw, "MCUCXR_0002_0", mask="")
    edit(raw, "CHNCXR_0001_1", id="MCUCXR_0003_1")
    (raw / "images" / "montgomery" / "MCUCXR_0004_0.png").unlink()
    (raw / "masks" / "montgomery" / "MCUCXR_0005_1.png").unlink()
    edit(raw, "MCUCXR_0006_0", label="unclear")
    edit(raw, "MCUCXR_0007_1", label="")
    edit(raw, "MCUCXR_0008_0", bit_depth=pd.NA)
    edit(raw, "CHNCXR_0002_0", site="paris")
    with pytest.raises(UserError) as failure:
        validate(raw, validate_params(), tmp_path / "validation")
    assert {name: entry["images"] for name, entry in failed(tmp_path / "validation").items()} == {
        "known_label": {"montgomery": ["MCUCXR_0007_1"]},
        "known_bit_depth": {"montgomery": ["MCUCXR_0008_0"]},
        "unique_id": {"montgomery": ["MCUCXR_0003_1"], "shenzhen": ["MCUCXR_0003_1"]},
        "allowed_site": {"paris": ["CHNCXR_0002_0"]},
        "allowed_label": {"montgomery": ["MCUCXR_0006_0"]},
        "paired_or_unpaired": {"montgomery": ["MCUCXR_0001_1", "MCUCXR_0002_0"]},
        "image_exists": {"montgomery": ["MCUCXR_0004_0"]},
        "mask_exists": {"montgomery": ["MCUCXR_0005_1"]},
    }
    assert len(failure.value.problems) == 8


def test_a_cohort_of_no_images_fails(raw: Path, tmp_path: Path) -> None:
    write_manifest(raw, read_manifest(raw).iloc[:0])
    with pytest.raises(UserError) as failure:
        validate(raw, validate_params(), tmp_path / "validation")
    assert failure.value.problems == ["not_empty (expected: the cohort has at least one image): found 0"]


def test_specks_are_no_components_and_the_bounds_are_inclusive(raw: Path, tmp_path: Path) -> None:
    edit(raw, "MCUCXR_0001_1", component_fractions="0.2 0.015 0.0149 0.0001", lung_fraction=0.6)
    edit(raw, "MCUCXR_0002_0", component_fractions="0.05", lung_fraction=0.05)
    validate(raw, validate_params(), tmp_path / "one")
    edit(raw, "MCUCXR_0001_1", component_fractions="0.2 0.015 0.015", lung_fraction=0.601)
    with pytest.raises(UserError):
        validate(raw, validate_params(), tmp_path / "two")
    assert set(failed(tmp_path / "two")) == {"large_components", "lung_fraction"}


def test_a_failure_takes_an_earlier_pass_away(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "validation"
    validate(raw, validate_params(), out)
    with pytest.raises(UserError):
        validate(raw, validate_params(bit_depths=[8]), out)
    assert not (out / "passed.json").exists()
    with pytest.raises(UserError, match="has not passed validation; run the validate step"):
        require_pass(out, raw)


def test_a_pass_is_of_one_cohort_only(raw: Path, tmp_path: Path) -> None:
    validate(raw, validate_params(), tmp_path / "validation")
    edit(raw, "MCUCXR_0001_1", label="normal")
    with pytest.raises(UserError, match="is of another cohort"):
        require_pass(tmp_path / "validation", raw)


def test_a_folder_that_is_no_cohort_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.csv: not found"):
        validate(tmp_path / "nowhere", validate_params(), tmp_path / "validation")
    assert not (tmp_path / "validation").exists()


def test_a_second_run_at_once_is_refused(raw: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "validation"), pytest.raises(UserError, match="another run is writing here"):
        validate(raw, validate_params(), tmp_path / "validation")


@pytest.mark.full
@pytest.mark.slow
def test_a_full_disk_leaves_no_result(raw: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed, so no small disk can be made")
    disk = tmp_path / "disk"
    disk.mkdir()
    step = f'"{sys.executable}" -m components.validate "{raw}" --out "{disk}/validation"'
    script = f'mount -t tmpfs -o size=512k tmpfs "{disk}" || exit 99; {step}; echo "rc $?"; ls -A "{disk}"'
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, cwd=ROOT)
    if ran.returncode == 99 or "unshare failed" in ran.stderr:
        pytest.skip(f"no small disk can be mounted here: {ran.stderr.strip()}")
    assert "validation: the disk is full" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [line for line in ran.stdout.splitlines() if not line.endswith(".lock")] == ["rc 1"]


def test_the_command_says_what_it_found(raw: Path, tmp_path: Path) -> None:
    ran = command(raw, tmp_path / "validation", params_file(tmp_path / "params.yaml"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout == (
        "16 images valid: 14 with a mask, 2 without (montgomery 8 + 0, shenzhen 6 + 2); "
        f"21 expectations met, Data Docs in {tmp_path}/validation/docs/index.html\n"
    )


@pytest.mark.full
@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA does not name the 704 X-rays of the paper")
def test_the_papers_cohort_passes_as_shipped(tmp_path: Path) -> None:
    raw = raw_cohort(Path(os.environ["CXR_DATA"]), tmp_path / "raw")
    summary = validate(raw, read_params(ROOT / "params.yaml").validate_, tmp_path / "validation")
    assert {site: counts["paired"] for site, counts in summary.sites.items()} == {"montgomery": 138, "shenzhen": 566}


def test_the_docs_have_no_file_that_no_page_links(raw: Path, tmp_path: Path) -> None:
    docs = validate(raw, validate_params(), tmp_path / "validation").docs.parent
    files = [path for path in docs.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000  # with fonts and animations 4 MB
    assert {path.suffix for path in files} == {".html", ".ico"}
    for page in docs.rglob("*.html"):
        # Great Expectations' own link to its icon is wrong on the result's page.
        for link in re.findall(r'(?:href|src)="([^"#?:]+)"', page.read_text()):
            assert link.endswith(".ico") or (page.parent / link).is_file(), f"{page}: {link}"


def test_the_docs_open_in_a_browser(browser: Browser, raw: Path, tmp_path: Path) -> None:
    index = validate(raw, validate_params(), tmp_path / "validation").docs
    visit = browser()
    visit.page.goto(index.as_uri())
    visit.page.get_by_role("link", name="the result").click()
    shown = expect(visit.page.locator("body"))  # it waits: on a busy machine the page is empty at first
    shown.to_contain_text("no image occurs twice under two names", use_inner_text=True, timeout=30_000)


def test_a_failure_in_a_pod_names_where_the_docs_open(raw: Path, tmp_path: Path) -> None:
    """The pod's files are lost: the error has the copy's address, the cohort's source and no path of the pod."""
    pod = tmp_path / "minio"
    kept = tmp_path / "volume"
    with pytest.raises(UserError) as failure:
        validate(raw, validate_params(bit_depths=[8]), pod / "validation", publish=str(kept))
    first, problem = str(failure.value).splitlines()
    address = Path(first.partition("; all results: ")[2])
    assert address.parent.parent == kept
    assert str(pod) not in str(failure.value)
    source = json.loads((raw / "cohort.json").read_text())["source"]
    assert first.startswith(f"{source}: 1 of 21 expectations failed")
    assert "montgomery 8 (MCUCXR_0001_1, MCUCXR_0002_0," in problem
    assert all(page.is_file() for page in linked_pages(address))


def test_a_failure_without_a_place_for_the_docs_names_the_images_alone(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as failure:
        validate(raw, validate_params(bit_depths=[8]), tmp_path / "minio/validation", publish="")
    assert "all results" not in str(failure.value)
    assert str(tmp_path / "minio") not in str(failure.value)
    assert "MCUCXR_0001_1" in str(failure.value)


def test_a_copy_that_fails_does_not_hide_the_result(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"1 of 21 expectations failed; correct these images.*params\.yaml\n"):
        validate(raw, validate_params(bit_depths=[8]), tmp_path / "validation", publish=str(tmp_path / "file"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the Data Docs could not be copied: ")
    assert validate(raw, validate_params(), tmp_path / "validation", publish=str(tmp_path / "file")).images == 16


def test_the_docs_are_copied_to_s3_with_their_types(raw: Path, tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises(UserError) as failure:
        validate(raw, validate_params(bit_depths=[8]), tmp_path / "v", publish=f"s3://{bucket.name}/states/")
    address = str(failure.value).splitlines()[0].partition("; all results: ")[2]
    assert address.startswith(f"s3://{bucket.name}/states/validation-")
    key = address.removeprefix(f"s3://{bucket.name}/")
    found = bucket.client.get_object(Bucket=bucket.name, Key=key)
    assert found["ContentType"] == "text/html"
    assert found["Body"].read() == (tmp_path / "v/docs/index.html").read_bytes()
    folder = key.rpartition("/")[0]
    copied = {name.removeprefix(f"{folder}/") for name in bucket.names()}
    assert copied == {str(p.relative_to(tmp_path / "v/docs")) for p in (tmp_path / "v/docs").rglob("*") if p.is_file()}
