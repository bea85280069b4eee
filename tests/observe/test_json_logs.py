"""The example of JSON logs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rap.client.sync import SyncClient
from tests.cli.programs import rap
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


def test_the_file_of_the_page_makes_rap_serve_log_json_only(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    found = re.search(r'```json title="(logs.json)"\n(.*?)```', page, re.DOTALL)
    command = re.search(r"^rap (serve .* --log-config .*)$", page, re.MULTILINE)
    assert found is not None
    assert command is not None
    (tmp_path / found[1]).write_text(found[2])
    shutil.copy(ROOT / "examples" / "json_logs.py", tmp_path)
    (tmp_path / "shop.py").write_text(
        "from rap import Server\nserver = Server('127.0.0.1:0')\n"
        "@server.register\nasync def double(n: int) -> int:\n    return 2 * n\n"
    )
    lines: list[dict[str, str]] = []
    with rap(*command[1].split(), cwd=tmp_path) as process:
        assert process.stdout is not None
        while sum("listening on" in each["message"] for each in lines) < 2:
            lines.append(json.loads(process.stdout.readline()))
        with SyncClient(lines[-1]["message"].split()[-1]) as client:
            assert client.raw_call("double", 2) == 4
        process.terminate()
        lines += map(json.loads, process.communicate(timeout=3 * PATIENCE)[0].splitlines())
        assert process.returncode == 0
    assert [each["code"] for each in lines if "code" in each] == ["OK"]
    assert lines[-1]["message"] == "stopped"
