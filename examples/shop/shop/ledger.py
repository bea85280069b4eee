"""The orders of the shop, in a database."""

from rap import NotFound
from shop.contract import Event, Order
from shop.database import reading, transaction

TABLES = """
CREATE TABLE IF NOT EXISTS orders (key TEXT PRIMARY KEY, sku TEXT, count INT, cents INT);
CREATE TABLE IF NOT EXISTS events (key TEXT, number INT, text TEXT, PRIMARY KEY (key, number));
"""
EVENT = "INSERT OR IGNORE INTO events VALUES (?, ?, ?)"


def add(order: Order) -> None:
    values = [order.key, order.sku, order.count, order.cents]
    with transaction("orders", TABLES) as db:
        db.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?)", values)
        db.execute(EVENT, [order.key, 1, "placed"])


def ship(key: str) -> None:
    with transaction("orders", TABLES) as db:
        if not db.execute("SELECT 1 FROM orders WHERE key = ?", [key]).fetchone():
            raise NotFound(f"there is no order {key!r}")
        db.execute(EVENT, [key, 2, "shipped"])


def events(key: str, after: int) -> list[Event]:
    query = "SELECT number, text FROM events WHERE key = ? AND number > ? ORDER BY number"
    with reading("orders", TABLES) as db:
        return [Event(*row) for row in db.execute(query, [key, after])]
