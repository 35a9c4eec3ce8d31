"""A made-up fleet: vLLM servers that were scraped, one of them watched by a daemon, and what a store keeps of them."""

from dataclasses import dataclass

from advisor.units import GIB
from tests.exporter.pasts import MadeUpServer, sample

STEP_SECONDS = 30.0
HOURS = 6


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Pages that follow each other, as seen and as a store keeps them."""

    pages: dict[str, list[tuple[float, str]]]
    """By scraped address: (moment, page)."""
    lines: list[str]
    """Of all of them, in order of time, with their labels and moments."""
    end_seconds: float


SERVERS = {
    "10.0.0.1:8000": {"seed": 1, "model": "crowded", "typical": 900.0, "demand": 20.0, "preempted_ratio": 0.15},
    "10.0.0.2:8000": {"seed": 2, "model": "held-up", "most": 6, "demand": 10.0},
    "10.0.0.3:8000": {"seed": 3, "model": "quiet", "typical": 300.0, "demand": 3.0},
    "10.0.0.4:8000": {"seed": 4, "model": "fitting", "typical": 500.0, "demand": 12.0},
}
WATCHED = "10.0.0.4:8000"
"""By a daemon too, on the same host."""


def kept(end_seconds, *, replicas=("",)):
    """Return six hours: "crowded" is down for half an hour, and restarted; what is scraped twice stands there twice."""
    begin = end_seconds - 3600 * HOURS
    servers = {
        address: MadeUpServer(**{"demand": 15.0, **more, "started": begin - 100.0 - 1_000 * more["seed"]})
        for address, more in SERVERS.items()
    }
    pages, lines = {address: [] for address in servers}, []
    for n in range(int(3600 * HOURS / STEP_SECONDS) + 1):
        at = begin + n * STEP_SECONDS
        for address, server in servers.items():
            is_down = server.model == "crowded" and 2.0 <= (at - begin) / 3600 < 2.5
            if server.model == "crowded" and (at - begin) / 3600 == 2.5:
                server.restart(at - 20.0)
            for replica in replicas:
                labels = {"instance": address, "job": "vllm", **({"replica": replica} if replica else {})}
                lines.append(f"{sample('up', labels)} {int(not is_down)} {round(at * 1000)}\n")
                if not is_down:
                    lines.append(server.lines(at, **labels))
            if not is_down:
                pages[address].append((at, server.page()))
                server.pass_time(STEP_SECONDS)
        lines += daemons_lines(at, servers[WATCHED])
    return Kept(pages=pages, lines=lines, end_seconds=end_seconds)


def daemons_lines(at, server, *, instance="10.0.0.4:9738"):
    """Return what a daemon shows of a server on its host, of one that is down, and of two GPUs."""
    scraped = {"instance": instance, "job": "headroom"}
    engine = {**scraped, "engine": "127.0.0.1:8000", "model_name": server.model, "dp_rank": "0"}
    down = {**scraped, "engine": "127.0.0.1:8001", "model_name": "", "dp_rank": "0"}
    values = {
        "up": 1,
        "kv_capacity_tokens": server.capacity,
        "kv_used_tokens": server.usage * server.capacity,
        "requests_running": server.running,
        "requests_waiting": server.waiting,
        "max_num_seqs": 64,
        "recommended_max_num_seqs": 16,
        "recommended_max_num_seqs_lower": 14,
        "recommended_max_num_seqs_upper": 17,
        "advice_confidence_ratio": 0.9,
        "typical_request_tokens": 680,
        "preemptions_total": server.totals["num_preemptions"],
        "requests_finished_total": sum(server.counts["request_generation_tokens"]),
    }
    rows = [(f"headroom_engine_{name}", engine, value) for name, value in values.items()]
    rows.append(("headroom_engine_up", down, 0))
    rows += [
        ("headroom_engine_limiter", {**engine, "limiter": name}, int(name == "none"))
        for name in ("none", "kv", "max_num_seqs", "compute")
    ]
    change = {"flag": "max-num-seqs", "current": "64", "recommended": "16", "binding": "kv"}
    rows.append(("headroom_engine_recommendation_info", {**engine, **change}, 1))
    for gpu, used in (("0", 70 * GIB), ("1", GIB // 2)):
        card = {**scraped, "gpu": gpu, "uuid": f"GPU-{gpu}"}
        rows += [
            ("headroom_gpu_memory_total_bytes", card, 80 * GIB),
            ("headroom_gpu_memory_used_bytes", card, used),
        ]
    return [f"{sample(name, labels)} {value} {round(at * 1000)}\n" for name, labels, value in rows]
