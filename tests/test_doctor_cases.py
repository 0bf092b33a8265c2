"""The cases that `doctor` tries: what they cover, and the verdict that each outcome gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ane_train import mil
from ane_train.doctor import reference, run, settings
from ane_train.doctor.cases import Case, hazard_cases, op_cases, program_cases
from ane_train.doctor.decode import try_classifier
from ane_train.doctor.report import DECODE, HAZARD, OP, PROGRAM, STATIC, Found
from ane_train.doctor.run import Bench, crashed, try_case
from ane_train.doctor.settings import Settings, Subject
from ane_train.isolation.scrub import scrub
from ane_train.mil.rules import OP_RULES, PORT_RULES, PROGRAM_RULES
from ane_train.model.spec import load_model
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import NativeError

TINY = load_model("tiny")
SUBJECT = Subject(Settings(model="tiny"))
PROGRAMS, CASES = SUBJECT.programs, SUBJECT.cases
DECODING = [case for case in CASES if case.group == DECODE]


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with Context(threads=2) as opened:
        yield opened


def named(name: str) -> Case:
    (found,) = [case for case in CASES if case.name == name]
    return found


class Bad:
    """A context whose programs end as told: at compile, or when evaluated."""

    def __init__(self, context: Context, at: str, error: BaseException | None = None) -> None:
        self._context, self._at, self._error = context, at, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def compile(self, *arguments: Any, **options: Any) -> Any:
        if self._at == "compile" and self._error is not None:
            raise self._error
        program = self._context.compile(*arguments, **options)
        return BadProgram(program, self._error) if self._at == "evaluate" else program


class BadProgram:
    def __init__(self, program: Any, error: BaseException | None) -> None:
        self._program, self._error = program, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def request(self, *_: Any) -> Any:
        assert self._error is not None
        raise self._error


def test_every_op_of_the_table_has_a_case() -> None:
    kinds = {op.kind for case in CASES if case.group == OP for op in case.program.ops}
    assert kinds == mil.OPS.keys()


def test_every_program_of_the_model_is_a_case_and_needed() -> None:
    for group, layouts in ((PROGRAM, PROGRAMS), (STATIC, SUBJECT.static)):
        found = [case for case in CASES if case.group == group]
        assert [case.name for case in found] == [layout.name for layout in layouts]
        assert {case.needed for case in found} == {group == PROGRAM}


def test_the_programs_of_generate_are_cases_that_training_does_without() -> None:
    names = [f"decode_{tokens}{form}" for tokens in (1, 64) for form in ("", " int8")]
    assert [case.name for case in DECODING] == names
    assert not any(case.needed or case.static for case in DECODING)
    kinds = [{op.kind for op in case.program.ops} for case in DECODING]
    assert ["constexpr_affine_dequantize" in each for each in kinds] == [False, True, False, True]


def test_an_op_is_needed_if_a_program_of_the_model_has_it() -> None:
    used = {op.kind for layout in PROGRAMS for op in layout.program.ops}
    assert "softmax" in used
    needed = {case.name.split()[0] for case in CASES if case.group == OP and case.needed}
    assert needed == used
    constant = {op.kind for layout in SUBJECT.static for op in layout.program.ops}
    static = {case.name.split()[0] for case in CASES if case.group == OP and case.static}
    assert static == constant - used
    assert "conv" in static
    assert not any(case.needed for case in op_cases(()))


def test_of_a_vocabulary_that_is_split_one_part_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "most_channels", lambda _: TINY.dim + TINY.vocabulary // 4)
    subject = Subject(Settings(model="tiny"))
    (head,) = [layout for layout in subject.static if layout.name == "classifier"]
    assert head.output["logits"].rows == TINY.vocabulary // 4
    sizes = {value.type.shape[0] for value in head.program.constants if value.type.shape}
    assert max(sizes) == TINY.vocabulary // 4


def test_every_case_is_sound_and_has_a_name_of_its_own() -> None:
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)
    for case in CASES:
        structure = [find for find in mil.verify(case.program, "m4") if "MIL" in find.source]
        assert structure == []


def test_cases_besides_hazards_keep_the_rules_of_surfaces() -> None:
    rules = {rule.name for rule in (*PORT_RULES, *PROGRAM_RULES)}
    for case in CASES:
        broken = {find.rule for find in mil.verify(case.program, "m4")}
        assert case.group == HAZARD or broken.isdisjoint(rules), case.name


def test_a_hazard_names_a_defect_or_a_rule_that_there_is() -> None:
    rules = {rule.name for rule in (*PORT_RULES, *PROGRAM_RULES, *OP_RULES)}
    hazards = hazard_cases(100)
    assert {case.hazard for case in hazards} - {""} == set(mil.Hazard.__members__)
    assert {case.rule for case in hazards} - {""} <= rules
    assert all(case.question.endswith("?") for case in hazards)


def test_inputs_depend_on_the_seed_and_on_the_case_alone() -> None:
    first, again, other = (named("add").inputs(seed) for seed in (1, 1, 2))
    assert first[0].tobytes() == again[0].tobytes() != other[0].tobytes()
    assert first[0].tobytes() != named("sub").inputs(1)[0].tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}-{case.name}")
def test_every_case_holds_on_the_software_engine(case: Case, context: Context) -> None:
    found = try_case(case, Bench(context))
    assert found.verdict == ("hazard absent" if case.group == HAZARD else "ok"), found.text
    assert found.rms_error is not None
    assert found.compile_ms is not None
    assert found.surface_bytes


def side_by_side() -> list[Case]:
    cases = Subject(Settings(model="tiny", batch=3)).cases
    return [case for case in cases if case.group in (PROGRAM, STATIC)]


@pytest.mark.parametrize("case", side_by_side(), ids=lambda case: f"{case.group}-{case.name}")
def test_programs_of_a_batch_hold_on_the_software_engine(case: Case, context: Context) -> None:
    assert case.blocks is not None
    assert {block.columns for block in case.blocks.blocks.values()} == {3 * TINY.sequence}
    found = try_case(case, Bench(context))
    assert found.verdict == "ok", found.text


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.group != HAZARD], ids=lambda c: c.name
)
def test_one_wrong_element_is_found(case: Case, context: Context) -> None:
    measured = run.measure(context, case.program, case.inputs(run.SEED), 1)
    wanted = reference.evaluate(case.program, case.inputs(run.SEED))
    rows = [array.reshape(-1, array.shape[-1]) for array in wanted]
    errors = run.compare(case, measured.outputs, rows)
    assert run.verdict_of(errors, case.tolerance) == "ok"
    place = np.unravel_index(np.abs(rows[0]).argmax(), rows[0].shape)
    measured.outputs[0][place] *= 0.9
    errors = run.compare(case, measured.outputs, rows)
    assert run.verdict_of(errors, case.tolerance) == "wrong"


@pytest.mark.parametrize("kind", sorted({op.kind for p in PROGRAMS for op in p.program.ops}))
def test_an_op_that_is_computed_wrongly_is_found_in_a_program(
    kind: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.FUNCTIONS[kind]
    wrong = {**reference.FUNCTIONS, kind: lambda given: np.asarray(right(given)) * 1.05}
    monkeypatch.setattr(reference, "FUNCTIONS", wrong)
    found = [try_case(case, Bench(context)) for case in program_cases(PROGRAMS)]
    with_it = [any(op.kind == kind for op in layout.program.ops) for layout in PROGRAMS]
    wrong_ones = [case.verdict == "wrong" for case in found]
    assert any(wrong_ones)
    assert all(there or not bad for there, bad in zip(with_it, wrong_ones, strict=True))


@pytest.mark.parametrize("kind", sorted({op.kind for c in DECODING for op in c.program.ops}))
def test_an_op_that_is_computed_wrongly_is_found_in_what_generate_runs(
    kind: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.FUNCTIONS[kind]
    wrong = {**reference.FUNCTIONS, kind: lambda given: np.asarray(right(given)) * 1.25}
    monkeypatch.setattr(reference, "FUNCTIONS", wrong)
    for case in DECODING:
        with_it = any(op.kind == kind for op in case.program.ops)
        assert (try_case(case, Bench(context)).verdict == "wrong") == with_it, case.name


@pytest.mark.parametrize("int8", [False, True])
def test_a_classifier_that_is_off_in_one_row_is_found(
    int8: bool, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = try_classifier(context, TINY, int8=int8)
    assert (found.name, found.verdict) == (f"classifier{' int8' * int8}", "ok")
    right = arithmetic.matvec

    def wrong(*given: Any) -> None:
        right(*given)
        given[3][np.abs(given[3]).argmax()] *= 0.9

    monkeypatch.setattr(arithmetic, "matvec", wrong)
    assert try_classifier(context, TINY, int8=int8).verdict == "wrong"


def test_infinite_results_are_wrong_and_said_to_be_so(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.evaluate
    monkeypatch.setattr(reference, "evaluate", lambda *a: [v * np.inf for v in right(*a)])
    found = try_case(named("exp"), Bench(context))
    assert (found.verdict, found.text) == ("wrong", "finite where the reference is not")
    assert found.max_error is None


def test_the_defects_of_a_chip_are_confirmed() -> None:
    with Context("hazard", hazards=7, threads=2) as context:
        found = {case.hazard: try_case(case, Bench(context)) for case in CASES if case.hazard}
    assert {item.verdict for item in found.values()} == {"hazard confirmed"}
    assert "infinite" in found["MATMUL_RANGE"].text
    assert found["REDUCE_FP16"].text.startswith("yes, wrong: off by 0.5")


NATIVE = NativeError("ANECCompile() FAILED", "compile")


@pytest.mark.parametrize(
    ("at", "error", "verdict", "text"),
    [
        ("compile", NATIVE, "refused", "ANECCompile() FAILED"),
        ("compile", OSError("out of order"), "failed", "OSError: out of order"),
        ("evaluate", NativeError("status 0x1d", "evaluate"), "failed", "status 0x1d"),
        ("evaluate", ValueError("odd"), "failed", "ValueError: odd"),
    ],
)
def test_what_goes_wrong_is_a_verdict_not_an_exception(
    context: Context, at: str, error: Exception, verdict: str, text: str
) -> None:
    bench: Any = Bench(Bad(context, at, error))  # type: ignore[arg-type]
    found = try_case(named("add"), bench)
    assert (found.verdict, found.text, found.holds) == (verdict, text, False)
    hazard = try_case(named("two inputs"), bench)
    assert hazard.verdict == "hazard confirmed"
    assert hazard.text == f"yes, {verdict}: {text}"


@pytest.mark.parametrize(
    ("status", "domain"), [("memory", ""), ("limit", ""), ("system", ""), ("system", "POSIX")]
)
def test_a_want_of_room_or_files_says_nothing_of_a_program(
    status: str, domain: str, context: Context
) -> None:
    error = NativeError("cannot make the directory", status)
    error.domain = domain
    for at in ("compile", "evaluate"):
        bench: Any = Bench(Bad(context, at, error))  # type: ignore[arg-type]
        for name in ("add", "two inputs"):
            found = try_case(named(name), bench)
            assert (found.verdict, found.text) == ("skipped", f"not tried: {error}")
    error.domain = "com.apple.appleneuralengine"
    assert try_case(named("add"), bench).verdict == "failed"


def test_whether_numbers_go_wrong_is_not_known_of_a_program_that_is_refused(
    context: Context,
) -> None:
    bench: Any = Bench(Bad(context, "compile", NATIVE))  # type: ignore[arg-type]
    found = try_case(named("matmul beyond 32752"), bench)
    assert found.verdict == "skipped"
    assert found.text == "not known, refused: ANECCompile() FAILED"


def test_a_case_that_needs_more_memory_than_there_is_is_skipped(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "available", lambda: 1000)
    found = try_case(named("add"), Bench(context))
    assert found.verdict == "skipped"
    assert "GiB of memory" in found.text


def test_a_crash_is_a_failure_with_the_name_of_the_case() -> None:
    found = crashed(named("add"), "the process crashed with signal 11 (SIGSEGV)")
    assert (found.name, found.verdict) == ("add", "failed")
    assert crashed(named("two inputs"), "gone").verdict == "hazard confirmed"


def test_the_ane_is_compared_with_the_software_engine_and_hazards_with_numpy(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    right = reference.evaluate
    monkeypatch.setattr(reference, "evaluate", lambda p, i: used.append("NumPy") or right(p, i))
    with Context(threads=1) as peer:
        add = try_case(named("add"), Bench(context, peer))
        assert peer.counts().compiled == 1
        assert used == []
        try_case(named("two inputs"), Bench(context, peer))
    assert used == ["NumPy"]
    assert isinstance(add, Found)
    assert replace(add, compile_ms=0.0, evaluate_ms=0.0).rms_error == 0.0


def test_texts_lose_paths_users_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/Users/planted")
    monkeypatch.setenv("LOGNAME", "planted")
    monkeypatch.setattr("socket.gethostname", lambda: "plantedhost.local")
    for text, told in {
        "no /Users/planted/a/b.txt here": "no .../b.txt here",
        "/Users/someone/else/model.mil: bad": ".../model.mil: bad",
        "'/private/var/folders/xy/T/weights'": "'.../weights'",
        "no /Volumes/My Disk/a b/x.dylib: gone": "no .../x.dylib: gone",
        "in /Users/planted/My Work/x.dylib now": "in .../x.dylib now",
        "/tmp/a and /tmp/b are there": ".../a and .../b are there",
        "on plantedhost.local and plantedhost by planted": "on ... and ... by ...",
        "replanted stays": "replanted stays",
        "/System/Library/X.framework/X": "/System/Library/X.framework/X",
        "12 / 3 and a/b": "12 / 3 and a/b",
    }.items():
        assert scrub(text) == told
