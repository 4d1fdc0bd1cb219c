"""What goes over the wire: requests, responses and errors, parts of files, pages of listings."""

import json
import re
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs, parse_qsl, urlencode

MAX_PAGE = 1000


class HubError(Exception):
    """What the Hub answers with an error status. `code` is its X-Error-Code."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Request:
    """A received call. `account` is None if the token is missing or unknown."""

    method: str
    path: str
    query: str
    headers: Message
    body: bytes
    account: object

    def json(self):
        return json.loads(self.body)

    def options(self, name) -> list[str]:
        """The query's values of a name: clients write lists as `name=` or `name[]=`."""
        query = parse_qs(self.query)
        return query.get(name, []) + query.get(f"{name}[]", [])

    def option(self, name) -> str:
        """A value of the query string, or an empty text."""
        return next(iter(self.options(name)), "")

    def is_on(self, name) -> bool:
        """Whether an option is set: clients write True, true and 1."""
        return self.option(name).lower() in ("true", "1")


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)


def json_response(value, status=200):
    # A card's YAML may hold dates.
    return Response(
        status,
        json.dumps(value, default=str).encode(),
        {"Content-Type": "application/json; charset=utf-8"},
    )


def error_response(error):
    """An error as the Hub words it, in headers and body."""
    response = json_response({"error": str(error)}, error.status)
    # A header takes ASCII on one line.
    message = str(error).encode("ascii", "replace").decode()
    response.headers["X-Error-Message"] = " ".join(message.split())
    if error.code:
        response.headers["X-Error-Code"] = error.code
    return response


def file_response(request, body, headers):
    """A file, or the one byte range of the Range header; other ranges are ignored."""
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range") or "")
    if request.method != "GET" or not wanted or wanted[0] == "bytes=-":
        return Response(200, body, headers)
    size = len(body)
    start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
    end = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
    if start >= end:
        return Response(416, b"", headers | {"Content-Range": f"bytes */{size}"})
    return Response(
        206, body[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    )


def page_response(hub, request, items, size):
    """The requested page of a listing, and the next page's address; `size`: default page size."""
    size = min(int(request.option("limit") or size), hub.page_size or MAX_PAGE, MAX_PAGE)
    start = int(request.option("cursor") or 0)
    response = json_response(items[start : start + size])
    response.headers["X-Total-Count"] = str(len(items))
    if start + size < len(items):
        query = [(name, value) for name, value in parse_qsl(request.query) if name != "cursor"]
        following = f"{hub.url}{request.path}?{urlencode([*query, ('cursor', start + size)])}"
        # Absolute and quoted just so: the JavaScript client reads nothing else.
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response
