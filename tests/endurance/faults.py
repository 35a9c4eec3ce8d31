"""What can go wrong while the daemon runs: one declaration a fault. `tests.endurance.campaign` does each to a daemon.

A fault takes effect with ``begin`` and ends with ``end``. Whatever it is, the daemon may show nothing that is not so,
must go on showing what is not at fault, and must show everything again once it is over.
"""

import gzip
import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection

from advisor.units import MIB
from tests.exporter.daemon import vllm_page


def nothing(scene):
    pass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    area: str
    name: str
    begin: Callable
    end: Callable = nothing
    collector: str = ""
    """Whose reading fails; empty where none has to."""
    reasons: tuple[str, ...] = ()
    """One of these is told as the reason."""
    loses: tuple[str, ...] = ()
    """What is not shown meanwhile, of ``victim``, ``healthy`` (GPUs), ``server`` and ``neighbour``."""
    may_lose: bool = False
    """Whether more than ``loses`` may be missing meanwhile, such as all of a source whose call fails."""
    only_sometimes: bool = False
    """Whether it comes and goes by itself, so that nothing can be said of a single moment."""
    lasts_seconds: float = 0.0
    """At least this long, beside the time it takes to show."""


def driver(name, begin, reasons, *, loses=("victim", "healthy"), end=None, **more):
    heal = end or (lambda scene: scene.state.heal())
    return Fault(
        area="driver", name=name, begin=begin, end=heal, collector="nvml", reasons=reasons, loses=loses, **more
    )


def _lose(scene):
    scene.victim.fail("*", "GPU_IS_LOST")


def _find(scene):
    scene.victim.heal()


DRIVER = (
    driver(
        "unloaded, then loaded again",
        lambda scene: scene.state.unload_driver(),
        ("driver_not_loaded", "driver_unloaded"),
        end=lambda scene: scene.state.load_driver(),
    ),
    driver(
        "replaced by another version between two readings",
        lambda scene: scene.state.load_driver(version="580.10"),
        (),
        loses=(),
    ),
    driver("a GPU is lost", _lose, ("gpu_lost",), loses=("victim",), end=_find),
    driver("a GPU needs a reset", lambda s: s.victim.fail("*", "RESET_REQUIRED"), ("gpu_reset_required",),
           loses=("victim",), end=_find),
    driver("every call fails", lambda s: s.state.fail("*", "UNKNOWN"), ("nvml_error",)),
    driver("no permission for memory figures", lambda s: s.state.fail("nvmlDeviceGetMemoryInfo*", "NO_PERMISSION"), ()),
    driver("a call hangs", lambda s: s.state.delay("nvmlDeviceGetTemperature*", None), ("hung",)),
    driver("a call hangs for a minute", lambda s: s.state.delay("nvmlDeviceGetTemperature*", None), ("hung",),
           lasts_seconds=60),
    driver("a call hangs and holds the driver's lock",
           lambda s: s.state.delay("nvmlDeviceGetPower*", None, locked=True), ("hung",)),
    driver("nvmlInit hangs after a loss", lambda s: (_lose(s), s.state.delay("nvmlInit*", None)), ("hung", "gpu_lost"),
           end=lambda s: (_find(s), s.state.heal())),
    driver("every call takes a tenth of a second", lambda s: s.state.delay("*", 100), ("hung",), only_sometimes=True),
)  # fmt: skip


_OF_HARDWARE = (
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetTemperature*",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetCurrentClocks*Reasons",
    "nvmlDeviceGetTotalEccErrors",
)


def call_fails(function):
    """One NVML call fails with an error that no program expects, from the next nvmlInit on."""

    def begin(scene):
        with scene.state.together():
            scene.state.fail(function, "UNKNOWN")
            scene.state.load_driver()

    # Whether anything is lost depends on the call: without a name a GPU is not read, without its power or Xids it is.
    if function in _OF_HARDWARE:
        return driver(f"`{function}` fails", begin, ("nvml_error",), loses=())
    return driver(f"`{function}` fails", begin, (), loses=(), may_lose=True)


CALLS = tuple(
    call_fails(function)
    for function in (
        "nvmlInit*",
        "nvmlSystemGetDriverVersion",
        "nvmlSystemGetCudaDriverVersion*",
        "nvmlDeviceGetCount*",
        "nvmlDeviceGetHandleByIndex*",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetMemoryInfo*",
        *_OF_HARDWARE,
        "nvmlDeviceGetComputeRunningProcesses*",
        "nvmlDeviceGetGraphicsRunningProcesses*",
        "nvmlDeviceGetMPSComputeRunningProcesses*",
        "nvmlEventSetCreate",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetWait*",
        "nvmlEventSetFree",
        "nvmlShutdown",
    )
)


def answer(status, headers, body, path="/metrics"):
    def give(server):
        server.answers[path] = (status, headers, body)

    return give


def engine(name, how, *reasons, loses=("server",), **more):
    return Fault(
        area="engine",
        name=name,
        begin=lambda scene: scene.break_server(how),
        end=lambda scene: scene.break_server(None),
        collector="vllm",
        reasons=reasons,
        loses=loses,
        **more,
    )


def _slowly(text, *, seconds):
    def write(stream):
        for byte in text:
            stream.write(bytes([byte]))
            stream.flush()
            time.sleep(seconds)

    return write


def _silence(_stream):
    time.sleep(20)


def _repeat(piece, times):
    def write(stream):
        for _ in range(times):
            stream.write(piece)

    return write


def _page(**more):
    return vllm_page(**more).encode()


def _relabelled(text):
    return vllm_page().replace('model_name="m"', f'model_name="{text}"').encode()


def _many_ranks():
    return b"".join(
        f'vllm:num_requests_running{{engine="{rank}",model_name="m"}} 1\n'.encode() for rank in range(10_000)
    )


_DISTINCT_LABELS = b"".join(
    f'vllm:prompt_tokens_total{{engine="0",model_name="m",x="{number}{"y" * 900}"}} 1\n'.encode()
    for number in range(8_000)
)


def edited(change):
    """Give the page that would have been given, changed."""

    def give(server):
        status, headers, body = server.answers["/metrics"]
        server.answers["/metrics"] = (status, headers, change(body))

    return give


_DEEP = b"[" * 200_000 + b"]" * 200_000
_HUNG = ("hung", "timeout")

ENGINE = (
    engine("says nothing", answer(None, {}, _silence), *_HUNG),
    engine("answers a byte at a time", answer(200, {}, _slowly(_page(), seconds=0.02)), *_HUNG),
    engine("sends its headers a byte at a time",
           answer(None, {}, _slowly(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000, seconds=0.1)), *_HUNG),
    engine("continues for ever", answer(None, {}, _repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 300_000)),
           *_HUNG, "not_http", "connection_refused"),
    engine("closes without a word", answer(None, {}, b""), "connection_refused"),
    engine("speaks no HTTP", answer(None, {}, b"\x16\x03\x01\x02\x00\x01\x00" * 100), "connection_refused", "not_http"),
    engine("status 500", answer(500, {}, b"Internal Server Error"), "http_500"),
    engine("status 503", answer(503, {}, b"loading"), "http_503"),
    engine("redirects to a file", answer(302, {"Location": "file:///etc/passwd"}, b""), "http_302"),
    engine("redirects to itself", answer(301, {"Location": "/metrics"}, b""), "http_301"),
    engine("a gzip bomb", answer(200, {"Content-Encoding": "gzip"}, gzip.compress(b"\n" * 300_000_000, 9)),
           "body_too_large"),
    engine("a gzip bomb in a gzip bomb",
           answer(200, {"Content-Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(b"\n" * 300_000_000, 9))),
           "unknown_encoding"),
    engine("compressed and broken off", answer(200, {"Content-Encoding": "gzip"}, gzip.compress(_page())[:-20]),
           "broken_body"),
    engine("a body of 100 MiB", answer(200, {}, _repeat(b"vllm:num_requests_running 1.0\n" * 35_000, 100)),
           "body_too_large"),
    engine("8 MiB of wanted lines", answer(200, {}, b"vllm:num_requests_running 1.0\n" * 270_000), "page_too_large"),
    engine("headers without an end", answer(None, {}, _repeat(b"X-Y: " + b"z" * 60_000 + b"\r\n", 2_000)),
           "connection_refused", "not_http", "broken_body"),
    engine("less than its Content-Length", answer(200, {"Content-Length": "9999999"}, _page()), *_HUNG, "broken_body"),
    engine("a body that breaks off", answer(200, {}, _page()[:-9]), "half_page"),
    engine("a web page", answer(200, {}, b"<html><body>It works!</body></html>"), "not_metrics"),
    engine("bytes", answer(200, {}, bytes(range(256)) * 400), "not_metrics"),
    engine("another program's page", answer(200, {}, b"# TYPE up gauge\nup 1\n"), "no_vllm_metrics"),
    engine("words for numbers", answer(200, {}, _page().replace(b"} 3\n", b"} three\n")), "half_page"),
    engine("labels without an end", answer(200, {}, _page().replace(b'"m"}', b'"m')), "half_page", "broken_labels"),
    engine("a model's name of a mebibyte", answer(200, {}, _relabelled("m" * MIB)), "absurd_labels"),
    engine("10,000 data-parallel engines", answer(200, {}, _many_ranks()), "too_many_engines"),
    # Nothing that is wanted is wrong on it: it is read where that is done in time, and else told to hang.
    engine("8,000 label sets of 900 characters", edited(lambda page: page + _DISTINCT_LABELS), loses=(), may_lose=True),
    engine("invalid UTF-8 in a label", edited(lambda page: page.replace(b'"m"', b'"\xff\xfe"')), loses=()),
    engine("negative, infinite and enormous figures",
           answer(200, {}, _page(running="-5", waiting="+Inf", usage="1e300", tokens=10**40, generated="-1")),
           loses=("server",)),
    engine("NaN everywhere", answer(200, {}, _page(running="NaN", waiting="NaN", usage="NaN", generated="NaN",
                                                   preempted="NaN", started="NaN")), loses=("server",)),
    engine("/v1/models of the wrong types",
           answer(200, {}, json.dumps({"data": [{"id": 5, "root": ["x"], "max_model_len": 1e400}, 7]}).encode(),
                  path="/v1/models"), loses=()),
    engine("/v1/models of a million empty lists",
           answer(200, {}, b"[" + b"[]," * 2_500_000 + b"[]]", path="/v1/models"), loses=()),
    engine("/v1/models a number", answer(200, {}, b'{"data": 5}', path="/v1/models"), loses=()),
    engine("/version nested 200,000 deep", answer(200, {}, _DEEP, path="/version"), loses=()),
    engine("/version says nothing", answer(None, {}, _silence, path="/version"), loses=()),
)  # fmt: skip


def clock(name, seconds):
    return Fault(
        area="clock",
        name=name,
        begin=lambda scene: scene.ahead.write_text(str(seconds)),
        end=lambda scene: scene.ahead.write_text("0"),
    )


CLOCK = (
    clock("the wall clock is set back by an hour", -3600),
    clock("set forward by a day", 86_400),
    clock("set back to 1970", -int(time.time()) + 1_000),
    clock("set forward by 50 years", 50 * 365 * 86_400),
)


def _scrape_at_once(scene):
    """Ask 200 times at the same moment; every answer is a page or says that there are too many."""
    statuses = []

    def ask():
        connection = HTTPConnection("127.0.0.1", scene.running.port, timeout=30)
        with suppress(OSError):
            connection.request("GET", "/metrics")
            answered = connection.getresponse()
            answered.read()
            statuses.append(answered.status)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 503}, statuses
    assert statuses.count(200) >= 40, statuses
    assert len(statuses) == 200, f"{200 - len(statuses)} got no answer"


def hold_connections(scene):
    for _ in range(300):
        connection = HTTPConnection("127.0.0.1", scene.running.port, timeout=5)
        connection.connect()
        connection.sock.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        scene.held_connections.append(connection)


def let_connections_go(scene):
    while scene.held_connections:
        scene.held_connections.pop().close()


SCRAPES = (
    Fault(area="scrapes", name="200 at once", begin=_scrape_at_once),
    Fault(
        area="scrapes",
        name="300 that never finish their request",
        begin=hold_connections,
        end=let_connections_go,
    ),
)


def _signal(number):
    return lambda scene: scene.running.process.send_signal(number)


def _stopped(scene):
    scene.running.process.send_signal(signal.SIGSTOP)
    time.sleep(5 * scene.interval_seconds)
    scene.tell()  # what it knew is no longer so when it goes on
    scene.running.process.send_signal(signal.SIGCONT)


def _during(before, act, after):
    def begin(scene):
        before(scene)
        time.sleep(3 * scene.interval_seconds)
        act(scene)
        time.sleep(scene.interval_seconds)
        after(scene)

    return begin


def _hang_driver(scene):
    scene.state.delay("nvmlDeviceGetTemperature*", None)


def _heal_driver(scene):
    scene.state.heal()


def _hang_server(scene):
    scene.break_server(answer(None, {}, _silence))


def _heal_server(scene):
    scene.break_server(None)


SIGNALS = tuple(
    Fault(area="signals", name=f"{name} {phase}", begin=begin)
    for name, act in (("SIGHUP", _signal(signal.SIGHUP)), ("SIGSTOP for five intervals", _stopped))
    for phase, begin in (
        ("while all is well", act),
        ("while the driver hangs", _during(_hang_driver, act, _heal_driver)),
        ("while a server hangs", _during(_hang_server, act, _heal_server)),
    )
)

FAULTS = (*DRIVER, *CALLS, *ENGINE, *CLOCK, *SCRAPES, *SIGNALS)
