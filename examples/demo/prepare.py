#!/usr/bin/env python3
"""Makes the demo's data files again from their sources, and says how often each lookup will hit.

    python3 prepare.py SOURCES [--check]

SOURCES is a folder with the original files, named as in README.md. With --check nothing is
written: the hit rates are computed from the files that are there.
"""

import bisect
import collections
import csv
import gzip
import io
import ipaddress
import os
import re
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# The same expressions as in access.yaml and enrich.yaml; the rates below stand and fall with them.
LINE = re.compile(
    r'^(?P<ip>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<method>[A-Z]+) (?P<path>\S+) (?P<protocol>[^"]+)" '
    r'(?P<status>\d{3}) (?P<bytes>\d+|-) "(?P<referrer>[^"]*)" "(?P<agent>[^"]*)"$'
)
AGENT_KEYS = [
    r"([A-Za-z0-9._]*[Bb]ot|[A-Za-z]*[Ss]pider|Slurp|Ezooms)",
    r"(Firefox|OPR|Opera|CriOS|Chrome|MSIE|Trident|Safari)",
    r"^([A-Za-z][A-Za-z -]*[A-Za-z]|[A-Za-z])",
]

SHORT_NAMES = {"US": "United States", "UK": "United Kingdom"}


def agent_key(user_agent):
    for pattern in AGENT_KEYS:
        found = re.search(pattern, user_agent)
        if found:
            return found.group(1).lower()
    return None


def read(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return file.read()


def rows(path):
    return list(csv.DictReader(io.StringIO(read(path))))


def access_rows():
    lines = read(os.path.join(HERE, "access.log.gz")).splitlines()
    matched = [found for found in map(LINE.match, lines) if found]
    return len(lines), [found.groupdict() for found in matched]


def pack(source, target):
    """Copies a file with gzip's best compression and no time stamp, so that it comes out the same."""
    with gzip.open(source, "rb") as plain, open(target, "wb") as out:
        with gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
            shutil.copyfileobj(plain, packed)


def write_ranges(sources, addresses):
    wanted = sorted({ipaddress.ip_address(address) for address in addresses}, key=lambda a: (a.version, int(a)))
    kept = []
    for version, name in ((4, "ip_country_ipv4.csv.gz"), (6, "ip_country_ipv6.csv.gz")):
        numbers = [int(address) for address in wanted if address.version == version]
        for start, end, country in csv.reader(io.StringIO(read(os.path.join(sources, name)))):
            low, high = int(ipaddress.ip_address(start)), int(ipaddress.ip_address(end))
            at = bisect.bisect_left(numbers, low)
            if at < len(numbers) and numbers[at] <= high:
                # The source overlaps itself in places, always within one country; an address
                # must find one range.
                if kept and kept[-1][2] == country and version == kept[-1][3] and low <= kept[-1][4]:
                    kept[-1] = (kept[-1][0], max(end, kept[-1][1], key=lambda a: int(ipaddress.ip_address(a))),
                                country, version, max(high, kept[-1][4]))
                    continue
                kept.append((start, end, country, version, high))
    with open(os.path.join(HERE, "ip_country.csv"), "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["start", "end", "country"])
        out.writerows(range_[:3] for range_ in kept)


def write_countries(sources):
    with open(os.path.join(HERE, "countries.csv"), "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["code", "name", "region", "subregion", "continent"])
        for row in sorted(rows(os.path.join(sources, "country-codes.csv")), key=lambda r: r["ISO3166-1-Alpha-2"]):
            columns = ("ISO3166-1-Alpha-2", "CLDR display name", "Region Name", "Sub-region Name", "Continent")
            code, name, *rest = (row[column].strip() for column in columns)
            out.writerow([code, SHORT_NAMES.get(name, name), *rest])


def rate(name, keys, hit):
    asked = [key for key in keys if key is not None]
    hits = sum(1 for key in asked if hit(key))
    print(f"{name:<12} {len(keys):>7} rows {len(asked):>7} ask {hits:>7} hit {100 * hits / max(1, len(asked)):6.2f} %")
    missed = collections.Counter(key for key in asked if not hit(key))
    print("             missed most:", ", ".join(f"{key} ({n})" for key, n in missed.most_common(8)) or "none")


def check():
    total, access = access_rows()
    cran = rows(os.path.join(HERE, "cran.csv.gz"))
    print(f"access.log   {total:>7} lines, {total - len(access)} do not match")

    ranges = sorted(
        (int(ipaddress.ip_address(r["start"])), int(ipaddress.ip_address(r["end"])), r["country"])
        for r in rows(os.path.join(HERE, "ip_country.csv"))
    )
    starts = [r[0] for r in ranges]

    def country_of(address):
        number = int(ipaddress.ip_address(address))
        at = bisect.bisect_right(starts, number) - 1
        return ranges[at][2] if at >= 0 and number <= ranges[at][1] else None

    codes = {r["code"] for r in rows(os.path.join(HERE, "countries.csv"))}
    agents = {r["key"] for r in rows(os.path.join(HERE, "agents.csv"))}
    rate("ip_country", [r["ip"] for r in access] + [None] * len(cran), lambda ip: country_of(ip) is not None)
    rate("countries", [country_of(r["ip"]) for r in access] + [r["country"] or None for r in cran], codes.__contains__)
    user_agents = [r["agent"] for r in access]
    user_agents += [f"R ({r['r_version']} {r['r_arch']} {r['r_os']})" if r["r_version"] else "-" for r in cran]
    rate("agents", [agent_key(agent) for agent in user_agents], agents.__contains__)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if "--check" not in sys.argv:
        sources = sys.argv[1]
        pack(os.path.join(sources, "apache_combined.log.gz"), os.path.join(HERE, "access.log.gz"))
        pack(os.path.join(sources, "cran_mirror_access.csv.gz"), os.path.join(HERE, "cran.csv.gz"))
        write_countries(sources)
        write_ranges(sources, [row["ip"] for row in access_rows()[1]])
    check()


if __name__ == "__main__":
    main()
