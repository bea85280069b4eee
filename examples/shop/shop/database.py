"""The databases: SQLite files that all replicas of a service on this machine share."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager

from shop import settings


@contextmanager
def transaction(name: str, tables: str) -> Generator[sqlite3.Connection]:
    """Do the whole block or nothing. Other processes wait meanwhile."""
    path = settings.data() / f"{name}.db"
    with closing(sqlite3.connect(path, timeout=5)) as db, db:
        db.executescript(tables)
        db.execute("BEGIN IMMEDIATE")
        yield db
