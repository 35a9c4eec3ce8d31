"""What docs/risk.md says of the live run."""

from collections.abc import Sequence

from bench.live_risk.rules import BASELINES, OURS, RESTART
from bench.live_risk.run import Outcome

_FROM_THE_START_SECONDS = 180.0
_HEAD = (
    "story",
    "how it ends",
    "warned by us",
    "largest factor then",
    "highest risk",
    *BASELINES,
)


def report(outcomes: Sequence[Outcome], *, speed: float, poll_seconds: float) -> str:
    """Return the section as Markdown."""
    rows = [
        (
            outcome.story.title,
            ending(outcome),
            warning(outcome),
            outcome.factor or "-",
            f"{outcome.highest_risk_ratio:.2f}",
            *(said(outcome, rule) for rule in BASELINES),
        )
        for outcome in outcomes
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (_HEAD, ("---",) * len(_HEAD), *rows))
    return (
        f"{len(outcomes)} stories at {speed:g} times their speed; the daemon looked, and Prometheus scraped and "
        f"evaluated, every {poll_seconds:g} s of the story.\n\n{table}\n"
    )


def ending(outcome: Outcome) -> str:
    """Say how and when a story ended."""
    if outcome.ended_at_seconds is None:
        return "nothing happens" if outcome.story.ends == "nothing" else f"{outcome.story.ends} did not come"
    return f"{outcome.story.ends} at {_minutes(outcome.ended_at_seconds)}"


def warning(outcome: Outcome) -> str:
    """Say what our alerts said: that of the risk, and where it is the restart that fails that of the restart."""
    if outcome.story.ends != "restart fails":
        return said(outcome, OURS)
    return f"{said(outcome, RESTART)} ({RESTART}); {said(outcome, OURS)} ({OURS})"


def said(outcome: Outcome, rule: str) -> str:
    """Say what a rule said of a story: how long before its end, or for how long for nothing."""
    fired = outcome.fired[rule]
    if outcome.ended_at_seconds is None:
        seconds = sum(min(until, outcome.story.seconds) - since for since, until in fired)
        return f"false for {_minutes(seconds)} of {_minutes(outcome.story.seconds)}" if fired else "quiet"
    lead = outcome.lead_seconds(rule)
    if lead is None:
        return "silent"
    always = outcome.ended_at_seconds - lead <= _FROM_THE_START_SECONDS
    return f"{_minutes(lead)} ahead{' (from the start)' if always else ''}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
