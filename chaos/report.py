"""The report of a day, as Markdown: the verdict, the calls, and what each event did."""

from collections import Counter
from collections.abc import Sequence
from math import inf

from chaos.day import Happening
from chaos.driver import Outcome
from chaos.records import Effect, Failure, Found
from chaos.replica import WORK_SECONDS

__all__ = ["write_report"]

_SHOWN = 12  # kinds of errors
_BUSY = 0.01  # share of the time in which drivers may be late


def write_report(
    found: Found, happenings: Sequence[Happening], head: str, wanted: int, replicas: int
) -> str:
    """Return the report.

    Args:
        found: What was found.
        happenings: The events.
        head: One line on the machine and the options.
        wanted: Calls that were to be made at least.
        replicas: How many replicas of ``stock`` there are.
    """
    parts = [
        f"# A day of faults\n\n{head}\n",
        _verdict(found, happenings, wanted),
        "![timeline](timeline.svg)\n",
        _events(found, happenings, replicas),
        _shapes(found),
        _errors("Failed, although they could have been made again", found.failed),
        _errors("Wrong answers", found.wrong),
        _errors("Failed without a healthy replica", found.excused),
        _errors("Failed while their driver was late", found.own),
        _errors("Other failures: not idempotent, begun, or raised by handlers", found.others),
    ]
    return "\n".join(part for part in parts if part)


def _verdict(found: Found, happenings: Sequence[Happening], wanted: int) -> str:
    wrong = [event for event in happenings if event.trouble]
    late = sum(seconds for _, seconds in found.pauses)
    share = late / max(1, len(found.seconds)) / max(1, len(found.driver_cpu))
    worst = max((seconds for _, seconds in found.pauses), default=0.0)
    rows = [
        (f"calls (at least {wanted:,})", f"{found.calls:,}", found.calls >= wanted),
        ("failed idempotent calls", f"{len(found.failed):,}", not found.failed),
        ("crossed answers; lost or doubled items", f"{len(found.wrong):,}", not found.wrong),
        ("executed twice", f"{found.twice:,}", not found.twice),
        ("answered but not executed", f"{found.lost:,}", not found.lost),
        ("events that went wrong", f"{len(wrong)} of {len(happenings)}", not wrong),
        ("failed without a healthy replica", f"{len(found.excused):,}", None),
        ("failed while their driver was late", f"{len(found.own):,}", None),
        (
            "drivers were late, share of the time",
            f"{share:.2%}, at most {worst:.2f} s; {found.left_out:,} calls were not made",
            share < _BUSY,
        ),
    ]
    lines = ["## Verdict\n", "| | | |", "| --- | --: | --- |"]
    words = {True: "pass", False: "**MISS**", None: ""}
    lines += [f"| {name} | {value} | {words[good]} |" for name, value, good in rows]
    return "\n".join(lines) + "\n"


def _events(found: Found, happenings: Sequence[Happening], replicas: int) -> str:
    lines = [
        "## Events\n",
        "*Noticed*: all clients have stopped calling the (first) replica. *Disturbed*: the last "
        "call that failed or took more than 0.25 s has ended. Both count from the beginning of the "
        "event. *Share before*: calls that the replica got before the event, as a share of the "
        "mean of all. *Back*: it gets half of the mean again, from the end of the fault.\n",
        "| | at | event | lasts | share before | noticed | disturbed | back | p99 | failed "
        "| not repeatable | |",
        "| --: | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for number, (event, effect) in enumerate(zip(happenings, found.effects, strict=True), 1):
        where = ", ".join(event.names) if len(event.names) <= 4 else f"{len(event.names)} replicas"
        note = event.trouble or _goodput(event, effect, replicas) or where
        lines.append(
            f"| {number} | {event.begin:.0f} s | {event.event.title} "
            f"| {event.healed - event.begin:.1f} s "
            f"| {'' if effect.before is None else f'{effect.before:.1f}'} "
            f"| {_seconds(effect.noticed)} "
            f"| {_seconds(effect.disturbed)} | {_seconds(effect.back)} "
            f"| {effect.p99 * 1e3:.0f} ms | {effect.failed} | {effect.broken} | {note} |"
        )
    return "\n".join(lines) + "\n"


def _goodput(event: Happening, effect: Effect, replicas: int) -> str:
    if event.event.name != "overload":
        return ""
    share = effect.work * WORK_SECONDS / replicas
    return f"answered {effect.work:,.0f} calls/s of the overload, {share:.2f} C"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value < inf else "not any more"


def _shapes(found: Found) -> str:
    lines = [
        "## Calls\n",
        "| shape | calls | " + " | ".join(outcome.name.lower() for outcome in Outcome) + " |",
        "| --- | --: |" + " --: |" * len(Outcome),
    ]
    for name, counts in sorted(found.by_shape.items(), key=lambda item: -item[1].total()):
        cells = " | ".join(f"{counts[outcome]:,}" for outcome in Outcome)
        lines.append(f"| {name} | {counts.total():,} | {cells} |")
    return "\n".join(lines) + "\n"


def _errors(title: str, failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    kinds: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        kind = (failure.shape, _without_digits(failure.error))
        kinds[kind] += 1
        first.setdefault(kind, failure)
    lines = [f"## {title}: {len(failures):,}\n"]
    for kind, count in kinds.most_common(_SHOWN):
        each = first[kind]
        lines.append(
            f"- {count} x {kind[0]}, first at {each.at:.2f} s, ended at {each.ended:.2f} s, "
            f"deadline {each.deadline:g} s: {each.error}"
        )
    if len(kinds) > _SHOWN:
        lines.append(f"- and {len(kinds) - _SHOWN} more kinds")
    return "\n".join(lines) + "\n"


def _without_digits(text: str) -> str:
    return "".join("#" if each.isdigit() else each for each in text)
