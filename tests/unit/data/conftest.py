import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as a JSONL file in the test's folder and return its path."""

    def write(name: str, rows: Sequence[Mapping[str, object]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
