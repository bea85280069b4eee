"""The stock of the shop, in a database."""

from sqlite3 import Connection

from rap import NotFound
from shop.contract import Item, SoldOut
from shop.database import reading, transaction

TABLES = """
CREATE TABLE IF NOT EXISTS items (sku TEXT PRIMARY KEY, name TEXT, cents INT, left INT);
CREATE TABLE IF NOT EXISTS reserved (key TEXT PRIMARY KEY, sku TEXT, count INT);
"""


def find(sku: str) -> Item:
    with reading("catalog", TABLES) as db:
        return read(db, sku)


def take(sku: str, count: int, key: str) -> Item:
    with transaction("catalog", TABLES) as db:
        item = read(db, sku)
        new = db.execute("INSERT OR IGNORE INTO reserved VALUES (?, ?, ?)", [key, sku, count])
        if new.rowcount:
            if item.left < count:
                raise SoldOut(item.name, item.left)
            db.execute("UPDATE items SET left = left - ? WHERE sku = ?", [count, sku])
        return read(db, sku)


def read(db: Connection, sku: str) -> Item:
    row = db.execute("SELECT * FROM items WHERE sku = ?", [sku]).fetchone()
    if row is None:
        raise NotFound(f"there is no {sku!r}")
    return Item(*row)


def add(item: Item) -> None:
    with transaction("catalog", TABLES) as db:
        db.execute(
            "INSERT INTO items VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sku) DO UPDATE SET left = left + excluded.left",
            [item.sku, item.name, item.cents, item.left],
        )
