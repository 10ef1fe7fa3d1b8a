"""The web page, the model's card and the API documentation, served only from files of this package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse

from serving import viewer

if TYPE_CHECKING:
    from jinja2 import Environment

    from serving.http.service import Service

TEMPLATES = Path(__file__).parent / "templates"
# The only static files that are served.
FILES = {
    TEMPLATES / "page.css": "text/css",
    TEMPLATES / "page.js": "text/javascript",
    TEMPLATES / "icon.svg": "image/svg+xml",
    TEMPLATES / "example.png": "image/png",  # samples/ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png, a drawing
    **{viewer.TEMPLATES / name: "text/css" for name in viewer.STYLES},
    **{viewer.TEMPLATES / name: "text/javascript" for name in viewer.SCRIPTS},
}
CARD = "README.md"  # in a package


def add(app: FastAPI, service: Service) -> None:
    """Add the routes ``/``, ``/card``, ``/docs`` and ``/static``."""

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse((TEMPLATES / "page.html").read_text())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_docs(app))

    @app.get("/card", include_in_schema=False)
    def card() -> HTMLResponse:
        model = service.loader.model
        path = model.package.folder / CARD if model else None
        if path is None or not path.is_file():
            raise HTTPException(404, "the model has no card" if path else "no model is loaded yet; try again")
        return HTMLResponse(_card(path.read_text(encoding="utf-8"), model.name if model else ""))

    for path, kind in FILES.items():
        _add_file(app, path, kind)


def _add_file(app: FastAPI, path: Path, kind: str) -> None:
    content = path.read_bytes()

    @app.get(f"/static/{path.name}", include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader

    # Not StrictUndefined: most fields of OpenAPI are optional.
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _card(text: str, name: str) -> str:
    """Render a model card (Markdown with a metadata block) as an HTML page; HTML in the card is escaped."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        if token.attrs.pop("style", None) == "text-align:right":  # the page's CSP forbids inline styles
            token.attrs["class"] = "number"
    body = markdown.renderer.render(tokens, markdown.options, {})
    return _environment().get_template("card.html.j2").render(name=name, body=Markup(body))  # noqa: S704


@cache
def _docs(app: FastAPI) -> str:
    environment = _environment()
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
