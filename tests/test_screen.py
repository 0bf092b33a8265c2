"""Rules of what a run shows: plain lines, the terminal's panels, the numbers in them."""

import io
import json
import math
import re
import sys

import numpy as np
import pytest
from rich.console import Console
from sample_events import ended, started, step

from ane_train.cli.screen import RichScreen, is_terminal, open_screen
from ane_train.metrics.events import Evaluated, RunContinued, Saved, Warned
from ane_train.metrics.text import (
    SMOOTHING,
    Meter,
    PlainText,
    part_rows,
    resume_command,
)
from ane_train.metrics.units import count, duration, flops, size


def a_whole_run(folder):
    return [
        started(folder),
        Evaluated(0, 10.37, math.exp(10.37), 3.9),
        step(1, loss=10.0),
        step(2, loss=math.nan, skipped=True),
        Warned("step 2 skipped: the gradient of layers.3.wq is not finite"),
        *(step(number, loss=8.0) for number in range(3, 21)),
        Evaluated(20, 7.5, math.exp(7.5), None, best=True),
        Saved(20, folder / "checkpoints" / "step-000020", "best so far"),
        ended(folder),
    ]


def plain(events, log_every=10):
    lines = []
    text = PlainText(lines.append, log_every)
    for event in events:
        text.handle(event)
    return lines


def on_a_terminal(events, width):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=50, legacy_windows=False)
    screen = RichScreen(console)
    for event in events:
        screen.handle(event)
        if screen._live is not None:
            screen._live.refresh()
    screen.close()
    return file.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environment", "moving"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_a_terminal_is_one_unless_the_environment_objects(environment, moving):
    assert is_terminal(Terminal(), environment) is moving
    assert is_terminal(io.StringIO(), environment) is False


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_output_has_no_escape_codes_and_is_ascii(tmp_path, environment):
    stream = io.StringIO() if not environment else Terminal()
    screen = open_screen(stream, environment, 10)
    for event in a_whole_run(tmp_path):
        screen.handle(event)
    screen.close()
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_the_start_says_what_is_trained_on_what_with_what(tmp_path):
    text = "\n".join(plain([started(tmp_path)]))
    for fact in (
        "stories110m, 109.5M parameters",
        "cpu (there is no ANE here)",
        "fp16, BLAS OpenBLAS 0.3.30, threads 2",
        "moby_dick.txt: 312.4K tokens to train on, 16.4K to validate",
        "batch     1 x accum 4 x sequence 256 = 1,024 tokens a step",
        "cosine, peak 0.0003",
        "needs 3.0 GiB of 14.0 GiB available",
        f"{tmp_path}, seed 1337",
    ):
        assert fact in text
    assert "resumed" not in text
    assert "after step 40" in "\n".join(plain([started(tmp_path, first_step=40, resumed=True)]))


def test_a_step_line_has_the_mean_loss_since_the_last_line(tmp_path):
    events = [started(tmp_path), *(step(n, loss=float(n)) for n in range(1, 21))]
    lines = [line for line in plain(events) if line.startswith("step") and "loss" in line]
    assert [re.findall("loss [0-9.]+", line) for line in lines] == [
        ["loss 1.0000"],
        ["loss 6.0000"],
        ["loss 15.5000"],
    ]
    assert lines[-1] == (
        "step  20/300  loss 15.5000  lr 3.0e-04  grad 1.23  2,048 tok/s  "
        "125.0 ms/micro-batch  eta 2m20s"
    )


def test_slow_steps_have_a_line_each(tmp_path):
    events = [started(tmp_path), *(step(n, seconds=12.0) for n in range(1, 4))]
    assert sum("loss" in line for line in plain(events, log_every=100)) == 3


def test_the_last_step_has_a_line(tmp_path):
    events = [started(tmp_path, steps=3), *map(step, (1, 2, 3))]
    assert plain(events)[-1].startswith("step 3/3  ")


def test_losses_that_are_not_finite_do_not_spoil_the_mean(tmp_path):
    events = [started(tmp_path), step(1), step(2, loss=math.inf, skipped=True), step(3)]
    assert "loss 5.0000" in plain(events, log_every=3)[-1]
    assert "loss not finite" in plain([started(tmp_path), step(1, loss=math.nan)])[-1]


def test_an_endless_run_has_no_eta(tmp_path):
    line = plain([started(tmp_path, steps=0), step(1)])[-1]
    assert line.startswith("step 1  loss 5.0000")
    assert "eta" not in line


def test_the_report_says_where_the_time_went_and_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "my run"
    text = "\n".join(plain([started(folder), ended(folder)]))
    for fact in (
        "engine                  1m30s, 60.0%",
        "other                   30s, 20.0%",
        "finished at step 300/300 after 2m30s",
        "307,200 seen, 2,048 per second",
        "125.0 ms per micro-batch",
        "1.2 TFLOP/s, 50.0% of the peak of 2.4 TFLOP/s",
        "validation loss 4.6000 (ppl 99.48) at step 200",
        "checkpoint  runs/my run/checkpoints/step-000300",
        "go on with: ane-train --resume 'runs/my run' --steps 600",
    ):
        assert fact in text


def test_work_that_hides_behind_other_work_does_not_count_as_time_passed(tmp_path):
    rows = part_rows(ended(tmp_path))
    passed = sum(seconds for name, seconds, _ in rows if name != "BLAS at the same time")
    assert passed == 150.0
    assert ("BLAS at the same time", 60.0, 0.4) in rows


def test_an_unknown_peak_is_said_to_be_unknown(tmp_path):
    text = "\n".join(plain([started(tmp_path), ended(tmp_path, peak_flops=None)]))
    assert "1.2 TFLOP/s, peak unknown" in text


def test_a_run_that_is_not_finished_goes_on_with_its_own_steps(tmp_path):
    stopped = ended(tmp_path, reason="interrupted", step=12)
    assert resume_command(stopped, started(tmp_path)) == f"ane-train --resume {tmp_path}"
    assert resume_command(ended(tmp_path, checkpoint=None), started(tmp_path)) is None


def test_a_run_that_had_its_steps_before_it_began_is_told_of_more_than_it_did(tmp_path):
    command = resume_command(ended(tmp_path, step=700), started(tmp_path))
    assert command == f"ane-train --resume {tmp_path} --steps 1400"


def test_a_run_that_ends_before_its_first_step_has_a_report(tmp_path):
    nothing = ended(
        tmp_path, step=0, steps=0, seconds=0.0, tokens=0, timings={}, flops=0.0, best_loss=None
    )
    assert "run         finished at step 0/300 after 0.0s" in plain([started(tmp_path), nothing])


def test_the_smoothed_loss_is_a_weighted_mean_without_bias(tmp_path):
    losses = np.array([9.0, 7.0, 8.0, 4.0])
    meter = Meter(started(tmp_path))
    assert math.isnan(meter.loss)
    for number, loss in enumerate(losses, 1):
        meter.add(step(number, loss=loss))
    weights = SMOOTHING ** np.arange(len(losses))[::-1]
    assert meter.loss == pytest.approx(np.average(losses, weights=weights))


def test_speed_and_eta_follow_the_steps(tmp_path):
    meter = Meter(started(tmp_path, first_step=100))
    for number in range(101, 201):
        meter.add(step(number, seconds=2.0))
    assert meter.tokens_per_second == pytest.approx(512)
    assert meter.micro_batch_ms == pytest.approx(500)
    assert meter.seconds_left == pytest.approx(200)


def test_the_eta_reckons_with_the_restarts_to_come(tmp_path):
    meter = Meter(started(tmp_path))
    for number in range(1, 101):
        if number in (50, 100):
            meter = Meter(started(tmp_path), meter.state())
            meter.pause(100.0)
        meter.add(step(number, seconds=2.0))
    assert meter.micro_batch_ms == pytest.approx(500)
    assert meter.seconds_left == pytest.approx(200 * (2.0 + 2.0))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_on_a_terminal_is_wider_than_it(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    text = on_a_terminal(a_whole_run(tmp_path / "run")[:-1], width)
    shown = [line for part in text.splitlines() for line in part.split("\r")]
    assert max(len(Console().render_str(strip(line)).plain) for line in shown) <= width


def strip(text):
    from rich.text import Text

    return Text.from_ansi(text).plain.replace("[", "(")


def test_a_terminal_shows_facts_progress_evaluations_and_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = on_a_terminal(a_whole_run(tmp_path / "run"), 120)
    for fact in (
        "stories110m, 109.5M parameters",
        "20/300",
        "2,048 tok/s",
        "125.0 ms/micro-batch",
        "lr 3.0e-04",
        "grad 1.23",
        "eta 2m20s",
        "eval step 20  loss 7.5000  ppl 1808.04  best",
        "saved step 20: checkpoints/step-000020 (best so far)",
        "warning: step 2 skipped",
        "finished at step 300/300",
        "go on with: ane-train --resume run --steps 600",
    ):
        assert fact in text


def test_a_narrow_terminal_drops_the_least_important_numbers(tmp_path):
    text = on_a_terminal([started(tmp_path), step(1)], 60)
    assert "loss 5.0000" in text
    assert "eta 2m30s" in text
    assert "grad" not in text


def test_names_with_square_brackets_are_shown_as_they_are(tmp_path):
    text = on_a_terminal([started(tmp_path, model="[red]x[/red]"), Warned("[bold]")], 120)
    assert "[red]x[/red], 109.5M" in text
    assert "warning: [bold]" in text


def test_closing_without_an_end_shows_the_cursor_again(tmp_path):
    text = on_a_terminal([started(tmp_path), step(1)], 80)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def on_a_terminal_of_two_processes(events, more, width):
    file, memory = io.StringIO(), {}
    for first, rest in ((events[0], events[1:]), (None, more)):
        console = Console(file=file, force_terminal=True, width=width, legacy_windows=False)
        screen = RichScreen(console)
        screen.handle(first or RunContinued(events[0], {"screen": memory}, 0.0))
        for event in rest:
            screen.handle(event)
        screen._live.refresh()
        memory = json.loads(json.dumps(screen.hand_over()))
        screen.close()
    return file.getvalue()


def test_a_terminal_of_a_restarted_process_goes_on_where_it_was(tmp_path):
    one = on_a_terminal([started(tmp_path), *(step(n, loss=n) for n in range(1, 5))], 120)
    events = [started(tmp_path), *(step(n, loss=n) for n in range(1, 5))]
    two = on_a_terminal_of_two_processes(events, [], 120)
    assert two.count("stories110m") == 1
    assert two.count("restarting ...") == 2
    before, after = two.split("restarting ...")[:2]
    bar = "4/300"
    assert bar in before
    assert bar in after
    assert strip(one)[strip(one).rindex(bar) :].split("\n")[0] in strip(after)


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_reader_that_goes_away_silences_the_screen_and_not_the_run(tmp_path):
    screen = open_screen(Gone(), {}, 1)
    for event in a_whole_run(tmp_path):
        screen.handle(event)
    screen.close()


def test_plain_lines_need_no_rich(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    stream = io.StringIO()
    open_screen(stream, {}, 1).handle(started(tmp_path))
    assert "stories110m" in stream.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (12_345, "12.3K"), (999_960, "1.0M"), (109_529_856, "109.5M")],
)
def test_counts_are_short(number, text):
    assert count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(512, "512 B"), (1536, "1.5 KiB"), ((1 << 30) - 1, "1.0 GiB"), (20 << 30, "20.0 GiB")],
)
def test_sizes_have_binary_units(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.7, "1m00s"),
        (130, "2m10s"),
        (3599.6, "1h00m"),
        (11_100, "3h05m"),
        (187_200, "2d04h"),
        (math.inf, "?"),
    ],
)
def test_durations_have_two_parts_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0 FLOP/s"), (8.5e8, "850 MFLOP/s"), (1.234e12, "1.23 TFLOP/s")]
)
def test_rates_have_three_digits(rate, text):
    assert flops(rate) == text
