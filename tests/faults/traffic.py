"""Rows in which devices send: over networks that lose, copy and cut, and more than a gateway takes."""

import contextlib
import os
import re
import socket
import signal
import struct
import subprocess
import time

from epacket import ACK_REQUEST
from gateway import Failed, Gateway, Voice, control_group, eventually, need, since, two_namespaces
from rows import Row
from strangers import PORT, Watch


def simulate(gateway, *flags):
    """The command of a simulated fleet against a gateway."""
    return [gateway.program, "simulate", "--gateway", "%s:%d" % gateway.udp, *map(str, flags)]


def with_api(gateway):
    return "--gateway-api", "http://%s:%d" % gateway.http


def attacks(bench):
    """Replays and reflections by the simulator, which records what its own devices say and hear."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    count = bench.scaled(100_000)
    kinds = ["replay", "reflection", "bit-flips", "unknown-ids"]
    command = simulate(gateway, "--devices", 17, "--attack", ",".join(kinds), "--attack-packets", count, *with_api(gateway))
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        bench.note(line)
    for line in done.stderr.splitlines()[-3:] if done.returncode else []:
        bench.note(line)
    bench.check(f"{count} of each kind over sockets: got through", "nothing" if done.returncode == 0 else "something",
                "nothing, as the notes say", done.returncode == 0)


def impaired(bench):
    """A fleet whose packets are lost, copied and overtaken by a seed, counted to the last one."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    # No more than 16 unproven packets of a device are under way: 100 devices at 1 000 a second, held back 250 ms at most.
    for seed in range(1, 1 + bench.scaled(10)):
        command = simulate(gateway, "--seed", seed, "--devices", 100, "--rate", 1000, "--packets", 10_000, "--loss", 30,
                           "--duplicate", 20, "--reorder", 20, "--delay", "250ms", "--downlink-loss", 30, "--rebind", 5,
                           "--ack", 30, "--no-time", 50, "--expect-all", *with_api(gateway))
        done = subprocess.run(command, capture_output=True, text=True)
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        bench.check(f"seed {seed}: 10 000 packets, 30 % lost, 20 % copied, 20 % late",
                    "counted exactly" if done.returncode == 0 else "counted otherwise", "exact", done.returncode == 0)
        if done.returncode != 0:
            bench.note(" | ".join(said[-4:]))


def fragments(bench):
    """A datagram of 2 048 bytes through a cable of 600; everything sent back fits without cutting."""
    gateway_place, outside, cable = bench.scope.enter_context(two_namespaces(mtu=600))
    gateway = Gateway(bench.program, bench.path("data"), place=gateway_place, udp=f"198.18.0.1:{PORT}")
    bench.scope.enter_context(gateway)
    watch = bench.scope.enter_context(contextlib.closing(Watch(outside, cable, "198.18.0.1")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1, outside)))
    before = gateway.settled()
    answered = [voice.ask(os.urandom(size - 38)) is not None for size in (39, 548, 572, 573, 1472, 2047, 2048)]
    voice.say(payload=os.urandom(2049 - 38))
    results = since(before, gateway.settled())
    bench.check("39 to 2048 bytes through an MTU of 600, one of 2049 after", str(results).replace("'", ""),
                "accepted: 7, oversize: 1", results == {"accepted": 7, "oversize": 1} and all(answered))
    moved, _ = eventually(lambda: gateway.last_route(voice.device) == voice.address, 2)
    bench.check("the route is that of the last of them", str(gateway.last_route(voice.device)), voice.address, bool(moved))
    packets = watch.seen()
    longest = max(len(packet) - 28 for packet in packets)
    # Bit 13 and the offset say that a packet is a part of one.
    parts = [packet for packet in packets if (packet[6] << 8 | packet[7]) & 0x3FFF]
    bench.check(f"longest of {len(packets)} datagrams sent, and parts among them", f"{longest} bytes, {len(parts)} parts",
                "at most 548, 0", longest <= 548 and not parts)
    # What of a datagram came and its rest did not never reaches the gateway.
    before = gateway.settled()
    whole = voice.device.packet(os.urandom(1000))
    first_part_only(outside, gateway.udp, whole)
    bench.check("the first part of a datagram without the rest", str(since(before, gateway.settled())), "{}: nothing",
                gateway.settled() == before)


def first_part_only(place, target, datagram):
    with place.inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        udp = struct.pack("!HHHH", 6200, target[1], 8 + len(datagram), 0) + datagram
        addresses = socket.inet_aton("198.18.0.2") + socket.inet_aton(target[0])
        # More fragments follow, at offset 0.
        raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 0, 7, 0x2000, 64, socket.IPPROTO_UDP, 0) + addresses + udp[:560], (target[0], 0))


def overload(bench):
    """Twice of what a gateway takes that has a fifth of a core."""
    # Of a core, in microseconds of each 10 ms: little, so that the simulator beside it can send twice as much as it takes.
    group = bench.scope.enter_context(control_group("cpu", (
        {"cpu.cfs_period_us": 10_000, "cpu.cfs_quota_us": 2_000}, {"cpu.max": "2000 10000"})))
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data"), ["--udp-receive-buffer", "2MiB"]))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    voice.ask()
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(gateway.pid))
    seconds = max(3, bench.scaled(10))

    def offered(senders, rate):
        """Datagrams a second sent and accepted, and all results."""
        before, start = gateway.settled(), time.monotonic()
        fleets = [subprocess.Popen(simulate(gateway, "--seed", seed, "--devices", 5000, "--duration", f"{seconds}s", "--workers", 1,
                                            "--sockets", 64, "--ack", 0, "--no-time", 0, "--ack-after", "1d", "--rate", rate),
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for seed in senders]
        for fleet in fleets:
            bench.scope.callback(fleet.kill)
        said = [fleet.communicate()[0] for fleet in fleets]
        end = time.monotonic()
        answered, recovered = eventually(lambda: voice.answered(voice.device.packet(flags=ACK_REQUEST), 0.1) is not None, 10, 0.01)
        results = since(before, gateway.settled())
        sent = sum(int(re.search(r"(\d+) datagrams sent", text)[1]) for text in said)
        return sent / seconds, results.get("accepted", 0) / (end - start), results, recovered if answered else 99.0

    _, capacity, results, _ = offered([11], 1_000_000)
    if "dropped" not in results:
        raise Failed("one sender does not fill the gateway; give it a faster machine or a smaller share")
    sent, goodput, results, recovered = offered([12, 13], int(capacity))
    bench.note(f"it takes {capacity:.0f} a second of one sender without end; two were told to send as much each")
    bench.check(f"goodput at {sent / capacity:.1f} times of that, {seconds} s", f"{goodput:.0f}/s: {goodput / capacity:.0%}",
                "50 % or more of 1.5x or more", goodput >= capacity / 2 and sent >= 1.5 * capacity)
    bench.check("dropped by the kernel, as /metrics says", f"{results.get('dropped', 0)}", "> 0", results.get("dropped", 0) > 0)
    bench.check("until a packet is acknowledged again", f"{recovered:.2f} s", "at most 1 s", recovered <= 1)


def stopped(bench):
    """The process is stopped for a while, as by a debugger or a machine that sleeps."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    seconds = 5
    before = gateway.settled()
    command = simulate(gateway, "--devices", 1000, "--rate", 2000, "--duration", f"{seconds + 3}s", "--ack", 0, "--no-time", 0)
    fleet = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bench.scope.callback(fleet.kill)
    eventually(lambda: gateway.datagrams()["accepted"] > 1000)
    gateway.signal(signal.SIGSTOP)
    time.sleep(seconds)
    gateway.signal(signal.SIGCONT)
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    _, caught_up = eventually(lambda: voice.answered(voice.device.packet(flags=ACK_REQUEST), 1) is not None, 10)
    said = fleet.communicate()[0]
    results = since(before, gateway.settled())
    bench.check(f"stopped for {seconds} s at 2 000 a second: lost", f"{results.get('dropped', 0)}", "0 in 64 MiB of buffer",
                "dropped" not in results)
    sent, asked = int(re.search(r"(\d+) datagrams sent", said)[1]), voice.device.sequence + 1
    counted = results.get("accepted", 0)
    bench.check("sent, and counted in the end", f"{sent} + {asked}, {counted}", "all", counted == sent + asked)
    bench.check("until a packet after it is acknowledged", f"{caught_up:.2f} s", "at most 1 s", caught_up <= 1)


ROWS = [
    Row(2, "attacks", "replays, reflections and forgeries over sockets", attacks),
    Row(9, "fragments", "datagrams in parts, and none of our own", fragments),
    Row(13, "overload", "twice the capacity, by two senders", overload),
    Row(13, "stopped", "the process is stopped and goes on", stopped),
    Row(30, "impaired", "loss, copies and overtaking, by seeds", impaired),
]
