"""vLLM's V1 scheduler, step by step: who runs, who waits, who is preempted, and which KV blocks are left.

Reference: vLLM 0.32 ``v1/core/sched/scheduler.py`` and ``async_scheduler.py``, ``v1/core/kv_cache_manager.py``,
``v1/engine/core.py`` (order of events in an iteration); what other releases do differently is in
`SchedulerConfig.for_version`. Given the same requests before the same steps, every number here is the one that the
real scheduler produces. Not modelled: LoRA limits, KV connectors, multi-modal input, speculative decoding, pipeline
parallelism and layers that keep less than the whole sequence (sliding window, Mamba).

How long a step takes is no business of the scheduler. `replay` takes that from its caller and turns steps into times.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from advisor.blocks import BlockPool, CachingBlockPool, Holder, cdiv

SchedulingPolicy = Literal["fcfs", "priority"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """The flags that steer the scheduler, and what sets the releases apart. Defaults are those of 0.32."""

    num_gpu_blocks: int
    """Blocks of the KV cache as vLLM reports them; one of them, the null block, is never given out."""
    block_size: int
    """Tokens in a block."""
    max_num_seqs: int
    """Most requests that run at a time."""
    max_num_batched_tokens: int
    """Most tokens in a step, prefill and decode together."""
    max_model_len: int
    """Most tokens of a request, prompt and output together."""
    max_num_active_seqs: int | None = None
    """Admit fewer than ``max_num_seqs`` (0.31+)."""
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    scheduling_policy: SchedulingPolicy = "fcfs"
    async_scheduling: bool = True
    """A step is scheduled before the tokens of the one before it are known."""
    scheduler_reserve_full_isl: bool = True
    """Admit a request only if its whole prompt would fit now: a check, nothing is set aside (0.19+)."""
    watermark: float = 0.0
    """Share of the blocks that an admission must leave free while others run (0.24+)."""
    long_prefill_token_threshold: int = 0
    """Most prompt tokens that one request gets in a step; 0 is no limit."""
    long_prefill_token_threshold_adaptive: bool = False
    """Raise that limit to an even share of ``max_num_batched_tokens`` (0.31+)."""
    long_prefill_threshold_when_alone: bool = False
    """Apply that limit to a request that has the server to itself (before 0.31)."""
    stop_after_self_preemption: bool = True
    """Policy ``priority``: serve nobody after a request that had to preempt itself in this step (before 0.33)."""
    uncached_blocks_first: bool = True
    """Reuse freed blocks that hold nothing findable before all others (0.24+)."""
    count_lookups_every_step: bool = False
    """Book a prefix-cache query each time the head of the queue is looked at, admitted or not (before 0.27)."""
    count_preempted_lookups: bool = False
    """Book the queries of requests that resume, too (before 0.11.1)."""

    def __post_init__(self) -> None:
        for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_gpu_blocks < 2:
            raise ValueError(f"num_gpu_blocks must be at least 2, one is the null block; it is {self.num_gpu_blocks}")
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise ValueError(f"scheduling_policy is fcfs or priority, not {self.scheduling_policy!r}")
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark is a share from 0 up to below 1, not {self.watermark}")
        if self.max_num_active_seqs is not None and not 1 <= self.max_num_active_seqs <= self.max_num_seqs:
            raise ValueError(
                f"max_num_active_seqs is from 1 to max_num_seqs ({self.max_num_seqs}), not {self.max_num_active_seqs}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}): each running request decodes one token a step"
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"without chunked prefill max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_model_len ({self.max_model_len})"
            )
        if self.long_prefill_token_threshold < 0:
            raise ValueError(
                f"long_prefill_token_threshold is a number of tokens or 0, not {self.long_prefill_token_threshold}"
            )

    @classmethod
    def for_version(
        cls,
        version: tuple[int, ...] = (0, 32),
        *,
        num_gpu_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        max_num_active_seqs: int | None = None,
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        scheduling_policy: SchedulingPolicy = "fcfs",
        async_scheduling: bool | None = None,
        scheduler_reserve_full_isl: bool | None = None,
        watermark: float = 0.0,
        long_prefill_token_threshold: int = 0,
        long_prefill_token_threshold_adaptive: bool = False,
    ) -> "SchedulerConfig":
        """Return what these flags mean to one release's V1 scheduler.

        ``version`` is the release, as in ``(0, 32)`` or ``(0, 11, 1)``; one newer than 0.33 is taken to behave like it.
        None for ``async_scheduling`` or ``scheduler_reserve_full_isl`` takes the release's default: on from 0.14 and
        from 0.19. The other flags are as in `SchedulerConfig`.

        Raises:
            ValueError: The release is older than 0.10.2, whose scheduler differs in more than these switches; or it
                does not know a flag given; or that flag works differently there and is not modelled.
        """
        release = (*version, 0, 0, 0)[:3]
        named = ".".join(str(part) for part in version)

        def require(minimum: tuple[int, int, int], wanted: bool, what: str) -> None:
            if wanted and release < minimum:
                since = ".".join(str(part) for part in minimum).removesuffix(".0")
                raise ValueError(f"{what} takes vLLM {since} or newer, not {named}")

        require((0, 10, 2), True, "this model of the V1 scheduler")
        require((0, 19, 0), scheduler_reserve_full_isl is True, "scheduler_reserve_full_isl")
        require((0, 24, 0), watermark > 0, "watermark")
        require((0, 31, 0), max_num_active_seqs is not None, "max_num_active_seqs")
        require((0, 31, 0), long_prefill_token_threshold_adaptive, "long_prefill_token_threshold_adaptive")
        require((0, 11, 1), async_scheduling is True, "this model of async_scheduling")
        require((0, 11, 1), scheduling_policy == "priority", "this model of scheduling_policy priority")
        require((0, 12, 0), not enable_chunked_prefill, "this model of scheduling without chunked prefill")
        return cls(
            num_gpu_blocks=num_gpu_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            max_num_active_seqs=max_num_active_seqs,
            enable_prefix_caching=enable_prefix_caching,
            enable_chunked_prefill=enable_chunked_prefill,
            scheduling_policy=scheduling_policy,
            async_scheduling=release >= (0, 14, 0) if async_scheduling is None else async_scheduling,
            scheduler_reserve_full_isl=(
                release >= (0, 19, 0) if scheduler_reserve_full_isl is None else scheduler_reserve_full_isl
            ),
            watermark=watermark,
            long_prefill_token_threshold=long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive=long_prefill_token_threshold_adaptive,
            long_prefill_threshold_when_alone=release < (0, 31, 0),
            stop_after_self_preemption=release < (0, 33, 0),
            uncached_blocks_first=release >= (0, 24, 0),
            count_lookups_every_step=release < (0, 27, 0),
            count_preempted_lookups=release < (0, 11, 1),
        )

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens that requests can hold together."""
        return (self.num_gpu_blocks - 1) * self.block_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request as the scheduler sees it: lengths, not text."""

    request_id: str
    prompt_tokens: int
    max_tokens: int
    """Most output tokens; the scheduler knows this number and plans with it."""
    eos_after: int | None = None
    """Output tokens after which the model ends the sequence by itself, which the scheduler cannot foresee."""
    prefix_group: str | None = None
    shared_prefix_tokens: int = 0
    """Leading prompt tokens that all requests of the same ``prefix_group`` have in common."""
    priority: int = 0
    """Lower runs earlier (policy ``priority`` only)."""
    arrival_time: float | None = None
    """Breaks ties of priority, lower first; any unit. None takes the order of `Scheduler.add`."""

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(f"request {self.request_id}: prompt_tokens and max_tokens must be at least 1")
        if self.eos_after is not None and self.eos_after < 1:
            raise ValueError(f"request {self.request_id}: eos_after must be at least 1")
        if not 0 <= self.shared_prefix_tokens <= self.prompt_tokens:
            raise ValueError(f"request {self.request_id}: shared_prefix_tokens must lie within the prompt")
        if self.shared_prefix_tokens and self.prefix_group is None:
            raise ValueError(f"request {self.request_id}: shared_prefix_tokens needs a prefix_group to share with")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one call of ``Scheduler.schedule`` decided. The last three fields are None unless recording."""

    step: int
    prefill_tokens: int
    """Tokens of requests that are admitted in this step or have not reached their first new token yet."""
    decode_tokens: int
    """Tokens of requests in decode: one each."""
    context_tokens: int
    """Cached tokens that the decoding requests attend to, summed."""
    recomputed_tokens: int
    """Of ``prefill_tokens``, those computed before and lost in a preemption."""
    admitted: tuple[str, ...]
    """Requests that went from waiting to running, in order."""
    preempted: tuple[str, ...]
    """Requests that went back to waiting, in order."""
    num_running: int
    """Requests running after the decision."""
    num_waiting: int
    """Requests waiting after the decision."""
    num_free_blocks: int
    """Free blocks after the decision."""
    num_scheduled_tokens: Mapping[str, int] | None = None
    running: tuple[str, ...] | None = None
    waiting: tuple[str, ...] | None = None

    @property
    def total_num_scheduled_tokens(self) -> int:
        """Tokens that the model computes in this step."""
        return self.prefill_tokens + self.decode_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerStats:
    """What vLLM publishes after a step (``Scheduler.make_stats``)."""

    num_running_reqs: int
    num_waiting_reqs: int
    """Waiting for capacity (``vllm:num_requests_waiting`` is this plus the next)."""
    num_skipped_waiting_reqs: int
    """Waiting for something else ("deferred"): none of what is modelled here makes a request do so."""
    kv_cache_usage: float
    """0 to 1; blocks kept only for the prefix cache count as free."""
    prefix_cache_queries: int
    """Tokens looked up since the last record."""
    prefix_cache_hits: int
    """Tokens found since the last record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What came of one batch (``Scheduler.update_from_output``)."""

    step: int
    """The step whose batch this is: with async scheduling, one before the step that reports it."""
    emitted: tuple[str, ...]
    """Requests that got a token, in order."""
    finished: tuple[str, ...]
    """Requests that got their last one, in order."""
    preempt_events: tuple[str, ...]
    """One entry for each preemption that ``vllm:num_preemptions_total`` counts now: a victim reports its preemptions
    with its next token."""
    num_free_blocks: int
    stats: SchedulerStats


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One iteration of the engine: a batch goes out, the output of a batch comes in, or both."""

    step: int
    batch: Batch | None
    """None: nothing was left to schedule."""
    output: Output | None
    """None: no batch had to be waited for (the first step after idleness with async scheduling)."""


class _Live(Holder):
    """A request on its way through the scheduler."""

    __slots__ = (
        "computed",
        "end",
        "gone",
        "lost",
        "order",
        "preemptions",
        "prefilling",
        "request_id",
        "stale",
        "stop",
        "target",
        "tokens",
        "unreported",
        "waits",
    )

    def __init__(self, request: Request, *, max_model_len: int, order: tuple[int, float, str, int]) -> None:
        super().__init__()
        self.request_id = request.request_id
        self.order = order
        """Place in the priority queue; the last entry tells equals apart."""
        self.tokens = request.prompt_tokens
        """Tokens known: prompt and output so far."""
        self.target = request.prompt_tokens
        """Tokens known or certain to come from batches in flight: as far as can be scheduled."""
        self.computed = 0
        """Tokens computed or being computed."""
        self.end = min(request.prompt_tokens + request.max_tokens, max_model_len)
        """Tokens at which the scheduler knows that the request ends."""
        self.stop = self.end
        """Tokens at which it does end."""
        if request.eos_after is not None:
            self.stop = min(self.stop, request.prompt_tokens + request.eos_after)
        self.prefilling = True
        """Whether computed lags the target by more than the one token that decode computes."""
        self.waits = True
        self.gone = False
        """Finished or aborted: what is still in flight counts for nothing."""
        self.stale = 0
        """Outputs in flight from before the last preemption."""
        self.preemptions = 0
        self.unreported = 0
        """Preemptions that the metrics have not been told of."""
        self.lost = 0
        """Tokens that had been computed when a preemption threw them away."""


class _Queue(Protocol):
    """The waiting requests."""

    def push(self, live: _Live) -> None:
        """Add a request that arrives."""

    def push_back(self, live: _Live) -> None:
        """Return a request that was running."""

    def head(self) -> _Live:
        """Return the next one to admit."""

    def pop(self) -> None:
        """Take the next one out."""

    def remove(self, live: _Live) -> None:
        """Take any one out."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[_Live]: ...


class _ArrivalQueue:
    """First come, first served; who was preempted is next."""

    def __init__(self) -> None:
        self._lives: deque[_Live] = deque()
        self.push = self._lives.append
        self.push_back = self._lives.appendleft
        self.remove = self._lives.remove

    def head(self) -> _Live:
        return self._lives[0]

    def pop(self) -> None:
        self._lives.popleft()

    def __len__(self) -> int:
        return len(self._lives)

    def __iter__(self) -> Iterator[_Live]:
        return iter(self._lives)


class _PriorityQueue:
    """Lowest (priority, arrival time, id) first; who was preempted has no precedence."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, str, int], _Live]] = []

    def push(self, live: _Live) -> None:
        heapq.heappush(self._heap, (live.order, live))

    push_back = push

    def head(self) -> _Live:
        return self._heap[0][1]

    def pop(self) -> None:
        heapq.heappop(self._heap)

    def remove(self, live: _Live) -> None:
        self._heap.remove((live.order, live))
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[_Live]:
        return (live for _, live in sorted(self._heap))


class _Plan:
    """A step while it is being put together."""

    __slots__ = ("admitted", "budget", "chunks", "context", "emitting", "preempted", "scheduled")

    def __init__(self, budget: int, *, record: bool) -> None:
        self.budget = budget
        """Tokens left."""
        self.chunks: dict[_Live, int] = {}
        """Tokens of the requests that prefill; all others that are scheduled get one."""
        self.emitting: list[_Live] = []
        """Requests that will have a token when the batch is done, in the order they were scheduled."""
        self.admitted: list[str] = []
        self.preempted: list[str] = []
        self.context = 0
        self.scheduled: dict[str, int] | None = {} if record else None


class _InFlight:
    """A batch whose output has not been processed."""

    __slots__ = ("emitting", "step")

    def __init__(self, step: int, emitting: list[_Live]) -> None:
        self.step = step
        self.emitting = emitting


class Scheduler:
    """vLLM's V1 scheduler and the part of the engine loop around it, with a model that is always right on time.

    Every request whose known tokens have been computed gets one more token from the batch. With async scheduling
    two batches are under way: `step` schedules one and processes the output of the one before
    (``EngineCore.step_with_batch_queue``); without, it schedules one and processes its output (``EngineCore.step``).

    Args:
        config: The flags in effect.
        record: Also report orders and per-request maps in `Batch`, which costs time in proportion to all requests.
    """

    def __init__(self, config: SchedulerConfig, *, record: bool = False) -> None:
        self.config = config
        self._record = record
        self._pool = (
            CachingBlockPool(
                num_gpu_blocks=config.num_gpu_blocks,
                block_size=config.block_size,
                uncached_blocks_first=config.uncached_blocks_first,
            )
            if config.enable_prefix_caching
            else BlockPool(num_gpu_blocks=config.num_gpu_blocks, block_size=config.block_size)
        )
        self._by_priority = config.scheduling_policy == "priority"
        self._waiting: _Queue = _PriorityQueue() if self._by_priority else _ArrivalQueue()
        self._running: list[_Live] = []
        self._lives: dict[str, _Live] = {}
        self._max_active = config.max_num_active_seqs or config.max_num_seqs
        self._watermark_blocks = int(config.watermark * config.num_gpu_blocks)
        self._in_flight: deque[_InFlight] = deque()
        self._unflushed = False
        """A request ended since the last batch: the workers have to be told, which takes one more."""
        self._next_step = 0
        self._num_added = 0
        self._queries = 0
        self._hits = 0
        self._num_preemptions = 0
        self._recomputed_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether the engine would go on stepping by itself."""
        return self._has_requests() or bool(self._in_flight)

    @property
    def num_running(self) -> int:
        """Requests running."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests waiting, preempted ones among them."""
        return len(self._waiting)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be given out, cached content among them."""
        return self._pool.num_free

    @property
    def num_used_blocks(self) -> int:
        """Blocks that requests hold; one that several share counts once."""
        return self._pool.num_blocks - self._pool.num_free

    @property
    def num_preemptions(self) -> int:
        """Preemptions so far, whether the metrics know of them or not."""
        return self._num_preemptions

    @property
    def recomputed_tokens(self) -> int:
        """Tokens so far that had to be computed once more after a preemption."""
        return self._recomputed_tokens

    def running_order(self) -> tuple[str, ...]:
        """Return who runs, in the order they are served."""
        return tuple([live.request_id for live in self._running])

    def waiting_order(self) -> tuple[str, ...]:
        """Return who waits, the next to be admitted first."""
        return tuple([live.request_id for live in self._waiting])

    def add(self, request: Request) -> None:
        """Enqueue a request.

        Raises:
            ValueError: Its id is in use; its prompt leaves no room for output within ``max_model_len``, which vLLM
                refuses; or it could not finish even alone, which vLLM's start-up check of ``max_model_len`` rules out.
        """
        config = self.config
        if request.request_id in self._lives:
            raise ValueError(f"request {request.request_id} is already there")
        if request.prompt_tokens >= config.max_model_len:
            raise ValueError(
                f"request {request.request_id}: a prompt of {request.prompt_tokens} tokens leaves no room for output "
                f"within max_model_len ({config.max_model_len})"
            )
        arrival_time = self._num_added if request.arrival_time is None else request.arrival_time
        live = _Live(
            request,
            max_model_len=config.max_model_len,
            order=(request.priority, arrival_time, request.request_id, self._num_added),
        )
        # The last token is sampled and never computed.
        needed = cdiv(live.end - 1, config.block_size)
        if needed > self._pool.num_blocks:
            raise ValueError(
                f"request {request.request_id} grows to {needed} blocks of {config.block_size} tokens, "
                f"more than the {self._pool.num_blocks} there are"
            )
        self._num_added += 1
        self._pool.introduce(live, group=request.prefix_group, shared_tokens=request.shared_prefix_tokens)
        self._lives[request.request_id] = live
        self._waiting.push(live)

    def abort(self, request_id: str) -> bool:
        """End a request from outside, as when its client hangs up; tell whether there was one to end.

        A step under way is not called back: its tokens for this request are dropped, its blocks are free at once.
        Preemptions not reported yet never will be.
        """
        live = self._lives.get(request_id)
        if live is None:
            return False
        if live.waits:
            self._waiting.remove(live)
        else:
            self._running.remove(live)
        self._end(live)
        return True

    def step(self) -> StepResult:
        """Run one iteration of the engine. Without work this only counts the step."""
        step = self._next_step
        self._next_step += 1
        in_flight = self._in_flight
        batch = None
        if self._has_requests():
            batch = self._schedule(step)
            room = self.config.async_scheduling and len(in_flight) < 2
            if room and (batch.total_num_scheduled_tokens or self._has_requests()):
                return StepResult(step=step, batch=batch, output=None)
        elif not in_flight:
            return StepResult(step=step, batch=None, output=None)
        return StepResult(step=step, batch=batch, output=self._process(in_flight.popleft()))

    def _has_requests(self) -> bool:
        return bool(self._running or self._waiting or self._unflushed)

    def _schedule(self, step: int) -> Batch:
        """Put a batch together and send it off (``Scheduler.schedule``)."""
        config = self.config
        plan = _Plan(config.max_num_batched_tokens, record=self._record)
        chunk_limit = self._chunk_limit()
        self._continue_running(plan, chunk_limit)
        if not plan.preempted:
            self._admit_waiting(plan, chunk_limit)
        self._in_flight.append(_InFlight(step, plan.emitting))
        self._unflushed = False

        recomputed_tokens = 0
        for live, tokens in plan.chunks.items():
            if live.lost:
                recomputed_tokens += max(0, min(live.computed, live.lost) - (live.computed - tokens))
        self._recomputed_tokens += recomputed_tokens
        prefill_tokens = sum(plan.chunks.values())
        return Batch(
            step=step,
            prefill_tokens=prefill_tokens,
            decode_tokens=config.max_num_batched_tokens - plan.budget - prefill_tokens,
            context_tokens=plan.context,
            recomputed_tokens=recomputed_tokens,
            admitted=tuple(plan.admitted),
            preempted=tuple(plan.preempted),
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_free_blocks=self._pool.num_free,
            num_scheduled_tokens=plan.scheduled,
            running=self.running_order() if self._record else None,
            waiting=self.waiting_order() if self._record else None,
        )

    def _chunk_limit(self) -> int:
        """Return the most prompt tokens that one request gets in this step."""
        config = self.config
        limit = config.long_prefill_token_threshold
        num_requests = len(self._running) + len(self._waiting)
        if limit == 0 or (num_requests <= 1 and not config.long_prefill_threshold_when_alone):
            return config.max_num_batched_tokens
        if config.long_prefill_token_threshold_adaptive:
            return max(limit, config.max_num_batched_tokens // max(1, num_requests))
        return limit

    def _continue_running(self, plan: _Plan, chunk_limit: int) -> None:
        """Serve the running requests in their order; preempt where blocks run out."""
        pool = self._pool
        running = self._running
        block_size = self.config.block_size
        runs_ahead = self.config.async_scheduling
        scheduled = plan.scheduled
        emitting = plan.emitting
        budget = plan.budget
        context = 0
        index = 0
        while index < len(running) and budget > 0:
            live = running[index]
            target = live.target
            start = live.computed
            if live.prefilling:
                new = min(target - start, chunk_limit, budget)
            elif target < live.end:
                new = 1
            else:  # its last token is on the way
                index += 1
                continue
            computed = start + new

            if computed > live.slots:
                needed = cdiv(computed - live.slots, block_size)
                while needed > pool.num_free:
                    position = self._victim_position()
                    victim = running.pop(position)
                    if position < index:
                        index -= 1
                        plan.context = context
                        budget += self._withdraw(victim, plan)
                        context = plan.context
                    self._preempt(victim)
                    plan.preempted.append(victim.request_id)
                    if victim is live:
                        break
                if live.waits:  # nobody was left to preempt but itself
                    if self.config.stop_after_self_preemption:
                        break
                    continue
                pool.grow(live, needed)
            if computed >= live.next_full:
                pool.cache(live, min(computed, live.tokens))

            live.computed = computed
            if live.prefilling:
                plan.chunks[live] = new
                live.prefilling = computed < target
            else:
                context += start
            if not live.prefilling:
                emitting.append(live)
                if runs_ahead:
                    live.target = target + 1
            if scheduled is not None:
                scheduled[live.request_id] = new
            budget -= new
            index += 1
        plan.budget, plan.context = budget, context

    def _admit_waiting(self, plan: _Plan, chunk_limit: int) -> None:
        """Admit from the head of the queue while everything fits; the first that does not stops all behind it."""
        config = self.config
        pool = self._pool
        waiting = self._waiting
        running = self._running
        while plan.budget > 0 and len(running) < self._max_active and waiting:
            live = waiting.head()
            hits = pool.lookup(live, live.tokens)
            start = len(hits) * config.block_size
            if config.count_lookups_every_step:
                self._count_lookup(live, start)
            new = min(live.tokens - start, chunk_limit)
            if new > plan.budget:
                if not config.enable_chunked_prefill:
                    return
                new = plan.budget

            # Blocks found but held by nobody are counted as free until they are taken up.
            available = pool.num_free - pool.num_idle(hits) - (self._watermark_blocks if running else 0)
            if config.scheduler_reserve_full_isl and cdiv(live.tokens, config.block_size) - len(hits) > available:
                return
            needed = cdiv(start + new, config.block_size) - len(hits)
            if needed > available:
                return
            waiting.pop()
            running.append(live)
            live.waits = False
            if hits:
                pool.adopt(live, hits)
            pool.grow(live, needed)
            pool.cache(live, start + new)
            if not config.count_lookups_every_step:
                self._count_lookup(live, start)

            live.computed = start + new
            live.prefilling = live.computed < live.tokens
            if not live.prefilling:
                plan.emitting.append(live)
                if config.async_scheduling:
                    live.target += 1
            plan.chunks[live] = new
            plan.admitted.append(live.request_id)
            if plan.scheduled is not None:
                plan.scheduled[live.request_id] = new
            plan.budget -= new

    def _count_lookup(self, live: _Live, hit_tokens: int) -> None:
        if self.config.enable_prefix_caching and (not live.preemptions or self.config.count_preempted_lookups):
            self._queries += live.tokens
            self._hits += hit_tokens

    def _victim_position(self) -> int:
        """Return the place in `running` of the request to preempt next: the last admitted, or the least urgent."""
        running = self._running
        if not self._by_priority:
            return len(running) - 1
        return max(range(len(running)), key=lambda position: running[position].order[:2])

    def _withdraw(self, victim: _Live, plan: _Plan) -> int:
        """Take back what a victim was given earlier in this step; return the tokens that are free again."""
        tokens = plan.chunks.pop(victim, 0)
        if victim in plan.emitting:
            plan.emitting.remove(victim)
            if self.config.async_scheduling:
                victim.target -= 1
            if not tokens:
                tokens = 1
                plan.context -= victim.computed - 1
        victim.computed -= tokens
        if plan.scheduled is not None:
            plan.scheduled.pop(victim.request_id, None)
        return tokens

    def _preempt(self, victim: _Live) -> None:
        """Take a request's blocks and queue it again; its output so far becomes part of what is prefilled."""
        self._pool.release(victim)
        victim.lost = max(victim.lost, victim.computed)
        victim.computed = 0
        victim.stale = victim.target - victim.tokens
        victim.target = victim.tokens
        victim.prefilling = True
        victim.waits = True
        victim.preemptions += 1
        victim.unreported += 1
        self._num_preemptions += 1
        self._waiting.push_back(victim)

    def _process(self, batch: _InFlight) -> Output:
        """Hand out the tokens of a batch and end what is finished (``Scheduler.update_from_output``)."""
        pool = self._pool
        runs_ahead = self.config.async_scheduling
        emitted: list[str] = []
        finished: list[_Live] = []
        preempt_events: list[str] = []
        for live in batch.emitting:
            if live.gone:
                continue
            tokens = live.tokens + 1
            live.tokens = tokens
            emitted.append(live.request_id)
            if live.stale:
                live.stale -= 1
                live.target += 1
            elif runs_ahead:
                # What this token belongs to can be found only now that it is known.
                known = live.computed - (live.target - tokens)
                if known >= live.next_full:
                    pool.cache(live, known)
            else:
                live.target = tokens
            if live.unreported:
                preempt_events.extend([live.request_id] * live.unreported)
                live.unreported = 0
            if tokens >= live.stop:
                self._end(live)
                finished.append(live)
        self._remove(finished)

        stats = SchedulerStats(
            num_running_reqs=len(self._running),
            num_waiting_reqs=len(self._waiting),
            num_skipped_waiting_reqs=0,
            kv_cache_usage=pool.usage,
            prefix_cache_queries=self._queries,
            prefix_cache_hits=self._hits,
        )
        self._queries = self._hits = 0
        return Output(
            step=batch.step,
            emitted=tuple(emitted),
            finished=tuple([live.request_id for live in finished]),
            preempt_events=tuple(preempt_events),
            num_free_blocks=pool.num_free,
            stats=stats,
        )

    def _end(self, live: _Live) -> None:
        """Give back what a request holds; its place in a queue is the caller's business."""
        self._pool.release(live)
        live.gone = True
        del self._lives[live.request_id]
        self._unflushed = True

    def _remove(self, finished: list[_Live]) -> None:
        """Take finished requests out of the queues; one may have finished by a token from before its preemption."""
        for live in finished:
            if live.waits:
                self._waiting.remove(live)
        if len(finished) == 1 and not finished[0].waits:
            self._running.remove(finished[0])
        elif finished:
            self._running[:] = [live for live in self._running if not live.gone]


class StepLimitError(RuntimeError):
    """A replay took more steps than allowed; the message says how far it got."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request and when it reaches the engine."""

    seconds: float
    request: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimeModel:
    """Seconds that a step takes: a fixed part, and parts in proportion to what is in the batch."""

    base_seconds: float
    per_prefill_token_seconds: float = 0.0
    per_decode_request_seconds: float = 0.0
    per_context_token_seconds: float = 0.0
    """For each cached token that a decoding request attends to."""

    def __call__(self, batch: Batch) -> float:
        """Return the seconds of one step."""
        return (
            self.base_seconds
            + self.per_prefill_token_seconds * batch.prefill_tokens
            + self.per_decode_request_seconds * batch.decode_tokens
            + self.per_context_token_seconds * batch.context_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestTimes:
    """What one request saw, in seconds."""

    request_id: str
    queue_seconds: float
    """From arrival to the first step it was in; waits after a preemption are not in it, as in vLLM's metric."""
    time_to_first_token_seconds: float
    end_to_end_seconds: float
    max_gap_seconds: float
    """Longest time between two of its tokens; 0 if it had only one."""
    output_tokens: int
    num_preemptions: int

    @property
    def mean_gap_seconds(self) -> float:
        """Time per output token after the first; 0 if it had only one."""
        if self.output_tokens == 1:
            return 0.0
        return (self.end_to_end_seconds - self.time_to_first_token_seconds) / (self.output_tokens - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What the engine's metrics would have shown: its state after a step, until the next step is done.

    While a long prefill is computed they still show the state before it, so means over time are lower than those of
    what really ran. Means over steps do not depend on how long steps take.
    """

    mean_running: float
    peak_running: int
    mean_kv_usage_ratio: float
    mean_running_per_step: float
    mean_kv_usage_ratio_per_step: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationResult:
    """What came of a replay. Means weigh by time over the whole duration, in which idle time counts as nothing."""

    requests: tuple[RequestTimes, ...]
    """In order of arrival."""
    duration_seconds: float
    """From the first arrival until the engine is done."""
    busy_seconds: float
    """Of these, how long there was something to do."""
    steps: int
    """Steps in which the model computed anything."""
    prefill_tokens: int
    """Prompt tokens computed, those computed anew among them, those found in the prefix cache not."""
    recomputed_tokens: int
    output_tokens: int
    num_preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    mean_running: float
    peak_running: int
    mean_waiting: float
    peak_waiting: int
    mean_usage: float
    """Share of the KV blocks held, 0 to 1."""
    peak_usage: float
    shown: Shown
    gaps: tuple[tuple[float, int], ...]
    """Seconds between two tokens of one request, to the microsecond and ascending, each with how often it occurred."""

    @property
    def output_tokens_per_second(self) -> float:
        """Throughput over the whole duration."""
        return self.output_tokens / self.duration_seconds if self.duration_seconds else 0.0


class _Clocked:
    """One request's times while they are being taken."""

    __slots__ = ("admitted", "first_token", "last_token", "max_gap", "preemptions", "tokens")

    def __init__(self) -> None:
        self.admitted: float | None = None
        self.first_token = 0.0
        self.last_token = 0.0
        self.max_gap = 0.0
        self.tokens = 0
        self.preemptions = 0

    def token(self, now: float, gaps: dict[float, int]) -> None:
        if self.tokens:
            gap = now - self.last_token
            self.max_gap = max(self.max_gap, gap)
            rounded = round(gap, 6)
            gaps[rounded] = gaps.get(rounded, 0) + 1
        else:
            self.first_token = now
        self.last_token = now
        self.tokens += 1

    def times(self, arrival: Arrival) -> RequestTimes:
        assert self.admitted is not None
        return RequestTimes(
            request_id=arrival.request.request_id,
            queue_seconds=self.admitted - arrival.seconds,
            time_to_first_token_seconds=self.first_token - arrival.seconds,
            end_to_end_seconds=self.last_token - arrival.seconds,
            max_gap_seconds=self.max_gap,
            output_tokens=self.tokens,
            num_preemptions=self.preemptions,
        )


def replay(
    config: SchedulerConfig,
    arrivals: Iterable[Arrival],
    step_seconds: Callable[[Batch], float],
    *,
    max_steps: int = 1_000_000,
) -> SimulationResult:
    """Run timed arrivals to the end of the last request.

    A request joins the first step that is scheduled at or after its arrival; its tokens are out when the step that
    computes them is done. With async scheduling a step is scheduled while the one before it still computes, and
    starts to compute when that is done. The scheduler itself takes no time; a step without tokens takes none either.

    Args:
        config: The flags in effect.
        arrivals: The requests, in any order; equal times keep the order given.
        step_seconds: Seconds to compute a batch, as in `StepTimeModel`.
        max_steps: Most iterations of the engine. Requests of equal priority and arrival time can preempt each other
            forever, here as in vLLM.

    Raises:
        ValueError: There are no arrivals, two have the same id, one could never be served (`Scheduler.add`), or
            ``step_seconds`` returned something that is not a duration.
        StepLimitError: ``max_steps`` were not enough.
    """
    ordered = sorted(arrivals, key=lambda arrival: arrival.seconds)
    clocks = {arrival.request.request_id: _Clocked() for arrival in ordered}
    if not ordered:
        raise ValueError("there are no arrivals to replay")
    if len(clocks) < len(ordered):
        raise ValueError("two arrivals have the same request_id")
    scheduler = Scheduler(config)
    num_blocks = config.num_gpu_blocks - 1
    begin = now = ordered[0].seconds
    done_computing = now
    done_times: deque[float] = deque()
    num_arrived = num_finished = num_iterations = steps = prefill_tokens = queries = hits = 0
    busy = running_seconds = waiting_seconds = block_seconds = 0.0
    peak_running = peak_waiting = peak_blocks = 0
    shown_running = shown_peak = shown_steps = shown_running_sum = 0
    shown_usage = shown_usage_sum = shown_running_seconds = shown_usage_seconds = 0.0
    gaps: dict[float, int] = {}

    while True:
        while num_arrived < len(ordered) and ordered[num_arrived].seconds <= now:
            scheduler.add(ordered[num_arrived].request)
            num_arrived += 1
        if not scheduler.has_work:
            if num_arrived == len(ordered):
                break
            now = ordered[num_arrived].seconds
            continue
        if num_iterations == max_steps:
            raise StepLimitError(
                f"{max_steps} steps, {now - begin:.1f} simulated seconds, were not enough: {num_finished} of "
                f"{len(ordered)} requests have finished, {scheduler.num_waiting} wait; offer less or raise max_steps"
            )
        num_iterations += 1
        result = scheduler.step()

        batch = result.batch
        if batch is not None:
            done = now
            if batch.total_num_scheduled_tokens:
                seconds = step_seconds(batch)
                if not 0.0 <= seconds < math.inf:
                    raise ValueError(f"step_seconds returned {seconds!r}, which is not a duration")
                done = done_computing = max(done_computing, now) + seconds
                steps += 1
                prefill_tokens += batch.prefill_tokens
            done_times.append(done)
            for request_id in batch.admitted:
                clocked = clocks[request_id]
                if clocked.admitted is None:
                    clocked.admitted = now
            for request_id in batch.preempted:
                clocks[request_id].preemptions += 1
            num_running, num_blocks_held = batch.num_running, num_blocks - batch.num_free_blocks
            num_waiting = batch.num_waiting
            peak_running = max(peak_running, num_running)
            peak_waiting = max(peak_waiting, num_waiting)
            peak_blocks = max(peak_blocks, num_blocks_held)
        else:  # the last batch is being waited for, and nobody is left
            num_running = num_waiting = num_blocks_held = 0

        output = result.output
        if output is not None:
            passed = max(0.0, done_times.popleft() - now)
            now += passed
            busy += passed
            running_seconds += num_running * passed
            waiting_seconds += num_waiting * passed
            block_seconds += num_blocks_held * passed
            shown_running_seconds += shown_running * passed
            shown_usage_seconds += shown_usage * passed
            for request_id in output.emitted:
                clocks[request_id].token(now, gaps)
            num_finished += len(output.finished)
            queries += output.stats.prefix_cache_queries
            hits += output.stats.prefix_cache_hits
            shown_running, shown_usage = output.stats.num_running_reqs, output.stats.kv_cache_usage
            shown_peak = max(shown_peak, shown_running)
            shown_steps += 1
            shown_running_sum += shown_running
            shown_usage_sum += shown_usage

    times = tuple([clocks[arrival.request.request_id].times(arrival) for arrival in ordered])
    duration = now - begin
    weight = 1.0 / duration if duration else 0.0
    return SimulationResult(
        requests=times,
        duration_seconds=duration,
        busy_seconds=busy,
        steps=steps,
        prefill_tokens=prefill_tokens,
        recomputed_tokens=scheduler.recomputed_tokens,
        output_tokens=sum(each.output_tokens for each in times),
        num_preemptions=scheduler.num_preemptions,
        prefix_cache_queries=queries,
        prefix_cache_hits=hits,
        mean_running=running_seconds * weight,
        peak_running=peak_running,
        mean_waiting=waiting_seconds * weight,
        peak_waiting=peak_waiting,
        mean_usage=block_seconds * weight / num_blocks,
        peak_usage=peak_blocks / num_blocks,
        shown=Shown(
            mean_running=shown_running_seconds * weight,
            peak_running=shown_peak,
            mean_kv_usage_ratio=shown_usage_seconds * weight,
            mean_running_per_step=shown_running_sum / shown_steps,
            mean_kv_usage_ratio_per_step=shown_usage_sum / shown_steps,
        ),
        gaps=tuple(sorted(gaps.items())),
    )
