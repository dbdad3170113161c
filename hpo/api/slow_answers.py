"""Who waits while a slow answer is worked out? The request, on the event loop; no thread does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from hpo.service.calculations import patiently


class SlowRoute(APIRoute):
    """The class of routes that ask `service.calculations` before they change anything, if they do.

    Used as `APIRouter(route_class=SlowRoute)`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As its base's, begun again once what it lacked is there."""
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            return await patiently(lambda: handler(request))

        return handled
