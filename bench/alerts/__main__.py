"""``python -m bench.alerts``: let the demo's rush and leak set off the alerts, and write when each came into the docs.

Needs Prometheus and Alertmanager (Debian packages prometheus and prometheus-alertmanager). The rules keep their real
holds, so two of the demo's days are needed: 17 minutes, most of them idle.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.alerts.chronicle import Event, courses, report
from bench.alerts.programs import alertmanager, demo, prometheus
from bench.alerts.witness import Webhook, every_second, held_back, over_time
from bench.page import write_section
from dashboards.files import GENERATED

_EVENTS = {
    'headroom_gpu_memory_growth_bytes_per_second{gpu="1"} > 0': "the daemon sees a trend on GPU 1",
    "headroom_engine_requests_waiting > 0": "requests wait",
    "headroom_engine_kv_usage_ratio >= 0.99": "the KV cache is full",
    "headroom_engine_preemptions_total > 0": "a request is preempted",
    'delta(headroom_gpu_memory_component_bytes{component="foreign"}[3s]) < -1e9': "GPU 1 is full, the leaking "
    "process dies of it",
}
"""What happens in the demo, by an expression that has a series from that moment on."""


def main() -> None:
    """Run, then replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.alerts", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=17.0)
    parser.add_argument("--write", type=Path, default=Path("docs/dashboards.md"), help="page with the marks")
    asked = parser.parse_args()
    write_section(asked.write, run(asked.minutes), target="alerts")


def run(minutes: float) -> str:
    """Let it all run for so long; return the section."""
    rules = sorted((GENERATED / "prometheus").glob("*.yaml"))
    inhibition = GENERATED / "alertmanager" / "vllm-headroom.inhibit.yaml"
    kept_quiet: list[tuple[float, Mapping[str, str], str]] = []
    webhook = Webhook()
    with (
        tempfile.TemporaryDirectory() as folder,
        alertmanager(Path(folder), inhibition=inhibition, webhook=webhook.url) as manager,
        demo(Path(folder)) as page,
    ):
        begin = time.time()
        with prometheus(
            Path(folder), targets=[page.removeprefix("http://")], rules=rules, alertmanager=manager
        ) as server:

            def look() -> None:
                kept_quiet.extend((time.time() - begin, labels, by) for labels, by in held_back(manager))

            every_second(60 * minutes, look)
            end = time.time()
            found = courses(
                over_time(server, 'ALERTS{alertname=~"Headroom.+"}', begin, end),
                told=[(at - begin, labels) for at, labels in webhook.told],
                held_back=kept_quiet,
                end_seconds=end - begin,
            )
            events = [
                Event(at_seconds=min(times[0] for _, times in series), what=what)
                for expr, what in _EVENTS.items()
                if (series := over_time(server, expr, begin, end))
            ]
    webhook.close()
    return report(found, events, minutes=minutes, programs=_versions())


def _versions() -> str:
    return " and ".join(
        f"{name} {_version(program)}"
        for name, program in (("Prometheus", "prometheus"), ("Alertmanager", "prometheus-alertmanager"))
    )


def _version(program: str) -> str:
    """Return the third word of ``NAME, version X.Y.Z+ds (...)``, without what a distribution adds."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    return (told.stdout or told.stderr).split()[2].partition("+")[0]


if __name__ == "__main__":
    main()
