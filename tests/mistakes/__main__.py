"""Prints every mistake with its rating and its text; ``--below 3`` prints those that are worse.

Names after the options choose mistakes or modules.
"""

import sys
import warnings

from tests.mistakes.all import MISTAKES, average


def main() -> None:
    """Make the mistakes, and print what a user sees."""
    warnings.simplefilter("ignore")
    words = sys.argv[1:]
    below = 4
    if words[:1] == ["--below"]:
        below, words = int(words[1]), words[2:]
    for each in MISTAKES:
        if each.rating >= below or (words and not {each.name, each.area} & {*words}):
            continue
        print(f"## {each.title} ({each.area}.{each.name}: {each.rating})\n")
        print("    " + each.text().replace("\n", "\n    ") + "\n")
    print(f"{len(MISTAKES)} mistakes, {average():.2f} of 3 on average")


if __name__ == "__main__":
    main()
