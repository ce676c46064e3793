"""Frames of ePacket v0 as devices send them (docs/protocol.md), with nothing but the standard library.

Slow, some 3 000 small frames a second: what is sent fast is sealed before, or needs no seal.
"""

import hashlib
import hmac
import os
import struct
import time
from functools import lru_cache

GPS_EPOCH = 315_964_800
LEAP_SECONDS = 18
NO_TIME_START = 1_261_872_018

ECHO_REQ, ECHO_RSP, TDF, ACK, RECEIVED_EPACKET, KEY_IDS = 0, 1, 2, 8, 7, 127
DEVICE_KEY, ACK_REQUEST, SINGLE_TX, ALWAYS_RX = 0x8000, 0x4000, 0x0002, 0x0001

# Type, flags, key id, upper and lower half of the device id, gps_time, sequence, entropy.
HEADER = struct.Struct("<BH3sIIIHH")
ASSOCIATED, TAG = 10, 16
SMALLEST = HEADER.size + TAG

# The factory network, whose key is public.
NETWORK = 0x000000
NETWORK_KEY = bytes(range(32))


def gps_now():
    return int(time.time()) - GPS_EPOCH + LEAP_SECONDS


def header(kind, flags, key_id, device, gps_time, sequence, entropy):
    upper, lower = device >> 32, device & 0xFFFF_FFFF
    return HEADER.pack(kind, flags, key_id.to_bytes(3, "little"), upper, lower, gps_time, sequence, entropy)


class Header:
    """The fields of a frame."""

    def __init__(self, frame):
        self.kind, self.flags, key_id, upper, lower, self.gps_time, self.sequence, self.entropy = HEADER.unpack_from(frame)
        self.key_id = int.from_bytes(key_id, "little")
        self.device = upper << 32 | lower


@lru_cache(maxsize=64)
def day_key(root, day, interface=b"udp"):
    """HKDF-SHA256 of one block."""
    extracted = hmac.digest(struct.pack("<I", day), root, hashlib.sha256)
    return hmac.digest(extracted, interface + b"\x01", hashlib.sha256)


def seal(head, payload, root=NETWORK_KEY):
    """The frame of a header and a payload."""
    key = day_key(root, Header(head).gps_time // 86_400)
    sealed = chacha20(key, 1, head[ASSOCIATED:], payload)
    return head + sealed + tag(key, head, sealed)


def open_frame(frame, root=NETWORK_KEY):
    """Header and payload of a frame, or nothing if its tag does not fit."""
    head, sealed, found = frame[: HEADER.size], frame[HEADER.size : -TAG], frame[-TAG:]
    if len(frame) < SMALLEST:
        return None
    key = day_key(root, Header(head).gps_time // 86_400)
    if not hmac.compare_digest(tag(key, head, sealed), found):
        return None
    return Header(head), chacha20(key, 1, head[ASSOCIATED:], sealed)


def tag(key, head, sealed):
    """Poly1305 over the associated data and the ciphertext (RFC 8439, 2.8)."""
    one_time = chacha20(key, 0, head[ASSOCIATED:], bytes(32))
    associated = head[:ASSOCIATED]
    data = padded(associated) + padded(sealed) + struct.pack("<QQ", len(associated), len(sealed))
    r = int.from_bytes(one_time[:16], "little") & 0x0FFF_FFFC_0FFF_FFFC_0FFF_FFFC_0FFF_FFFF
    s = int.from_bytes(one_time[16:], "little")
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at : at + 16] + b"\x01", "little")) * r % ((1 << 130) - 5)
    return ((total + s) & ((1 << 128) - 1)).to_bytes(16, "little")


def padded(data):
    return data + bytes(-len(data) % 16)


def chacha20(key, counter, nonce, data):
    """The key stream from block `counter` on, laid over `data` (RFC 8439, 2.4)."""
    out = bytearray()
    for at in range(0, len(data), 64):
        stream = block(key, counter + at // 64, nonce)
        out += bytes(left ^ right for left, right in zip(data[at : at + 64], stream))
    return bytes(out)


COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)


def block(key, counter, nonce):
    start = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    state = list(start)
    mask = 0xFFFF_FFFF
    for _ in range(10):
        for a, b, c, d in COLUMNS_AND_DIAGONALS:
            for first, second, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[first] = (state[first] + state[second]) & mask
                turned = state[third] ^ state[first]
                state[third] = (turned << by | turned >> (32 - by)) & mask
    return struct.pack("<16I", *((one + other) & mask for one, other in zip(state, start)))


class Device:
    """A device of the factory network that sends under the network's key."""

    def __init__(self, number, upper=0xD0FA_0001):
        self.id = upper << 32 | number
        self.sequence = -1

    @property
    def text(self):
        return f"{self.id:016x}"

    def packet(self, payload=b"\x00", flags=0, kind=TDF, gps_time=None, sequence=None):
        """The next frame, at the present time."""
        if sequence is None:
            self.sequence = (self.sequence + 1) & 0xFFFF
            sequence = self.sequence
        gps_time = gps_now() if gps_time is None else gps_time
        entropy = int.from_bytes(os.urandom(2), "little")
        return seal(header(kind, flags, NETWORK, self.id, gps_time, sequence, entropy), payload)

    def boot(self, **how):
        """The first frame after a boot: KEY_IDS of a key that is not known."""
        self.sequence = -1
        return self.packet(b"\x01\x02\x03", kind=KEY_IDS, **how)
