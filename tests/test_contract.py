"""The names that users, dashboards and alerts rely on, written down once more by hand: a rename must be seen here."""

import click
from click.testing import CliRunner

from exporter.cli import COMMANDS, cli
from exporter.config import DEFAULT_PORT
from exporter.reference import all_metrics

GPU = {
    "headroom_gpu_info": {"name", "driver_version"},
    "headroom_gpu_memory_total_bytes": set(),
    "headroom_gpu_memory_used_bytes": set(),
    "headroom_gpu_memory_free_bytes": set(),
    "headroom_gpu_memory_reserved_bytes": set(),
    "headroom_gpu_memory_component_bytes": {"component"},
    "headroom_gpu_engine_budget_bytes": {"engine"},
    "headroom_gpu_engine_held_bytes": {"engine"},
    "headroom_gpu_engine_claim_bytes": {"engine"},
    "headroom_gpu_memory_slack_bytes": set(),
    "headroom_gpu_memory_growth_bytes_per_second": set(),
    "headroom_gpu_oom_risk_ratio": set(),
    "headroom_gpu_oom_risk_factor_ratio": {"factor"},
    "headroom_gpu_time_to_oom_seconds": set(),
    "headroom_gpu_utilization_ratio": set(),
    "headroom_gpu_power_watts": set(),
    "headroom_gpu_temperature_celsius": set(),
    "headroom_gpu_throttled": {"reason"},
    "headroom_gpu_ecc_uncorrected_errors_total": set(),
    "headroom_gpu_row_remap_pending": set(),
    "headroom_gpu_xid_errors_total": {"xid"},
}
ENGINE = {
    "headroom_engine_up": set(),
    "headroom_engine_info": {"vllm_version"},
    "headroom_engine_kv_capacity_tokens": set(),
    "headroom_engine_kv_theory_tokens": set(),
    "headroom_engine_kv_theory_lower_tokens": set(),
    "headroom_engine_kv_theory_upper_tokens": set(),
    "headroom_engine_kv_capacity_gap_ratio": set(),
    "headroom_engine_kv_used_tokens": set(),
    "headroom_engine_kv_headroom_tokens": set(),
    "headroom_engine_kv_usage_ratio": set(),
    "headroom_engine_kv_bytes_per_token": set(),
    "headroom_engine_requests_running": set(),
    "headroom_engine_requests_waiting": set(),
    "headroom_engine_max_num_seqs": set(),
    "headroom_engine_request_headroom": set(),
    "headroom_engine_full_context_concurrency": set(),
    "headroom_engine_limiter": {"limiter"},
    "headroom_engine_preemptions_total": set(),
    "headroom_engine_preemption_risk_ratio": set(),
    "headroom_engine_time_to_kv_exhaustion_seconds": set(),
    "headroom_engine_restart_fits": set(),
    "headroom_engine_restart_shortfall_bytes": set(),
    "headroom_engine_recommended_max_num_seqs": set(),
    "headroom_engine_recommended_max_num_seqs_lower": set(),
    "headroom_engine_recommended_max_num_seqs_upper": set(),
    "headroom_engine_advice_confidence_ratio": set(),
    "headroom_engine_recommendation_info": {"flag", "current", "recommended", "binding"},
    "headroom_engine_metric_missing": {"metric"},
}
ITSELF = {
    "headroom_build_info": {"version"},
    "headroom_collector_success": {"collector"},
    "headroom_collector_duration_seconds": {"collector"},
    "headroom_collector_last_success_timestamp_seconds": {"collector"},
}


def test_every_name_and_label_of_the_contract_is_declared():
    declared = {metric.name: set(metric.labels) for _, metric in all_metrics()}
    wanted = {
        **{name: {"gpu", "uuid"} | labels for name, labels in GPU.items()},
        **{name: {"engine", "model_name", "dp_rank"} | labels for name, labels in ENGINE.items()},
        **ITSELF,
    }
    assert {name for name in wanted if name not in declared} == set()
    assert {name for name, labels in wanted.items() if not labels <= declared[name]} == set()


def test_the_port_is_fixed_and_no_neighbours():
    assert 9100 <= DEFAULT_PORT <= 9999
    assert DEFAULT_PORT not in (9100, 9400, 9709, 9835)


def test_every_command_answers_for_help():
    runner = CliRunner()
    for name in COMMANDS:
        result = runner.invoke(cli, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert result.output.startswith("Usage:")


def test_serve_takes_the_flags_of_the_contract():
    command = cli.get_command(click.Context(cli), "serve")
    options = {option for parameter in command.params for option in parameter.opts}
    assert {
        "--engine",
        "--poll-interval",
        "--web.listen-address",
        "--config",
        "--log.level",
        "--log.format",
    } <= options


def test_wrong_use_exits_with_2():
    assert CliRunner().invoke(cli, ["serve", "--no-such-flag"]).exit_code == 2
    assert CliRunner().invoke(cli, ["nothing"]).exit_code == 2
