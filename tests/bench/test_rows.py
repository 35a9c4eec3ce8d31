import pytest

from bench.accuracy.rows import (
    configuration_of,
    configurations,
    deployments,
    family,
    halves,
    reasons_against,
    spelled_out,
)


def test_a_repeated_list_is_spelled_out():
    assert spelled_out({"layer_types": {"repeat": ["a", "b"], "times": 2}}) == {"layer_types": ["a", "b", "a", "b"]}


def test_a_range_in_a_name_is_spelled_out():
    assert spelled_out(["layers.{0..2}.gate", "lm_head"]) == [
        "layers.0.gate",
        "layers.1.gate",
        "layers.2.gate",
        "lm_head",
    ]


def test_every_row_has_its_own_id_a_source_and_a_known_geometry():
    rows, configs = deployments(), configurations()
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.source.startswith("https://") for row in rows)
    assert {row.geometry for row in rows if row.geometry} <= configs.keys()


def test_the_halves_are_those_that_the_hash_draws():
    rows = deployments()
    drawn = halves(row.author for row in rows)
    assert all(row.half == drawn[row.author] for row in rows)
    assert abs(list(drawn.values()).count("fitted") - list(drawn.values()).count("held out")) <= 1


def test_utilization_is_stated_only_where_the_flag_is_given():
    assert all(("--gpu-memory-utilization" in row.args) == row.utilization_stated for row in deployments())


def test_no_row_is_left_out_of_everything_it_reports_without_a_doubt():
    for row in deployments():
        if not row.doubts and row.reported.kv_gib is not None and row.reported.kv_gib > 0:
            assert reasons_against(row, "kv") == ()


def test_another_checkpoints_quantisation_is_not_taken_for_a_variants():
    configs = configurations()
    for row in deployments():
        if any(doubt.of == "variant" for doubt in row.doubts):
            config = configuration_of(row, configs)
            assert config is None or "quantization_config" not in config


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "dense"),
        ("Qwen/Qwen3-30B-A3B", "mixture of experts"),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "latent attention"),
        ("google/gemma-3-12b-it", "sliding-window hybrid"),
        ("ai21labs/AI21-Jamba-1.5-Mini", "hybrid with states"),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "multimodal"),
    ],
)
def test_models_are_grouped_by_what_is_hardest_about_their_memory(model, kind):
    assert family(configurations()[model]) == kind
