"""A real Chromium, as long as a test needs it; what it should not do is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
EXTRA = ["--no-sandbox", "--disable-dev-shm-usage"]


class Watched:
    """A page in a window of its own, and what went wrong in it."""

    def __init__(self, page: Page, *, may_fail: str = "\0") -> None:
        self.page, self._may_fail = page, may_fail
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _heard(self, message: Any) -> None:
        if message.type == "error" and self._may_fail not in self.page.url:
            self.problems.append(f"{self.page.url}: {message.text}")

    def check(self) -> None:
        """Nothing was complained about, and nobody else was asked."""
        assert self.problems == []
        assert len(self.hosts - {""}) == 1, self.hosts


@contextmanager
def window(*, may_fail: str = "\0", **options: Any) -> Iterator[Watched]:
    """A new window. may_fail: a part of the addresses whose scripts are not ours. Skips where there is no Chromium."""
    if not CHROMIUM.exists() and not os.environ.get("CI"):
        pytest.skip(f"the pages are tried in {CHROMIUM}, which is not there: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=EXTRA)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        watched = Watched(context.new_page(), may_fail=may_fail)
        try:
            yield watched
        finally:
            watched.page.goto("about:blank")  # ends its streams, for which the browser would wait
            browser.close()
