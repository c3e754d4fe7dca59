"""Who may talk to the live view: browsers of this machine that know its token, and pages of its own.

A page of another site can send requests to a local port, and a name that it owns can be made to point here. So the Host
must be this server, the Origin, where a browser names one, its own page, and the path must begin with the token.
"""

import secrets
from collections.abc import Iterable
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

LARGEST = 1 << 20  # bytes of a request's body
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Answers 403 to everybody else, before anything is read or routed."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http" or not self._welcome(scope):
            await PlainTextResponse("forbidden", 403, HEADERS)(scope, receive, send)
        elif not self._small(scope):
            await PlainTextResponse("too large", 413, HEADERS)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _welcome(self, scope: Scope) -> bool:
        hosts, origins = (list(_named(scope, name)) for name in (b"host", b"origin"))
        given = scope["path"].split("/")[1].encode()
        return (
            len(hosts) == 1
            and hosts[0] in self.hosts
            and all(origin == f"http://{hosts[0]}" for origin in origins)
            and secrets.compare_digest(given, self.token.encode())
        )

    def _small(self, scope: Scope) -> bool:
        """A body must say how large it is."""
        sizes = list(_named(scope, b"content-length"))
        chunked = any(_named(scope, b"transfer-encoding"))
        return not chunked and all(size.isdigit() and int(size) <= LARGEST for size in sizes)


def _named(scope: Scope, name: bytes) -> Iterable[str]:
    return (value.decode("latin-1").lower() for key, value in scope["headers"] if key.lower() == name)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            names = {key.lower() for key, _ in there}
            more = [(key.encode(), value.encode()) for key, value in HEADERS.items() if key.encode() not in names]
            headers: dict[str, Any] = {"headers": [*there, *more]}
            message = {**message, **headers}
        await send(message)

    return sending
