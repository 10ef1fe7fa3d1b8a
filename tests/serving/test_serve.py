"""The service's answers, over real HTTP."""

from __future__ import annotations

import base64
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from core import __version__
from tests.conftest import Trained, refused
from tests.serving.serving import Served, chest, launch, png, ready


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def expected(package: Path, picture: np.ndarray) -> np.ndarray:
    from registry.packages import load

    (found,) = load(package, "onnxruntime", 1).segment([picture])
    return found.mask * np.uint8(255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_mask_is_what_the_package_finds_at_the_pictures_own_size(
    service: Served, package: Path, dtype: type
) -> None:
    picture = chest(133, 97, dtype)
    answer = service.predict(png(picture), headers={"Accept": "image/png"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    np.testing.assert_array_equal(pixels(answer.content), expected(package, picture))


def test_a_form_and_a_body_are_answered_alike(service: Served) -> None:
    data = png(chest())
    with service.client() as client:
        form = client.post("/predict", files={"file": ("../../etc/passwd", data, "image/png")})
    body = service.predict(data)
    assert form.status_code == body.status_code == 200
    assert form.json() == body.json()


def test_json_holds_findings_and_the_pictures_asked_for(service: Served, package: Path) -> None:
    picture = chest()
    told = service.predict(png(picture), params={"include": ["mask", "image", "overlay"]}).json()
    mask = pixels(base64.b64decode(told["mask"]))
    np.testing.assert_array_equal(mask, expected(package, picture))
    assert told["findings"]["lungs"]["pixels"] == np.count_nonzero(mask)
    assert told["picture"] == {"kind": "png", "width": 100, "height": 120}
    assert pixels(base64.b64decode(told["image"])).shape == picture.shape
    assert pixels(base64.b64decode(told["overlay"])).shape[2] == 3
    bare = service.predict(png(picture)).json()
    assert (bare["mask"], bare["image"], bare["overlay"]) == (None, None, None)
    assert bare["findings"] == told["findings"]


def test_a_picture_of_little_contrast_is_shown_alike_with_and_without_its_mask(service: Served) -> None:
    dull = (chest(dtype=np.uint16) // 64 + 30_000).astype(np.uint16)
    told = service.predict(png(dull), params={"include": ["image", "overlay"]}).json()
    image, overlay = (pixels(base64.b64decode(told[name])) for name in ("image", "overlay"))
    assert (image.min(), image.max()) == (0, 255)
    plain = np.ptp(overlay, axis=2) == 0
    assert plain.any()
    np.testing.assert_array_equal(overlay[plain][:, 0], image[plain])


@pytest.mark.parametrize(
    ("accept", "asked", "kind"),
    [
        ("*/*", None, "application/json"),
        ("text/html,*/*;q=0.1", None, "application/json"),
        ("application/json;q=0.2, image/png", None, "image/png"),
        ("image/*", None, "image/png"),
        ("application/json", "mask", "image/png"),
        ("image/png", "json", "application/json"),
        ("*/*", "overlay", "image/png"),
    ],
)
def test_accept_or_format_chooses_the_answer(service: Served, accept: str, asked: str | None, kind: str) -> None:
    answer = service.predict(png(chest()), headers={"Accept": accept}, params={"format": asked} if asked else {})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)


def test_pictures_are_asked_for_in_one_parameter_or_in_several(service: Served) -> None:
    data = png(chest())
    with service.client() as client:
        told = [
            client.post(f"/predict?{query}", content=data).json()
            for query in ("include=mask&include=overlay", "include=mask,overlay", "include=mask,%20overlay,mask")
        ]
        assert told[0] == told[1] == told[2]
        assert [told[0][name] is not None for name in ("mask", "image", "overlay")] == [True, False, True]
        for query in ("include=mask,Doe", "include=Doe", "include=mask&include=Doe", "include="):
            wrong = client.post(f"/predict?{query}", content=data)
            assert (wrong.status_code, wrong.json()) == (
                422,
                {"detail": "include: Input should be 'mask', 'image', 'overlay', 'shapes' or 'seg'"},
            )


def test_what_cannot_be_answered_is_said(service: Served) -> None:
    assert service.predict(png(chest()), headers={"Accept": "text/html"}).status_code == 406
    wrong = service.predict(png(chest()), params={"format": "gif"})
    assert wrong.status_code == 422
    assert "format" in wrong.json()["detail"]


def test_health_readiness_and_metrics(service: Served) -> None:
    with service.client() as client:
        assert client.get("/health").json() == {"status": "alive"}
        told = client.get("/ready").json()
        assert told["ready"] is True
        assert told["model"]["engine"] == "onnxruntime"
    done = 'defunet_requests_total{route="/predict",status="200"}'
    service.predict(png(chest()))
    before = service.metric(done)
    answer = service.predict(png(chest()))
    assert service.metric(done) == before + 1
    version = answer.headers["x-model-version"]
    assert service.metric("defunet_model_info") == 1
    with service.client() as client:
        text = client.get("/metrics").text
    assert f'version="{version}"' in text
    assert service.metric("defunet_queue_length") == 0
    for flag in filter(None, answer.headers["x-quality-flags"].split(",")):
        assert service.metric(f'defunet_flags_total{{flag="{flag}"}}') >= 1


def test_the_interface_is_described_and_its_page_asks_for_nothing_from_outside(service: Served) -> None:
    with service.client() as client:
        described = client.get("/openapi.json").json()
        page = client.get("/docs")
    assert described["info"]["version"] == __version__
    operation = described["paths"]["/predict"]["post"]
    assert {"multipart/form-data", "application/dicom"} <= set(operation["requestBody"]["content"])
    assert {"200", "408", "413", "422", "503", "504"} <= set(operation["responses"])
    assert "Findings" in described["components"]["schemas"]
    assert page.status_code == 200
    for path in described["paths"]:
        assert path in page.text
    assert all(address.startswith("/") for address in re.findall(r'(?:href|src)="([^"]*)"', page.text))


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/nothing", "/static/page.js"])
def test_every_answer_has_the_security_headers(service: Served, path: str) -> None:
    with service.client() as client:
        answer = client.get(path, headers={"Origin": "https://elsewhere.example"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


def test_a_log_line_is_json_and_knows_no_file(service: Served) -> None:
    before = len(service.log("request"))
    with service.client() as client:
        client.post("/predict?patient=Doe", files={"file": ("Doe^Jane.png", png(chest()), "image/png")})
        client.post("/predict", files={"file": ("Doe^Jane.png", b"%PDF-1.4", "image/png")})
        client.get("/Doe/Jane")
    assert service.job.until(lambda: len(service.log("request")) >= before + 3, 20)  # written after the answer went out
    done, failed, lost = service.log("request")[before:]
    assert (done["route"], done["status"]) == ("/predict", 200)
    assert done["model_version"]
    assert (failed["status"], lost["status"]) == (422, 404)
    assert "Doe" not in service.job.output + service.job.errors


def test_requests_at_the_same_time_are_computed_together_and_each_gets_its_own(trained: Trained, package: Path) -> None:
    busy = ready(launch(trained.project, package, "--max-batch", 4, "--max-wait", 0.5))
    pictures = [chest(90 + 3 * n, 80 + n, seed=n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda p: busy.predict(png(p), params={"format": "mask"}), pictures))
    for picture, answer in zip(pictures, answers, strict=True):
        np.testing.assert_array_equal(pixels(answer.content), expected(package, picture))
    assert busy.metric("defunet_batch_size_sum") == 8
    assert busy.metric("defunet_batch_size_count") < 8
    assert busy.stop().returncode == 0


@pytest.mark.slow
def test_a_full_service_says_when_to_come_again_and_a_late_answer_is_an_error(trained: Trained, package: Path) -> None:
    # One request waits for others that never come: it holds the one place, and its time runs out.
    full = ready(
        launch(trained.project, package, "--max-queue", 1, "--max-wait", 60, "--request-timeout", 3, "--max-batch", 9)
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(full.predict, png(chest()))
        assert full.job.until(lambda: full.metric("defunet_queue_length") == 1)
        second = full.predict(png(chest()))
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        late = first.result()
    assert late.status_code == 504
    assert full.metric("defunet_predictions_in_flight") == 0
    assert full.stop().returncode == 0


@pytest.mark.slow
def test_a_models_name_may_hold_anything(trained: Trained, package: Path, tmp_path: Path) -> None:
    named = ready(launch(trained.project, shutil.copytree(package, tmp_path / "肺 Łunge")))
    answer = named.predict(png(chest()))
    assert (answer.status_code, unquote(answer.headers["x-model-name"])) == (200, "肺 Łunge")
    assert answer.json()["model"]["name"] == "肺 Łunge"
    assert named.stop().returncode == 0


def test_large_pictures_at_once_are_bounded(trained: Trained, package: Path) -> None:
    small = ready(launch(trained.project, package, "--max-megapixels-at-once", 0.02))
    assert small.predict(png(chest(100, 100))).status_code == 200
    answer = small.predict(png(chest(200, 200)))
    assert (answer.status_code, "busy" in answer.json()["detail"]) == (503, True)
    assert small.predict(png(chest(100, 100))).status_code == 200
    assert small.stop().returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("nowhere", (), "no model package"),
        ("models:/nothing@champion", (), "nothing"),
        (None, ("--host", "192.0.2.1"), "192.0.2.1"),
    ],
)
def test_a_service_that_cannot_begin_says_why(
    trained: Trained, package: Path, model: str | None, options: tuple[Any, ...], words: str
) -> None:
    line = trained.project.line("serve", "--model", model or package, "--port", 0, *options)
    done = trained.project.call(line)
    assert words in refused(done)
    assert model != "nowhere" or done.stdout == "", "it says that it listens, and cannot"


def test_an_unknown_engine_is_a_wrong_call(trained: Trained) -> None:
    done = trained.project.call(trained.project.line("serve", "--engine", "abacus"))
    assert (done.returncode, "no engine 'abacus'; there are auto, " in done.stderr) == (2, True), done.stderr


def test_a_taken_port_is_told(service: Served, trained: Trained, package: Path) -> None:
    line = trained.project.line("serve", "--model", package, "--port", service.port)
    assert str(service.port) in refused(trained.project.call(line))
