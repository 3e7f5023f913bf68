from pathlib import Path

from rlhf_pipelines.cli.run_log import RunLog
from rlhf_pipelines.local.run_events import StepProgress, StepStarted


def test_log_keeps_output_without_colours_and_progress_sparse(tmp_path: Path) -> None:
    with RunLog(tmp_path, now=lambda: "12:00:00") as log:
        log.begin("rlhf_pipeline", "1.2", {"instruction": "café"})
        log.line("    \x1b[96mhello\x1b[0m  ")
        log.line("   ")
        log.show(StepStarted("Train", 1, 2))
        for done in range(100):
            log.show(StepProgress("Train", "training", done, 100, "step", None, {}))
    assert log.path.read_text(encoding="utf-8").splitlines() == [
        "12:00:00 rlhf_pipeline, rlhf-pipelines 1.2",
        '12:00:00 parameters {"instruction": "café"}',
        "    hello",
        "12:00:00 Train: started (step 1 of 2)",
    ]


def test_two_runs_in_one_second_have_their_own_logs(tmp_path: Path) -> None:
    with RunLog(tmp_path) as first, RunLog(tmp_path) as second:
        assert first.path != second.path


def test_log_is_complete_while_the_run_goes_on(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.line("first")
        assert log.path.read_text(encoding="utf-8") == "first\n"
