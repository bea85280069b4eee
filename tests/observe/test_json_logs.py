"""The example of JSON logs."""

import json
import subprocess
import sys
from pathlib import Path

from tests.loopback import PATIENCE

ROOT = Path(__file__).parents[2]


def test_the_example_logs_json_objects_with_the_fields_of_calls() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "examples/json_logs.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=True,
    )
    assert found.stdout.isascii()
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    calls = [line for line in lines if "method" in line]
    assert [(line["logger"], line["code"]) for line in calls] == [
        ("rap.server.access", "OK"),
        ("rap.server", "UNKNOWN"),
        ("rap.server.access", "UNKNOWN"),
    ]
    for line in calls:
        assert line["method"] == "/default/divide"
        assert line["peer"].startswith("127.0.0.1:")
        assert 0 <= line["seconds"] < PATIENCE
        assert line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert "ZeroDivisionError" in calls[1]["traceback"]
