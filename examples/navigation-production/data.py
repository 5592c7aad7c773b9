"""What the example works on, the same for each seed: events, users, and who is behind a site.

Events are page views as a browser would send them: their times are close to the order that they come
in, not in it. One in twenty users denied that they are counted, one in fifty is not known, one event
in a thousand is cut off, and in one of a thousand the page is no number.
"""

import random
from datetime import datetime, timedelta, timezone

USERS = 20_000
SITES = 1_000
EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEP_MS = 5
# Events of one block come in any order.
BLOCK = 256

SECTIONS = ["news", "sports", "culture", "science", "travel", "business", "local", "weather"]
AGENTS = ["Firefox/152.0", "Chrome/150.0 Safari/537.36", "Mobile/15E148 Safari/604.1"]
REFERRERS = ["https://www.example.org/", "https://news.example.net/front"]
COUNTRIES = ["FR", "DE", "US", "GB", "ES", "IT", "PL", "NL"]
SEGMENTS = ["press", "retail", "public", "sport", "finance"]
OWNERS = ["Harbour Media", "Glacier Press", "Orchestra Group", "Railway News"]


def uid(user):
    return f"u{user:06}"


def user(name):
    """The segment of a user and since when they are known; None for who is not."""
    number = int(name[1:])
    if number % 50 == 49:
        return None
    return SEGMENTS[number % 5], EPOCH - timedelta(days=1 + number % 900)


def site(number):
    """The document of a site; None for one that nobody has."""
    if number % 50 == 49:
        return None
    document = {"_id": number, "name": f"Site {number}", "tags": SECTIONS[: number % 4]}
    # Some have no owner.
    if number % 7:
        document["owner"] = {"name": OWNERS[number % 4], "since": EPOCH - timedelta(days=number)}
    return document


def events(count, seed=42):
    """Events in the order of their coming, each with whether it is to be cut off."""
    chance = random.Random(seed)
    for number in range(count):
        if number % BLOCK == 0:
            mask = chance.randrange(BLOCK)
        yield event(chance, number, number ^ mask), chance.random() < 0.001


def event(chance, number, turn):
    somebody = int(USERS * chance.random() ** 2)
    # Everybody has a few sites that they come back to.
    number_of_site = (somebody * 37 + int(12 * chance.random() ** 2)) % SITES
    status = chance.choices([200, 304, 404, 500], [90, 5, 4, 1])[0]
    params = {}
    if chance.random() < 0.5:
        params["page"] = str(chance.randrange(1, 100))
    if chance.random() < 0.001:
        params["page"] = "last"
    section = chance.choice(SECTIONS)
    return {
        "uid": uid(somebody),
        "seen_at": EPOCH + timedelta(milliseconds=turn * STEP_MS),
        "url": f"https://site{number_of_site}.example.com/{section}/{number}.html",
        "referrer": chance.choice(REFERRERS) if chance.random() < 0.6 else None,
        "user_agent": chance.choice(AGENTS),
        "ip": f"192.0.2.{number % 256}",
        "status": status,
        "bytes": None if status == 304 else chance.randrange(200_000),
        "site": {
            "id": number_of_site,
            "name": f"Site {number_of_site}",
            "country": chance.choice(COUNTRIES),
        },
        "tags": [section] if number % 3 else [],
        "params": params,
        "consent": "DENIED" if somebody % 20 == 7 else "GRANTED",
        "products": [{"sku": f"S{number % 9_999}", "price": 9.5, "qty": 1}] if number % 9 == 0 else [],
    }
