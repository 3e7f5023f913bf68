"""Runs a submitted pipeline with kfp's local runner: `python kubeflow_execution.py FOLDER`, for the test's server.

The folder holds `run.json`, the body of the submission. kfp's log, which says which task is how far, goes to standard
output.
"""

import json
import sys
import warnings
from pathlib import Path


def main(folder: Path) -> None:
    import yaml
    from kfp import components, local

    warnings.simplefilter("ignore")
    run = json.loads((folder / "run.json").read_text())
    spec = run["pipeline_spec"]
    pipeline = components.load_component_from_text(yaml.safe_dump(spec.get("pipeline_spec", spec)))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "root"),
        workspace_root=str(folder / "workspace"),
    )
    pipeline(**run["runtime_config"]["parameters"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
