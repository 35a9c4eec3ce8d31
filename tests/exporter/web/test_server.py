"""What a client may hold: connections, requests, bytes, time. Over real sockets, with the limits made small."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from starlette.responses import PlainTextResponse

from exporter.web.server import HttpServer, Limits, listen

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@contextlib.contextmanager
def serving(app=None, **limits):
    listening = listen("127.0.0.1:0")
    server = HttpServer(app or PlainTextResponse("fine\n"), [listening], limits=Limits(**limits))
    server.start()
    try:
        yield lambda: socket.create_connection(listening.getsockname(), 10)
    finally:
        server.stop()


def answer(connection, request=GET):
    connection.sendall(request)
    received = connection.recv(65536).decode()
    while not received.partition("\r\n\r\n")[2]:
        more = connection.recv(65536).decode()
        assert more, f"ended after {received!r}"
        received += more
    return received


def refuses(connection, part):
    time.sleep(0.05)
    try:
        connection.sendall(part)
    except ConnectionError:
        return True
    return False


def ended_after(connection):
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def test_a_head_that_dribbles_is_cut_at_its_deadline_however_it_goes_on():
    with serving(head_seconds=0.5) as connect, connect() as slow:
        assert any(refuses(slow, b"X") for _ in range(40)), "two seconds of it, or more"


def test_a_silent_connection_is_cut_too_and_an_honest_one_beside_it_is_served():
    with serving(head_seconds=0.5) as connect, connect() as silent, connect() as honest:
        assert answer(honest).startswith("HTTP/1.1 200")
        assert ended_after(silent) < 2


def test_one_connection_serves_many_requests_until_it_is_idle_for_too_long():
    with serving(head_seconds=0.3, keep_alive_seconds=1.0) as connect, connect() as connection:
        for _ in range(4):
            assert answer(connection).startswith("HTTP/1.1 200")
            time.sleep(0.4)
        assert 0.2 < ended_after(connection) < 2


def test_a_client_that_does_not_take_its_answer_is_cut():
    gone = threading.Event()

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.sleep(0)) is None and not gone.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    with serving(endless, answer_seconds=0.5) as connect, connect() as lazy:
        lazy.sendall(GET)
        time.sleep(1.2)
        gone.set()
        assert ended_after(lazy) < 3


def test_requests_beyond_the_limit_are_refused_at_once_not_kept_waiting():
    release = threading.Event()

    async def slow(scope, receive, send):
        await asyncio.to_thread(release.wait, 20)
        await PlainTextResponse("late\n")(scope, receive, send)

    with serving(slow, requests_at_once=3) as connect, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect()) for _ in range(3)]
        for each in held:
            each.sendall(GET)
        time.sleep(0.3)
        with connect() as one_more:
            began = time.monotonic()
            refused = answer(one_more)
            assert refused.startswith("HTTP/1.1 503")
            assert "retry-after: 1" in refused.lower()
            assert time.monotonic() - began < 1
        release.set()
        assert all("200 OK" in each.recv(65536).decode() for each in held)
        with connect() as later:
            assert answer(later).startswith("HTTP/1.1 200")


def test_silent_connections_cannot_shut_a_scraper_out():
    with serving(connections=8) as connect, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect()) for _ in range(40)]
        with connect() as honest:
            assert answer(honest).startswith("HTTP/1.1 200")
        assert ended_after(silent[0]) < 1, "the longest silent one gave way"


def test_two_hundred_scrapers_at_once_are_all_answered():
    answers = []

    def scrape(connect):
        with connect() as connection:
            answers.append(answer(connection)[:12])

    with serving() as connect:
        threads = [threading.Thread(target=scrape, args=(connect,)) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert set(answers) <= {"HTTP/1.1 200", "HTTP/1.1 503"}
    assert len(answers) == 200


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(4_000)) + b"\r\n", 431),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400),
    ],
    ids=["large body", "endless body", "long path", "many headers", "TLS to a plain port"],
)
def test_a_request_that_is_too_large_is_refused_and_the_connection_closed(request_head, status):
    with serving() as connect, connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request_head)
        # A head that comes in pieces is refused as soon as it is too long, before it is understood.
        assert connection.recv(65536).decode().startswith((f"HTTP/1.1 {status}", "HTTP/1.1 400"))
        assert ended_after(connection) < 2


def test_what_is_no_http_is_refused_with_the_headers_of_every_answer():
    with serving() as connect, connect() as connection:
        head, _, body = answer(connection, b"hello\r\n\r\n").partition("\r\n\r\n")
        status, *headers = head.split("\r\n")
        assert status == "HTTP/1.1 400 Bad Request"
        assert {"connection: close", "x-frame-options: DENY", f"content-length: {len(body)}"} <= {*headers}
        assert body == "Invalid HTTP request received.\n"
        assert ended_after(connection) < 2


def test_stopping_does_not_wait_for_clients():
    with serving() as connect:
        idle = connect()
        answer(idle)
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    idle.close()


_ACTIVATED = """
import os, sys
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.execv(sys.executable, [sys.executable, "-m", "exporter", "serve", "--web.systemd-socket"])
"""


def test_the_socket_that_systemd_passed_is_served_on():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATED, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with socket.create_connection(listening.getsockname(), 20) as connection:
                request = b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n"
                assert answer(connection, request).startswith("HTTP/1.1 200"), "waited for, not refused"
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_without_a_passed_socket_the_flag_is_refused():
    result = subprocess.run(
        [sys.executable, "-m", "exporter", "serve", "--web.systemd-socket"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={key: value for key, value in os.environ.items() if not key.startswith("LISTEN_")},
    )
    assert result.returncode == 2
    assert "systemd passed no socket" in result.stderr
