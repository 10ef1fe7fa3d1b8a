"""The web page and the API documentation, served only from files of this package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

TEMPLATES = Path(__file__).parent / "templates"
# The only static files that are served.
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "viewer.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def add(app: FastAPI) -> None:
    """Add the routes ``/``, ``/docs`` and ``/static``."""

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_read("page.html"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_docs(app))

    for name, kind in FILES.items():
        _add_file(app, name, kind)


def _add_file(app: FastAPI, name: str, kind: str) -> None:
    @app.get(f"/static/{name}", include_in_schema=False)
    async def file() -> Response:
        return Response(_read(name), media_type=kind)


@cache
def _read(name: str) -> str:
    return (TEMPLATES / name).read_text()


@cache
def _docs(app: FastAPI) -> str:
    from jinja2 import Environment, FileSystemLoader

    # No StrictUndefined, since most fields of OpenAPI are optional.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["kind"] = kind_of
    return environment.get_template("docs.html.j2").render(api=app.openapi())


def kind_of(schema: dict[str, Any]) -> str:
    """Return the type of an OpenAPI schema as text: ``number or null``, ``list of Flag``, ``json | mask``."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(kind_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "prefixItems" in schema:
        return " and ".join(kind_of(each) for each in schema["prefixItems"])
    if schema.get("type") == "array":
        return f"list of {kind_of(schema['items'])}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", "any"))
