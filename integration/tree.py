"""A trace as a tree of text, and whether its spans hang together as they should."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.collectors import Collected

__all__ = ["Step", "broken", "tree"]

# Service, kind and name of a span.
Step = tuple[str, str, str]


def tree(spans: Sequence[Collected], parent: int) -> Iterator[str]:
    """Yield the lines of the spans below a parent, each under its own.

    Args:
        spans: Of one trace.
        parent: Id of a span, which need not be among them.
    """
    children = sorted(
        (span for span in spans if span.parent_id == parent), key=lambda span: span.start
    )
    for number, span in enumerate(children, 1):
        last = number == len(children)
        yield f"{'└─' if last else '├─'} {_title(span)}"
        inner = "   " if last else "│  "
        below = [f"· {_event(*event)}" for event in span.events]
        yield from (inner + line for line in (*below, *tree(spans, span.span_id)))


def broken(spans: Sequence[Collected], parent: int, steps: Sequence[Step]) -> list[str]:
    """Return what is wrong with a trace that should be one line of descent.

    Args:
        spans: Of one trace.
        parent: Id of the span that the first step is a child of.
        steps: All that there should be, from the top.
    """
    wrong = []
    by_step = {(span.service, span.kind, span.name): span for span in spans}
    for step in steps:
        span = by_step.pop(step, None)
        if span is None:
            wrong.append(f"there is no span of {step}")
            continue
        if span.parent_id != parent:
            wrong.append(f"the parent of {step} is {span.parent_id:016x}, not {parent:016x}")
        parent = span.span_id
    if len(spans) > len(steps):
        wrong.append(f"there are {len(spans)} spans, not {len(steps)}")
    return [*wrong, *(f"nobody expected {step}" for step in by_step)]


def _title(span: Collected) -> str:
    who = f"{span.service} {span.instance}".strip()
    code = span.tags.get("rpc.response.status_code") or span.tags.get("rap.code") or ""
    return f"{who}: {span.name}, {span.kind}, {span.seconds * 1000:.1f} ms {code}".rstrip()


def _event(name: str, fields: Mapping[str, Any]) -> str:
    if name != "rap.attempt":
        return f"{name} {dict(fields)}"
    host, port = fields.get("network.peer.address"), fields.get("network.peer.port")
    to = fields.get("peer.address") or f"{host}:{port}"
    code, error = fields.get("rap.retried.code"), fields.get("rap.retried.error")
    why = f", after {code}: {error}" if code else ""
    return f"attempt {fields['rap.attempt']} to {to}{why}"
