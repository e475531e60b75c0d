"""A viser server that listens where it is told, to whom it may. The only file that imports viser."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from ..recon.errors import BackendUnavailable, HandfulError
from .guard import Guard, guarding

__all__ = ["free_port", "start_server", "undisturbed"]

PORTS_TRIED = 100


def start_server(host: str, port: int, title: str, guard: Guard) -> Any:
    """A running viser server. Raises HandfulError when the address or all ports are taken or impossible, BackendUnavailable without viser."""
    viser = _import_viser()
    with contextlib.redirect_stdout(io.StringIO()), guarding(guard):  # viser prints a table of its own
        server = viser.ViserServer(host=host, port=free_port(host, port), label=title, verbose=False)
    _forbid_sharing(server)
    return server


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C once more while the page closes, which takes a moment, changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _import_viser() -> Any:
    try:
        import viser
    except ImportError as e:
        raise BackendUnavailable(f"The viewer needs viser, which cannot be imported ({e}); run `pip install viser`.") from e
    return viser


def _forbid_sharing(server: Any) -> None:
    """viser opens a public tunnel for any page that asks, whether or not the button is shown; here a scene leaves the machine by --host alone."""
    from viser import _messages

    for name in ("ShareUrlRequest", "ShareUrlDisconnect"):
        message = getattr(_messages, name, None)
        if message in server._websock_server._incoming_handlers:
            server._websock_server.unregister_handler(message)


def free_port(host: str, port: int) -> int:
    """The first free port from `port` on. Found out here because viser would wait for ever on an impossible address."""
    if not 0 <= port <= 65535:
        raise HandfulError(f"There is no port {port}; choose one from 1024 to 65535 with --port.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as e:
        raise HandfulError(f"The viewer cannot listen on {host!r} ({e.strerror or e}); use 127.0.0.1, or 0.0.0.0 for all networks.") from e
    reason = "all are taken"
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate, *address[2:]))
                probe.listen(1)
                return candidate
            except OSError as e:
                reason = e.strerror or str(e)
                if e.errno == errno.EADDRNOTAVAIL:
                    raise HandfulError(f"This machine does not have the address {host}; use 127.0.0.1, or 0.0.0.0 for all networks.") from e
    raise HandfulError(f"No free port from {port} to {min(port + PORTS_TRIED, 65536) - 1} on {host} ({reason}); choose another with --port.")
