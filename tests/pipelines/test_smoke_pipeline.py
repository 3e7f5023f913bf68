"""The smoke test through kfp's local runner, in two processes, with an object on Cloud Storage."""

import os
import subprocess
import sys

import pytest
from kfp import dsl
from tests.support.gcs_server import serve_cloud_storage

from rlhf_components.smoke_verdict import smoke_verdict


@pytest.mark.slow
def test_it_ends_in_a_page_that_says_what_works(tmp_path):
    with serve_cloud_storage() as storage:
        storage.put("rows.jsonl", b"12345")
        run = subprocess.run(
            [
                *(sys.executable, "-m", "rlhf_pipelines.cli", "run"),
                *("--pipeline", "smoke_pipeline", "--probe-object", "gs://bucket/rows.jsonl"),
            ],
            cwd=tmp_path,
            env=os.environ | {"STORAGE_EMULATOR_HOST": storage.address, "RLHF_PROCESSES": "2", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "outcome: All that a tuning run needs works here." in run.stdout
    page = (tmp_path / "runs/smoke-report.html").read_text()
    assert "read 5 bytes of gs://bucket/rows.jsonl" in page
    assert "read 7 checks of the step before" in page
    assert "2 processes hold the same weights" in page


def test_the_run_fails_with_every_line_of_what_does_not_work(capsys):
    with pytest.raises(SystemExit) as ended:
        smoke_verdict.python_func(report=dsl.HTML(uri="gs://root/report"), failed="Trainer image: no GPU. Take one.")
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "Trainer image: no GPU. Take one." in told
    assert "The whole page: gs://root/report" in told
