"""One connection to one server, against sockets that answer as they are told."""

import http.client
import socket
import ssl
import threading
from contextlib import closing, contextmanager

import pytest

from exporter.connection import Connection
from tests.exporter.web.certificates import Authority

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


@contextmanager
def server(*connections):
    """Answer one connection after the other: each is the answers to its requests, after which it is closed.

    Yields the address and the requests as they came, one list for each connection.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        for answers in connections:
            accepted, _ = listening.accept()
            asked.append([])
            with accepted:
                for answer in answers:
                    request = b""
                    while not request.endswith(b"\r\n\r\n"):
                        request += accepted.recv(65_536)
                    asked[-1].append(request.decode())
                    accepted.sendall(answer)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        serving.join(10)
        listening.close()
    assert not serving.is_alive(), "fewer requests came than were expected"


def get(connection, *, seconds=5.0):
    answer = connection.request("GET", "/", connect_seconds=seconds, read_seconds=seconds)
    with answer:
        return answer.read()


def test_it_is_kept_from_request_to_request():
    with server([HELLO, HELLO]) as (url, asked), closing(Connection(url, headers={})) as connection:
        assert [get(connection), get(connection)] == [b"hello", b"hello"]
    assert [len(each) for each in asked] == [2]


def test_where_the_server_closed_it_meanwhile_the_request_is_sent_once_more():
    with server([HELLO], [HELLO]) as (url, asked), closing(Connection(url, headers={})) as connection:
        assert [get(connection), get(connection)] == [b"hello", b"hello"]
    assert [len(each) for each in asked] == [1, 1]


def test_a_server_that_closes_after_each_answer_is_asked_on_another():
    with server([LAST], [LAST]) as (url, asked), closing(Connection(url, headers={})) as connection:
        assert [get(connection), get(connection)] == [b"hello", b"hello"]
    assert [len(each) for each in asked] == [1, 1]


def test_a_server_that_hangs_up_on_a_new_connection_is_not_asked_again():
    with (
        server([b""]) as (url, asked),
        closing(Connection(url, headers={})) as connection,
        pytest.raises(http.client.RemoteDisconnected),
    ):
        get(connection)
    assert [len(each) for each in asked] == [1]


def test_after_an_answer_that_is_no_http_it_begins_anew():
    with (
        server([b"220 mail.example ESMTP\r\n"], [HELLO]) as (url, _),
        closing(Connection(url, headers={})) as connection,
    ):
        with pytest.raises(http.client.BadStatusLine):
            get(connection)
        assert get(connection) == b"hello"


def test_an_answer_that_was_not_read_is_let_go_with_the_connection():
    with server([HELLO], [HELLO]) as (url, _), closing(Connection(url, headers={})) as connection:
        connection.request("GET", "/", connect_seconds=5.0, read_seconds=5.0)
        connection.close()
        assert get(connection) == b"hello"


@contextmanager
def silent():
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_that_gets_no_answer_ends_at_its_timeout(scheme):
    with silent() as port, closing(Connection(f"{scheme}://127.0.0.1:{port}", headers={})) as connection:
        with pytest.raises(TimeoutError):
            get(connection, seconds=0.1)
        assert not connection.was_cut


@contextmanager
def again_and_again(call):
    """Call from another thread while the context lasts."""
    over = threading.Event()

    def go_on():
        while not over.wait(0.02):
            call()

    calling = threading.Thread(target=go_on)
    calling.start()
    try:
        yield
    finally:
        over.set()
        calling.join()


@pytest.mark.parametrize(("scheme", "end"), [("http", http.client.RemoteDisconnected), ("https", ssl.SSLEOFError)])
def test_a_request_can_be_cut_from_another_thread_in_its_handshake_too(scheme, end):
    with silent() as port, closing(Connection(f"{scheme}://127.0.0.1:{port}", headers={})) as connection:
        with again_and_again(connection.cut), pytest.raises(end):
            get(connection, seconds=30.0)
        assert connection.was_cut


@contextmanager
def secure_server(directory, *answers):
    """Answer one connection after the other, each of TLS, once; yield the address and the authority's file."""
    authority = Authority(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("engine"))
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        for answer in answers:
            accepted, _ = listening.accept()
            try:
                with context.wrap_socket(accepted, server_side=True) as secure:
                    secure.recv(65_536)
                    secure.sendall(answer)
            except ssl.SSLError:
                accepted.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}", authority.file
    finally:
        serving.join(10)
        listening.close()
    assert not serving.is_alive(), "fewer connections came than were expected"


def test_where_a_server_closed_it_meanwhile_without_a_word_of_tls_the_request_is_sent_once_more(tmp_path):
    with secure_server(tmp_path, HELLO, HELLO) as (url, authority):
        trust = ssl.create_default_context(cafile=authority)
        with closing(Connection(url, headers={}, trust=lambda: trust)) as connection:
            assert [get(connection), get(connection)] == [b"hello", b"hello"]


def test_whom_to_trust_is_asked_at_each_opening(tmp_path):
    with secure_server(tmp_path, LAST, LAST) as (url, authority):
        trusted = [ssl.create_default_context(cafile=authority), ssl.create_default_context()]
        with closing(Connection(url, headers={}, trust=lambda: trusted.pop(0))) as connection:
            assert get(connection) == b"hello"
            with pytest.raises(ssl.SSLCertVerificationError):
                get(connection)
