"""The training loop: when to evaluate, save and stop, and telling listeners what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ane_train.config import RunConfig
from ane_train.errors import DivergedError, EngineError
from ane_train.metrics.events import (
    EndReason,
    Evaluated,
    Event,
    RunContinued,
    RunEnded,
    RunStarted,
    StepDone,
    Warned,
)
from ane_train.model.parameters import count
from ane_train.train.loss_scale import MAX_SKIPPED
from ane_train.train.opening import memory_needed, open_session
from ane_train.train.peak import measure_peak
from ane_train.train.restart import Restart
from ane_train.train.samples import samples
from ane_train.train.session import Session
from ane_train.train.signals import StopRequest

OnEvent = Callable[[Event], object]
MAX_IDLE = 2


def train(
    config: RunConfig,
    on_event: OnEvent,
    before_exit: Callable[[], None] | None = None,
    former: Restart | None = None,
) -> RunEnded | Restart:
    """Trains as `config` says; every event goes to `on_event`, in this thread.

    Returns the last event, or a Restart where only a new process image can go on: then all is saved
    and closed, signals are held, and it is what the next image gives as `former`. Raises an
    AneTrainError for what a user can mend; what was saved by then stays. A second Ctrl-C while a
    step is being finished calls `before_exit` and ends the process.
    """
    session, warnings = open_session(config, former.folder if former else None)
    try:
        held = former.signals if former else ()
        with StopRequest(session.parts.folder.path, before_exit, held) as request:
            started = former.started if former else _started(session)
            loop = _Loop(session, request, on_event, started, former)
            on_event(RunContinued(started, former.memory, loop.away) if former else started)
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
        repeats=session.progress.unfinished and session.progress.step > 0,
        trained=sum(p.size for p in filter(session.step.is_trained, session.step.optimized)),
        adapters=session.step.adapters is not None,
    )


def describe(session: Session) -> str:
    """The schedule in words."""
    schedule = session.schedule
    text = f"{schedule.kind}, peak {schedule.peak:g}"
    if schedule.kind != "constant":
        text += f", end {schedule.minimum:g}"
    return f"{text}, warm-up {schedule.warmup}"


class _Loop:
    """One process's share of a run; sums go on where the process was before it restarted."""

    def __init__(
        self,
        session: Session,
        request: StopRequest,
        on_event: OnEvent,
        started: RunStarted,
        former: Restart | None,
    ) -> None:
        self.session, self.request, self.on_event = session, request, on_event
        self.started = started
        self.first_image = former is None
        self.start, self.steps, self.tokens, self.idle = time.perf_counter(), 0, 0, 0
        self.away, self.timings = 0.0, dict[str, float]()
        self.told = set[str]()  # the programs of which a user knows that they fell back
        if former is not None:
            self.away, self.timings = self.start - former.left, dict(former.timings)
            self.count("restart", self.away)
            self.start, self.steps, self.tokens = former.start, former.steps, former.tokens
            self.idle = former.idle
        self.steps_before = self.steps

    def run(self) -> RunEnded | Restart:
        """Trains to the end. Where an error ends it, the save in flight is completed all the same.

        That error is the one that is raised, whatever comes of the save.
        """
        try:
            return self.train()
        except BaseException:
            with suppress(Exception):
                self.tell_of_save(wait=True)
            raise

    def train(self) -> RunEnded | Restart:
        session, pipeline = self.session, self.session.step.pipeline
        while True:
            self.tell_of_save(wait=False)
            self.warn_of_fallbacks()
            if session.progress.unfinished and (pipeline.ready or not self.passes_are_due()):
                self.follow_up()
            unfinished = session.progress.unfinished
            reason = self.request.reason if unfinished else self.end_reason()
            if reason is not None:
                return self.end(reason)
            if not pipeline.ready:
                return self.restart()
            self.step()

    def warn_of_fallbacks(self) -> None:
        """What the ANE has refused since the last call; a former image has told of the same."""
        found = dict(self.session.parts.engine.fallbacks)
        for key in found.keys() - self.told if self.first_image else ():
            fallback = found[key]
            self.on_event(
                Warned(f"{fallback.name} runs on the software engine, not on the ANE: "
                       f"{fallback.reason}")
            )  # fmt: skip
        self.told |= found.keys()

    def follow_up(self) -> None:
        """What comes after a step, and before the first: evaluating and saving where due."""
        session = self.session
        best = self.evaluation_is_due() and self.evaluate().best
        if self.sampling_is_due():
            self.sample()
        due = session.progress.step > 0 and self.is_due(session.parts.config.save_every)
        asked = self.request.take_save_request()
        session.progress = replace(session.progress, unfinished=False)
        if best or due or asked:
            why = "asked for" if asked else "best so far" if best else "periodic"
            self.save(why, best=best)

    def passes_are_due(self) -> bool:
        """Whether what comes after a step needs the weights in the programs."""
        return self.evaluation_is_due() or self.sampling_is_due()

    def sampling_is_due(self) -> bool:
        step, every = self.session.progress.step, self.session.parts.config.sample_every
        return step > 0 and self.is_due(every)

    def evaluation_is_due(self) -> bool:
        config, step = self.session.parts.config, self.session.progress.step
        return self.is_due(config.eval_every) or (config.eval_every > 0 and step == config.steps)

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
        self.tell_of_save(wait=True)
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

    def sample(self) -> None:
        for sampled in samples(self.session):
            self.count("sampling", sampled.seconds)
            self.on_event(sampled)

    def save(self, reason: str, *, best: bool = False) -> None:
        """Begins a save, after the one in flight."""
        self.tell_of_save(wait=True)
        self.session.begin_save(reason, best=best)

    def tell_of_save(self, *, wait: bool) -> None:
        """Hands on what is known of the save in flight, if there is one. DiskError if it failed."""
        start = time.perf_counter()
        saved = self.session.take_saved(wait=wait)
        if saved is not None:
            self.count("saving", time.perf_counter() - start)
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

    def restart(self) -> Restart:
        """Saves what the next image of this process goes on from. EngineError if that is futile."""
        session = self.session
        self.tell_of_save(wait=True)
        idle = self.idle + 1 if self.steps == self.steps_before else 0
        if idle >= MAX_IDLE:
            raise EngineError(
                f"{MAX_IDLE} starts in a row did not get beyond step {session.progress.step}: one "
                "step needs more programs than a process may compile; raise --compile-limit, "
                "or use --pipeline dynamic"
            )
        if session.progress.unfinished or session.saved_step != session.progress.step:
            self.count("saving", session.save("restart", passing=True).waited)
        return Restart(
            started=self.started,
            start=self.start,
            left=time.perf_counter(),
            steps=self.steps,
            tokens=self.tokens,
            timings=self.timings,
            idle=idle,
            signals=self.request.hold(),
        )

    def end(self, reason: EndReason) -> RunEnded:
        self.tell_of_save(wait=True)
        if self.session.saved_step != self.session.progress.step:
            self.save(reason)
            self.tell_of_save(wait=True)
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
