"""Rows about what the system gives: rights, ports, file descriptors, memory, and the time."""

import contextlib
import os
import re
import socket
import subprocess
import time

from epacket import ACK_REQUEST
from gateway import CONFIG, Gateway, Unavailable, Voice, control_group, eventually, need, since
from rows import Row
from traffic import simulate

# Anybody but root.
NOBODY = "65534"
# The most memory that a control group took: of version 1, of version 2, and of that in older kernels, which say what it takes.
PEAKS = ("memory.max_usage_in_bytes", "memory.peak", "memory.current")


def refused(bench):
    """What cannot begin says so in a line."""
    need("setpriv")
    taken = bench.scope.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    taken.bind(("127.0.0.1", 0))
    listening = bench.scope.enter_context(socket.create_server(("127.0.0.1", 0)))
    misspelt = bench.path("misspelt.toml")
    with open(misspelt, "w") as file:
        file.write(CONFIG + 'kye-file = "x"\n')
    private = bench.path("private")
    os.mkdir(private, 0o700)
    os.mkdir(bench.path("nobody"))
    os.chown(bench.path("nobody"), int(NOBODY), int(NOBODY))
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 99:
            raise Unavailable("needs net.ipv4.ip_unprivileged_port_start to be 1024, as it is by default")
    os.chmod(bench.work, 0o755)
    program = bench.path("lastroute")
    with open(bench.program, "rb") as source, open(os.open(program, os.O_CREAT | os.O_WRONLY, 0o755), "wb") as copy:
        copy.write(source.read())
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
    any_port = ["--udp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    data = ["--data-dir", bench.path("data")]
    for what, prefix, flags, named in (
        ("a UDP port in use", [], [*data, "--udp-listen", "127.0.0.1:%d" % taken.getsockname()[1], "--http-listen", "127.0.0.1:0"],
         "--udp-listen"),
        ("a TCP port in use", [], [*data, "--udp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:%d" % listening.getsockname()[1]],
         "--http-listen"),
        ("a misspelt key", [], [*data, *any_port, "--config", misspelt], "misspelt.toml:"),
        ("no right to write", nobody, ["--data-dir", f"{private}/data", *any_port], "--data-dir"),
        ("no right to a port below 1024", nobody, ["--data-dir", bench.path("nobody"), "--udp-listen", "127.0.0.1:99",
                                                   "--http-listen", "127.0.0.1:0"], "--udp-listen"),
    ):
        start = time.monotonic()
        done = subprocess.run([*prefix, program, "serve", *flags], capture_output=True, text=True, timeout=20, cwd="/")
        seconds = time.monotonic() - start
        lines = done.stderr.splitlines()
        ok = done.returncode == 2 and len(lines) == 1 and named in lines[0] and seconds <= 1
        bench.check(what, f"exit code {done.returncode}, {len(lines)} line, {seconds:.2f} s", "2, 1 line, at most 1 s", ok)
        bench.note(lines[-1] if lines else "it says nothing")


def descriptors(bench):
    """More connections than the process may have open."""
    need("prlimit")
    limit = 128
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data"), prefix=["prlimit", f"--nofile={limit}"]))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    before = gateway.settled()
    with contextlib.ExitStack() as held:
        for _ in range(3 * limit):
            held.enter_context(socket.create_connection(gateway.http))
        exhausted, _ = eventually(lambda: len(os.listdir(f"/proc/{gateway.pid}/fd")) == limit, 5)
        used, start = gateway.processor_seconds(), time.monotonic()
        command = simulate(gateway, "--devices", 500, "--rate", 2000, "--packets", 10_000, "--ack", 0, "--no-time", 0)
        fleet = subprocess.run(command, capture_output=True, text=True)
        acknowledged = voice.answered(voice.device.packet(flags=ACK_REQUEST)) is not None
        seconds = time.monotonic() - start
        share = (gateway.processor_seconds() - used) / seconds
    back, after = eventually(lambda: answers(gateway), 12, 0.2)
    results = since(before, gateway.settled())
    bench.check(f"{3 * limit} connections, {limit} descriptors", "all in use" if exhausted else "not all in use", "all in use",
                bool(exhausted))
    sent = int(re.search(r"(\d+) datagrams sent", fleet.stdout)[1])
    bench.check(f"of {sent} packets meanwhile, lost", f"{sent + acknowledged - results.get('accepted', 0)}", "0",
                acknowledged and results == {"accepted": sent + 1})
    bench.check("processor meanwhile, at 2 000 packets a second", f"{share:.0%} of a core", "below 50 %", share < 0.5)
    bench.check("until the API answers again", f"{after:.1f} s" if back else "never", "at most 2 s", back and after <= 2)


def answers(gateway):
    with contextlib.suppress(OSError):
        return gateway.request("GET", "/health", timeout=1)[0] == 200
    return False


def memory(bench):
    """More who wait than the configured bound, in a group with a fourth more memory than the bound was seen to take."""
    bound, more = 4000, 1000
    _, _, _, limit = crowd_in_group(bench, bound, more, 8 << 30)
    limit = limit * 5 // 4
    waiters, refused, well, used = crowd_in_group(bench, bound, more, limit)
    bench.check(f"{bound + more} ask to wait, {bound} may", f"{waiters} wait, {refused} x 503", f"{bound}, {more}",
                waiters == bound and refused == more)
    bench.check(f"memory used of the {limit >> 20} MiB of its group", f"{used >> 20} MiB", "70 % or more, not killed",
                used >= 0.7 * limit and well)


def crowd_in_group(bench, bound, more, limit):
    """How many wait and how many are refused where more ask than may, whether the gateway is well then, and the bytes of memory that
    it took at most of those of its group."""
    flags = ["--waiters-total", str(bound), "--waiters-per-device", str(bound), "--udp-receive-buffer", "8MiB"]
    settings = ({"memory.limit_in_bytes": limit}, {"memory.max": limit, "memory.swap.max": 0})
    with control_group("memory", settings) as group:
        # It is in the group from its first page on: those from before would not count.
        inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        with Gateway(bench.program, bench.path("data"), flags, prefix=inside) as gateway:
            waiters, refused, acknowledged = crowded(gateway, bound, more)
            peak = next(path for name in PEAKS if os.path.exists(path := f"{group}/{name}"))
            with open(peak) as file:
                return waiters, refused, acknowledged and gateway.process.poll() is None, int(file.read())


def crowded(gateway, bound, more):
    """Who waits and who is refused where more ask than may, and whether a packet is acknowledged then."""
    with contextlib.ExitStack() as held:
        voice = held.enter_context(contextlib.closing(Voice(gateway, 1)))
        path = f"/device/deviceId/{voice.device.text}/waitForPacket?timeoutMs=600000"
        asking = f"GET {path} HTTP/1.1\r\nhost: {gateway.http[0]}\r\n\r\n".encode()
        clients = []
        for _ in range(bound + more):
            client = held.enter_context(socket.create_connection(gateway.http))
            client.sendall(asking)
            clients.append(client)
        eventually(lambda: gateway.metrics()["lastroute_waiters"] >= bound)
        refused = 0
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                answer = client.recv(4096)
                refused += answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in answer.lower()
        return int(gateway.metrics()["lastroute_waiters"]), refused, voice.ask() is not None


FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
            "/usr/lib64/faketime/libfaketime.so.1")


def clock(bench):
    """The system's clock is set, while the time that only goes forward stays right."""
    library = next((path for path in FAKETIME if os.path.exists(path)), None)
    if library is None:
        raise Unavailable("needs libfaketime, in Debian the package of that name")
    offset = bench.path("offset")

    def set_clock(seconds):
        # It is read again for every look at the clock.
        with open(f"{offset}.new", "w") as file:
            file.write(f"{seconds:+d}")
        os.rename(f"{offset}.new", offset)

    set_clock(0)
    env = os.environ | {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1",
                        "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data"), env=env))
    voice = Voice(gateway, 1)
    heard = []

    def roams():
        """The device speaks from a new address until its route is there: at most thrice, as it may be asked for an echo."""
        nonlocal voice
        device = voice.device
        heard.extend(voice.heard)
        voice.close()
        voice = Voice(gateway, 1)
        voice.device = device
        for _ in range(3):
            time.sleep(1.1)
            if voice.ask() is None:
                return False
            if eventually(lambda: gateway.last_route(device) == voice.address, 1)[0]:
                return True
        return False

    def well():
        return not gateway.troubles().get("clock")

    def follows(when):
        followed = roams()
        bench.check(f"{when}: the route follows", "followed" if followed else "frozen", "followed", followed)

    follows("before any step")
    for step, name in ((-5, "-5 s"), (3600, "+1 h"), (-3600, "-1 h"), (86_400, "+1 day"), (-86_400, "-1 day")):
        large, start = abs(step) > 5, time.monotonic()
        set_clock(step)
        told, after = eventually(lambda: not well(), 10 if large else 3, 0.2)
        bench.check(f"{name}: /readyz tells of the clock", f"after {after:.1f} s" if told else "no",
                    "within 10 s" if large else "no", bool(told) == large)
        follows(name)
        adopted = large and not bench.quick
        if adopted:
            told, _ = eventually(well, 90, 0.2)
            after = time.monotonic() - start
            bench.check(f"{name}: it is adopted", f"after {after:.0f} s" if told else "not", "60 to 66 s", told and 60 <= after <= 66)
            follows(f"{name}, adopted")
        # A step that was adopted is another one on the way back, and that must be seen before it can be over.
        set_clock(0)
        if adopted and not eventually(lambda: not well(), 10, 0.2)[0]:
            bench.check(f"{name} and back: /readyz tells of the clock", "no", "within 10 s", False)
        limit = 66 if adopted else 5
        returned, after = eventually(well, limit, 0.2)
        bench.check(f"{name} and back: nothing is degraded", f"after {after:.0f} s" if returned else "not", f"within {limit} s",
                    bool(returned))
        follows(f"{name} and back")
    heard.extend(voice.heard)
    voice.close()
    bench.check(f"nonces of {len(heard)} downlinks that came again", f"{len(heard) - len(set(heard))}", "0, of 11 or more",
                len(heard) == len(set(heard)) >= 11)


ROWS = [
    Row(26, "clock", "the clock is set by an hour, a day and 5 s", clock),
    Row(33, "refused", "what cannot begin", refused),
    Row(34, "descriptors", "no file descriptor is left", descriptors),
    Row(35, "memory", "memory for what is configured and little more", memory),
]
