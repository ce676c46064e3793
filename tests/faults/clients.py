"""Rows about clients of the API: slow ones, large ones, very many, and those who leave."""

import contextlib
import multiprocessing
import re
import select
import socket
import struct
import time

from epacket import Device
from gateway import Failed, Gateway, Voice, eventually, mebibytes, percentile
from rows import Row


def health_times(gateway, seconds):
    """Seconds of each `GET /health`, one after the other over one connection."""
    times, end = [], time.monotonic() + seconds
    with contextlib.closing(gateway.connection()) as connection:
        while time.monotonic() < end:
            start = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            times.append(time.perf_counter() - start)
            time.sleep(0.001)
    return times


def slow(bench):
    """Heads that never end, bodies that never come, answers that nobody reads."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    connections = 200
    baseline, meanwhile = [], []
    for name, first, every, goal in (
        ("nothing at all", b"", b"", 10),
        ("a head, a byte a second", b"GET /health HTTP/1.1\r\nx-slow: ", b"a", 10),
        ("a body, a byte a second", b"POST /device/waitForPacket HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                                    b"content-length: 1000\r\n\r\n", b" ", 30),
    ):
        baseline += health_times(gateway, 3)
        with contextlib.ExitStack() as held:
            begun, closed = {}, {}
            for _ in range(connections):
                client = held.enter_context(socket.create_connection(gateway.http))
                begun[client] = time.monotonic()
                client.sendall(first)
            start = said = time.monotonic()
            while len(closed) < connections and time.monotonic() - start < goal + 10:
                meanwhile += health_times(gateway, 0.2)
                more = every if time.monotonic() >= said + 1 else b""
                said = time.monotonic() if more else said
                for client in begun.keys() - closed.keys():
                    if ended(client, more):
                        closed[client] = time.monotonic() - begun[client]
        last = max(closed.values(), default=99)
        # The looks at them are a fifth of a second apart and take a while themselves.
        bench.check(f"{connections} connections of {name}: closed", f"{len(closed)} after {last:.1f} s", f"all, at most {goal + 0.5} s",
                    len(closed) == connections and last <= goal + 0.5)
    figures = [percentile(times, 0.99) * 1e6 for times in (baseline, meanwhile)]
    bench.check("p99 of GET /health of others", f"{figures[0]:.0f} -> {figures[1]:.0f} us: {figures[1] / figures[0]:.2f}x",
                "at most 2x", figures[1] <= 2 * figures[0])


def ended(client, more):
    """Whether the other side has closed a connection, on which some more was sent."""
    with contextlib.suppress(BlockingIOError):
        client.setblocking(False)
        try:
            if more:
                client.send(more)
            while client.recv(4096):
                pass
            return True
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


def large(bench):
    """Bodies and heads that are refused before they are taken in."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    # What a process touches once in its life is not growth: here what it takes to serve and to refuse.
    for _ in range(20):
        gateway.get("/health")
        gateway.request("POST", "/device/waitForPacket", {})
    most = 0
    before = gateway.resident_from_now_on()
    head = "POST /device/waitForPacket HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    forms = (
        ("a body of 1 GiB, announced", f"{head}content-length: {1 << 30}\r\n\r\n", b"x" * 65_536, "413"),
        ("a body without end, in chunks", f"{head}transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n", "413"),
        ("a head of 20 KiB", "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-large: " + "x" * 20_000 + "\r\n\r\n", b"", "431"),
        ("a head without end", "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-large: ", b"x" * 65_536, "431"),
        ("200 headers", "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + "a: b\r\n" * 200 + "\r\n", b"", "431"),
    )
    for name, first, more, expected in forms:
        statuses = set()
        for _ in range(20):
            status, taken = told(gateway, first.encode(), more)
            statuses.add(status)
            most = max(most, taken)
        bench.check(f"{name}, 20 times", " ".join(sorted(statuses)), expected, statuses == {expected})
    growth = gateway.most_resident() - before
    bench.check("memory, at most at any time", mebibytes(growth), "at most +1 MiB", growth <= 1 << 20)
    bench.note(f"at most {most >> 10} KiB of what follows a head were taken off the client's hands, buffers of the kernel among them")


def told(gateway, first, more):
    """The status of the answer to a request, and how many more bytes could be sent until it came."""
    with socket.create_connection(gateway.http) as client:
        client.settimeout(10)
        client.sendall(first)
        sent = 0
        with contextlib.suppress(OSError):
            while more and sent < 64 << 20 and not select.select([client], [], [], 0)[0]:
                client.sendall(more)
                sent += len(more)
        with contextlib.suppress(OSError):
            answer = client.recv(4096)
            match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
            return (match[1].decode() if match else "no answer"), sent
        return "reset", sent


# --- HTTP/2, as far as it takes to wait: docs of the frames are in RFC 9113, of the header block in RFC 7541 ---

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, END_HEADERS, ACKNOWLEDGED = 0x1, 0x4, 0x1
# Waits that one connection carries.
STREAMS = 250


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def request(path, authority):
    """The header block of a GET: two names of the static table with their values, two with values of our own, nothing to remember."""
    block = b"\x82\x86"
    for name, value in ((4, path), (1, authority)):
        value = value.encode()
        length = struct.pack("B", len(value)) if len(value) < 127 else b"\x7f" + struct.pack("B", len(value) - 127)
        block += bytes([name]) + length + value
    return block


class Connection:
    """Many waits at once, each for a device of its own."""

    def __init__(self, address, numbers):
        self.socket = socket.create_connection(address)
        authority = f"{address[0]}:{address[1]}"
        self.open = {}
        out = PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1 << 30))
        for index, number in enumerate(numbers):
            stream = 2 * index + 1
            path = f"/device/deviceId/{Device(number).text}/waitForPacket?timeoutMs=600000"
            out += frame(HEADERS, END_STREAM | END_HEADERS, stream, request(path, authority))
            self.open[stream] = number
        self.socket.sendall(out)
        self.socket.setblocking(False)
        self.unread, self.answered, self.broken = b"", 0, 0

    def read(self):
        """Takes in what has come."""
        with contextlib.suppress(BlockingIOError):
            while got := self.socket.recv(1 << 18):
                self.unread += got
            self.broken, self.open = self.broken + len(self.open), {}
        while len(self.unread) >= 9:
            length, kind, flags = int.from_bytes(self.unread[:3], "big"), self.unread[3], self.unread[4]
            if len(self.unread) < 9 + length:
                break
            stream = int.from_bytes(self.unread[5:9], "big") & 0x7FFF_FFFF
            self.unread = self.unread[9 + length:]
            if kind == SETTINGS and not flags & ACKNOWLEDGED:
                self.socket.send(frame(SETTINGS, ACKNOWLEDGED, 0))
            elif kind == PING and not flags & ACKNOWLEDGED:
                self.socket.send(frame(PING, ACKNOWLEDGED, 0, bytes(8)))
            elif kind in (DATA, HEADERS) and flags & END_STREAM:
                self.answered += self.open.pop(stream, None) is not None
            elif kind == RST_STREAM:
                self.broken += self.open.pop(stream, None) is not None


def waiters(bench):
    """100 000 waits over HTTP/2, each for a device of its own, all of which speak at once."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    total = bench.scaled(100_000)
    before = gateway.resident()
    connections = [Connection(gateway.http, range(first, min(first + STREAMS, total))) for first in range(0, total, STREAMS)]
    for connection in connections:
        bench.scope.callback(connection.socket.close)

    def all_wait():
        for connection in connections:
            connection.read()
        return gateway.metrics()["lastroute_waiters"] == total

    waiting, _ = eventually(all_wait, 120, 0.5)
    if not waiting:
        raise Failed(f"{gateway.metrics()['lastroute_waiters']:.0f} of {total} wait")
    each = (gateway.resident() - before) / total
    bench.check(f"memory of each of {total} who wait", f"{each / 1024:.2f} KB", "at most 3 KB", each <= 3 * 1024)
    with multiprocessing.Pool(2) as pool:
        frames = pool.map(first_packet, range(total), chunksize=500)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as voice:
        voice.connect(gateway.udp)
        start = time.monotonic()
        for index, packet in enumerate(frames):
            voice.send(packet)
            if index % 64 == 0:
                for connection in connections[index // STREAMS:index // STREAMS + 1]:
                    connection.read()
        sent = time.monotonic()

        def all_answered():
            for connection in connections:
                connection.read()
            return all(not connection.open for connection in connections)

        eventually(all_answered, 60, 0)
        end = time.monotonic()
    answered, broken = (sum(getattr(connection, what) for connection in connections) for what in ("answered", "broken"))
    dropped = gateway.settled()["dropped"]
    bench.check("were answered, each once", f"{answered}, {broken} broken, {dropped} dropped", f"{total}", answered == total)
    bench.check("from the last packet to the last answer read", f"{end - sent:.2f} s", "at most 2 s", end - sent <= 2)
    bench.note(f"the packets took {sent - start:.2f} s to send; this script reads the answers on the same cores")
    wakes = gateway.metrics()["lastroute_wakes_total"]
    bench.check("woken", f"{wakes:.0f}", f"{total}", wakes == total)


def first_packet(number):
    return Device(number).packet()


def abandoned(bench):
    """Clients who ask to wait and leave at once."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    voice.ask()
    total, workers = bench.scaled(1_000_000), 2
    arguments = [(gateway.http, total // workers, voice.device.text)] * workers
    with multiprocessing.Pool(workers) as pool:
        pool.map(leave, [(gateway.http, 2000, voice.device.text)] * workers)
        eventually(lambda: gateway.metrics()["lastroute_waiters"] == 0, 5)
        before, start = gateway.resident(), time.monotonic()
        pool.map(leave, arguments)
        seconds = time.monotonic() - start
    gone, after = eventually(lambda: gateway.metrics()["lastroute_waiters"] == 0, 10)
    bench.check(f"{total} who wait and leave, {total / seconds:.0f} a second", f"none left after {after:.1f} s" if gone else "some left",
                "gauge 0 within 5 s", bool(gone) and after <= 5)
    growth = gateway.resident() - before
    bench.check("memory afterwards", mebibytes(growth), "below 8 MiB", growth < 8 << 20)
    bench.check("a packet wakes a wait afterwards", "yes" if woken(gateway, voice) else "no", "yes", woken(gateway, voice))


def leave(given):
    address, count, device = given
    asking = f"GET /device/deviceId/{device}/waitForPacket?timeoutMs=600000 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
    for _ in range(count):
        with contextlib.suppress(OSError), socket.create_connection(address, 10) as client:
            # Closed with a reset, so that no port is left to wait out its time.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(asking)


def woken(gateway, voice):
    with socket.create_connection(gateway.http, 10) as client:
        path = f"/device/deviceId/{voice.device.text}/waitForPacket?timeoutMs=5000"
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        eventually(lambda: gateway.metrics()["lastroute_waiters"] == 1, 5)
        voice.ask()
        return client.recv(4096).startswith(b"HTTP/1.1 200 ")


ROWS = [
    Row(15, "slow", "clients that are slow on purpose", slow),
    Row(16, "large", "bodies and heads that are too large", large),
    Row(19, "waiters", "very many who wait, all woken at once", waiters),
    Row(20, "abandoned", "very many who ask to wait and leave", abandoned),
]
