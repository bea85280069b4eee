"""Write the logs of rap as JSON, one object per line, including the attributes of calls.

Run it::

    python examples/json_logs.py
"""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from rap.client import Client
from rap.server import Server
from rap.server.middleware import AccessMsgMiddleware

# The attributes of log records about calls, in addition to those of every `logging` record.
CALL_FIELDS = ("method", "peer", "code", "seconds", "trace_id")


class JsonFormatter(logging.Formatter):
    """Formats a log record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in CALL_FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Callers write parts of some texts. In ASCII, these cannot control a terminal.
        return json.dumps(line, default=str)


def log_json(level: int = logging.INFO) -> None:
    """Send every log of the program to standard output as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler])


async def divide(a: int, b: int) -> float:
    return a / b


async def main() -> None:
    server = Server("127.0.0.1:0", middleware_list=[AccessMsgMiddleware()])
    server.register(divide)
    async with server, Client(server.addresses) as client:
        header = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        await client.call(divide, 1, 2, header=header)
        try:
            await client.call(divide, 1, 0, header=header)
        except ZeroDivisionError:
            print("the caller got the error", file=sys.stderr)


if __name__ == "__main__":
    log_json()
    asyncio.run(main())
