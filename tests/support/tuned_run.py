"""What a finished run leaves behind, as far as an upload reads it."""

import json
from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = {
    "display_name": "palms",
    "base_model": "smollm2-135m-instruct",
    "parameters": {"instruction": "Be brief.", "instruction_role": "user"},
    "evaluation": {"reward_win_rate": 0.8125, "prompts": 40},
}
PROMPTS = [[{"role": "user", "content": "Be brief.\n\nCreate a description for Plantation Palms."}]]


def write_model(folder: Path, *, weights: int = 1000, template: bool = True, **config: object) -> Path:
    """Write the files of a model that say how to serve it; its weights are of that many bytes, and no more."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dtype": "bfloat16", "max_position_embeddings": 2048, "num_attention_heads": 8, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(weights)
    if template:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def write_run(folder: Path) -> Path:
    """Write model, adapter, reward model and evaluation of a run."""
    write_model(folder / "model")
    files = {
        "adapter/tuning.json": {"seed": 3, "kl_coeff": 0.1},
        "reward/reward_model.json": {"offset": 0.5},
        "reward/evaluation.json": {"accuracy": 0.7},
        "evaluation": {"metrics": {"reward_win_rate": 0.8}, "answers": [{"prompt": prompt} for prompt in PROMPTS]},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    for name, metrics in {"reward": {"loss": 0.7}, "adapter": {"reward": 0.1, "kl": 0.2}}.items():
        record = {"step": 1, "seconds": 2.0, **metrics}
        (folder / name / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder
