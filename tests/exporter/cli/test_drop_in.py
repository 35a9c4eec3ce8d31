"""The text of a drop-in; what systemd makes of it: test_advise.py and tests/exporter/test_command_line.py."""

import pytest

from advisor.report import EngineAdvice
from exporter.cli.drop_in import drop_in
from tests.advisor.loads import told
from tests.advisor.test_tuning import advised


@pytest.mark.parametrize(
    ("is_users", "folder", "systemctl"),
    [(False, "/etc/systemd/system", "systemctl"), (True, "~/.config/systemd/user", "systemctl --user")],
)
def test_it_says_where_it_belongs_and_how_it_comes_into_effect(is_users, folder, systemctl):
    advice = EngineAdvice(engine="e", model_name="m", dp_rank="0", not_yet=None, seqs=advised(told()))
    argv = ["/usr/bin/vllm", "serve", "m", "--max-num-seqs", "64"]
    lines = drop_in(advice, {"max-num-seqs": "15"}, argv=argv, unit="chat.service", is_users=is_users).splitlines()
    assert lines[0] == f"# {folder}/chat.service.d/50-headroom.conf"
    assert f"#   {systemctl} daemon-reload && {systemctl} restart chat.service" in lines
    assert lines[-3:] == ["[Service]", "ExecStart=", "ExecStart=/usr/bin/vllm serve m --max-num-seqs 15"]
