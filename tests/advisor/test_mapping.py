"""What cannot be mapped to a process is said."""

from dataclasses import replace

import pytest

from advisor.advise import advise
from advisor.history import History
from advisor.policy import Policy
from advisor.report import Report
from advisor.rules import engine_not_asked, engine_not_mapped, memory_without_owner
from advisor.snapshot import EngineTarget, Snapshot, gpus_of_rank, with_named_gpus
from advisor.units import GIB
from tests.advisor.examples import gpu, gpu_process, reading, server


def found(rule, **more):
    return list(rule.find(Snapshot(now_seconds=0.0, **more), Report(), Policy()))


def target(url="http://127.0.0.1:8000"):
    return EngineTarget(engine="127.0.0.1:8000", url=url, failing=None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fd00::7", "GPU-7.example"])
def test_a_server_is_found_again_by_the_address_that_it_is_watched_at(host):
    here = replace(server(), host=host)
    assert Snapshot(now_seconds=0.0, servers=(here,)).server_at(f"http://{here.address}") is here


def test_processes_of_another_pid_namespace_are_told_with_their_memory():
    (finding,) = found(
        memory_without_owner,
        gpus=(gpu(used=60 * GIB),),
        gpu_processes=(gpu_process(101, 50 * GIB), gpu_process(9_999, 10 * GIB)),
        servers=(server(),),
        visible_pids=frozenset({1, 100, 101}),
    )
    assert finding.subject == "GPU 0"
    assert "1 of the 2 processes on it are in no process table that can be read here, with 10.00 GiB" in finding.summary
    assert "host's processes" in finding.advice


def test_memory_that_the_driver_gives_to_nobody_is_told():
    (finding,) = found(memory_without_owner, gpus=(gpu(used=60 * GIB),), visible_pids=frozenset({1}))
    assert finding.summary.startswith("60.00 GiB of it are in use by no process that the driver names here")


def test_what_a_driver_keeps_for_itself_is_up_to_a_gib_or_a_fiftieth_of_the_gpu():
    def unowned(size, **board):
        snapshot = Snapshot(now_seconds=0.0, gpus=(gpu(used=size, **board),))
        return snapshot.unowned_on(snapshot.gpus[0])

    assert (unowned(int(1.6 * GIB)), unowned(int(1.61 * GIB))) == (0, int(1.61 * GIB))
    assert (unowned(GIB, total=16 * GIB), unowned(GIB + 1, total=16 * GIB)) == (0, GIB + 1)


def test_ranks_share_the_gpus_in_order_and_none_can_be_told_where_they_do_not_divide():
    cards = tuple(gpu(index=index) for index in range(4))
    assert [gpus_of_rank(cards, rank, 2) for rank in (0, 1)] == [cards[:2], cards[2:]]
    assert gpus_of_rank(cards, 0, 3) == ()
    assert gpus_of_rank(cards, 0, 1) == cards


def test_memory_that_nobody_names_is_foreign_and_not_the_drivers():
    snapshot = Snapshot(now_seconds=0.0, gpus=(gpu(used=60 * GIB),), visible_pids=frozenset({1}))
    (judgement,) = advise(snapshot, History(), Policy()).gpus
    parts = judgement.memory_component_bytes
    assert (parts["foreign"], parts["driver_reserved"]) == (60 * GIB, GIB // 2)


def test_a_gpu_whose_processes_are_all_in_sight_is_fine():
    assert not found(
        memory_without_owner,
        gpus=(gpu(used=60 * GIB),),
        gpu_processes=(gpu_process(101, 60 * GIB - GIB // 2),),
        visible_pids=frozenset({101}),
    )


def test_without_a_process_table_nothing_is_said_of_what_is_not_in_it():
    assert not found(
        memory_without_owner, gpus=(gpu(used=GIB),), gpu_processes=(gpu_process(101, GIB),), visible_pids=None
    )


def test_a_driver_that_does_not_split_memory_by_process_is_no_lost_memory():
    assert not found(
        memory_without_owner,
        gpus=(gpu(used=60 * GIB),),
        gpu_processes=(gpu_process(101, None),),
        visible_pids=frozenset({101}),
    )


OUT_OF_SIGHT = {"gpus": (gpu(used=60 * GIB),), "visible_pids": frozenset({1})}


def test_an_engine_that_answers_without_a_process_in_sight_is_told_where_memory_has_no_owner_in_sight():
    (finding,) = found(engine_not_mapped, targets=(target(),), engines=(reading(),), **OUT_OF_SIGHT)
    assert (finding.subject, finding.severity) == ("127.0.0.1:8000", "info")
    assert not found(engine_not_mapped, targets=(target(),), engines=(reading(),), visible_pids=frozenset({1}))


def test_an_engine_with_its_process_on_another_host_or_down_is_not():
    engines = (reading(),)
    assert not found(engine_not_mapped, targets=(target(),), engines=engines, servers=(server(),), **OUT_OF_SIGHT)
    assert not found(engine_not_mapped, targets=(target("http://gpu-7:8000"),), engines=engines, **OUT_OF_SIGHT)
    assert not found(engine_not_mapped, targets=(target(),), **OUT_OF_SIGHT)


def test_a_server_whose_workers_are_rays_is_said_not_to_be_mapped():
    of_ray = server("vllm serve /models/m --distributed-executor-backend ray", pids=(7,))
    held = {"gpus": (gpu(used=60 * GIB),), "visible_pids": frozenset({7, 8}), "engines": (reading(),)}
    by_another = {**held, "targets": (target(),), "gpu_processes": (gpu_process(8, 59 * GIB),)}
    (finding,) = found(engine_not_mapped, servers=(of_ray,), **by_another)
    assert finding.summary.startswith("its workers are Ray's")
    assert not found(engine_not_mapped, servers=(server(pids=(7,)),), **by_another), "it may use no GPU at all"
    by_itself = {**by_another, "gpu_processes": (gpu_process(7, 59 * GIB),)}
    assert not found(engine_not_mapped, servers=(of_ray,), **by_itself)
    assert not found(engine_not_mapped, servers=(of_ray,), **{**by_another, "gpus": (), "gpu_processes": ()})


def named(*gpus, engine="127.0.0.1:8000", url="http://127.0.0.1:8000"):
    return EngineTarget(engine=engine, url=url, failing=None, gpus=gpus)


def test_a_server_is_given_the_workers_on_the_gpus_that_are_named_for_it():
    cards = (gpu(index=0), gpu(index=1), gpu(index=2))
    held = tuple(
        replace(gpu_process(pid, 59 * GIB), uuid=card.uuid) for pid, card in zip((8, 9, 10), cards, strict=True)
    )
    of_ray = server("vllm serve /models/m --distributed-executor-backend ray", pids=(7,))
    seen = Snapshot(
        now_seconds=0.0,
        gpus=cards,
        gpu_processes=held,
        servers=(of_ray,),
        visible_pids=frozenset({7}),
        engines=(reading(),),
        targets=(named("0", cards[1].uuid),),
    )
    mapped = with_named_gpus(seen)
    assert mapped.gpus_of(mapped.servers[0]) == cards[:2]
    assert [mapped.hidden_on(card) != () for card in cards] == [False, False, True]
    assert list(engine_not_mapped.find(seen, Report(), Policy()))
    assert not list(engine_not_mapped.find(mapped, Report(), Policy()))
    assert with_named_gpus(replace(seen, targets=(named("7"),))).servers == seen.servers


def test_a_process_of_another_server_and_a_gpu_that_two_name_are_nobodys_workers():
    other = replace(server(pids=(8,)), port=8001)
    both = {"servers": (server(pids=(7,)), other), "gpus": (gpu(),), "visible_pids": frozenset({7, 8, 9})}
    first = Snapshot(
        now_seconds=0.0, **both, gpu_processes=(gpu_process(8, GIB), gpu_process(9, GIB)), targets=(named("0"),)
    )
    assert [each.pids for each in with_named_gpus(first).servers] == [{7, 9}, {8}]
    second = named("0", engine="127.0.0.1:8001", url="http://127.0.0.1:8001")
    assert with_named_gpus(replace(first, targets=(named("0"), second))).servers == first.servers
    again = named("0", engine="[::1]:8000", url="http://[::1]:8000")
    assert with_named_gpus(replace(first, targets=(named("0"), again))).servers == first.servers


def on_socket(**more):
    return server("vllm serve /models/secret/m --uds /run/vllm.sock", **more)


def test_a_server_on_a_unix_socket_is_told_by_its_models_name_and_takes_no_port_from_another():
    both = (on_socket(pids=(7,)), server())
    (finding,) = found(engine_not_asked, servers=both)
    assert finding.subject == "no-address:m"
    assert "--uds" in finding.summary
    assert not found(engine_not_asked, servers=(server(),))
    assert Snapshot(now_seconds=0.0, servers=both).server_at("http://127.0.0.1:8000") is both[1]


def test_a_server_in_a_network_that_no_address_leads_into_is_said_not_to_be_asked():
    boxed = replace(server(pids=(7,)), host="")
    (finding,) = found(engine_not_asked, servers=(boxed, server()))
    assert finding.subject.startswith("no-address:")
    assert "container" in finding.summary
    assert Snapshot(now_seconds=0.0, servers=(boxed, server())).server_at("http://127.0.0.1:8000") == server()
    headless = replace(server("vllm serve /models/m --headless"), host="")
    assert not found(engine_not_asked, servers=(headless,))


def test_a_server_that_may_be_the_one_at_a_published_port_is_said_not_to_be_put_together_with_it():
    boxed = replace(server(pids=(7,)), host="")
    known = {"targets": (target("http://127.0.0.1:9000"),), "engines": (reading(),)}
    (finding,) = found(engine_not_asked, servers=(boxed,), **known)
    assert "may be what answers at 127.0.0.1:8000: that cannot be told" in finding.summary
    (finding,) = found(engine_not_asked, servers=(boxed,), **{**known, "engines": ()})
    assert "where it is not asked" in finding.summary


def test_what_a_server_without_an_address_holds_is_an_engines_and_not_foreign():
    snapshot = Snapshot(
        now_seconds=0.0,
        gpus=(gpu(used=50 * GIB),),
        gpu_processes=(gpu_process(7, 50 * GIB),),
        servers=(on_socket(pids=(7,)),),
        visible_pids=frozenset({7}),
    )
    report = advise(snapshot, History(), Policy())
    assert report.gpus[0].memory_component_bytes["foreign"] == 0
    assert report.gpus[0].engine_held_bytes == {"no-address:m": 50 * GIB}


def test_of_two_servers_on_one_port_of_two_loopback_addresses_each_is_the_one_that_is_asked():
    four, six = server(pids=(4,)), replace(server(pids=(6,)), host="::1")
    snapshot = Snapshot(now_seconds=0.0, servers=(four, six))
    assert snapshot.server_at("http://[::1]:8000") is six
    assert snapshot.server_at("http://127.0.0.1:8000") is four
    assert snapshot.server_at("http://localhost:8000") is four
