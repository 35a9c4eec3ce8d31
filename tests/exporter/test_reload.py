"""SIGHUP on the real daemon: what changes, what stays, and how it is told."""

import os
import signal
from pathlib import Path

import pytest

from tests.exporter.daemon import FakeServer, daemon, vllm_page


@pytest.fixture
def servers():
    fakes = [FakeServer() for _ in range(3)]
    for fake in fakes:
        fake.page(vllm_page())
    yield fakes
    for fake in fakes:
        fake.close()


@pytest.fixture
def config(tmp_path):
    """Write the configuration file; return the flags that name it."""

    def write(text):
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(tmp_path / "c.yaml")
        return ("--config", str(tmp_path / "c.yaml"))

    return write


def listed(*servers, more="", interval=0.25):
    engines = "".join(f"  - url: {server.url}\n" for server in servers)
    return f"poll_interval: {interval}\n{more}engines:\n{engines}"


def hang_up(running):
    os.kill(running.process.pid, signal.SIGHUP)


def ups(running):
    return {dict(labels)["engine"]: value for (name, labels), value in running.metrics().items() if "engine_up" in name}


def reloaded(running):
    return running.value("headroom_config_last_reload_successful")


def test_engines_come_and_go_and_those_that_stay_lose_nothing(config, servers):
    stays, goes, comes = servers
    with daemon(*config(listed(stays, goes))) as running:
        running.wait_for(lambda: ups(running) == {stays.engine: 1.0, goes.engine: 1.0})
        config(listed(stays, comes))
        hang_up(running)
        seen = []
        running.wait_for(lambda: seen.append(ups(running)) or seen[-1] == {stays.engine: 1.0, comes.engine: 1.0})
        assert all(moment.get(stays.engine) == 1.0 for moment in seen)
        asked = len(goes.requests)
        running.wait_for(lambda: len(comes.requests) > 5)
        assert len(goes.requests) <= asked + 1
        assert reloaded(running) == 1.0


def test_a_file_with_problems_changes_nothing_and_is_told_in_the_log_and_as_a_metric(config, servers):
    first, second, _ = servers
    with daemon(*config(listed(first))) as running:
        running.wait_for(lambda: ups(running) == {first.engine: 1.0})
        assert reloaded(running) == 1.0
        began = running.value("headroom_config_last_reload_success_timestamp_seconds")
        config(listed(second, more="colour: red\n"))
        hang_up(running)
        running.wait_for(lambda: reloaded(running) == 0.0)
        assert ups(running) == {first.engine: 1.0}
        # The log is followed by another thread than this: its line may come after the metric.
        running.wait_for(lambda: any("not reloaded" in x and "colour: unknown key" in x for x in running.log))
        assert running.value("headroom_config_last_reload_success_timestamp_seconds") == began
        config(listed(second))
        hang_up(running)
        running.wait_for(lambda: reloaded(running) == 1.0 and ups(running) == {second.engine: 1.0})
        assert running.value("headroom_config_last_reload_success_timestamp_seconds") > began


@pytest.mark.parametrize("spoil", [Path.unlink, lambda key: key.write_text("")], ids=["missing", "empty"])
def test_a_rotated_key_is_used_after_the_reload_and_one_not_there_yet_keeps_the_old(tmp_path, config, servers, spoil):
    server, _, _ = servers
    key = tmp_path / "key"
    key.write_text("old\n")
    with daemon(*config(listed(server) + "    api_key_file: key\n")) as running:
        sent = lambda: server.requests[-1][1].get("Authorization")  # noqa: E731 - a name for what is asked twice
        running.wait_for(lambda: server.requests and sent() == "Bearer old")
        spoil(key)
        hang_up(running)
        running.wait_for(lambda: reloaded(running) == 0.0)
        assert sent() == "Bearer old"
        key.write_text("new\n")
        hang_up(running)
        running.wait_for(lambda: sent() == "Bearer new")
        assert running.stop()[0] == 0
        assert not any("Bearer" in line or "msg=old" in line for line in running.log)


def test_thresholds_and_the_interval_change_at_once(config, servers):
    server, _, _ = servers
    server.page(vllm_page(running=3, waiting=5, usage=0.6))
    with daemon(*config(listed(server, interval=0.25))) as running:
        running.wait_for(lambda: running.value("headroom_engine_limiter", limiter="kv") == 0.0)
        config(listed(server, interval=2, more="policy: {kv_full_ratio: 0.5}\n"))
        hang_up(running)
        running.wait_for(lambda: running.value("headroom_engine_limiter", limiter="kv") == 1.0)
        asked = len(server.requests)
        running.wait_for(lambda: len(server.requests) > asked)
        assert len(server.requests) - asked < 4


def test_what_cannot_change_without_a_restart_is_said(tmp_path, config, servers):
    with daemon(*config(listed(servers[0])), "--state-dir", str(tmp_path)) as running:
        config(listed(servers[0], more="listen_address: ':1'\n"))
        hang_up(running)
        running.wait_for(lambda: reloaded(running) == 1.0 and any("configuration reloaded" in x for x in running.log))
        assert not any("needs a restart" in line for line in running.log), "the flag wins over the file"
    with daemon(*config(listed(servers[0]))) as running:
        config(listed(servers[0], more=f"state_dir: {tmp_path}\n"))
        hang_up(running)
        running.wait_for(lambda: any("state_dir has changed: that needs a restart" in line for line in running.log))


def test_discovery_takes_over_when_the_last_engine_leaves_the_file(config, servers):
    with daemon(*config(listed(servers[0]))) as running:
        running.wait_for(lambda: ups(running) == {servers[0].engine: 1.0})
        config("poll_interval: 0.25\n")
        hang_up(running)
        running.wait_for(lambda: servers[0].engine not in ups(running))


def test_without_a_file_a_hang_up_ends_nothing():
    with daemon("--poll-interval", "0.25") as running:
        hang_up(running)
        running.wait_for(lambda: any("configuration reloaded" in line for line in running.log))
        assert running.get("/-/healthy") == "healthy\n"


def test_a_configuration_out_of_a_pipe_is_not_waited_for_a_second_time(config, servers, tmp_path):
    config(listed(servers[0]))
    (tmp_path / "web.yaml").write_text("{}\n")
    pipes = f'exec "$@" --config <(cat {tmp_path}/c.yaml) --web.config.file <(cat {tmp_path}/web.yaml)'
    with daemon(prefix=("bash", "-c", pipes, "bash")) as running:
        running.wait_for(lambda: ups(running) == {servers[0].engine: 1.0})
        hang_up(running)
        running.wait_for(lambda: sum("a pipe can be read once" in line for line in running.log) == 2)
        assert reloaded(running) == 0.0
        assert ups(running) == {servers[0].engine: 1.0}
        assert running.stop()[0] == 0


def test_a_hang_up_while_it_still_starts_is_heeded_once_it_runs(config):
    with daemon(*config("poll_interval: 0.25\n"), program="tests.exporter.hung_up") as running:
        running.wait_for(lambda: any("configuration reloaded" in line for line in running.log))
        assert running.get("/-/healthy") == "healthy\n"


def test_the_demo_survives_it_too():
    with daemon(command="demo") as running:
        hang_up(running)
        assert running.get("/-/healthy") == "healthy\n"
        assert running.stop()[0] == 0
