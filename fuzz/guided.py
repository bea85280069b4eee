"""``python -m fuzz.guided TARGET FOLDER SECONDS``: one target under atheris, which never returns.

Runs in a process of its own: atheris ends it when time is up, or with a finding.
"""

import sys

import atheris

with atheris.instrument_imports(include=["rap"]):
    from fuzz.targets import TARGETS

__all__: list[str] = []


def main() -> None:
    """Fuzz until the time is over."""
    name, folder, seconds = sys.argv[1:]
    target = TARGETS[name]()
    options = (
        f"-max_total_time={seconds}", f"-artifact_prefix={folder}/finding-", "-max_len=8192",
        "-print_final_stats=1", "-verbosity=0", "-rss_limit_mb=2048", f"{folder}/corpus",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


main()
