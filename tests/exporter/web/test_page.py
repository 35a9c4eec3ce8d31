"""The status page as a browser shows it, and as its text reads."""

import re
from typing import get_args

import pytest

from advisor.tuning import Wall
from exporter import words
from exporter.recent import SLOTS
from exporter.web.looks import CONTENT_SECURITY_POLICY
from exporter.web.page import render_page
from tests.exporter.daemon import FakeServer, daemon, vllm_page
from tests.exporter.web import statuses
from tests.exporter.web.browser import chromium

FAST = ("--poll-interval", "0.25")
HOSTILE = "\"><img src=x onerror=window.hurt=1><script>window.hurt=1</script>'{{7*7}}</title></style>"

FAINT_TEXTS = """
(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const found = parts(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  let seen = 0;
  while (walker.nextNode()) {
    const holder = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !holder.getClientRects().length) continue;
    seen += 1;
    const [a, b] = [light(parts(getComputedStyle(holder).color)), light(behind(holder))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.push([walker.currentNode.data, contrast]);
  }
  return seen > 50 ? faint : "too few texts seen";
})()
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.close()


def serve(server, status, recents=None):
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    server.answers["/"] = (200, headers, render_page(status, recents or {}).encode())
    return f"{server.url}/"


def shown(status, recents=None):
    """Return the page's text without its markup."""
    body = render_page(status, recents or {}).partition("<body")[2]
    return " ".join(re.sub(r"<script>.*</script>|<[^>]*>", " ", body, flags=re.DOTALL).split())


@pytest.mark.needs_chromium
def test_what_a_vllm_server_reports_is_on_the_page_and_stays_current(browser, server):
    server.page(vllm_page(running=3, waiting=0))
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        tab = browser.open(f"http://127.0.0.1:{running.port}/")
        tab.wait_for("document.body.innerText.includes('25,000 of 100,000 tokens')")
        assert "No GPU is readable here" in tab.text()
        tab.run("window.stays = 1")
        server.page(vllm_page(running=41, waiting=7))
        tab.wait_for("document.body.innerText.includes('41 run, 7 wait.')")
        assert tab.run("window.stays") == 1, "the page was changed and not loaded again"
        running.stop()
        tab.wait_for("document.getElementById('lost').innerText.includes('The daemon does not answer')")
    assert [each for each in tab.complaints if "ERR_CONNECTION_REFUSED" not in each] == []


@pytest.mark.needs_chromium
def test_a_paused_page_does_not_change_until_it_is_resumed(browser, server):
    url = serve(server, statuses.good() | {"poll_interval_seconds": 1.0})
    tab = browser.open(url)
    tab.run("document.getElementById('pause').click()")
    serve(server, statuses.bad())
    seen = len(server.requests)
    tab.run("new Promise((done) => setTimeout(done, 2500))")
    assert len(server.requests) == seen
    assert "All is well" in tab.text()
    tab.run("document.getElementById('pause').click()")
    tab.wait_for("document.body.innerText.includes('Look at GPU 1')")
    assert tab.complaints == []


@pytest.mark.needs_chromium
def test_an_update_keeps_the_focus_and_what_was_opened(browser, server):
    status = statuses.good() | {"poll_interval_seconds": 1.0}
    tab = browser.open(serve(server, status))
    tab.run("document.querySelector('details').open = true; document.querySelector('summary').focus()")
    serve(server, statuses.many() | {"poll_interval_seconds": 1.0})
    tab.wait_for("document.body.innerText.includes('GPU 7')")
    assert tab.run("document.querySelector('details').open && document.activeElement.localName") == "summary"
    assert tab.complaints == []


@pytest.mark.needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("moment", [statuses.good, statuses.bad, statuses.many])
def test_it_fits_the_screen_and_every_text_stands_out(browser, server, width, dark, moment):
    status = moment()
    recents = {("gpu", status["gpus"][0]["uuid"]): {"oom_risk_ratio": [0.5] * SLOTS}}
    tab = browser.open(serve(server, status, recents), width=width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(FAINT_TEXTS) == []
    assert tab.complaints == []


@pytest.mark.needs_chromium
@pytest.mark.parametrize("width", [360, 1440])
def test_the_sign_stands_beside_the_headline_however_long_that_is(browser, server, width):
    tab = browser.open(serve(server, statuses.many()), width=width)
    place = "document.querySelector('.headline {}').getBoundingClientRect()".format
    assert tab.run(f"{place('strong')}.top < {place('.sign')}.bottom")


@pytest.mark.needs_chromium
def test_every_figure_is_there_without_scripts(browser, server):
    url = serve(server, statuses.many())
    with_scripts = browser.open(url)
    without = browser.open(url, scripts=False)
    main = "document.getElementById('main').innerText"
    assert without.run(main) == with_scripts.run(main).replace("Copy\n", "").replace("Copy", "")
    assert "Pause" not in without.text()
    assert "Reload to update" in without.text()


@pytest.mark.needs_chromium
def test_nothing_that_a_server_says_becomes_markup(browser, server):
    status = statuses.many()
    for gpu in status["gpus"]:
        gpu |= {"gpu": HOSTILE, "name": HOSTILE, "memory_component_bytes": {HOSTILE: 1e9}}
        gpu |= {"oom_risk_factor_ratio": {HOSTILE: 0.9}, "oom_risk_reasons": {HOSTILE: HOSTILE}}
        gpu |= {"throttled": {HOSTILE: 1}, "xid_errors_total": {HOSTILE: 1}}
    for engine in status["engines"]:
        engine |= {"engine": HOSTILE, "model_name": HOSTILE, "vllm_version": HOSTILE, "dp_rank": HOSTILE}
        engine |= {"failing": {HOSTILE: 1}, "metric_missing": {HOSTILE: 1}, "theory": HOSTILE}
        named = {"engine": HOSTILE, "dp_rank": HOSTILE, "current": "1"}
        status["recommendations"] = [named | {"flag": HOSTILE, "recommended": HOSTILE, "binding": HOSTILE}]
    for finding in status["findings"]:
        finding |= {"subject": HOSTILE, "summary": HOSTILE, "advice": HOSTILE}
    for collector in status["collectors"]:
        collector |= {"collector": HOSTILE, "success": 0, "failing": {HOSTILE: 1}}
    status["build"]["version"] = HOSTILE
    plain = browser.open(serve(server, statuses.many()))
    tab = browser.open(serve(server, status))
    assert tab.run("document.querySelectorAll('img').length + document.querySelectorAll('main script').length") == 0
    assert tab.run("document.scripts.length") == plain.run("document.scripts.length")
    assert tab.run("window.hurt") is None
    assert HOSTILE in tab.run("document.body.textContent")
    serve(server, status)
    tab.run("new Promise((done) => setTimeout(done, 1500))")
    assert tab.run("window.hurt") is None
    assert tab.complaints == []


@pytest.mark.needs_chromium
def test_advice_is_copied_by_its_button(browser, server):
    tab = browser.open(serve(server, statuses.many()))
    assert tab.run("document.querySelector('.advice code').innerText") == "--max-num-seqs 24"
    tab.run("document.querySelector('.copy').click()")
    tab.wait_for("document.querySelector('.copy').innerText === 'Copied'")
    assert tab.complaints == []


@pytest.mark.needs_chromium
def test_the_keyboard_reaches_the_findings_first(browser, server):
    tab = browser.open(serve(server, statuses.bad()))
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert tab.run("document.activeElement.getAttribute('href')") == "#findings"
    assert tab.run("document.activeElement.getBoundingClientRect().left") >= 0, "it can be seen while it has the focus"


@pytest.mark.needs_chromium
def test_a_screen_reader_hears_bars_charts_and_the_headline(browser, server):
    status = statuses.bad()
    recents = {("gpu", "GPU-demo-1"): {"oom_risk_ratio": [0.25] * SLOTS}}
    tab = browser.open(serve(server, status, recents))
    images = tab.run("[...document.querySelectorAll('svg[role=img]')].map((each) => each.getAttribute('aria-label'))")
    assert any(label.startswith("Memory of GPU 0: weights 15.0 GiB, KV cache, in use") for label in images)
    assert "Risk of running out, last 60 min: now 25%, between 25% and 25%" in images
    assert tab.run("document.querySelector('[role=status]').innerText").startswith("■")
    unnamed = "[...document.querySelectorAll('svg')].filter((each) => !each.ariaHidden && !each.ariaLabel).length"
    assert tab.run(unnamed) == 0


def test_a_bad_moment_says_in_its_first_line_where_and_why():
    level, sentence = words.headline(statuses.bad())
    assert level == "critical"
    assert sentence.startswith("Look at GPU 1 (risk of running out 99%) and 127.0.0.1:")
    assert sentence.endswith("(limited by KV cache, 64 wait).")


def test_what_is_worst_comes_first():
    assert words.headline(statuses.many())[1].startswith(
        "Look at GPU 5 (risk of running out 99%), inference-3.example.internal:8000 (down)"
    )
    assert shown(statuses.bad()).index("GPU 1 Demo") < shown(statuses.bad()).index("GPU 0 Demo")


def test_a_good_moment_says_that_nothing_is_wrong():
    assert words.headline(statuses.good()) == ("good", "All is well: 2 GPUs, 1 engine.")
    assert "Nothing to report." in shown(statuses.good())


@pytest.mark.parametrize(("moment", "level"), [(statuses.bad, "warning"), (statuses.good, "good")])
def test_room_for_one_more_request_is_not_called_good_while_others_wait(moment, level):
    status = moment()
    status["engines"][0]["request_headroom"] = 1.0
    tile = re.search(r'<li class="(\w+)">(?:(?!</li>).)*more typical requests fit', render_page(status, {}))
    assert tile[1] == level


def test_why_a_full_gpu_is_no_alarm_is_said_where_an_engine_runs_and_only_there():
    text = shown(statuses.bad())
    # 15.0 weights + 4.1 of the KV cache + 0.3 graphs + 0.2 activations + 0.7 rest + 0.4 driver, of 22.5 GiB
    assert "94% is taken at any load, because vLLM reserves its KV cache when it starts and keeps it." in text
    assert "Of these 4.5 GiB, 0.3 GiB are idle now, so 20.8 GiB (92%) are really in use." in text
    assert text.count("is taken at any load") == 1


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ({"restart_fits": 0, "restart_shortfall_bytes": 2**31}, "would not start again with its flags: 2.00 GiB"),
        ({"restart_fits": 1}, "It would start again with its flags."),
        ({"recommended_max_num_seqs": 24.0}, "--max-num-seqs 24"),
        ({"preemption_risk_ratio": 0.4}, "probability of another soon 40%"),
        ({"time_to_kv_exhaustion_seconds": 300.0}, "KV cache full in 5 min"),
        ({"time_to_kv_exhaustion_seconds": "+Inf"}, "KV cache full in not in sight"),
        ({"recommended_max_num_seqs": 24.0, "advice_confidence_ratio": 0.8}, "Advice, confidence 80%"),
    ],
)
def test_what_the_advisor_adds_to_an_engine_is_shown_when_it_is_there(added, told):
    status = statuses.bad()
    assert told not in shown(status)
    status["engines"][0] |= added
    assert told in shown(status)


def test_each_flag_that_should_be_otherwise_is_listed_and_what_may_stay_is_not():
    status = statuses.bad()
    engine = status["engines"][0]
    engine |= {"recommended_max_num_seqs_lower": 20.0, "recommended_max_num_seqs_upper": 28.0}
    named = {"engine": engine["engine"], "dp_rank": "0", "binding": "kv"}
    fp8 = {"flag": "kv-cache-dtype", "current": "auto", "recommended": "fp8", "kv_gain_tokens": 36720.0}
    status["recommendations"] = [
        named | {"flag": "max-num-seqs", "current": "64", "recommended": "24", "why": "24 of them fill it"},
        named | fp8 | {"why": "half the bytes a token"},
        named | {"flag": "max-model-len", "current": "8192", "recommended": "8192"},
        named | {"engine": "another", "flag": "block-size", "current": "16", "recommended": "32"},
    ]
    text = shown(status)
    assert "--max-num-seqs 24 Copy 64 20 to 28 would do: 24 of them fill it" in text
    assert "--kv-cache-dtype fp8 Copy auto +36,720 tokens half the bytes a token" in text
    assert "--max-model-len" not in text
    assert "--block-size" not in text


def test_a_max_num_seqs_that_is_right_is_said_to_be():
    status = statuses.bad()
    status["engines"][0] |= {"recommended_max_num_seqs": 64.0, "advice_confidence_ratio": 0.8}
    text = shown(status)
    assert "max-num-seqs 64 is as it should be (confidence 80%)." in text
    assert "Copy" not in text


def test_an_older_daemons_advice_says_at_least_what_decides():
    status = statuses.bad()
    named = {"engine": status["engines"][0]["engine"], "dp_rank": "0", "binding": "slack"}
    status["recommendations"] = [named | {"flag": "gpu-memory-utilization", "current": "0.9", "recommended": "0.95"}]
    (advice,) = words.recommendations(status, status["engines"][0])
    assert advice["why"] == "memory that is free decides"


def test_every_wall_that_advice_names_has_its_words():
    assert set(get_args(Wall)) <= words.BINDING_WORDS.keys()


def test_a_cache_that_is_full_is_not_said_to_be_so_in_no_time():
    status = statuses.bad()
    status["engines"][0]["time_to_kv_exhaustion_seconds"] = 0.4
    assert "KV cache full in 0 s: it is full" in shown(status)


def test_causes_of_the_risk_that_say_nothing_are_folded_away():
    status = statuses.good()
    status["gpus"][0]["oom_risk_factor_ratio"] = {"claims": 0.3, "trend": 0.004, "events": 0.0}
    body = render_page(status, {})
    open_part, _, folded = body.partition("2 more causes, each below 1%")
    assert "claims" in open_part.partition("GPU 0")[2]
    assert "trend" in folded.partition("</details>")[0]


def test_bounds_and_low_water_of_a_gpu_are_shown_when_they_are_there():
    text = shown(statuses.many())
    assert "lowest so far 1.00 GiB" in text
    assert "(100 s to never) if the growth of the last 2 min goes on, 208 GiB an hour" in text
    assert "Xid 79 (once)" in text


def empty(**changes):
    nothing = {"gpus": [], "engines": [], "findings": []}
    ok = [{"collector": name, "success": 1} for name in ("nvml", "process", "advice")]
    return statuses.good() | nothing | {"collectors": ok} | changes


def test_without_a_driver_the_page_says_so():
    failing = [{"collector": "nvml", "success": 0, "failing": {"no_driver_library": 1}}]
    text = shown(empty(collectors=[*failing, {"collector": "process", "success": 1}]))
    assert "No GPU is readable here: no NVIDIA driver is installed here (no_driver_library)." in text
    assert "No vLLM server has been found on this host." in text
    assert "Nothing to watch" in text
    assert "1 of 2 cannot be read" in text


def test_without_a_fresh_reading_the_page_is_blind_and_does_not_call_it_well():
    text = shown(empty(time_seconds=None))
    assert "Blind: there is no fresh reading" in text
    assert "Nothing can be said without a fresh reading." in text
    assert "All is well" not in text
    assert "Nothing to report" not in text


def test_before_the_first_reading_the_page_says_that_it_is_under_way():
    text = shown(empty(ready=False, time_seconds=None, collectors=[]))
    assert "The first reading is under way." in text
    assert "All is well" not in text


def test_where_the_first_line_tells_of_trouble_no_part_of_the_page_says_that_there_is_nothing():
    status = statuses.good()
    status["engines"][0] |= {"up": 0, "failing": {"connection_refused": 1}}
    assert "Findings Nothing beyond the first line." in shown(status)


def test_an_engine_that_is_down_says_why_and_shows_no_figures():
    text = shown(statuses.many())
    assert "down: nothing listens there (connection_refused)" in text


def test_two_points_make_a_chart_and_one_does_not():
    status = statuses.bad()
    one = [float("nan")] * (SLOTS - 1) + [0.5]
    two = [float("nan")] * (SLOTS - 2) + [0.5, 0.5]
    assert "ago" not in shown(status, {("gpu", "GPU-demo-0"): {"oom_risk_ratio": one}})
    assert "5 min ago 0% to 100% now" in shown(status, {("gpu", "GPU-demo-0"): {"oom_risk_ratio": two}})
