"""A CRM in SQLite with some thousands of believable rows; the same ones every time."""

import random
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

CUSTOMERS, ORDERS = 2_000, 7_500

TABLES = """
CREATE TABLE customer (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    company TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    region TEXT NOT NULL CHECK (region IN ('eu', 'us', 'apac')),
    tier TEXT NOT NULL CHECK (tier IN ('free', 'team', 'enterprise')),
    since TEXT NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0,
    credit INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'closed'))
);
CREATE TABLE purchase (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    placed TEXT NOT NULL,
    product TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    total INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('paid', 'shipped', 'returned'))
);
CREATE INDEX purchase_of ON purchase (customer_id, placed);
CREATE TABLE credit_grant (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    reason TEXT NOT NULL,
    granted TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    call_key TEXT NOT NULL UNIQUE
);
CREATE TRIGGER credit_follows_grants AFTER INSERT ON credit_grant
BEGIN UPDATE customer SET credit = credit + NEW.amount WHERE id = NEW.customer_id; END;
"""
FIRST = "Ada Ben Carla Dmitri Elif Farid Greta Hugo Ines Jonas Kaya Liam Mei Nadia Omar Priya Rosa Sven Tara"
LAST = (
    "Abel Bauer Costa Dubois Eriksen Fischer Garcia Haddad Ito Jensen Khan Laurent Moretti Novak Petrov Rossi"
)
NAMES = (
    "Alpine Baltic Cobalt Delta Ember Fjord Granite Harbor Indigo Juniper Kestrel Lumen Meridian Nordic Polar"
)
KINDS = "Analytics Bakery Clinics Foods Freight Labs Logistics Media Robotics Textiles Travel Works"
PRODUCTS = {
    "Desk phone": 89,
    "Headset": 129,
    "Seat, monthly": 12,
    "Seat, yearly": 120,
    "Router": 240,
    "On-site day": 780,
}


def build(database: Path) -> None:
    """Write the database; one that is there is replaced."""
    database.unlink(missing_ok=True)
    chance = random.Random(7)  # noqa: S311 - the same rows every time
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(TABLES)
        connection.executemany(
            "INSERT INTO customer (id, name, company, email, region, tier, since)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [_customer(id_, chance) for id_ in range(1, CUSTOMERS + 1)],
        )
        connection.executemany(
            "INSERT INTO purchase (customer_id, placed, product, quantity, total, status)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [_order(chance) for _ in range(ORDERS)],
        )
        connection.execute(
            "UPDATE customer SET spent = (SELECT coalesce(sum(total), 0) FROM purchase"
            " WHERE customer_id = customer.id AND status != 'returned')"
        )


def _customer(id_: int, chance: random.Random) -> tuple[object, ...]:
    first, last = chance.choice(FIRST.split()), chance.choice(LAST.split())
    company = f"{chance.choice(NAMES.split())} {chance.choice(KINDS.split())}"
    email = f"{first}.{last}.{id_}@{company.replace(' ', '').lower()}.example"
    region = chance.choices(("eu", "us", "apac"), (5, 3, 2))[0]
    tier = chance.choices(("free", "team", "enterprise"), (6, 3, 1))[0]
    since = date(2018, 1, 1) + timedelta(days=chance.randrange(3_000))
    return id_, f"{first} {last}", company, email.lower(), region, tier, since.isoformat()


def _order(chance: random.Random) -> tuple[object, ...]:
    product = chance.choice(list(PRODUCTS))
    quantity = chance.choice((1, 1, 2, 3, 5, 10, 25))
    placed = date(2024, 1, 1) + timedelta(days=chance.randrange(1_040))
    status = chance.choices(("paid", "shipped", "returned"), (3, 6, 1))[0]
    customer = chance.randrange(1, CUSTOMERS + 1)
    return customer, placed.isoformat(), product, quantity, PRODUCTS[product] * quantity, status
