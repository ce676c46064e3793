"""A row about floods of HTTP/2, longer and wider than tests/api/floods.rs, with frames made by hand: each kind comes over several
connections at once, each opened anew as often as the gateway ends it."""

import select
import socket
import struct
import threading
import time

from gateway import Gateway, mebibytes
from rows import Row

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
CONNECTIONS = 8
# Goals: bytes of memory more than before, and seconds that others wait, at most.
MEMORY, WAIT = 64 << 20, 2.0


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def fields(path, *more):
    pairs = ((":method", "GET"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", path), *more)
    return b"".join(b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair) for pair in pairs)


WAITING = fields("/device/deviceId/0000000000000001/waitForPacket")


def resets():
    for stream in range(1, 1 << 30, 2):
        yield frame(HEADERS, END_STREAM | END_HEADERS, stream, WAITING) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def continuations():
    yield frame(HEADERS, END_STREAM, 1, fields("/health"))
    while True:
        yield frame(CONTINUATION, 0, 1, fields("/health", ("x-more", "x" * 100)) * 20)


def empty_continuations():
    yield frame(HEADERS, END_STREAM, 1, fields("/health"))
    while True:
        yield frame(CONTINUATION, 0, 1) * 100


def settings():
    while True:
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 100


def pings():
    while True:
        yield frame(PING, 0, 0, b"12345678") * 100


def empty_data():
    yield frame(HEADERS, END_HEADERS, 1, fields("/health").replace(b"\x03GET", b"\x04POST"))
    while True:
        yield frame(DATA, 0, 1) * 100


def long_headers():
    for stream in range(1, 1 << 30, 2):
        block = fields("/health", *[("x-more", "x" * 120)] * 300)
        parts = [block[at:at + 16000] for at in range(0, len(block), 16000)]
        yield frame(HEADERS, END_STREAM, stream, parts[0])
        for part in parts[1:-1]:
            yield frame(CONTINUATION, 0, stream, part)
        yield frame(CONTINUATION, END_HEADERS, stream, parts[-1])


def windows():
    """Answers that may not be sent, as many as there may be, and one byte of each now and then."""
    for stream in range(1, 1 << 30, 2):
        yield frame(HEADERS, END_STREAM | END_HEADERS, stream, fields("/openapi.json"))
        yield frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1))


FLOODS = [resets, continuations, empty_continuations, settings, pings, empty_data, long_headers, windows]
# Those that no client sends for a good reason.
ENDED = [resets, continuations, empty_continuations, empty_data]


class Counts:
    def __init__(self):
        self.sent = self.read = self.connections = 0


def flood(address, kind, end, counts):
    while time.monotonic() < end:
        counts.connections += 1
        try:
            with socket.create_connection(address, 10) as client:
                no_window = struct.pack(">HI", 4, 0) if kind is windows else b""
                client.sendall(PREFACE + frame(SETTINGS, 0, 0, no_window))
                client.setblocking(False)
                pour(client, kind(), end, counts)
        except OSError:
            pass


def pour(client, frames, end, counts):
    """Sends as fast as it is taken and reads what comes, until either side ends it."""
    left = b""
    while time.monotonic() < end:
        readable, writable, _ = select.select([client], [client], [], 0.1)
        if readable:
            read = client.recv(1 << 16)
            counts.read += len(read)
            if not read:
                return
        if writable:
            left = left or next(frames)
            sent = client.send(left)
            counts.sent += sent
            left = left[sent:]


def health(gateway):
    """Seconds that another client waits for an answer."""
    start = time.monotonic()
    gateway.get("/health")
    return time.monotonic() - start


def flooded(bench, gateway, kind, seconds):
    counts, before = Counts(), gateway.resident()
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=flood, args=(gateway.http, kind, end, counts)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    most, waited = 0, 0.0
    while time.monotonic() < end:
        most, waited = max(most, gateway.resident() - before), max(waited, health(gateway))
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    name = kind.__name__.replace("_", " ")
    bench.note(f"{name}: {mebibytes(counts.sent)} sent, {mebibytes(counts.read)} read, {counts.connections} connections")
    if kind in ENDED:
        again = counts.connections - CONNECTIONS
        bench.check(f"{name}: connections that the gateway ended", str(again), f"{CONNECTIONS} at least", again >= CONNECTIONS)
    bench.check(f"{name}: memory meanwhile", mebibytes(most), f"at most {mebibytes(MEMORY)} more", most <= MEMORY)
    bench.check(f"{name}: the longest GET /health of others", f"{waited * 1000:.0f} ms", f"at most {WAIT:.0f} s", waited <= WAIT)


def floods(bench):
    """Frames that cost the gateway more than their sender, or that never end."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    for kind in FLOODS:
        flooded(bench, gateway, kind, bench.scaled(10))


ROWS = [Row(18, "floods", "floods of frames of HTTP/2", floods)]
