"""What these tests calculate, they calculate on one thread, as a sampler does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpo.one_thread import one_thread


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread() -> Iterator[None]:
    with one_thread():
        yield
