"""Rows in which somebody without keys sends, or somebody with a network's key sends too much."""

import contextlib
import os
import random
import re
import select
import socket
import struct
import time

import epacket
from epacket import ACK_REQUEST, DEVICE_KEY, Device, NETWORK, TDF, gps_now, header
from gateway import Failed, Flood, Gateway, Unavailable, Voice, eventually, mebibytes, percentile, since, two_namespaces
from rows import Row

# Of linux/if_ether.h: frames of IPv4.
ETH_P_IP = 0x0800
# Of linux/if_packet.h; the standard library does not have them.
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
# A machine on which p99 is more medians than this, without any flood, has no p99 to compare with.
QUIET = 4
# The port of the gateway where an address is fixed.
PORT = 3001


def udp_packet(source, port, target, datagram):
    """An IPv4 packet as a raw socket takes it: the kernel fills in length, identification and checksum."""
    udp = struct.pack("!HHHH", port, target[1], 8 + len(datagram), 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(target[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp + datagram


class Watch:
    """Sees every IPv4 packet of the gateway's address that arrives in a place, and knows whether it missed any."""

    def __init__(self, place, interface, source):
        with place.inside():
            # Of no protocol until it is bound, so that nothing of other interfaces is taken in.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            # What is sent from here would fill the buffer before what comes from there.
            self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self.socket.bind((interface, ETH_P_IP))
        self.source = socket.inet_aton(source)

    def seen(self, patience=0.5):
        """The packets until nothing came for a while."""
        packets = []
        while select.select([self.socket], [], [], patience)[0]:
            packet = self.socket.recv(65_536)
            if packet[12:16] == self.source:
                packets.append(packet)
        if (missed := self.missed()) > 0:
            raise Failed(f"{missed} packets were not seen, as the buffer of the socket that watches was full")
        return packets

    def missed(self):
        """Packets since the last look for which there was no room."""
        return struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def close(self):
        self.socket.close()


def noise(known):
    """What a stranger may send who knows the ids of a device and its network, of every kind that is refused."""
    chance = random.Random(1)
    body = chance.randbytes
    now = gps_now()

    def framed(flags=0, key_id=NETWORK, device=known, gps_time=now, kind=TDF):
        return header(kind, flags | ACK_REQUEST, key_id, device, gps_time, chance.randrange(65_536), 7) + body(30)

    return [
        framed(),
        framed(kind=epacket.KEY_IDS),
        framed(kind=epacket.ECHO_RSP),
        framed(kind=epacket.RECEIVED_EPACKET),
        framed(gps_time=epacket.NO_TIME_START + 20),
        framed(gps_time=chance.randrange(2**32)),
        framed(key_id=0xABCDEF),
        framed(flags=DEVICE_KEY, key_id=0x123456),
        framed(flags=DEVICE_KEY, device=chance.randrange(2**64)),
        b"", b"\x4d", b"\x4e\x01", body(37), body(38), body(200), body(548), bytes(60), b"\xff" * 60,
    ]


def spoofed(bench):
    gateway_place, outside, cable = bench.scope.enter_context(two_namespaces())
    gateway = Gateway(bench.program, bench.path("data"), place=gateway_place, udp=f"198.18.0.1:{PORT}")
    bench.scope.enter_context(gateway)
    watch = bench.scope.enter_context(contextlib.closing(Watch(outside, cable, "198.18.0.1")))
    with outside.inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    bench.scope.callback(raw.close)
    chance = random.Random(2)

    def send(datagram, source):
        raw.sendto(udp_packet(source, chance.randrange(1, 65_536), gateway.udp, datagram), (gateway.udp[0], 0))

    def control(number, when):
        send(Device(number).packet(flags=ACK_REQUEST), "203.0.113.9")
        answers = [packet for packet in watch.seen() if packet[9] == socket.IPPROTO_UDP]
        bench.check(f"control {when}: an authentic packet, forged", f"{len(answers)} reply", "1", len(answers) == 1)

    control(1, "before")
    forms, count = noise(Device(1).id), bench.scaled(200_000)
    before, said, out = gateway.settled(), sent(gateway), []
    for index in range(count):
        source = f"203.0.{chance.randrange(256)}.{chance.randrange(1, 255)}"
        send(forms[index % len(forms)], source)
        if index % 1000 == 0:
            out += watch.seen(0)
    out += watch.seen()
    replies = len([packet for packet in out if packet[9] != socket.IPPROTO_IGMP])
    results = since(before, gateway.settled())
    bench.check(f"{count} datagrams of {len(forms)} kinds, forged sources", f"{replies} packets out", "0 replies", replies == 0)
    more = sum(since(said, sent(gateway)).values())
    bench.check("what the gateway says it sent or tried to", f"{more:.0f}", "0", more == 0)
    arrived = sum(results.values())
    bench.check("all of them arrived, none counted", f"{arrived}, {results.get('accepted', 0)} accepted",
                f"{count}, 0", arrived == count and "accepted" not in results)
    control(2, "after")


def sent(gateway):
    """What the gateway counts of its own datagrams: those that left, were held back, or were not taken by the kernel."""
    return {name: value for name, value in gateway.metrics().items() if re.match("lastroute_(acks|downlinks)_", name)}


def lengths(bench):
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    before = gateway.settled()
    short, long = range(0, epacket.SMALLEST), range(2049, 9001)
    chance = random.Random(3)
    for length in (*short, *long):
        voice.say(chance.randbytes(length))
        if length % 64 == 0:
            time.sleep(0.001)
    # A genuine frame that is cut anywhere is none any more.
    whole = voice.device.packet(b"payload", ACK_REQUEST)
    for length in range(len(whole)):
        voice.say(whole[:length])
    results = since(before, gateway.settled())
    expected = {"short": 2 * len(short), "oversize": len(long), "bad_tag": len(whole) - len(short)}
    bench.check("0 to 37 and 2049 to 9000 bytes, and a frame cut anywhere", str(results).replace("'", ""),
                str(expected).replace("'", ""), results == expected)
    bench.check("the frame itself afterwards", "acknowledged" if voice.answered(whole) else "silence", "acknowledged",
                gateway.process.poll() is None and gateway.settled()["accepted"] == 1)


def flooded(bench, title, send_one, expected):
    """Memory before and after a flood of made-up ids."""
    seconds = bench.scaled(60)
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    if voice.ask() is None:
        raise Failed("a genuine packet is not acknowledged")
    target = gateway.udp
    stranger = bench.scope.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger.connect(target)
    send = send_one(stranger)
    # What a process touches once in its life is not growth: the pages of a full batch, and of the API that is asked.
    with Flood(send):
        time.sleep(1)
    gateway.settled()
    before, counted, used = gateway.resident(), gateway.datagrams(), gateway.processor_seconds()
    with Flood(send) as flood:
        time.sleep(seconds)
        resident = gateway.resident()
    results = since(counted, gateway.settled())
    used = gateway.processor_seconds() - used
    after = max(resident, gateway.resident())
    total = sum(results.values())
    bench.check(f"{title}, {seconds} s: memory", mebibytes(after - before), "< 1 MiB", after - before < 1 << 20)
    bench.check("datagrams, and what became of them", f"{total}", "all of " + " ".join(sorted(expected)),
                total > 0 and set(results) <= expected | {"dropped"})
    bench.note(f"{total / seconds:.0f} a second of {flood.count.value / seconds:.0f} sent, {used / max(1, total) * 1e6:.2f} us of "
               f"processor time each; {results}")
    bench.check("a genuine packet afterwards", "acknowledged" if voice.ask() is not None else "silence", "acknowledged",
                gateway.process.poll() is None)


def unknown_networks(bench):
    def sender(stranger):
        def send():
            for frame in frames:
                stranger.send(frame)
            return len(frames)

        chance = random.Random(4)
        # Networks and types at random; every id there is comes about sooner or later, but for the one that is served.
        frames = [header(chance.randrange(256), chance.randrange(0x8000), chance.randrange(1, 1 << 24), chance.randrange(1 << 64),
                         gps_now(), chance.randrange(1 << 16), 0) + chance.randbytes(30) for _ in range(20_000)]
        return send

    flooded(bench, "unknown networks and types", sender, {"unknown_network"})


def unknown_devices(bench):
    def sender(stranger):
        head = bytearray(header(TDF, DEVICE_KEY | ACK_REQUEST, 0x123456, 0, gps_now(), 0, 0) + bytes(30))
        state = [1]

        def send():
            # A device id that never came before, each time: an odd factor goes through all of them.
            for _ in range(256):
                state[0] += 1
                struct.pack_into("<Q", head, 6, state[0] * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF)
                stranger.send(head)
            return 256

        return send

    flooded(bench, "a new unknown device each time", sender, {"unknown_device"})


def bad_tags(bench):
    """Times to an acknowledgement, in turns with and without a flood of bad tags. Of each kind of turn the one in the middle counts,
    so that what else the machine does now and then decides nothing."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    voice = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    stranger = bench.scope.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger.connect(gateway.udp)
    chance = random.Random(5)
    known, now = voice.device.id, gps_now()
    # Half of today, half of any day: each of those wants a key derived.
    frames = [header(TDF, ACK_REQUEST, NETWORK, known, now if index % 2 else chance.randrange(2**32), index & 0xFFFF, 1)
              + chance.randbytes(30) for index in range(20_000)]
    at = [0]

    def send():
        for frame in frames[at[0]:at[0] + 32]:
            stranger.send(frame)
        at[0] = (at[0] + 32) % (len(frames) - 32)
        return 32

    # Of what it refuses on this machine, a fourth: beyond that the queue decides, and no longer the gateway.
    counted, used, start = gateway.settled(), gateway.processor_seconds(), time.monotonic()
    with Flood(send):
        time.sleep(1)
    of_flood = since(counted, gateway.settled(60))
    refused = sum(of_flood.values())
    cost = (gateway.processor_seconds() - used) / max(1, refused)
    rate = int(min(100_000, 0.25 * refused / (time.monotonic() - start)))
    turns, asks = bench.scaled(20), 300
    times = {False: [], True: []}
    before = gateway.settled()
    flooded_seconds, sent = 0.0, 0
    # The one who measures is not to wait for the processor behind the one who floods.
    with real_time():
        for turn in range(2 * turns):
            on = turn % 2 == 1
            packets = [voice.device.packet(flags=ACK_REQUEST) for _ in range(asks)]
            taken_in_turn = []
            with Flood(send, rate) if on else contextlib.nullcontext() as flood:
                start = time.monotonic()
                for packet in packets:
                    taken = voice.answered(packet)
                    taken_in_turn.append(2.0 if taken is None else taken)
                    time.sleep(0.002)
                    if taken_in_turn[-3:] == [2.0] * 3:
                        raise Failed("three packets in a row are not acknowledged")
                times[on].append(taken_in_turn)
                if on:
                    flooded_seconds += time.monotonic() - start
                    sent += flood.count.value
    results = since(before, gateway.settled())
    # Microseconds of the turn in the middle, with and without.
    figures = {on: [percentile([percentile(turn, share) for turn in times[on]], 0.5) * 1e6 for share in (0.5, 0.99)] for on in times}
    bench.note(f"medians {figures[False][0]:.0f} -> {figures[True][0]:.0f} us at {sent / flooded_seconds:.0f} bad datagrams a second, "
               f"{cost * 1e6:.2f} us of processor time each; {results}")
    accepted = results.get("accepted", 0)
    bench.check("genuine packets counted", f"{accepted}", f"{2 * turns * asks}", accepted == 2 * turns * asks)
    limited = of_flood.get("day_limited", 0)
    bench.check(f"of {refused} bad datagrams in 1 s, of unusual days", f"{limited} refused unopened", "> 0", limited > 0)
    if figures[False][1] > QUIET * figures[False][0]:
        raise Unavailable(f"p99 needs a quieter machine: without any flood it is {figures[False][1]:.0f} us at a median of "
                          f"{figures[False][0]:.0f} us")
    ratio = figures[True][1] / figures[False][1]
    bench.check(f"p99 to an acknowledgement, {turns} turns of {asks} each",
                f"{figures[False][1]:.0f} -> {figures[True][1]:.0f} us: {ratio:.2f}x", "at most 2x", ratio <= 2)


@contextlib.contextmanager
def real_time():
    """Goes before every ordinary process, but for those that are started meanwhile. Not needed where each has a core to itself."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
    except PermissionError as why:
        if len(os.sched_getaffinity(0)) < 4:
            raise Unavailable("needs 4 cores, or the right to go before other processes") from why
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def amplification(bench):
    """Bytes to and from each address that is not proved, as they pass the socket."""
    gateway = bench.scope.enter_context(Gateway(bench.program, bench.path("data")))
    home = bench.scope.enter_context(contextlib.closing(Voice(gateway, 1)))
    if home.ask() is None:
        raise Failed("a genuine packet is not acknowledged")
    now = gps_now()

    def forms(device):
        yield "asks", device.packet(b"\x00", ACK_REQUEST)
        yield "asks, smallest", device.packet(b"", ACK_REQUEST)
        yield "no time", device.packet(b"", gps_time=epacket.NO_TIME_START + 20 + device.sequence)
        yield "no time, asks", device.packet(b"", ACK_REQUEST, gps_time=epacket.NO_TIME_START + 50 + device.sequence)
        yield "old", device.packet(b"", ACK_REQUEST, gps_time=now - 100_000)
        yield "future", device.packet(b"", ACK_REQUEST, gps_time=now + 100_000)
        yield "boot", device.boot()
        yield "boot without time", device.boot(gps_time=epacket.NO_TIME_START + 3)

    worst, worst_ack, sockets = (0.0, ""), 0.0, []
    with contextlib.ExitStack() as open_ones:
        for number in range(bench.scaled(500)):
            # Half of them claim to be the device that is known and elsewhere, half are nobody's.
            device = home.device if number % 2 else Device(1000 + number)
            forms_of = list(forms(device))
            for name, frame in (forms_of[number // 2 % len(forms_of)], forms_of[(number // 2 + 3) % len(forms_of)]):
                elsewhere = open_ones.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                elsewhere.connect(gateway.udp)
                elsewhere.send(frame)
                sockets.append((name, frame, elsewhere))
        eventually(lambda: False, 2)
        for name, frame, elsewhere in sockets:
            out = 0
            while select.select([elsewhere], [], [], 0)[0]:
                answer = elsewhere.recv(2048)
                out += len(answer)
                if "asks" in name and answer[0] == epacket.ACK and len(frame) > epacket.SMALLEST:
                    worst_ack = max(worst_ack, len(answer) / len(frame))
            worst = max(worst, (out / len(frame), name))
    bench.check(f"bytes out to bytes in, the most of {len(sockets)} addresses", f"{worst[0]:.2f}x ({worst[1]})", "at most 3x",
                0 < worst[0] <= 3)
    bench.check("an acknowledgement to the smallest packet with a payload", f"{worst_ack:.3f}x", "40 / 39 = 1.026x",
                abs(worst_ack - 40 / 39) < 0.001)


ROWS = [
    Row(1, "spoofed", "strangers with forged source addresses", spoofed),
    Row(8, "lengths", "lengths that no frame has", lengths),
    Row(10, "unknown-networks", "a flood of unknown networks and types", unknown_networks),
    Row(11, "unknown-devices", "a flood of unknown devices", unknown_devices),
    Row(12, "bad-tags", "a flood of bad tags and random days under known ids", bad_tags),
    Row(14, "amplification", "bytes sent to addresses that are not proved", amplification),
]
