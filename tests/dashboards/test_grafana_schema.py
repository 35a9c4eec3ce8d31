"""Every committed dashboard is one that Grafana's schema knows whole, and the check sees what it should."""

import json

import pytest

from dashboards.files import generated_dashboards, panels_of
from tests.dashboards.grafana_schema import faults

BOARDS = generated_dashboards()


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_no_key_and_no_value_that_grafanas_schema_does_not_know(name):
    assert faults(json.loads(BOARDS[name])) == ()


@pytest.fixture
def board():
    return json.loads(BOARDS["grafana/dashboards/server.json"])


@pytest.fixture
def panel(board):
    """A panel of lines with thresholds and overrides."""
    return next(each for each in panels_of(board) if each["title"] == "Slack and its low-water mark")


@pytest.fixture
def sheet(board):
    return next(each for each in panels_of(board) if each["title"] == "Health")


def cell(sheet, name):
    """Return what the table's first override of this kind says."""
    properties = (each for rule in sheet["fieldConfig"]["overrides"] for each in rule["properties"])
    return next(each["value"] for each in properties if each["id"] == name)


def planted(board):
    (fault,) = faults(board)
    return fault


def test_a_misspelt_key_of_the_dashboard_is_seen(board):
    board["refesh"] = "30s"
    assert "refesh: dashboard.Dashboard has no such key" in planted(board)


def test_a_misspelt_key_of_a_panel_is_seen(board, panel):
    panel["gridpos"] = panel.pop("gridPos")
    assert "gridpos: dashboard.Panel has no such key" in planted(board)


def test_a_misspelt_key_of_a_query_is_seen(board, panel):
    panel["targets"][0]["exprr"] = panel["targets"][0].pop("expr")
    assert "targets[0].exprr: prometheus.Dataquery has no such key" in planted(board)


def test_an_option_is_held_against_its_own_kind_of_panel(board, panel):
    panel["options"]["cellHeight"] = "sm"
    assert "options.cellHeight: timeseries.Options has no such key" in planted(board)


def test_a_misspelt_custom_field_is_seen(board, panel):
    panel["fieldConfig"]["defaults"]["custom"]["lineWidht"] = 2
    assert "custom.lineWidht: common.GraphFieldConfig has no such key" in planted(board)


def test_a_value_outside_its_enumeration_is_seen(board, panel):
    panel["options"]["legend"]["displayMode"] = "tabel"
    assert "displayMode: 'tabel' is no LegendDisplayMode" in planted(board)


def test_a_number_written_as_text_is_seen(board, panel):
    panel["gridPos"]["w"] = "8"
    assert "gridPos.w: '8' is no int" in planted(board)


def test_a_unit_that_grafana_does_not_have_is_seen(board, panel):
    panel["fieldConfig"]["defaults"]["unit"] = "byte"
    assert "unit: 'byte' is no unit" in planted(board)


def test_a_threshold_of_an_override_is_held_against_the_field_that_it_overrides(board, sheet):
    cell(sheet, "thresholds")["mode"] = "absolut"
    assert "thresholds.mode: 'absolut' is no ThresholdsMode" in planted(board)


def test_an_override_of_a_field_that_is_not_there_is_seen(board, panel):
    panel["fieldConfig"]["overrides"][0]["properties"][0]["id"] = "custom.lineStile"
    assert "lineStile: common.GraphFieldConfig has no such key" in planted(board)


def test_a_mapping_of_another_kind_is_seen(board, sheet):
    cell(sheet, "mappings")[0]["type"] = "vale"
    assert "mappings" in planted(board)


def test_a_kind_of_panel_that_the_schema_does_not_have_is_seen(board, panel):
    panel["type"] = "graph"
    assert "'graph' is no kind of panel" in planted(board)
