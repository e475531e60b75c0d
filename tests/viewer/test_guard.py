"""Who may open the page: this machine's own browser, or whoever has the link with its token; and nothing that is sent ends it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from handful.viewer.guard import Guard, is_local
from handful.viewer.server import SceneServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol


@pytest.fixture
def server() -> Iterator[SceneServer]:
    with SceneServer(port=18700, announce=None) as s:
        yield s


@pytest.fixture
def opened() -> Iterator[SceneServer]:
    """As with --host."""
    with SceneServer(host="0.0.0.0", port=18720, announce=None) as s:
        yield s


def get(port: int, path: str = "/", **headers: str) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Accept-Encoding": "identity", **headers})
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace"), answer.getheader("Set-Cookie")


def knock(port: int, origin: str | None, cookie: str | None = None, host: str | None = None) -> int:
    """Status of an attempt to open the websocket."""
    import viser

    headers = {"Cookie": cookie} if cookie else {}
    try:
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        with connect(f"ws://{host or f'127.0.0.1:{port}'}", sock=socket.create_connection(("127.0.0.1", port)), origin=origin, additional_headers=headers, subprotocols=[protocol], max_size=None) as ws:  # pyright: ignore
            assert ws.recv(timeout=10)
            return 101
    except InvalidStatus as e:
        return e.response.status_code


def test_only_names_of_this_machine_are_answered(server: SceneServer) -> None:
    """Else a page of the internet whose name is pointed at 127.0.0.1 could read the scene."""
    assert get(server.port)[0] == get(server.port, Host=f"localhost:{server.port}")[0] == 200
    status, text, _ = get(server.port, Host=f"evil.example:{server.port}")
    assert status == 403 and "open the link" in text and "<html" not in text
    named = f"127.evil.example:{server.port}"  # a name that begins like an address
    assert get(server.port, Host=named)[0] == knock(server.port, f"http://{named}", host=named) == 403


def test_another_page_cannot_open_the_scene(server: SceneServer) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert knock(server.port, own) == knock(server.port, None) == 101
    assert knock(server.port, "https://evil.example") == knock(server.port, "null") == knock(server.port, f"http://127.0.0.1:{server.port + 1}") == 403


def test_beyond_this_machine_a_token_is_needed(opened: SceneServer) -> None:
    token = opened._guard.token
    assert token is not None and len(token) >= 16 and opened.url == f"http://localhost:{opened.port}/?token={token}"
    assert get(opened.port)[0] == get(opened.port, "/?token=guess")[0] == get(opened.port, "/?token=")[0] == 403
    status, text, cookie = get(opened.port, f"/?token={token}")
    assert status == 200 and "<html" in text.lower()
    assert cookie is not None and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    kept = cookie.split(";")[0]
    own = f"http://127.0.0.1:{opened.port}"
    assert get(opened.port, Cookie=kept)[0] == 200
    assert knock(opened.port, own) == 403 and knock(opened.port, own, kept) == 101
    assert knock(opened.port, own, f'other={{"x":1}}; {kept}; last') == 101, "cookies of other programs on this machine may be of any kind"
    assert knock(opened.port, own, kept.replace(token, "x" * len(token))) == 403
    assert knock(opened.port, "https://evil.example", kept) == 403


def test_the_token_is_told_with_the_link(capsys: pytest.CaptureFixture[str]) -> None:
    with SceneServer(host="0.0.0.0", port=18740) as s:
        assert capsys.readouterr().out == f"Open {s.url} in your browser.\n" and "token=" in s.url
    with SceneServer(host="0.0.0.0", port=18740, announce=None) as other:
        assert other.url.split("token=")[1] != s.url.split("token=")[1]


@pytest.mark.parametrize("headers", [{}, {"Host": "[::1"}, {"Host": ""}, {"Host": "localhost", "Cookie": "=;;="}, {"Host": "localhost", "Origin": "http://["}])
def test_broken_headers_are_refused_or_harmless(headers: dict[str, str]) -> None:
    try:
        Guard("127.0.0.1").refusal("/", headers)
        assert Guard("0.0.0.0").refusal("/?token=%ff", headers) is not None
    except ValueError as e:
        pytest.fail(f"{headers}: {e}")


def test_local_addresses() -> None:
    assert is_local("localhost") and is_local("127.0.0.1") and is_local("127.8.8.8") and is_local("::1")
    assert not is_local("127.name.lan") and not is_local("localhost.evil.example")
    assert not is_local("0.0.0.0") and not is_local("::") and not is_local("") and not is_local("192.168.0.3")


@pytest.mark.parametrize("message", [b"", b"\x00", b"\xc1", b"\x93\x01\x02", b"\x81\xa4type\xa4none", b"\xff" * 5000, "text"])
def test_a_malformed_message_ends_nothing(server: SceneServer, message: bytes | str) -> None:
    import viser

    protocol = Subprotocol(f"viser-v{viser.__version__}")
    with connect(f"ws://127.0.0.1:{server.port}", subprotocols=[protocol], max_size=None) as ws:
        ws.recv(timeout=10)
        try:
            ws.send(message)
            ws.send(message)
        except ConnectionClosed:
            pass
    assert knock(server.port, None) == 101 and get(server.port)[0] == 200
    server.set_status("still here")


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/scene.ply", "/edits.json", "//etc/passwd"])
def test_nothing_but_the_page_is_served(server: SceneServer, path: str) -> None:
    assert get(server.port, path)[0] == 404
