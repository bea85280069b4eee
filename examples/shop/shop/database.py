"""The databases: SQLite files that all replicas of a service on this machine share."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

from shop import settings

LOCK = Lock()  # one thread at a time uses the connections


@contextmanager
def reading(name: str, tables: str) -> Generator[sqlite3.Connection]:
    """Read what was committed. Other processes do not wait."""
    with LOCK:
        yield connection(settings.data() / f"{name}.db", tables)


@contextmanager
def transaction(name: str, tables: str) -> Generator[sqlite3.Connection]:
    """Do the whole block or nothing. Other processes may read, but wait before they write."""
    with reading(name, tables) as db, db:
        db.execute("BEGIN IMMEDIATE")
        yield db


@cache
def connection(path: Path, tables: str) -> sqlite3.Connection:
    """Return the connection of this process to a database."""
    db = sqlite3.connect(path, timeout=5, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
    db.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk
    db.executescript(tables)
    return db
