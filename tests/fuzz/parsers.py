"""Every parser of what others write, as a function of bytes: one declaration each.

A parser reads what it is given or refuses it with the error that it declares. Whatever else it raises, an answer that
cannot be (a count that is negative, infinite or no number), or one that takes for ever, is a defect: the declaration
says which errors are fine, the checks in it what an answer must hold to.

tests/fuzz/corpus/NAME holds what each starts from: small pieces of recorded reality, and every input that a defect was
found with.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from advisor import load, residuals, risk_state, starts
from advisor.defaults import Device
from advisor.flags import FlagError, config_path, is_server_command, parse_flags, require_valid
from advisor.model import parse_model
from advisor.plan import plan_engine
from advisor.policy import Policy
from advisor.scenario import ScenarioError, scenario_from
from advisor.spec import DeclinedError, ModelConfigError
from advisor.start_log import parse_start_logs
from advisor.units import GIB
from exporter import config
from exporter.bench.client import Progress, events
from exporter.cli.plan import json_of
from exporter.cli.top import is_understood
from exporter.config import PrometheusConfig
from exporter.errors import SourceMalformed, SourceUnavailable, UsageError
from exporter.fleet import read_fleet
from exporter.last_run import parse_mark
from exporter.lint import Known, dashboard_queries, names_in, rule_queries
from exporter.planning import Asked
from exporter.sources.cgroup import Mount, directories_of, parse_membership, parse_mounts, parse_pairs
from exporter.sources.kernel import figure
from exporter.sources.model import parse_config, read_model_files, safetensors_header, with_modelopt, with_overrides
from exporter.sources.process import parse_addresses, parse_server_config
from exporter.sources.prometheus import Series, parse_answer, parse_series
from exporter.sources.trace import read_trace
from exporter.sources.vllm import (
    Server,
    decoded,
    parse_models,
    parse_page,
    parse_server_version,
    read_engines,
)
from exporter.state import State
from exporter.web.app import encoder_for
from exporter.web.auth import credentials_in
from exporter.web.config import load_web_config
from exporter.web.what_if import QueryError, read_query

CORPUS = Path(__file__).with_name("corpus")
_IN_MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One parser."""

    name: str
    read: Callable[[bytes], object]
    """Reads or refuses; what it returns was checked."""
    refuses_with: tuple[type[Exception], ...] = ()

    def take(self, content: bytes) -> bool:
        """Return whether the content was read; anything but a proper refusal is raised."""
        try:
            self.read(content)
        except self.refuses_with:
            return False
        return True

    def corpus(self) -> dict[str, bytes]:
        """Return {file name: content} of what to start from."""
        return {file.name: file.read_bytes() for file in sorted((CORPUS / self.name).iterdir())}


PARSERS: dict[str, Parser] = {}


def parser(*refuses_with):
    def declared(function):
        PARSERS[function.__name__] = Parser(name=function.__name__, read=function, refuses_with=refuses_with)
        return function

    return declared


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """Yield a file in memory that holds this."""
    descriptor = os.memfd_create("fuzzed")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _numbers(value) -> Iterator[float]:
    """Yield every number in an answer, however deep."""
    if isinstance(value, bool | str | bytes) or value is None:
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict):
        for each in (*value.keys(), *value.values()):
            yield from _numbers(each)
    elif isinstance(value, tuple | list | frozenset):
        for each in value:
            yield from _numbers(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _numbers(getattr(value, field.name))


def _must_be_possible(value) -> None:
    for number in _numbers(value):
        assert math.isfinite(number) and number >= 0, f"{number} in {value}"


@parser(SourceMalformed)
def metrics_page(content):
    readings = read_engines(parse_page(content.decode(errors="replace")), Server(), engine="e", url="http://e")
    assert readings
    for reading in readings:
        histograms = reading.histograms
        for name, histogram in histograms.items():
            assert list(histogram.bounds) == sorted(histogram.bounds), name
            _must_be_possible((histogram.cumulative, histogram.sum, histogram.count))
        _must_be_possible((reading.totals, reading.cache, reading.requests_running, reading.requests_waiting))
        assert reading.kv_usage_ratio is None or 0 <= reading.kv_usage_ratio <= 1


@parser(SourceMalformed, SourceUnavailable)
def compressed_page(content):
    assert len(decoded(content, "gzip", "http://e")) <= 8 * 1024**2


@parser(ValueError, RecursionError)
def models_answer(content):
    answer = json.loads(content)  # refuses as json does, for which the source has its own word
    try:
        _must_be_possible(parse_models(answer, parse_server_version(answer)))
    except (ValueError, RecursionError) as error:
        raise AssertionError("only what is no JSON may be refused") from error


@parser(SourceMalformed, ModelConfigError, DeclinedError)
def model_config(content):
    parse_model(parse_config(content, "config.json"))


@parser(SourceMalformed)
def safetensors(content):
    with _file(content) as file:
        total, tensors = safetensors_header(file)
    _must_be_possible((total, tensors))


_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 320,
    "max_position_embeddings": 8192,
}


@parser()
def safetensors_index(content):
    """The index of a model's directory, which is read or done without."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as place:
        model = Path(place)
        (model / "config.json").write_text(json.dumps(_CONFIG))
        (model / "model.safetensors.index.json").write_bytes(content)
        alone = read_model_files(model)
        for shard in ("a.safetensors", "b.safetensors"):
            (model / shard).write_bytes(b"\2\0\0\0\0\0\0\0{}")
        with_shards = read_model_files(model)
    for files in (alone, with_shards):
        assert files.declined is None
        if files.weights is not None:
            _must_be_possible(files.weights.total_bytes)


@parser()
def command_line(content):
    """Words end in NUL, as in /proc; no command line is refused, one that vLLM would refuse says so."""
    argv = [word.decode(errors="replace") for word in content.split(b"\0")]
    is_server_command(argv)
    config_path(argv)
    with suppress(FlagError):
        require_valid(parse_flags(argv))


@parser()
def server_config(content):
    """The YAML file that `vllm serve --config` names."""
    found = parse_server_config(content.decode(errors="replace"))
    parse_flags(["vllm", "serve", "--config", "x.yaml"], config=found)


_NOW = 1_795_285_360.0
_GPU = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB)
_CPU = Device(name="cpu", memory_bytes=0)


@parser(ValueError)
def planned_command_line(content):
    """Words as in /proc, the environment's first: what vLLM would refuse is refused, on a GPU and without one."""
    flags = parse_flags([word.decode(errors="replace") for word in content.split(b"\0")])
    refused = []
    for device in (_GPU, _CPU):
        try:
            plan = plan_engine(parse_model(_CONFIG), flags, version=None, device=device)
        except ValueError as error:
            refused.append(error)
        else:
            _must_be_possible((plan.num_gpu_blocks, plan.kv_tokens, plan.full_context_concurrency))
    if len(refused) == 2:
        raise refused[0]


@parser()
def config_overrides(content):
    """``--hf-overrides``, and ModelOpt's own file beside a config.json."""
    text = content.decode(errors="replace")
    overrides = parse_flags(["vllm", "serve", "m", "--hf-overrides", text]).config_overrides()
    with suppress(ModelConfigError, DeclinedError):
        parse_model(with_overrides(_CONFIG, overrides))
    with suppress(SourceMalformed, ModelConfigError, DeclinedError):
        parse_model(with_modelopt(_CONFIG, parse_config(content, "hf_quant_config.json")))


@parser()
def kernel_files(content):
    """What /proc and /sys say of a process; in a container another program may stand behind them."""
    text = content.decode(errors="replace")
    mounts = (*parse_mounts(text), Mount(version=2, root="/", point="/sys/fs/cgroup"))
    for version, path in parse_membership(text):
        for mount in mounts:
            assert all(each == mount.version for each, _ in directories_of(path, mount)), version
    _must_be_possible((parse_pairs(text), figure(text)))
    assert all(text.count(address) for address in parse_addresses(text))


@parser()
def start_log(content):
    for start in parse_start_logs(content.decode(errors="replace").splitlines()):
        _must_be_possible([each.kv_cache_bytes for each in start.ranks])


@parser(UsageError)
def own_config(content):
    with _file(content) as file:
        assert config.load(file, {}).poll_interval >= 0.2


@parser(UsageError)
def web_config(content):
    with _file(content) as file:
        load_web_config(file)


def _state(content, read):
    """Read a state file as the service does, which is never refused: it is set aside."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as place:
        Path(place, "kept.json").write_bytes(content)
        return State(Path(place), "kept").load(read, None)


@parser()
def residuals_file(content):
    found = _state(content, residuals.from_json)
    assert found is None or all(math.isfinite(number) for number in _numbers(found))


@parser()
def starts_file(content):
    _must_be_possible(_state(content, starts.from_json))


@parser()
def risk_file(content):
    found = _state(content, lambda kept: risk_state.from_json(kept["states"]))
    for state in (found or {}).values():
        risk_state.moved(state, 1.0)


@parser()
def load_file(content):
    found = _state(content, load.from_json)
    for each in (found or {}).values():
        load.interrupted(each)
        _must_be_possible((each.demand_seconds, each.watched_busy_seconds, each.watched_finished))


@parser()
def mark_of_the_last_run(content):
    end = parse_mark(content.decode(errors="replace"))
    assert end is None or str(end)


@parser(SourceMalformed, SourceUnavailable)
def prometheus_answer(content):
    """What a Prometheus answers to a query."""
    found = parse_series(parse_answer(200, "application/json", content).data)
    for series in found:
        assert not any(math.isnan(number) for point in series.points for number in point)
    read_fleet(_Says(found), Policy(), now_seconds=_NOW, window_seconds=3600.0, progress=lambda _: None)


@dataclass(frozen=True)
class _Says:
    """A Prometheus that answers every question with the same."""

    found: tuple[Series, ...]
    config: PrometheusConfig = field(default_factory=lambda: PrometheusConfig(url="http://p"))
    warnings: dict[str, None] = field(default_factory=dict)

    def query(self, expression, at_seconds):
        return self.found

    def query_range(self, expression, start_seconds, end_seconds, step_seconds):
        return self.found

    def series(self, selector, start_seconds, end_seconds):
        return tuple(each.labels for each in self.found)


@parser()
def scrape_request(content):
    """A line each: what a client accepts, who it says it is, what it asks of /api/v1/plan. Latin-1, as HTTP has it."""
    accept, credentials, query, *_ = [*content.decode("latin-1").split("\n"), "", "", ""]
    _, content_type = encoder_for(accept)
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))
    credentials_in(credentials)
    with suppress(QueryError):
        _must_be_possible(read_query(parse_qsl(query, keep_blank_values=True)))


@parser()
def status_answer(content):
    """What a daemon elsewhere tells ``top``."""
    with suppress(ValueError, RecursionError):
        is_understood(json.loads(content))


@parser(ValueError)
def completion_stream(content):
    """What a server under ``bench`` streams."""
    progress = Progress()
    for data in events(iter([content[:7], content[7:]])):
        progress.take(data, 0.0)
    _must_be_possible((progress.output_tokens, progress.placed()))
    assert progress.output_tokens == sum(tokens for _, tokens in progress.placed()) or not progress.arrivals


@parser(UsageError)
def rules_file(content):
    with _file(content) as file:
        queries, recorded = rule_queries(file)
    Known(recorded=recorded).remarks(queries)


@parser(UsageError)
def dashboard_file(content):
    with _file(content) as file:
        Known().remarks(dashboard_queries(file))


@parser()
def names_page(content):
    """A page that ``check --against`` asks for."""
    assert all(names_in(content.decode(errors="replace")))


@parser(UsageError)
def batch_row(content):
    """A line of ``plan --batch``."""
    row = json_of(content.decode(errors="replace"), "line 1")
    if not isinstance(row, dict):
        raise UsageError("an object is needed")
    parse_flags(Asked.from_row(row, "line 1").argv)


@parser(UsageError, ScenarioError)
def scenario(content):
    """What ``simulate --scenario`` plays."""
    scenario_from(json_of(content.decode(errors="replace"), "line 1"), where="line 1")


@parser(UsageError)
def trace_file(content):
    with _file(content) as file:
        _must_be_possible([each.output_tokens for each in read_trace(file, limit=1000)])
