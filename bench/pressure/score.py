"""The recordings told to the model page by page, and what it said held against what the server then did."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from advisor.advise import advise
from advisor.flags import EngineFlags
from advisor.history import History, remember
from advisor.policy import Policy
from advisor.readings import EngineProcess
from advisor.snapshot import EngineTarget, Snapshot
from bench.pressure.recording import Half, Recording

BINS = 10
_HOLD_SECONDS = 5.0
"""An alert that is off for no longer than this goes on, as `keep_firing_for` has it; the same for every rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One page: what was said at it, and what came."""

    seconds: float
    risk_ratio: float | None
    usage_ratio: float
    waiting: float
    preempted_lately: bool
    """Whether a preemption was seen within the horizon before."""
    came: bool | None
    """Whether one was seen within the horizon after; None where the recording ends before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One recording, judged."""

    recording: str
    kind: str
    """What was offered: recordings of one kind differ in chance only."""
    half: Half
    moments: tuple[Moment, ...]
    onsets_seconds: tuple[float, ...]
    """Pages that showed a preemption after a horizon, or a beginning, without one."""


Rule = Callable[[Moment], bool]


def risk_above(threshold: float) -> Rule:
    """Return the rule of our own."""
    return lambda moment: moment.risk_ratio is not None and moment.risk_ratio > threshold


RULES: dict[str, Rule] = {
    "usage > 90%": lambda moment: moment.usage_ratio > 0.9,
    "usage > 95%": lambda moment: moment.usage_ratio > 0.95,
    "requests waiting": lambda moment: moment.waiting > 0,
    "usage > 90% and waiting": lambda moment: moment.usage_ratio > 0.9 and moment.waiting > 0,
    "preempted lately": lambda moment: moment.preempted_lately,
}
"""What people alert by today; the last is hindsight: what happened within the last horizon will again."""


def told(recording: Recording, policy: Policy) -> Story:
    """Tell a recording to what the daemon runs, page by page.

    Args:
        recording: What was seen.
        policy: Its ``kv_horizon_seconds`` is the horizon of everything here.
    """
    horizon = policy.kv_horizon_seconds
    times = [seconds for seconds, _ in recording.pages]
    counts = [page.totals["preemptions_total"] for _, page in recording.pages]
    server = EngineProcess(
        host="127.0.0.1",
        port=8000,
        secure=False,
        flags=EngineFlags(max_num_seqs=recording.max_num_seqs),
        pids=frozenset(),
        started_at_seconds=0.0,
    )
    history, moments = History(), []
    for place, (seconds, page) in enumerate(recording.pages):
        target = EngineTarget(engine=page.engine, url=page.url, failing=None)
        seen = Snapshot(now_seconds=1e4 + seconds, servers=(server,), engines=(page,), targets=(target,))
        report = advise(seen, history, policy)
        history = remember(history, seen, report)
        (engine,) = report.engines
        before = counts[max(0, bisect_right(times, seconds - horizon) - 1)]
        after = counts[bisect_right(times, seconds + horizon) - 1]
        moments.append(
            Moment(
                seconds=seconds,
                risk_ratio=engine.preemption_risk_ratio,
                usage_ratio=page.kv_usage_ratio or 0.0,
                waiting=page.requests_waiting or 0.0,
                preempted_lately=counts[place] > before,
                came=after > counts[place] if seconds + horizon <= times[-1] else None,
            )
        )
    return Story(
        recording=recording.name,
        kind=recording.load,
        half=recording.half,
        moments=tuple(moments),
        onsets_seconds=tuple(onsets(times, counts, horizon)),
    )


def onsets(times: Sequence[float], counts: Sequence[float], quiet_seconds: float) -> Iterable[float]:
    """Yield when a counter moved that had not moved for so long, or never."""
    last: float | None = None
    for number in range(1, len(times)):
        if counts[number] > counts[number - 1]:
            if last is None or times[number] - last > quiet_seconds:
                yield times[number]
            last = times[number]


def lead_seconds(story: Story, rule: Rule, onset_seconds: float) -> float:
    """Return how long an alert had been firing when a preemption was seen; 0 if it was not.

    It fires from the first moment at which the rule holds, and goes on over pauses of up to five seconds.
    """
    since: float | None = None
    last = 0.0
    for moment in story.moments:
        if moment.seconds >= onset_seconds:
            break
        if not rule(moment):
            continue
        if since is None or moment.seconds - last > _HOLD_SECONDS:
            since = moment.seconds
        last = moment.seconds
    return 0.0 if since is None or onset_seconds - last > _HOLD_SECONDS else onset_seconds - since


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleScore:
    """What one rule was worth."""

    recall_ratio: float | None
    """Of the moments after which a preemption came, the share at which it fired."""
    false_ratio: float | None
    """Of the others."""
    precision_ratio: float | None
    """Of the moments at which it fired, the share after which one came."""
    brier: float
    """Mean of (said - outcome) squared, where a rule says 0 or 1."""
    onsets: int
    leads_seconds: tuple[float, ...]
    """Of each onset, ascending."""

    @property
    def onsets_recalled(self) -> int:
        """Onsets before which it fired."""
        return sum(lead > 0 for lead in self.leads_seconds)

    @property
    def lead_median_seconds(self) -> float | None:
        """Half of the onsets were told this long before."""
        return median(self.leads_seconds) if self.leads_seconds else None

    @property
    def lead_p10_seconds(self) -> float | None:
        """Nine of ten onsets were told at least this long before."""
        return self.leads_seconds[len(self.leads_seconds) // 10] if self.leads_seconds else None


def judged(stories: Sequence[Story]) -> list[Moment]:
    """Return the moments that can be judged: something was said, and what came of it was recorded."""
    return [
        moment
        for story in stories
        for moment in story.moments
        if moment.came is not None and moment.risk_ratio is not None
    ]


def score(stories: Sequence[Story], rule: Rule) -> RuleScore:
    """Judge a rule."""
    moments = judged(stories)
    fired = [(rule(moment), bool(moment.came)) for moment in moments]
    hits, positives = sum(held and came for held, came in fired), sum(came for _, came in fired)
    said = sum(held for held, _ in fired)
    leads = sorted(
        lead_seconds(story, rule, onset)
        for story in stories
        for onset in story.onsets_seconds
        if any(moment.seconds < onset and moment.risk_ratio is not None for moment in story.moments)
    )
    return RuleScore(
        recall_ratio=_share(hits, positives),
        false_ratio=_share(said - hits, len(fired) - positives),
        precision_ratio=_share(hits, said),
        brier=sum((held - came) ** 2 for held, came in fired) / max(1, len(fired)),
        onsets=len(leads),
        leads_seconds=tuple(leads),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def brier(moments: Sequence[Moment], said: Callable[[Moment], float]) -> float:
    """Return the mean of (said - outcome) squared."""
    return sum((said(moment) - bool(moment.came)) ** 2 for moment in moments) / max(1, len(moments))


def our_brier(moments: Sequence[Moment]) -> float:
    """Return that of our risk."""
    return brier(moments, lambda moment: moment.risk_ratio or 0.0)


def base_rate_brier(moments: Sequence[Moment]) -> float:
    """Return that of somebody who always says how often it comes, and knows that: the worth of knowing no more."""
    rate = sum(bool(moment.came) for moment in moments) / max(1, len(moments))
    return rate * (1 - rate)


def calibration(moments: Sequence[Moment]) -> list[tuple[int, int, float]]:
    """Return for each tenth of risk (moments that said so, those after which one came, mean of what was said)."""
    bins: list[list[Moment]] = [[] for _ in range(BINS)]
    for moment in moments:
        bins[min(BINS - 1, int((moment.risk_ratio or 0.0) * BINS))].append(moment)
    return [
        (
            len(each),
            sum(bool(moment.came) for moment in each),
            sum(moment.risk_ratio or 0.0 for moment in each) / max(1, len(each)),
        )
        for each in bins
    ]


def at_recall(moments: Sequence[Moment], wanted_ratio: float) -> tuple[float, float] | None:
    """Return the highest threshold of our risk that recalls as much, and its share of false alarms.

    None where no threshold does.
    """
    came = sorted((moment.risk_ratio or 0.0 for moment in moments if moment.came), reverse=True)
    others = [moment.risk_ratio or 0.0 for moment in moments if not moment.came]
    needed = max(1, round(wanted_ratio * len(came) + 0.499999))
    if not came or needed > len(came):
        return None
    threshold = came[needed - 1]
    return threshold, sum(each >= threshold for each in others) / max(1, len(others))


def horizon_policy(seconds: float) -> Policy:
    """Return the default policy with another horizon."""
    return replace(Policy(), kv_horizon_seconds=seconds)
