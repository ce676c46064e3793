"""Rows in which the gateway ends, in order or not, and in which its disk fails."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time

from epacket import ACK_REQUEST
from gateway import Failed, Gateway, Unavailable, Voice, eventually, need, small_disk
from rows import Row
from traffic import simulate, with_api

# The records are written down this often.
CHECKPOINT = 10.0


def killed(bench):
    """Killed at any moment, started again, and met by recordings of everything from somewhere else."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voices = [bench.scope.enter_context(contextlib.closing(Voice(gateway, number))) for number in (1, 2, 3)]
    attacker = bench.scope.enter_context(contextlib.closing(Voice(gateway, 10)))
    for voice in voices:
        if voice.ask() is None:
            raise Failed("a genuine packet is not acknowledged")
    # What was never written down cannot be known again, so the first end is an orderly one.
    gateway.stop()
    rounds, chance = bench.scaled(1000), random.Random(6)
    moves, starts, slowest, told = 0, 0, 0.0, 0
    for number in range(rounds):
        try:
            taken = gateway.start()
        except Failed as why:
            bench.note(f"round {number}: {why}")
            break
        starts, slowest = starts + 1, max(slowest, taken)
        recordings = [frame for voice in voices for frame in voice.recorded]
        newest = [frame for voice in voices for frame in voice.recorded[-20:]]
        for frame in newest + chance.sample(recordings, min(40, len(recordings))):
            attacker.socket.send(frame)
        arrived = len(newest) + min(40, len(recordings))
        eventually(lambda: sum(gateway.datagrams().values()) >= arrived, 5, 0.01)
        routes = [(gateway.last_route(voice.device), voice) for voice in voices]
        moves += sum(route == attacker.address for route, _ in routes)
        told += sum(route == voice.address for route, voice in routes)
        for voice in voices:
            # After a kill nothing is sealed in the time that the process before may have used: mostly it is killed sooner.
            if number % 10 == 0:
                voice.ask()
            else:
                voice.say(flags=ACK_REQUEST)
        time.sleep(chance.random() * 0.1)
        gateway.kill()
    bench.check("starts after a kill", f"{starts}, the slowest {slowest:.2f} s", f"{rounds}", starts == rounds)
    bench.check("routes that lead to who replayed everything", f"{moves} of {3 * starts}", "0", moves == 0)
    bench.check("routes that are known at once after the start", f"{told} of {3 * starts}", "all", told == 3 * starts)
    nonces = [nonce for voice in voices for nonce in voice.heard]
    bench.check(f"nonces of {len(nonces)} downlinks that came again", f"{len(nonces) - len(set(nonces))}",
                f"0, of {rounds // 10} or more", len(nonces) == len(set(nonces)) >= rounds // 10)


def fill(path):
    """Takes all space that is left, and returns the file that holds it."""
    name = os.path.join(path, "ballast")
    with open(name, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return name


def troubled(bench, disk, break_it, mend_it, what):
    """A fleet before a gateway whose disk fails for a while."""
    gateway = bench.scope.enter_context(Gateway(bench.program, os.path.join(disk, "data")))
    command = simulate(gateway, "--devices", 200, "--rate", 500, "--no-time", 0, "--ack", 0, "--duration", "75s", "--expect-all",
                       *with_api(gateway))
    fleet = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bench.scope.callback(fleet.kill)
    eventually(lambda: gateway.datagrams()["accepted"] > 500)

    def failures():
        return gateway.metrics()["lastroute_checkpoints_failed_total"]

    before = failures()
    break_it(gateway)
    degraded, after = eventually(lambda: gateway.troubles().get("records"), 3 * CHECKPOINT, 0.2)
    bench.check(f"{what}: /readyz stays 200 and is degraded", f"after {after:.0f} s" if degraded else "never",
                f"within {3 * CHECKPOINT:.0f} s", bool(degraded))
    bench.note(f"it says: {degraded}")
    failed, after = eventually(lambda: failures() > before, 3 * CHECKPOINT, 0.2)
    bench.check("checkpoints failed, as /metrics says", f"{failures() - before:.0f}", "> 0", bool(failed))
    time.sleep(3)
    mend_it(gateway)
    well, after = eventually(lambda: not gateway.troubles(), 30, 0.2)
    bench.check("afterwards it recovers by itself", f"after {after:.0f} s" if well else "not", "within 30 s", bool(well))
    said, _ = fleet.communicate()
    sent = re.search(r"(\d+) datagrams sent", said)
    bench.check(f"of {sent[1] if sent else '?'} packets meanwhile, lost", "0" if fleet.returncode == 0 else "some", "0",
                fleet.returncode == 0)
    if fleet.returncode != 0:
        bench.note(" | ".join(said.splitlines()[-3:]))
    time.sleep(CHECKPOINT + 2)
    gateway.kill()
    gateway.start()
    devices = int(gateway.metrics()["lastroute_devices"])
    bench.check("devices known after a kill and a start", f"{devices}", "200", devices == 200)


def full_disk(bench):
    disk = bench.scope.enter_context(small_disk(256))
    ballast = []
    troubled(bench, disk, lambda _: ballast.append(fill(disk)), lambda _: os.remove(ballast[0]), "no space is left")


def failing_disk(bench):
    """Every sync fails with EIO, as the kernel reports a disk that cannot write."""
    need("strace")
    tracer = []

    def break_it(gateway):
        calls = "fsync,fdatasync,sync_file_range,msync"
        command = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO",
                   "-p", str(gateway.pid)]
        tracer.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        bench.scope.callback(tracer[0].kill)
        with open(f"/proc/{gateway.pid}/status") as file:
            traced, _ = eventually(lambda: file.seek(0) == 0 and "TracerPid:\t0\n" not in file.read(), 5)
        if not traced:
            raise Unavailable("strace cannot attach to a process here")

    def mend_it(_):
        tracer[0].send_signal(signal.SIGTERM)
        tracer[0].wait(10)

    os.mkdir(bench.path("disk"))
    troubled(bench, bench.path("disk"), break_it, mend_it, "every sync fails")


def terminated(bench):
    """SIGTERM with many who wait and messages that wait for their devices."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    gateway.register([voice.device])
    voice.ask()
    intents = 100
    for _ in range(intents):
        body = {"deviceId": voice.device.text, "rpc": {"commandId": 3}, "sendWaitTimeoutMs": 600_000}
        status, _, answer = gateway.request("POST", "/rpc", body)
        if status not in (200, 201, 202):
            raise Failed(f"POST /rpc: {status} {answer[:200]}")
    path = f"/device/deviceId/{voice.device.text}/waitForPacket?timeoutMs=600000"
    clients = []
    for _ in range(bench.scaled(900)):
        client = bench.scope.enter_context(socket.create_connection(gateway.http))
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: {gateway.http[0]}\r\n\r\n".encode())
        clients.append(client)
    eventually(lambda: gateway.metrics()["lastroute_waiters"] == len(clients))
    code, taken = gateway.stop()
    bench.check(f"ends with {len(clients)} who wait and {intents} messages", f"{taken:.2f} s, exit code {code}", "at most 5 s, 0",
                taken <= 5 and code == 0)
    told = 0
    for client in clients:
        client.settimeout(2)
        answer = client.recv(4096)
        told += answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in answer.lower()
    bench.check("were told 503 with Retry-After", f"{told}", f"{len(clients)}", told == len(clients))
    gateway.start()
    waiting = int(gateway.metrics()["lastroute_messages_waiting"])
    bench.check("messages that still wait after the next start", f"{waiting}", f"{intents}", waiting == intents)


ROWS = [
    Row(6, "killed", "killed again and again, with recordings replayed after each start", killed),
    Row(24, "full-disk", "no space for the records", full_disk),
    Row(24, "failing-disk", "every sync fails with EIO", failing_disk),
    Row(32, "terminated", "SIGTERM with waiters and messages", terminated),
]
