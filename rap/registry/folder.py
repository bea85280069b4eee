"""Folders whose files decide where clients connect: who may write to them.

New ones are created without write permission for all users. One that others can change is logged,
as a mistake that a container or a shared machine may want: it is not refused. The group of a folder
is trusted, because volumes are shared by a group.
"""

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from rap.foreign import one_line

__all__ = ["TrustedFolder", "write_new"]

logger = logging.getLogger("rap.registry")

_FOLDER_MODE = 0o775  # the umask takes away more, such as the permission of the group
_FILE_MODE = 0o664
_REMEDY = (
    "use a folder to which only you and root may write, or sign what servers register (option"
    " registry_key)"
)


class TrustedFolder:
    """A folder, and the folders above it that rap creates. Its methods block.

    Args:
        places: The folder, then those above it.
    """

    def __init__(self, *places: Path) -> None:
        self._places: Sequence[Path] = places
        self._is_checked = False

    def make(self) -> None:
        """Create what does not exist.

        Raises:
            OSError: It cannot be created.
        """
        self._places[-1].parent.mkdir(parents=True, exist_ok=True)
        for place in reversed(self._places):
            place.mkdir(_FOLDER_MODE, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Log once if others may write to one of the folders, which must exist.

        Raises:
            OSError: One does not exist.
        """
        if self._is_checked:
            return
        reasons = [(place, _why_untrusted(place)) for place in self._places]
        self._is_checked = True
        for place, reason in reasons:
            if reason:
                text = "%s %s: they decide where clients connect; %s"
                logger.warning(text, one_line(str(place)), reason, _REMEDY)
                return


def write_new(path: Path, text: str) -> None:
    """Write a new file in place of an old one, and never through a link that others have put there.

    Raises:
        OSError: It cannot be written.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with open(os.open(path, flags, _FILE_MODE), "w") as file:
        file.write(text)


def _why_untrusted(folder: Path) -> str:
    """Return who may write to a folder besides this user and root; empty if only its group may."""
    if not hasattr(os, "geteuid"):
        return ""  # a system without owners and modes of POSIX
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH:
        return "is writable for all users"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (uid {status.st_uid})"
    return ""
