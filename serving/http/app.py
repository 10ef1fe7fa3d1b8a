"""The routes of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator

from core import __version__
from serving.http import pages
from serving.http.answers import Form, Picture, Prediction, Problem, choose
from serving.http.bodies import RETRY
from serving.http.guard import Guard
from serving.http.middleware import Middleware
from serving.http.service import Service
from serving.viewer.about import About

FILE = {"type": "string", "format": "binary"}
BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": FILE},
        "image/png": {"schema": FILE},
        "image/jpeg": {"schema": FILE},
        "image/tiff": {"schema": FILE},
        "application/dicom": {"schema": FILE},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": FILE}},
        },
    },
}
REFUSALS = {
    400: "the form cannot be read, or holds no file; an unknown host; two lengths",
    401: "a key is missing or wrong",
    406: "Accept allows no media type of this service",
    408: "the body arrived too slowly",
    413: "too many bytes or pixels",
    415: "Content-Encoding other than identity",
    422: "not a usable X-ray, or an invalid parameter",
    503: "busy, or no model loaded yet; see Retry-After",
    504: "timeout",
}
ABOUT = (
    "Finds the lungs in a frontal chest X-ray. A research tool: not a medical device, and not for diagnosis. "
    "The file format is detected from the content: PNG, JPEG, TIFF or DICOM."
)


def make_app(service: Service, guard: Guard) -> Middleware:
    """Return the ASGI application of a service."""
    app = FastAPI(title="Lung segmentation", version=__version__, description=ABOUT, docs_url=None, redoc_url=None)
    _predict(app, service)
    _watching(app, service)
    pages.add(app, service)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # loc is (source, name, index in a list). The message omits the value: it may be patient data.
        name = first["loc"][1] if len(first["loc"]) > 1 else first["loc"][0]
        return JSONResponse({"detail": f"{name}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "internal error; see the service's log"}, 500)

    return Middleware(app, service.metrics, guard, lambda: service.stopping)


def _predict(app: FastAPI, service: Service) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in REFUSALS.items()
    }
    responses[200] = {"description": "the result", "model": Prediction, "content": {"image/png": {"schema": FILE}}}

    @app.post(
        "/predict",
        responses=responses,
        response_class=Response,
        openapi_extra={"requestBody": BODY},
        summary="Find the lungs in one X-ray",
    )
    async def predict(
        request: Request,
        format: Annotated[
            Form | None,
            Query(description="format of the response; default: Accept decides, image/png is the mask, else JSON"),
        ] = None,
        include: Annotated[
            list[Picture],
            BeforeValidator(_names),
            Query(description="what else a JSON response has: include=mask,image,overlay,shapes,seg, or some"),
        ] = [],  # noqa: B006
    ) -> Response:
        """Send the file as the whole body, or as the one file of a form."""
        form = choose(format, request.headers.get("accept", ""))
        done = await service.predict(request, form, include)
        request.scope.setdefault("state", {})["said"] = {"model_version": done.model.version, "flags": done.flags}
        headers = {
            "X-Model-Name": quote(done.model.name),  # headers are Latin-1, names any Unicode
            "X-Model-Version": done.model.version,
            "X-Quality-Flags": ",".join(done.flags),
        }
        return Response(done.answer.body, media_type=done.answer.media_type, headers=headers)


def _names(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",")]


def _watching(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/ready",
        summary="Whether a model is loaded and new requests should come here",
        responses={503: {"description": "no model loaded yet, or stopping"}},
    )
    async def ready() -> JSONResponse:
        state = {"ready": service.ready, "stopping": service.stopping, **service.loader.status()}
        if service.shadow:
            state["shadow"] = service.shadow.status()
        return JSONResponse(state, 200 if service.ready else 503)

    @app.get(
        "/model",
        summary="What the model is: its cohort, and its Dice on test images",
        responses={503: {"model": Problem, "description": "no model loaded yet"}},
    )
    async def model() -> About:
        if service.about is None:
            raise HTTPException(503, "no model is loaded yet; try again", RETRY)
        return service.about

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)
