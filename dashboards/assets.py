"""What pages are made of besides HTML: style, scripts, and plotly's own script from its package.

Each is asked for by a URL with its digest, so that browsers may keep it for ever and never use an old one.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
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
    packed: bytes  # by gzip
    media_type: str
    digest: str


@cache
def asset(name: str) -> Asset | None:
    """The file of that name; None where there is none."""
    ending = name.rpartition(".")[2]
    if "/" in name or "\\" in name or ending not in TYPES:
        return None
    if name == PLOTLY:
        source = files("plotly") / "package_data" / "plotly.min.js"
    else:
        source = files("dashboards") / "static" / name
    if not source.is_file():
        return None
    content = source.read_bytes()
    return Asset(
        content=content,
        packed=gzip.compress(content, compresslevel=6, mtime=0),
        media_type=TYPES[ending],
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
