"""What pages are made of besides HTML: style, scripts, and plotly's own script from its package.

Each is asked for by a URL with its digest, so that browsers may keep it for ever and never use an old one.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from hpo.api.problems import ApiError

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PLOTLY = "plotly.js"
KEPT = "public, max-age=31536000, immutable"
DIGEST_LENGTH = 12

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    media_type: str
    digest: str

    @cached_property
    def packed(self) -> bytes:
        """By gzip, once it is asked for: plotly takes a fifth of a second."""
        return gzip.compress(self.content, compresslevel=6, mtime=0)


def asset(name: str) -> Asset | None:
    """The file of that name; None where there is none."""
    return _read(name) if name in _names() else None


@cache
def _names() -> frozenset[str]:
    """Those that there are: what else anybody asks for is neither looked for nor remembered."""
    ours = (each.name for each in (files("dashboards") / "static").iterdir())
    return frozenset({PLOTLY, *(name for name in ours if _ending(name) in TYPES)})


def _ending(name: str) -> str:
    return name.rpartition(".")[2]


@cache
def _read(name: str) -> Asset:
    if name == PLOTLY:
        content = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    else:
        content = (files("dashboards") / "static" / name).read_bytes()
    return Asset(
        content=content,
        media_type=TYPES[_ending(name)],
        digest=sha256(content).hexdigest()[:DIGEST_LENGTH],
    )


def url_of(name: str) -> str:
    """Where a page asks for it. Raises FileNotFoundError: a template names a file that there is not."""
    found = asset(name)
    if found is None:
        raise FileNotFoundError(f"dashboards/static has no {name}")
    return f"/static/{name}?v={found.digest}"


@router.get("/static/{name}")
def get_asset(request: Request, name: str, v: str = "") -> Response:
    """Open to everybody: the login page needs it, and it tells nothing."""
    found = asset(name)
    if found is None:
        raise ApiError(404, "not-found", f"there is no {name} here")
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {
        "Cache-Control": KEPT if v == found.digest else "no-cache",
        "ETag": f'"{found.digest}"',
        "Vary": "Accept-Encoding",
        **({"Content-Encoding": "gzip"} if is_packed else {}),
    }
    return Response(found.packed if is_packed else found.content, media_type=found.media_type, headers=headers)
