"""The live view: what it shows of a whole run, in every size, and what is left when the run ends."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.screen import Screen

from flows.steps.live import Lines, View, sparkline
from flows.steps.progress import Board, Figures, Status, figures_of, listening, read_figures, report, stage_names
from mmface.config.load import load_recipe

LOSSES = [3.0, 1.5, 1.0, 0.75]
log = logging.getLogger("flows.test_live")
jobs_log = logging.getLogger("ray_jobs.test_live")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Iterator[Board]:
    made = Board(stage_names(load_recipe("demo")), clock)
    with listening(made):
        yield made


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    for logger in (log, jobs_log):
        monkeypatch.setattr(logger, "level", logging.INFO)
    made = Lines()
    with made.attached():
        yield made


def draw(view: View, width: int = 110, height: int = 32, **options: object) -> list[str]:
    """The rows of the terminal."""
    console = Console(record=True, force_terminal=True, width=width, height=height, file=io.StringIO(), **options)
    console.print(Screen(view))
    rows = console.export_text().splitlines()
    assert len(rows) == height
    assert all(len(row) == width for row in rows)
    return [row.rstrip() for row in rows]


def run_stage(stage: str, clock: Clock, parts: int = 2) -> None:
    report(stage, Status.RUNNING)
    log.info("%s: started", stage)
    for done in range(1, parts + 1):
        clock.now += 5
        jobs_log.info("%s: %d of %d parts, %d rows (part)", stage, done, parts, 8 * done)
        report(stage, Figures(stage, done, parts, 8 * done))
    report(stage, Status.DONE)


def train(stage: str, title: str, clock: Clock) -> None:
    report(stage, Status.RUNNING)
    for i, loss in enumerate(LOSSES, 1):
        clock.now += 10
        line = f"{title}: step {i * 30}/120  loss {loss:.4f}  held-out 2.5000  lr 1.0e-04  11.3 images/s  ETA 0:42"
        jobs_log.info(line)
        figures = read_figures(line)
        assert figures is not None
        report(stage, figures)


def test_a_whole_run_is_shown_stage_by_stage(board: Board, lines: Lines, clock: Clock) -> None:
    view = View("mmface retrain demo", board, lines, "/home/logs/now.log")
    report("portraits", Status.REUSED)
    report("images", Status.REUSED)
    for stage in ("conditions", "captions", "text", "latents-64"):
        run_stage(stage, clock)
    report("latents-64", Figures("latents-128", 1, 1, 8))  # made by the job of latents-64
    report("latents-128", Status.REUSED)
    train("train-0-64", "train 0 (64 px)", clock)

    rows = draw(view)
    assert rows[0] == "mmface retrain demo  7 of 14 stages  1:20"
    shown = {row.split()[1]: row.split()[2:] for row in rows[1:15]}
    assert shown["portraits"] == ["reused"]
    assert shown["latents-128"][0] == "done"
    assert shown["text"] == ["done", "━" * 20, "2/2", "parts", "1.6", "rows/s", "0:10"]
    assert [shown["train-0-64"][0], *shown["train-0-64"][-7:]] == [
        *("running", "120/120", "steps", "11.3", "images/s", "0:40", "ETA", "0:42")
    ]
    assert shown["train-1-128"] == shown["release"] == ["waiting"]
    assert rows[15] == "  loss 0.7500  held-out 2.5000  █▃▂▁"
    assert rows[16].startswith("log: /home/logs/now.log ─")
    assert "train 0 (64 px): step 120/120  loss 0.7500" in [row for row in rows if row][-1]

    report("train-0-64", Status.DONE)
    train("train-1-128", "train 1 (128 px)", clock)
    report("train-1-128", Status.DONE)
    report("evalset", Status.REUSED)
    run_stage("samples", clock, parts=3)
    run_stage("scores", clock, parts=3)
    report("bundle", Status.RUNNING)
    report("bundle", Status.DONE)
    assert draw(view)[14].split()[1:3] == ["release", "running"]
    board.end(None)
    assert {entry.status for entry in board.entries.values()} == {Status.DONE, Status.REUSED}
    assert "loss" not in draw(view)[15]


@pytest.mark.parametrize(("width", "height"), [(200, 60), (80, 24), (60, 12), (30, 8), (20, 3)])
def test_every_size_shows_the_running_stage(width: int, height: int, board: Board, lines: Lines, clock: Clock) -> None:
    for stage in ("portraits", "images", "conditions", "captions", "text", "latents-64", "latents-128"):
        run_stage(stage, clock)
    train("train-0-64", "train 0 (64 px)", clock)
    rows = draw(View("mmface retrain demo", board, lines, "/home/logs/now.log"), width, height)
    assert any("train" in row for row in rows[1:])
    if height > 8:
        assert any("loss 0.75" in row for row in rows)


def test_the_last_error_stays_in_sight_and_stays_on_the_terminal(board: Board, lines: Lines, clock: Clock) -> None:
    log.warning("a first warning")
    log.error("what went wrong is told on more than one row of a terminal this narrow")
    for i in range(100):
        log.info("line %d", i)
    rows = draw(View("title", board, lines, "log"), 50, 24)
    assert any("what went wrong is told on more than one" in row for row in rows)
    assert any("terminal this narrow" in row for row in rows)
    assert rows[-1].endswith("line 99")
    kept = [text.split(" ", 1)[1] for _, text in lines.worth_keeping(failed=False)]
    assert kept == ["a first warning", "what went wrong is told on more than one row of a terminal this narrow"]
    kept = [text.split(" ", 1)[1] for _, text in lines.worth_keeping(failed=True)]
    assert kept[:2] == ["a first warning", "what went wrong is told on more than one row of a terminal this narrow"]
    assert kept[2:] == [f"line {i}" for i in range(80, 100)]


def test_escape_sequences_of_a_job_s_log_do_not_reach_the_terminal(lines: Lines) -> None:
    log.info("\x1b[31mred\x1b[0m\x1b[2J \x1b]0;title\x07\tone\rtwo")
    assert [text.split(" ", 1)[-1] for _, text in lines.kept] == ["red ]0;title    one", "two"]


def test_a_terminal_without_unicode_gets_ascii(board: Board, lines: Lines, clock: Clock) -> None:
    train("train-0-64", "train 0 (64 px)", clock)
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    console = Console(force_terminal=True, width=140, height=30, file=file)
    console.print(Screen(View("title", board, lines, "log")))  # would raise UnicodeEncodeError


def test_no_color_is_respected(board: Board, lines: Lines, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    run_stage("portraits", clock)
    out = io.StringIO()
    Console(force_terminal=True, width=100, height=30, file=out).print(View("title", board, lines, "log"))
    assert "\x1b[3" not in out.getvalue()


def test_figures_are_carried_by_records_and_read_from_the_lines_of_a_cluster() -> None:
    carried = {"name": "text", "done": 1, "total": 2, "rows": 8}
    record = logging.makeLogRecord({"msg": "no figures", "progress": carried})
    assert figures_of(record) == Figures("text", 1, 2, 8)
    assert figures_of(logging.makeLogRecord({"msg": "no figures"})) is None
    assert read_figures("20:57:47 latents-64: 3 of 12 parts, 640 rows (part-00003)") == Figures(
        "latents-64", 3, 12, 640
    )
    assert read_figures("text: 3 of 12 parts are finished already") == Figures("text", 3, 12)
    line = "20:58:51 train 0 (64 px): step 2/250  loss 2.2596  held-out 2.2306  lr 0.0e+00  11.3 images/s  ETA 61:05"
    assert read_figures(line) == Figures("train 0", 2, 250, None, 2.2596, 2.2306, 11.3, 3665.0)
    assert read_figures("train 1: step 100 of 200 (2 workers)") is None
    assert read_figures("images: portraits: masks: 24 of 24 pictures matched, ignored nothing") is None


def test_a_stage_that_resumes_counts_on(board: Board, clock: Clock) -> None:
    report("text", Status.RUNNING)
    report("text", Figures("text", 3, 12))
    entry = board.entries["text"]
    clock.now += 10
    report("text", Figures("text", 1, 9, 64))
    assert (entry.done, entry.total, entry.rate()) == (4, 12, 6.4)
    assert entry.eta(clock.now) == pytest.approx(80)
    assert entry.eta(clock.now + 20) == pytest.approx(60)
    report("text", Figures("text", 4, 9, 256))
    clock.now += 10
    report("text", Figures("text", 1, 5, 64))  # workers were lost
    assert (entry.done, entry.total, entry.rows) == (8, 12, 320)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("x"), Status.FAILED), (KeyboardInterrupt(), Status.STOPPED), (None, Status.DONE)]
)
def test_the_end_of_a_run_is_the_end_of_its_running_stage(
    error: BaseException | None, status: Status, board: Board
) -> None:
    report("portraits", Status.RUNNING)
    board.end(error)
    assert board.entries["portraits"].status is status
    assert board.entries["images"].status is Status.WAITING


def test_sparklines() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 10) == "█▇▆▅▄▃▂▁"
    assert sparkline([1.0], 10) == "▁"
    assert sparkline([2.0] * 5, 3) == "▁▁▁"
    assert sparkline([float(i) for i in range(1000)], 8) == "▁▂▃▄▅▆▇█"
    assert len(sparkline([1.0, 2.0], -3)) == 1
