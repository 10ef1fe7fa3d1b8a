"""A real headless Chromium, the fixture ``browser``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSIDE = ("data", "blob", "about", "file")


@dataclass
class Visit:
    """A page in a context of its own, and what it did that it should not have done.

    Attributes:
        page: Playwright's page.
        errors: what it wrote to the console as an error, and the exceptions that nothing caught.
        outside: addresses that it asked for and did not get: all but ``allowed`` and what lies in the page itself.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Fail where the console holds an error or the page asked for something from outside."""
        assert self.outside == []
        assert self.errors == []


Browser = Callable[..., Visit]


def chromium() -> str | None:
    """Return where Chromium is: ``CHROMIUM`` names it, else the PATH has it; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


# Not for the whole session: while Playwright runs, asyncio.run is refused in its thread, to other tests as well.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a function that opens a page: ``browser(allowed="http://127.0.0.1:8080", color_scheme="dark") -> Visit``.

    ``allowed`` is the one origin that the page may ask, none for a page that is a file; what else is given goes to
    Playwright's ``new_context`` (viewport, color_scheme, reduced_motion, accept_downloads ...).
    """
    where = chromium()
    if where is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=where, headless=True, args=["--no-sandbox"])

        def visit(allowed: str | None = None, **options: Any) -> Visit:
            seen = Visit(program.new_context(**options).new_page())

            def decide(route: Any) -> None:
                address = urlsplit(route.request.url)
                if address.scheme in INSIDE or f"{address.scheme}://{address.netloc}" == allowed:
                    route.continue_()
                else:
                    seen.outside.append(route.request.url)
                    route.abort()

            seen.page.context.route("**/*", decide)
            seen.page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
            seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
            return seen

        yield visit
        program.close()
