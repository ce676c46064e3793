"""What check-api.toml cannot say: MessagePack, records that are there, waits that are short, values that go together.

Everything here keeps what is right in a request right, and what is wrong in it wrong.
"""

import itertools
import os
import re

import msgpack
import requests
import schemathesis

MESSAGE_PACK = "application/msgpack"

# Long enough to wait at all, short enough for thousands of waits.
WAIT_MS = 20
LONGEST_WAIT_MS = 600_000

LONGEST_SEND_WAIT_MS = 31_536_000_000
CUSTOMERS = 200
# No command from here on has a name.
NAMELESS_COMMANDS = 32768

DEVICE_ID = re.compile("[0-9a-fA-F]{16}")
CURSOR = re.compile("([0-9]{1,20})-([0-9]{1,20})")
RECORD_ID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

API = os.environ["CHECK_API"]
HEADERS = {"Authorization": f"ApiKey {os.environ['CHECK_API_KEY']}"}
numbers = itertools.count(1)


@schemathesis.serializer(MESSAGE_PACK)
def packed(_, value):
    if isinstance(value, bytes):
        return value
    return msgpack.packb(packable(value), default=str, unicode_errors="surrogatepass")


@schemathesis.deserializer(MESSAGE_PACK)
def unpacked(_, response):
    return msgpack.unpackb(response.content)


def packable(value):
    """The value with whole numbers that MessagePack has no form for as floating ones."""
    if isinstance(value, dict):
        return {name: packable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [packable(element) for element in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


def made(path, **body):
    """A new record."""
    answer = requests.post(API + path, json=body, headers=HEADERS, timeout=20)
    answer.raise_for_status()
    return answer.json()


def make(kind):
    """A new record of which nothing depends on."""
    n = next(numbers)
    if kind == "organisation":
        return made("/organisation", name=f"there {n}")
    if kind == "board":
        return made("/board", name=f"there {n}", description="", soc=f"soc {n}", organisationId=organisation["id"])
    if kind == "network":
        key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        owner = organisation["id"]
        return made("/network", name=f"there {n}", description="", key=key, organisationId=owner, public=False, networkId=n)
    if kind == "apiKey":
        return made("/apiKey", name=f"there {n}", access="read")
    if kind == "rpc":
        waiting = {"deviceId": os.environ["CHECK_API_DEVICE"], "sendWaitTimeoutMs": 60_000}
        return made("/rpc", rpc={"commandId": 9}, **waiting)
    if kind == "downlink":
        path = f"/device/deviceId/{os.environ['CHECK_API_DEVICE']}/downlink"
        return made(path, packetType=CUSTOMERS, payload="AA==", sendWaitTimeoutMs=60_000)
    return device_of(board, mcuId=f"{n:016x}")


def device_of(board, **fields):
    return made("/device", boardId=board["id"], organisationId=organisation["id"], **fields)


organisation = make("organisation")
board = make("board")
network = make("network")
# One that was heard, as others that are not registered were.
device = device_of(board, mcuId="0000000000000000", deviceId=os.environ["CHECK_API_DEVICE"])
THERE = {"organisation": organisation, "board": board, "network": network, "device": device, "apiKey": make("apiKey")}
THERE |= {kind: make(kind) for kind in ("rpc", "downlink")}
REFERENCES = {"organisationId": organisation["id"], "boardId": board["id"]}


def referring(value):
    """The value with records that are there, wherever it names one."""
    if isinstance(value, list):
        return [referring(element) for element in value]
    if not isinstance(value, dict):
        return value
    return {name: there(name, member) for name, member in value.items()}


def there(name, value):
    if name in REFERENCES and isinstance(value, str) and RECORD_ID.fullmatch(value):
        return REFERENCES[name]
    return referring(value)


def located(case, parameters):
    """The parts of a path with those of a record that is there; one that is to be deleted is new."""
    kind = case.operation.path.split("/")[1]
    record = make(kind) if case.method.upper() == "DELETE" else THERE.get(kind, {})
    parts = dict(parameters)
    if RECORD_ID.fullmatch(str(parts.get("id", ""))):
        parts["id"] = record["id"]
    if DEVICE_ID.fullmatch(str(parts.get("deviceId", ""))):
        parts["deviceId"] = device["deviceId"]
    if "mcuId" in parts:
        parts.update(soc=board["soc"], mcuId=device["mcuId"])
    return parts


def shortened(values):
    """The parameters of a wait, which is short whatever it was; 0 stays 0."""
    try:
        wait = float(values.get("timeoutMs", WAIT_MS))
    except (TypeError, ValueError):
        return values
    if wait != wait // 1 or not WAIT_MS <= wait <= LONGEST_WAIT_MS:
        return values
    return {**values, "timeoutMs": WAIT_MS}


def fitting(cursor):
    """A position whose numbers have 64 bits, which patterns have no words for."""
    found = CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    return "-".join(number[:19] for number in found.groups()) if found else cursor


def positioned(values):
    """A wait with positions that fit, for devices that it names: JSON Schema has no words for that."""
    after = values.get("after")
    if not isinstance(after, dict):
        return {**values, "after": fitting(after)} if after is not None else values
    values = {**values, "after": {name: fitting(cursor) for name, cursor in after.items()}}
    devices = values.get("deviceIds")
    if isinstance(devices, list) and devices:
        values["deviceIds"] = devices + [name for name in after if DEVICE_ID.fullmatch(name)]
    return values


def is_whole(value):
    """Whether a value is a whole number in either of its forms: 9 and 9.0."""
    return type(value) is int or (type(value) is float and value.is_integer())


def sendable(body):
    """A message that can be sent, whatever is in it: to a device that is there, in parts that go together, with a command that is
    known, and not for long in the way of others."""
    body = dict(body)
    if isinstance(body.get("deviceId"), str) and DEVICE_ID.fullmatch(body["deviceId"]):
        body["deviceId"] = device["deviceId"]
    if is_whole(body.get("sendWaitTimeoutMs", 0)) and 0 <= body.get("sendWaitTimeoutMs", 0) <= LONGEST_SEND_WAIT_MS:
        body["sendWaitTimeoutMs"] = 1
    if body.get("payload") == "":
        body["payload"] = "AA=="
    if body.get("retry") == "untilAnswered":
        if "packetType" in body:
            body["retry"] = "never"
        elif "sendWaitTimeoutMs" not in body:
            body["sendWaitTimeoutMs"] = 1
    if "ifRoute" in body:
        body["ifRoute"] = fitting(body["ifRoute"])
    if isinstance(body.get("rpc"), dict):
        body["rpc"] = callable_(dict(body["rpc"]), "data" in body)
    return body


def callable_(rpc, has_data):
    """A call of a command that is known, with parameters that fit, and with a header if the command moves data."""
    moves_data = has_data or "dataHeader" in rpc
    name, number = ("file_write", 44) if moves_data else ("application_info", 9)
    least = NAMELESS_COMMANDS
    if isinstance(rpc.get("commandName"), str):
        rpc["commandName"] = name
        least = 65536
    if isinstance(rpc.get("params"), dict):
        rpc["params"] = {}
    if is_whole(rpc.get("commandId")) and 0 <= rpc["commandId"] < least:
        rpc["commandId"] = number
    if has_data and isinstance(rpc.get("dataHeader"), dict):
        del rpc["dataHeader"]
    return rpc


def paired(values):
    """The parameters of a list without one of two that go together, which OpenAPI has no words for."""
    if ("metadataName" in values) == ("metadataValue" in values):
        return values
    return {name: value for name, value in values.items() if name not in ("metadataName", "metadataValue")}


def spared(case):
    """Whether what is to be deleted is a record that later requests need: ids are also taken from earlier answers."""
    needed = [record["id"] for record in THERE.values()]
    return case.method.upper() == "DELETE" and (case.path_parameters or {}).get("id") in needed


def halfway():
    """Every second time."""
    return next(turns) % 2 == 0


turns = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    query = paired(dict(case.query or {}))
    if (case.operation.path == "/rpc" or case.operation.path.endswith("/downlink")) and isinstance(case.body, dict):
        case.body = sendable(case.body)
    if case.operation.path in ("/rpc/{id}", "/downlink/{id}") and "timeoutMs" in query:
        query = shortened(query)
    if case.operation.path.endswith("/waitForPacket"):
        query = positioned(shortened(query)) if case.method.upper() == "GET" else query
        if isinstance(case.body, dict):
            case.body = positioned(shortened(case.body))
    elif halfway() or spared(case):
        query, case.body = referring(query), referring(case.body)
        if case.path_parameters:
            case.path_parameters = located(case, case.path_parameters)
    case.query = query
