#!/usr/bin/python3
"""Takes in what a fleet of gateways sends, and answers questions about it.

`collect` subscribes with a session that the broker keeps, and puts every record into SQLite. A message is acknowledged
when it is on disk and not before, and what comes again is known by its number (docs/contract.md, "Every message"): a
crash of this program or of its machine costs no record and makes none twice. The other commands only read, also while
`collect` runs. Debian and Ubuntu have what it needs: python3-paho-mqtt and python3-zstandard.

`collect` has one message in memory; `errors` has at most twice CLUSTERS_MAX clusters, each with the devices that have
it. `collect` syncs once a message, which is some hundreds a second on an SSD.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from heapq import nsmallest
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import zstandard
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

EXAMPLES = """examples:
  consumer.py collect --url mqtts://broker.example:8884 --username reader --password-file reader.password
  consumer.py devices --firmware 2.0.10 --battery-over 50
  consumer.py devices --where static.site=plant-7 --json
  consumer.py errors --since 1h
  consumer.py silent --after 3m || page-somebody
  sqlite3 fleet.db "SELECT at, body FROM record WHERE device = 'gw-0001' AND kind = 'results' ORDER BY at"
"""

KINDS = ("telemetry", "events", "results", "presence", "attributes")
# The most that a broker may send in one message, and that may be packed in it: gateways stay far below.
PAYLOAD_MAX = 1 << 20
# The broker keeps what waits for us as long as this.
SESSION_S = 14 * 24 * 3600
RECONNECT_S = 1
RECONNECT_MAX_S = 60
# Messages that the broker may send ahead of our acknowledgements.
RECEIVE_MAX = 100
# Payloads that are no message of the contract: the last of them are kept, and so much of each.
REFUSED_MAX = 1_000
REFUSED_BYTES_MAX = 4_096
# Of one device. Every crash of its agent leaves a gap in its numbers, and a thinned-out outage many.
RANGES_MAX = 10_000
# What has come of age goes with what comes, so many records at most with each message.
EXPIRED_AT_ONCE = 100
# Devices of which this run has said that they begin their numbers anew; after so many it says so again.
REUSING_MAX = 10_000
# Clusters that `errors` shows, and so much of each text in them: a gateway's are no longer than half of it.
CLUSTERS_MAX = 1_000
TEXT_MAX = 1_024
# SQLite's integers have a sign.
SEQ_MAX = 2**63 - 2

# `seen` alone knows what has come: `record` forgets what has come of age.
SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,        -- seconds since 1970 by the gateway's clock, or when it came where that knows no better
    received REAL NOT NULL,
    body TEXT NOT NULL       -- the message, or of telemetry one sample with its device and boot
);
CREATE INDEX IF NOT EXISTS record_of_kind ON record (kind, at);
CREATE INDEX IF NOT EXISTS record_of_device ON record (device, at);
CREATE INDEX IF NOT EXISTS record_of_seq ON record (device, seq);
CREATE TABLE IF NOT EXISTS seen (
    device TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (device, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device (
    device TEXT PRIMARY KEY,
    since REAL NOT NULL,     -- when it was first heard of
    heard REAL,              -- when telemetry last came
    presence TEXT,
    attributes TEXT
);
CREATE TABLE IF NOT EXISTS refused (
    id INTEGER PRIMARY KEY, received REAL NOT NULL, topic TEXT NOT NULL, why TEXT NOT NULL, payload BLOB NOT NULL
);
"""


class Refused(Exception):
    """A payload that the contract doesn't have, and why."""


class Reused(Refused):
    """One with a number that another boot of its device has used: that device's records are being lost here."""


@dataclass(frozen=True)
class Record:
    """What a gateway stored under one number."""

    device: str
    kind: str
    seq: int
    boot: str | None
    at: float | None
    body: str


def records_of(device: str, kind: str, payload: bytes) -> list[Record]:
    """The records in a message; of telemetry each sample is one."""
    try:
        message = json.loads(unpacked(payload))
    except (ValueError, RecursionError, zstandard.ZstdError) as error:
        raise Refused(f"no JSON: {error}") from error
    if not isinstance(message, dict) or message.get("v") != 1:
        raise Refused("no JSON object with v = 1")
    if message.get("device") != device:
        raise Refused("it names another device than its topic")
    if kind != "telemetry":
        return [record_of(device, kind, message)]
    samples = message.get("samples")
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise Refused("no list of samples")
    whose = {key: message.get(key) for key in ("v", "device", "boot")}
    return [record_of(device, kind, whose | sample) for sample in samples]


def record_of(device: str, kind: str, body: dict[str, Any]) -> Record:
    seq = body.get("seq")
    if type(seq) is not int or not 0 <= seq <= SEQ_MAX:
        raise Refused(f"no seq from 0 to {SEQ_MAX}")
    try:
        # Without NaN and infinity, which Python reads and JSON doesn't have.
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {error}") from error
    return Record(device, kind, seq, boot_of(body), seconds_of(body.get("time")), text)


def boot_of(body: dict[str, Any]) -> str | None:
    boot = body.get("boot")
    return boot if isinstance(boot, str) else None


def unpacked(payload: bytes) -> bytes:
    """Plain, whether it was compressed or not; a small frame that would become a large one is refused."""
    if not payload.startswith(zstandard.FRAME_HEADER):
        return payload
    unpacker = zstandard.ZstdDecompressor(max_window_size=8 * PAYLOAD_MAX)
    with unpacker.stream_reader(payload) as reader:
        plain = reader.read(PAYLOAD_MAX + 1)
    if len(plain) > PAYLOAD_MAX:
        raise Refused(f"more than {PAYLOAD_MAX} B, unpacked")
    return plain


def seconds_of(text: object) -> float | None:
    """RFC 3339 as seconds since 1970. None where a gateway's clock was never trusted, or for what is no time."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


class Store:
    """The records, what was seen, and the devices, in one file. A message comes in whole, and is on disk then."""

    def __init__(self, path: Path, keep_s: float) -> None:
        self.keep_s = keep_s
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        # Readers and the one writer don't wait for each other; each commit is synced.
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(SCHEMA)

    def take(self, device: str, kind: str, payload: bytes, tell: Callable[[Record], None]) -> None:
        """Stores what is new in a message. `tell` gets it before it is final: after a crash again, rather than not."""
        now = time.time()
        # The gateway itself may send that, too: by it nobody disappears from `silent`.
        if not payload and kind in ("presence", "attributes"):
            raise Refused(f"nothing is retained any more: if the gateway was taken out of the fleet, forget {device}")
        records = records_of(device, kind, payload)
        reused = None
        with self.transaction():
            for record in records:
                if self.is_new(device, record.seq):
                    self.add(record, now)
                    tell(record)
                elif self.is_of_another_boot(record):
                    reused = record.seq
            self.expire(now)
        if reused is not None:
            raise Reused(f"seq {reused} used before, by another boot: was the store replaced? forget {device}")

    def refuse(self, topic: str, payload: bytes, why: str) -> None:
        """Keeps what can't be read for whoever looks into it. It is acknowledged: else it would come for ever."""
        with self.transaction():
            row = (time.time(), topic, why, payload[:REFUSED_BYTES_MAX])
            self.db.execute("INSERT INTO refused (received, topic, why, payload) VALUES (?, ?, ?, ?)", row)
            self.db.execute("DELETE FROM refused WHERE id <= last_insert_rowid() - ?", (REFUSED_MAX,))

    def forget(self, device: str) -> bool:
        """A device whose store was lost begins its numbers anew: those that it had go. False: it had none."""
        with self.transaction():
            numbers = self.db.execute("DELETE FROM seen WHERE device = ?", (device,)).rowcount
            return self.db.execute("DELETE FROM device WHERE device = ?", (device,)).rowcount + numbers > 0

    def transaction(self) -> sqlite3.Connection:
        self.db.execute("BEGIN IMMEDIATE")
        # As a context manager it commits, or after an exception rolls back.
        return self.db

    def is_new(self, device: str, seq: int) -> bool:
        """Marks a number as seen; false if it was. Ranges, and no high-water mark: events overtake telemetry."""
        below = self.db.execute(
            "SELECT first, last FROM seen WHERE device = ? AND first <= ? ORDER BY first DESC LIMIT 1", (device, seq)
        ).fetchone()
        if below and seq <= below[1]:
            return False
        above = self.db.execute("SELECT last FROM seen WHERE device = ? AND first = ?", (device, seq + 1)).fetchone()
        first = below[0] if below and below[1] == seq - 1 else seq
        last = above[0] if above else seq
        self.db.execute("DELETE FROM seen WHERE device = ? AND first IN (?, ?)", (device, first, seq + 1))
        self.db.execute("INSERT INTO seen VALUES (?, ?, ?)", (device, first, last))
        if first == last:
            self.bound_ranges(device)
        return True

    def is_of_another_boot(self, record: Record) -> bool:
        """Whether a known number isn't this record come again. No, where what had it has come of age."""
        query = "SELECT body FROM record WHERE device = ? AND seq = ?"
        boots = {boot_of(json.loads(body)) for (body,) in self.db.execute(query, (record.device, record.seq))} - {None}
        return bool(boots) and record.boot not in boots

    def bound_ranges(self, device: str) -> None:
        """Forgets the lowest: should one of its numbers come again, it is stored twice. Joining two could lose one."""
        (ranges,) = self.db.execute("SELECT count(*) FROM seen WHERE device = ?", (device,)).fetchone()
        if ranges > RANGES_MAX:
            lowest = "SELECT min(first) FROM seen WHERE device = ?"
            self.db.execute(f"DELETE FROM seen WHERE device = ? AND first = ({lowest})", (device, device))

    def add(self, record: Record, now: float) -> None:
        # A clock that runs ahead would keep a record among the latest for ever.
        at = now if record.at is None else min(record.at, now)
        row = (record.device, record.kind, record.seq, at, now, record.body)
        self.db.execute("INSERT INTO record (device, kind, seq, at, received, body) VALUES (?, ?, ?, ?, ?, ?)", row)
        self.db.execute("INSERT OR IGNORE INTO device (device, since) VALUES (?, ?)", (record.device, now))
        # The last that came counts: a will has a lower number than what came before it (docs/contract.md).
        if record.kind == "telemetry":
            self.db.execute("UPDATE device SET heard = ? WHERE device = ?", (now, record.device))
        elif record.kind == "presence":
            self.db.execute("UPDATE device SET presence = ? WHERE device = ?", (record.body, record.device))
        elif record.kind == "attributes":
            self.db.execute("UPDATE device SET attributes = ? WHERE device = ?", (record.body, record.device))

    def expire(self, now: float) -> None:
        oldest = f"SELECT id FROM record ORDER BY id LIMIT {EXPIRED_AT_ONCE}"
        self.db.execute(f"DELETE FROM record WHERE id IN ({oldest}) AND received < ?", (now - self.keep_s,))


class Collector:
    """What paho calls. It acknowledges a message when `on_message` has returned, and doesn't if that raises."""

    def __init__(self, store: Store, topic_prefix: str, tell: Callable[[Record], None]) -> None:
        self.store, self.topic_prefix, self.tell = store, topic_prefix, tell
        self.reusing: set[str] = set()

    def on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any = None) -> None:
        if reason.value >= 128:
            say(f"the broker refuses us: {reason}")
            return
        say("connected")
        # Each time: the broker may have lost the session. What is retained comes again, and is known.
        options = SubscribeOptions(qos=1)
        client.subscribe([(f"{self.topic_prefix}/+/{kind}", options) for kind in KINDS])

    def on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any = None) -> None:
        if any(reason.value >= 128 for reason in reasons):
            raise SystemExit(f"consumer.py: the broker refuses the subscription: {', '.join(map(str, reasons))}")
        say("subscribed")

    def on_connect_fail(self, *_: Any) -> None:
        # paho calls this while it handles the exception, and tells nobody else of it.
        say(f"no connection, and it is tried again: {sys.exc_info()[1]}")

    def on_disconnect(self, *_: Any) -> None:
        say("disconnected")

    def on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        device, kind = message.topic[len(self.topic_prefix) + 1 :].split("/")
        try:
            self.store.take(device, kind, message.payload, self.tell)
        except Refused as refused:
            if not isinstance(refused, Reused) or self.is_news(device):
                say(f"refused: {ascii(message.topic)}: {ascii(str(refused))}")
            self.store.refuse(message.topic, message.payload, str(refused))

    def is_news(self, device: str) -> bool:
        """Of one that begins its numbers anew: every message of it will be refused, and once is enough to say so."""
        if device in self.reusing:
            return False
        if len(self.reusing) >= REUSING_MAX:
            self.reusing.clear()
        self.reusing.add(device)
        return True


def collect(args: argparse.Namespace) -> int:
    """Runs until it is stopped. Whatever is wrong with the store ends it, and what wasn't stored comes again."""

    def tell(record: Record) -> None:
        if args.print:
            print(record.body, flush=True)

    # In the midst of a message, too: what is under way is undone, and not acknowledged.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    collector = Collector(Store(args.db, args.keep), args.topic_prefix, tell)
    try:
        while True:
            try:
                client_of(args, collector).loop_forever(retry_first_connection=True)
            except ssl.SSLError as error:
                # paho doesn't take every end of TLS for one of the connection. The session is the broker's: another
                # client goes on with it.
                say(f"the connection broke: {error}")
            time.sleep(RECONNECT_S)
    except KeyboardInterrupt:
        say("stopped")
    return 0


def client_of(args: argparse.Namespace, collector: Collector) -> mqtt.Client:
    # From 2.0 on paho wants to be told which callbacks it gets; these suit both of its versions.
    make: Any = mqtt.Client
    if hasattr(mqtt, "CallbackAPIVersion"):
        make = partial(make, mqtt.CallbackAPIVersion.VERSION2)
    client: mqtt.Client = make(client_id=args.client_id, protocol=mqtt.MQTTv5)
    client.on_connect, client.on_disconnect = collector.on_connect, collector.on_disconnect
    client.on_connect_fail = collector.on_connect_fail
    client.on_subscribe, client.on_message = collector.on_subscribe, collector.on_message
    client.reconnect_delay_set(min_delay=RECONNECT_S, max_delay=RECONNECT_MAX_S)
    url = urlsplit(args.url)
    if args.username:
        client.username_pw_set(args.username, args.password)
    if url.scheme == "mqtts":
        client.tls_set(ca_certs=args.ca_file, certfile=args.cert_file, keyfile=args.key_file)
    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_S
    properties.ReceiveMaximum = RECEIVE_MAX
    properties.MaximumPacketSize = PAYLOAD_MAX
    port = url.port or (8883 if url.scheme == "mqtts" else 1883)
    client.connect_async(url.hostname, port, keepalive=60, clean_start=False, properties=properties)
    return client


def devices(args: argparse.Namespace) -> int:
    """Cuts the fleet by what the gateways say of themselves."""
    query = "SELECT device, attributes, presence FROM device ORDER BY device"
    among = fitting = 0
    for device, attributes, presence in rows(args.db, query):
        among += 1
        said, there = (json.loads(text) if text else {} for text in (attributes, presence))
        band = at_path(said, "dynamic.battery_band") or ""
        has_charge = args.battery_over is None or lowest_of(band) >= args.battery_over
        if not has_charge or not all(is_so(said, path, value) for path, value in args.where):
            continue
        firmware, health = (at_path(said, f"dynamic.{key}") for key in ("firmware", "health"))
        if not fitting and not args.json:
            show(args, {}, ("DEVICE", "FIRMWARE", "BATTERY", "HEALTH", "PRESENCE"))
        fitting += 1
        row = {"device": device, "attributes": said, "presence": there}
        show(args, row, (device, firmware, band, health, presence_of(there)))
    if not fitting and not args.json:
        say(f"none of {among} devices is so")
    return 0


def found_at(body: Any, path: str) -> Any:
    """What stands there: `dynamic.firmware`. The rest of the path is one key: `static.my.own.key`."""
    group, _, key = path.partition(".")
    found = body.get(group) if isinstance(body, dict) else None
    if key:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def as_text(found: Any) -> str | None:
    return found if found is None or isinstance(found, str) else json.dumps(found)


def at_path(body: Any, path: str) -> str | None:
    return as_text(found_at(body, path))


def is_so(body: Any, path: str, value: str) -> bool:
    """Whether the value stands there, in a list among others."""
    found = found_at(body, path)
    return as_text(found) == value or (isinstance(found, list) and value in map(as_text, found))


def lowest_of(band: str) -> int:
    """Of a battery_band such as 50-75; below all where a gateway has no battery."""
    low = band.partition("-")[0]
    return int(low) if low.isascii() and low.isdigit() else -1


def presence_of(body: Any) -> str | None:
    online = body.get("online") if isinstance(body, dict) else None
    return "online" if online is True else at_path(body, "reason")


@dataclass
class Cluster:
    """The lines of one fingerprint, over the fleet."""

    fingerprint: str
    template: str | None = None
    exemplar: str | None = None
    severity: str | None = None
    count: int = 0
    surges: int = 0
    first: float = float("inf")
    last: float = 0.0
    devices: dict[str, int] = field(default_factory=dict)

    def add(self, device: str, at: float, event: dict[str, Any], error: dict[str, Any]) -> None:
        count = error.get("count")
        lines = min(count, SEQ_MAX) if type(count) is int and count > 0 else 1
        self.count += lines
        self.devices[device] = self.devices.get(device, 0) + lines
        self.surges += error.get("surge") is True
        self.first = min(self.first, at)
        if at >= self.last:
            # The newest template knows best where the lines differ.
            self.last, self.severity = at, short(event.get("severity"))
            self.template, self.exemplar = short(error.get("template")), short(error.get("exemplar"))

    def rank(self) -> tuple[int, int]:
        """Those of most devices first, and of most lines."""
        return -len(self.devices), -self.count


def errors(args: argparse.Namespace) -> int:
    """Errors by fingerprint, those of most devices first: one's is its own trouble, everybody's is the release's."""
    query = """SELECT fingerprint_of(body) AS fingerprint, device, at, body FROM record
        WHERE kind = 'events' AND at >= ? AND fingerprint IS NOT NULL ORDER BY fingerprint, at"""
    most: list[Cluster] = []
    found = 0
    # SQLite sorts, so one cluster is complete before the next begins.
    for fingerprint, told in groupby(rows(args.db, query, time.time() - args.since), key=itemgetter(0)):
        cluster = Cluster(fingerprint)
        for _, device, at, body in told:
            event = json.loads(body)
            cluster.add(device, at, event, event["error"])
        most.append(cluster)
        found += 1
        if len(most) >= 2 * CLUSTERS_MAX:
            most = nsmallest(CLUSTERS_MAX, most, key=Cluster.rank)
    most = nsmallest(CLUSTERS_MAX, most, key=Cluster.rank)
    for cluster in most:
        if args.json:
            print(json.dumps(vars(cluster) | {"first": time_of(cluster.first), "last": time_of(cluster.last)}))
            continue
        surge = f", {cluster.surges} surges" if cluster.surges else ""
        print(f"{plain(cluster.fingerprint)}  {plain(cluster.severity)}  {plain(cluster.template)}")
        print(f"    {cluster.count} lines on {len(cluster.devices)} devices{surge}, last {time_of(cluster.last)}")
        print(f"    such as: {plain(cluster.exemplar)}")
        having = sorted(cluster.devices.items(), key=lambda item: -item[1])
        named = ", ".join(f"{plain(device)} ({count})" for device, count in having[: args.devices])
        print(f"    {named}" + (f" and {len(having) - args.devices} more" if len(having) > args.devices else ""))
    if found > len(most):
        say(f"and {found - len(most)} more clusters, of fewer devices or lines: a shorter --since has fewer")
    return 0


def fingerprint_of(body: str) -> str | None:
    """Of an error's event; None for others. Without halves of surrogates: JSON may have them, SQLite takes none."""
    event = json.loads(body)
    error = event.get("error")
    is_error = event.get("type") == "error" and isinstance(error, dict)
    return str(error.get("fingerprint"))[:TEXT_MAX].encode(errors="replace").decode() if is_error else None


def short(text: object) -> str | None:
    return text[:TEXT_MAX] if isinstance(text, str) else None


def silent(args: argparse.Namespace) -> int:
    """Who is lost, or sends nothing: the fleet's end of the dead man's switch (docs/operations.md)."""
    silent = 0
    query = "SELECT device, coalesce(heard, since), presence FROM device ORDER BY 2"
    for device, heard, presence in rows(args.db, query):
        there = presence_of(json.loads(presence)) if presence else None
        if there == "lost" or heard < time.time() - args.after:
            silent += 1
            row = {"device": device, "heard": time_of(heard), "presence": there}
            show(args, row, tuple(row.values()))
    return 1 if silent else 0


def forget(args: argparse.Namespace) -> int:
    """Where a gateway's store was replaced, so that its numbers begin anew, or it was taken out of the fleet."""
    if Store(args.db, float("inf")).forget(args.device):
        return 0
    say(f"{args.device} was never heard of here")
    return 1


def rows(path: Path, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
    """Of a query that changes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            db.create_function("fingerprint_of", 1, fingerprint_of, deterministic=True)
            yield from db.execute(query, values)
    except sqlite3.OperationalError as error:
        raise SystemExit(f"consumer.py: {path}: {error}; `consumer.py collect` makes it") from error


def show(args: argparse.Namespace, row: dict[str, Any], columns: tuple[object, ...]) -> None:
    if args.json:
        print(json.dumps(row))
    else:
        print("  ".join(plain(column or "-").ljust(12) for column in columns).rstrip())


def time_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def plain(text: object) -> str:
    """Texts come without control characters in events and results, else as they were said, and whoever is a gateway at
    the broker may send others: nothing of it may act on a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def say(text: str) -> None:
    print(f"consumer.py: {text}", file=sys.stderr, flush=True)


def duration(text: str) -> float:
    parts = re.fullmatch(r"(\d{1,6})(s|m|h|d)", text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 3m, 1h or 30d")
    return int(parts[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[parts[2]]


def condition(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=VALUE, such as static.site=plant-7")
    if path != "groups" and not path.startswith(("static.", "dynamic.")):
        raise argparse.ArgumentTypeError(f"{path!r} is neither static.KEY nor dynamic.KEY: static.{text}?")
    return path, value


def broker_url(text: str) -> str:
    try:
        url = urlsplit(text)
        is_one = url.scheme in ("mqtt", "mqtts") and url.hostname and url.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise argparse.ArgumentTypeError(f"{text!r} is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    return text


def password_in(path: str) -> str:
    try:
        password = Path(path).read_text().partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path!r} can't be read: {error}") from error
    if not password:
        raise argparse.ArgumentTypeError(f"{path!r} has no password in its first line")
    return password


def arguments() -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=run.__doc__)
        command.add_argument("--db", type=Path, default=Path("fleet.db"), help="the store (default: %(default)s)")
        command.set_defaults(run=run)
        return command

    def asks(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        question = command(name, run, help)
        question.add_argument("--json", action="store_true", help="one JSON object a line")
        return question

    taking = command("collect", collect, "take in what the fleet sends")
    taking.add_argument("--url", type=broker_url, required=True, help="mqtt:// or mqtts://")
    taking.add_argument("--topic-prefix", default="fieldmedic", help="of the fleet (default: %(default)s)")
    taking.add_argument("--client-id", default="fleet-consumer", help="the session's name; each consumer needs its own")
    taking.add_argument("--ca-file", help="the broker's CA (default: the system's)")
    taking.add_argument("--cert-file", help="our certificate")
    taking.add_argument("--key-file", help="its key")
    taking.add_argument("--username")
    secret: Any = {"type": password_in, "metavar": "FILE", "dest": "password"}
    taking.add_argument("--password-file", help="its first line is the password", **secret)
    taking.add_argument("--keep", type=duration, default="30d", help="records are kept so long (default: %(default)s)")
    taking.add_argument("--print", action="store_true", help="each new record as a line of JSON, too")

    cutting = asks("devices", devices, "which gateways are what they say they are")
    firmware: Any = {"type": lambda text: ("dynamic.firmware", text), "metavar": "NAME", "dest": "where"}
    cutting.add_argument("--firmware", action="append", default=[], help="dynamic.firmware", **firmware)
    low: Any = {"type": int, "choices": (0, 10, 25, 50, 75), "metavar": "PCT"}
    cutting.add_argument("--battery-over", help="0, 10, 25, 50 or 75: gateways tell the band alone", **low)
    where: Any = {"type": condition, "metavar": "PATH=VALUE"}
    cutting.add_argument("--where", action="append", help="static.site=plant-7, dynamic.alarms=hot …", **where)

    grouping = asks("errors", errors, "clusters of errors, by fingerprint, with their devices")
    grouping.add_argument("--since", type=duration, default="1h", help="how far back (default: %(default)s)")
    grouping.add_argument("--devices", type=int, default=8, help="so many are named (default: %(default)s)")

    missing = asks("silent", silent, "who is lost or sends nothing; exit code 1 if anybody")
    missing.add_argument(
        "--after", type=duration, default="3m", help="three times telemetry.publish_interval (default: %(default)s)"
    )

    forgetting = command("forget", forget, "a gateway whose store was replaced, or that is no more of the fleet's")
    forgetting.add_argument("device")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        return int(args.run(args))
    except (OSError, sqlite3.Error) as error:
        say(f"{args.db}: {error}" if isinstance(error, sqlite3.Error) else str(error))
        # Also of `silent`, where it is as well that somebody looks.
        return 1


if __name__ == "__main__":
    sys.exit(main())
