"""A gateway as a process of its own, its API, and the places it runs in. Everything ends with the scope it was made in."""

import contextlib
import ctypes
import http.client
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from epacket import ACK, ACK_REQUEST, Device, ECHO_REQ, ECHO_RSP, open_frame

CONFIG = '[[network]]\nid = "000000"\nname = "factory"\n'
PATIENCE = 20.0
# Of clone(2) and unshare(2); the standard library has the name from Python 3.12 on only.
CLONE_NEWNET = 0x4000_0000
LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Something that a row needs is not here."""


class Failed(Exception):
    """A row could not be carried out to its end."""


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Unavailable(f"needs the program {tool}")


def sh(*command, check=True, **how):
    done = subprocess.run(command, capture_output=True, text=True, **how)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def eventually(look, patience=PATIENCE, every=0.05):
    """The first true value of `look`, and how long it took; nothing if none comes."""
    start = time.monotonic()
    while True:
        found = look()
        taken = time.monotonic() - start
        if found or taken > patience:
            return found, taken
        time.sleep(every)


class Namespace:
    """A network namespace. Sockets that are made inside stay there."""

    def __init__(self, name):
        self.name = name

    @contextlib.contextmanager
    def inside(self):
        with open("/proc/self/ns/net") as outside, open(f"/run/netns/{self.name}") as inside:
            enter(inside)
            try:
                yield
            finally:
                enter(outside)

    def sh(self, *command):
        return sh("ip", "netns", "exec", self.name, *command)

    def command(self, *command):
        return ["ip", "netns", "exec", self.name, *command]


def enter(file):
    if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise Failed(f"setns: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def two_namespaces(mtu=1500):
    """Two namespaces with a cable between them: 198.18.0.1, whose way out is the other one, and 198.18.0.2."""
    need("ip", "sysctl")
    names = [f"lastroute-{os.getpid()}-{end}" for end in ("gateway", "outside")]
    made = []
    try:
        for name in names:
            sh("ip", "netns", "add", name)
            made.append(name)
        gateway, outside = map(Namespace, names)
        cable = [f"lr{os.getpid()}{end}" for end in ("a", "b")]
        sh("ip", "link", "add", cable[0], "netns", names[0], "mtu", str(mtu),
           "type", "veth", "peer", "name", cable[1], "netns", names[1], "mtu", str(mtu))
        for place, end, address in ((gateway, cable[0], "198.18.0.1/24"), (outside, cable[1], "198.18.0.2/24")):
            place.sh("ip", "link", "set", "lo", "up")
            place.sh("ip", "address", "add", address, "dev", end)
            place.sh("ip", "link", "set", end, "up")
            place.sh("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", f"net.ipv4.conf.{end}.rp_filter=0")
        gateway.sh("ip", "route", "add", "default", "via", "198.18.0.2")
        yield gateway, outside, cable[1]
    finally:
        for name in made:
            sh("ip", "netns", "delete", name, check=False)


@contextlib.contextmanager
def small_disk(mebibytes):
    """A file system of its own in memory, of this size."""
    need("mount", "umount")
    path = tempfile.mkdtemp(prefix="lastroute-disk-")
    try:
        sh("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", path)
        try:
            yield path
        finally:
            sh("umount", "-l", path, check=False)
    finally:
        os.rmdir(path)


@contextlib.contextmanager
def control_group(controller, settings):
    """A control group with settings: of version 1, named as there, or of version 2."""
    version_1 = f"/sys/fs/cgroup/{controller}"
    root = version_1 if os.path.isdir(version_1) else "/sys/fs/cgroup"
    path = f"{root}/lastroute-{os.getpid()}-{controller}"
    wanted = settings[0] if root == version_1 else settings[1]
    try:
        os.mkdir(path)
    except OSError as error:
        raise Unavailable(f"needs control groups: {path}: {error.strerror}") from error
    try:
        try:
            for name, value in wanted.items():
                with open(f"{path}/{name}", "w") as file:
                    file.write(str(value))
        except OSError as error:
            raise Unavailable(f"needs the controller {controller} of control groups: {error.strerror}") from error
        yield path
    finally:
        if not eventually(lambda: not os.path.isdir(path) or removed(path), 5)[0]:
            raise Failed(f"{path} is left behind: processes of it did not end")


def removed(path):
    with contextlib.suppress(OSError):
        os.rmdir(path)
        return True
    return False


class Gateway:
    """`PROGRAM serve`, started anew as often as one likes over one directory of data."""

    def __init__(self, program, data, flags=(), config=CONFIG, place=None, udp="127.0.0.1:0", prefix=(), env=None):
        self.program, self.data, self.place = program, data, place
        self.config = f"{data}.toml"
        with open(self.config, "w") as file:
            file.write(config)
        self.flags, self.prefix, self.env = list(flags), list(prefix), env
        self.udp_wanted, self.http_wanted = udp, "127.0.0.1:0"
        self.process, self.lines = None, []

    def start(self, patience=PATIENCE):
        """Starts it and returns the seconds until it was ready."""
        command = [*self.prefix, self.program, "serve", "--config", self.config, "--data-dir", self.data,
                   "--udp-listen", self.udp_wanted, "--http-listen", self.http_wanted, *self.flags]
        if self.place:
            command = self.place.command(*command)
        start = time.monotonic()
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=self.env, **pipes)
        self.lines = []
        threading.Thread(target=self.read, args=(self.process.stderr, self.lines), daemon=True).start()
        try:
            _, taken = eventually(lambda: self.said("ready") or self.process.poll() is not None, patience, 0.005)
        except BaseException:
            # Nothing else knows of the process yet.
            self.kill()
            raise
        if not self.said("ready"):
            said = " | ".join(self.lines[-3:])
            self.kill()
            raise Failed(f"the gateway is not ready after {taken:.1f} s: {said}")
        self.udp = address(self.field("receiving", "listen"))
        self.http = address(self.field("ready", "http"))
        # The next start is to be found where this one was.
        self.udp_wanted = f"{self.udp[0]}:{self.udp[1]}"
        return time.monotonic() - start

    @staticmethod
    def read(pipe, lines):
        for line in pipe:
            if len(lines) < 10_000:
                lines.append(line.rstrip())

    def said(self, message):
        return any(f'"message":"{message}"' in line for line in self.lines)

    def field(self, message, name):
        line = next(line for line in self.lines if f'"message":"{message}"' in line)
        return json.loads(line)[name]

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def stop(self, patience=PATIENCE):
        """Stops it in order; returns its exit code and the seconds it took."""
        start = time.monotonic()
        self.signal(signal.SIGTERM)
        code = self.process.wait(patience)
        return code, time.monotonic() - start

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        if self.process:
            self.process.stderr.close()

    # What it says of itself.

    def connection(self, timeout=PATIENCE):
        connection = http.client.HTTPConnection(*self.http, timeout=timeout)
        with self.place.inside() if self.place else contextlib.nullcontext():
            connection.connect()
        return connection

    def request(self, method, path, body=None, timeout=PATIENCE):
        """Status, headers and body of the answer."""
        connection = self.connection(timeout)
        try:
            headers = {} if body is None else {"content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.request("GET", path)
        if status != 200:
            raise Failed(f"GET {path}: {status} {body[:200]}")
        return body

    def metrics(self):
        """Samples by name and labels, as they are written."""
        samples = re.findall(r"^(\w+(?:\{[^}]*\})?) ([0-9.eE+-]+)$", self.get("/metrics"), re.M)
        return {name: float(value) for name, value in samples}

    def datagrams(self):
        """Datagrams by result, and those that the kernel dropped as `dropped`."""
        metrics = self.metrics()
        results = re.compile(r'lastroute_udp_datagrams_total\{result="(\w+)"\}')
        found = {match[1]: int(value) for name, value in metrics.items() if (match := results.fullmatch(name))}
        return found | {"dropped": int(metrics["lastroute_udp_kernel_drops_total"])}

    def unread(self):
        """Bytes of datagrams that have arrived and were not read yet, as the kernel counts them."""
        with open(f"/proc/{self.pid}/net/udp") as file:
            sockets = [line.split() for line in file][1:]
        local = f"{int.from_bytes(socket.inet_aton(self.udp[0]), 'little'):08X}:{self.udp[1]:04X}"
        return sum(int(fields[4].split(":")[1], 16) for fields in sockets if fields[1] == local)

    def settled(self, patience=PATIENCE):
        """The datagrams by result once nothing is left to read and their number stands still."""
        last = [None]

        def still():
            waiting, now = self.unread(), self.datagrams()
            same, last[0] = waiting == 0 and now == last[0], now
            return same

        if not eventually(still, patience, 0.2)[0]:
            raise Failed(f"the datagrams do not settle within {patience:.0f} s: {self.unread()} bytes are not read, {last[0]}")
        return last[0]

    def last_route(self, device):
        """The address of the direct route; nothing for a device that is not known."""
        status, _, body = self.request("GET", f"/device/deviceId/{device.text}/lastRoute")
        return json.loads(body).get("udp", {}).get("address") if status == 200 else None

    def register(self, devices):
        """Registers devices with a new organisation and board."""
        def made(path, body):
            status, _, answer = self.request("POST", path, body)
            if status not in (200, 201):
                raise Failed(f"POST {path}: {status} {answer[:200]}")
            return json.loads(answer)

        organisation = made("/organisation", {"name": "Acme"})["id"]
        board = made("/board", {"name": "tag", "description": "", "soc": "nRF9151", "organisationId": organisation})["id"]
        for device in devices:
            made("/device", {"deviceId": device.text, "mcuId": device.text, "organisationId": organisation, "boardId": board})

    def troubles(self):
        """What is degraded, by part."""
        return json.loads(self.get("/readyz")).get("degraded", {})

    def memory(self, name):
        """Bytes of memory by the name that the kernel gives them."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))

    def resident(self):
        """Bytes of memory that are resident."""
        return self.memory("VmRSS")

    def resident_from_now_on(self):
        """The same, from where `most_resident` counts on."""
        with open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write("5")
        return self.resident()

    def most_resident(self):
        """The most bytes that were resident at any time."""
        return self.memory("VmHWM")

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def since(before, now):
    """What was counted between two looks."""
    return {name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name, 0)}


class Voice:
    """A device with a socket, which hears its acknowledgements and answers when it is asked for an echo."""

    def __init__(self, gateway, number, place=None):
        self.device = Device(number)
        with place.inside() if place else contextlib.nullcontext():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(gateway.udp)
        self.socket.settimeout(2)
        # Every frame it sent, and the nonce of every one that it heard.
        self.recorded, self.heard = [], []

    @property
    def address(self):
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def say(self, frame=None, **how):
        frame = self.device.packet(**how) if frame is None else frame
        self.recorded.append(frame)
        self.socket.send(frame)
        return frame

    def ask(self, payload=b"\x00", flags=0, **how):
        """Sends a packet until it is acknowledged; returns the seconds of the one that was, or nothing."""
        for _ in range(3):
            frame = self.device.packet(payload, flags | ACK_REQUEST, **how)
            self.recorded.append(frame)
            taken = self.answered(frame)
            if taken is not None:
                return taken
        return None

    def answered(self, frame, timeout=2.0):
        """Sends a frame and returns the seconds until its acknowledgement, if one comes."""
        start = time.perf_counter()
        try:
            self.socket.send(frame)
            while (left := start + timeout - time.perf_counter()) > 0:
                self.socket.settimeout(left)
                answer = self.socket.recv(2048)
                now = time.perf_counter()
                # Bytes 18 and 19 are the sequence of what is acknowledged.
                opened = open_frame(answer)
                self.heard.append(answer[10:22])
                if opened and opened[0].kind == ECHO_REQ:
                    self.socket.send(self.device.packet(opened[1], kind=ECHO_RSP))
                if opened and opened[0].kind == ACK and opened[1] == frame[18:20]:
                    return now - start
        except (TimeoutError, ConnectionRefusedError):
            pass
        return None

    def close(self):
        self.socket.close()


class Flood:
    """A process that sends as fast as it can, or at a rate, until it is stopped. `send` is called again and again, and returns
    how many datagrams it sent."""

    def __init__(self, send, rate=None, core=None):
        self.count = multiprocessing.Value("Q", 0)
        self.process = multiprocessing.Process(target=self.run, args=(send, rate, core), daemon=True)

    def run(self, send, rate, core):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if core is not None:
            os.sched_setaffinity(0, {core})
        start = time.monotonic()
        while True:
            if rate and self.count.value > (time.monotonic() - start) * rate:
                time.sleep(0.001)
                continue
            self.count.value += send()

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def mebibytes(count):
    return f"{count / (1 << 20):+.2f} MiB"
