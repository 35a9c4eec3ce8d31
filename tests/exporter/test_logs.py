import json
import logging

import pytest

from exporter import logs


@pytest.fixture
def written(capsys):
    def write(log_format, message, **more):
        logs.configure("info", log_format)
        logging.getLogger("exporter").warning(message, **more)
        return capsys.readouterr().err

    yield write
    logging.basicConfig(force=True, handlers=[logging.NullHandler()])


def test_logfmt_quotes_what_would_break_a_line(written):
    line = written("logfmt", 'model "x"\nlevel=info msg=forged')
    assert line.count("\n") == 1
    assert line.endswith('level=warn msg="model \\"x\\"\\nlevel=info msg=forged"\n')


def test_json_lines_are_json(written):
    line = json.loads(written("json", "reading nvml failed"))
    assert (line["level"], line["msg"]) == ("warn", "reading nvml failed")


def test_an_exception_is_part_of_its_line(written):
    try:
        int("deep inside")
    except ValueError:
        text = written("logfmt", "it broke", exc_info=True)
    assert text.count("\n") == 1
    assert "deep inside" in text
