"""The training loop: when to evaluate, save and stop, and telling listeners what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ane_train.config import RunConfig
from ane_train.errors import DivergedError
from ane_train.metrics.events import (
    EndReason,
    Evaluated,
    Event,
    RunEnded,
    RunStarted,
    StepDone,
    Warned,
)
from ane_train.model.parameters import count
from ane_train.train.loss_scale import MAX_SKIPPED
from ane_train.train.opening import memory_needed, open_session
from ane_train.train.peak import measure_peak
from ane_train.train.session import Session
from ane_train.train.signals import StopRequest

OnEvent = Callable[[Event], object]


def train(
    config: RunConfig, on_event: OnEvent, before_exit: Callable[[], None] | None = None
) -> RunEnded:
    """Trains as `config` says; every event goes to `on_event`, in this thread.

    Returns the last event. Raises an AneTrainError for what a user can mend; what was saved by then
    stays. A second Ctrl-C while a step is being finished calls `before_exit` and ends the process.
    """
    session, warnings = open_session(config)
    try:
        with StopRequest(session.parts.folder.path, before_exit) as request:
            loop = _Loop(session, request, on_event)
            on_event(_started(session))
            for text in warnings:
                on_event(Warned(text))
            return loop.run()
    finally:
        session.close()


def _started(session: Session) -> RunStarted:
    parts, config = session.parts, session.parts.config
    return RunStarted(
        run_folder=parts.folder.path,
        model=parts.spec.name,
        parameters=count(parts.spec),
        engine=parts.engine.name,
        engine_reason=parts.engine.reason,
        numerics=parts.engine.numerics,
        blas=parts.engine.context.blas_name,
        threads=parts.engine.context.threads,
        data_name=parts.data.name,
        train_tokens=parts.data.train.length,
        valid_tokens=parts.data.valid.length,
        batch_size=config.batch_size,
        accum=config.accum,
        sequence=session.sequence,
        steps=config.steps,
        first_step=session.progress.step,
        schedule=describe(session),
        memory_needed=memory_needed(config, parts.spec),
        memory_available=session.memory_available,
        seed=config.seed,
        resumed=session.progress.step > 0,
        flops_per_token=session.flops_per_token,
    )


def describe(session: Session) -> str:
    """The schedule in words."""
    schedule = session.schedule
    text = f"{schedule.kind}, peak {schedule.peak:g}"
    if schedule.kind != "constant":
        text += f", end {schedule.minimum:g}"
    return f"{text}, warm-up {schedule.warmup}"


@dataclass(slots=True)
class _Loop:
    """One process's share of a run."""

    session: Session
    request: StopRequest
    on_event: OnEvent
    start: float = field(default_factory=time.perf_counter)
    steps: int = 0
    tokens: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    def run(self) -> RunEnded:
        config, session = self.session.parts.config, self.session
        if session.progress.step == 0 and config.eval_every:
            self.evaluate()
        while (reason := self.end_reason()) is None:
            self.step()
            last = config.eval_every > 0 and session.progress.step == config.steps
            best = (last or self.is_due(config.eval_every)) and self.evaluate().best
            due = self.is_due(config.save_every)
            asked = self.request.take_save_request()
            if best or due or asked:
                why = "asked for" if asked else "best so far" if best else "periodic"
                self.save(why, best=best)
        return self.end(reason)

    def is_due(self, every: int) -> bool:
        return every > 0 and self.session.progress.step % every == 0

    def step(self) -> None:
        done, update = self.session.train_step()
        self.steps += 1
        self.tokens += done.tokens
        for part, seconds in done.timings.items():
            self.count(part, seconds)
        self.on_event(done)
        if update.bad is not None:
            self.skipped(done, update.bad)

    def skipped(self, done: StepDone, bad: str) -> None:
        """A gradient was not finite: say it, and give up after too many in a row."""
        self.on_event(Warned(f"step {done.step} skipped: the gradient of {bad} is not finite"))
        if not self.session.progress.loss_scale.diverged:
            return
        last = self.session.parts.store.last()
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        self.on_event(self.ended("diverged"))
        raise DivergedError(
            f"{MAX_SKIPPED} steps in a row had a gradient that is not finite, first in {bad}; "
            f"{kept}. Try a smaller --lr or --loss-scale"
        )

    def evaluate(self) -> Evaluated:
        evaluated = self.session.evaluate()
        self.count("evaluation", evaluated.seconds)
        self.on_event(evaluated)
        return evaluated

    def save(self, reason: str, *, best: bool = False) -> None:
        saved = self.session.save(reason, best=best)
        self.count("saving", saved.seconds)
        self.on_event(saved)

    def count(self, part: str, seconds: float) -> None:
        self.timings[part] = self.timings.get(part, 0.0) + seconds

    def end_reason(self) -> EndReason | None:
        """Why the loop ends here, or None."""
        config, progress = self.session.parts.config, self.session.progress
        limits: list[tuple[bool, EndReason]] = [
            (config.steps > 0 and progress.step >= config.steps, "finished"),
            (config.stop_after is not None and self.steps >= config.stop_after, "stopped"),
            (config.max_tokens is not None and progress.tokens >= config.max_tokens, "max_tokens"),
            (config.max_time is not None and self.seconds() >= config.max_time, "max_time"),
            (0 < config.patience <= progress.stale_evaluations, "patience"),
        ]
        for reached, reason in limits:
            if reached:
                return reason
        return self.request.reason

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def end(self, reason: EndReason) -> RunEnded:
        if self.session.saved_step != self.session.progress.step:
            self.save(reason)
        ended = self.ended(reason)
        self.on_event(ended)
        return ended

    def ended(self, reason: EndReason) -> RunEnded:
        session = self.session
        return RunEnded(
            reason=reason,
            step=session.progress.step,
            steps=self.steps,
            seconds=self.seconds(),
            tokens=self.tokens,
            timings=dict(self.timings),
            flops=self.tokens * session.flops_per_token,
            peak_flops=measure_peak(session.parts.engine.context),
            best_step=session.progress.best_step,
            best_loss=session.progress.best_loss,
            checkpoint=session.parts.store.last(),
        )
