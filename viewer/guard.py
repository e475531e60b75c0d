"""Who may open the page. The websocket library's hook that answers requests is guarded from outside, since viser has none. No viser here."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import secrets
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Guard", "guarding", "is_local"]

_patching = threading.Lock()


def is_local(host: str) -> bool:
    """Whether this address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback  # an address, not a name that begins like one
    except ValueError:
        return False


class Guard:
    """Answers requests that must not come through.

    - A page that listens on this machine alone answers to this machine's own names alone, so that no name of the internet can be pointed at it.
    - A websocket is opened by our own page alone: a browser tells the page that asks (Origin), programs tell none.
    - A page that others can reach asks for its token, in the link (`?token=...`) or in the cookie that the link leaves.
    """

    def __init__(self, host: str) -> None:
        self.local = is_local(host)
        self.token = None if self.local else secrets.token_urlsafe(12)

    def refusal(self, path: str, headers: Any) -> str | None:
        """A sentence for whoever must stay out; None for who may come in."""
        host = _named_host(headers.get("Host", ""))
        if self.local and not is_local(host):
            return "This page answers to the name of its own machine only; open the link that Handful printed."
        origin = headers.get("Origin")
        if origin is not None and origin.partition("//")[2] != headers.get("Host"):
            return "Another page asks for this scene; open the link that Handful printed."
        if self.token is not None and not any(hmac.compare_digest(t.encode(), self.token.encode()) for t in self._shown(path, headers)):
            return "This scene is for those who have its whole link, with its token; ask whoever started it."
        return None

    def cookie(self, path: str, headers: Any) -> str | None:
        """What a page that was opened with the token is to remember; the port in its name keeps two scenes of one machine apart."""
        if self.token is None or self.token not in parse_qs(urlsplit(path).query).get("token", []):
            return None
        return f"{_cookie_name(headers)}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    def _shown(self, path: str, headers: Any) -> Iterator[str]:
        yield from parse_qs(urlsplit(path).query).get("token", [])
        for pair in headers.get("Cookie", "").split(";"):  # by hand: the standard library gives up at the first cookie of another program that it cannot read
            name, _, value = pair.strip().partition("=")
            if name == _cookie_name(headers):
                yield value


def _cookie_name(headers: Any) -> str:
    _, _, port = headers.get("Host", "").rpartition(":")
    return f"handful-{port if port.isdigit() else 80}"


def _named_host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


@contextlib.contextmanager
def guarding(guard: Guard) -> Iterator[None]:
    """While a server of the websockets package is started in this block, its requests pass the guard first, for as long as it lives."""
    import websockets.asyncio.server as library
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    original: Any = library.serve

    def serve(*args: Any, process_request: Any = None, **options: Any) -> Any:
        def guarded(connection: Any, request: Any) -> Any:
            refused = guard.refusal(request.path, request.headers)
            if refused is not None:
                body = refused.encode()
                return Response(
                    HTTPStatus.FORBIDDEN, "Forbidden",
                    Headers({"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}), body,
                )  # fmt: skip
            answer = None if process_request is None else process_request(connection, request)
            cookie = guard.cookie(request.path, request.headers)
            if answer is not None:
                answer.headers["Referrer-Policy"] = "no-referrer"  # the link holds the token
                answer.headers["X-Frame-Options"] = "SAMEORIGIN"
                if cookie is not None:
                    answer.headers["Set-Cookie"] = cookie
            return answer

        return original(*args, process_request=guarded, **options)

    with _patching:
        library.serve = serve
        try:
            yield
        finally:
            library.serve = original
