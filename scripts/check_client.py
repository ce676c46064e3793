"""Uses a gateway through the published client. Called by check-client: PROGRAM API UDP DIRECTORY."""

import argparse
import atexit
import base64
import contextlib
import datetime
import io
import re
import secrets
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from infuse_iot.api_client import Client, models
from infuse_iot.api_client.api.board import create_board, get_board_by_id, get_boards, get_devices_by_board_id
from infuse_iot.api_client.api.default import get_health
from infuse_iot.api_client.api.device import (
    create_device,
    get_device_application_state_by_device_id,
    get_device_by_device_id,
    get_device_by_id,
    get_device_by_soc_and_mcu_id,
    get_device_last_route_by_device_id,
    get_device_state_by_device_id,
    get_device_state_by_id,
    get_devices,
    get_devices_and_states,
    get_last_routes_for_devices,
    update_device_by_id,
    update_device_state_by_id,
)
from infuse_iot.api_client.api.key import derive_device_key, get_device_shared_secret, get_public_key
from infuse_iot.api_client.api.network import create_network, get_networks
from infuse_iot.api_client.api.organisation import (
    create_organisation,
    get_all_organisations,
    get_organisation_by_id,
    get_organisation_by_name,
)
from infuse_iot.api_client.api.rpc import get_rp_cs, get_rpc_by_id, send_rpc
from infuse_iot.api_client.models.get_boards_order_by import GetBoardsOrderBy
from infuse_iot.api_client.models.get_devices_and_states_order_by import GetDevicesAndStatesOrderBy
from infuse_iot.api_client.models.get_devices_order_by import GetDevicesOrderBy
from infuse_iot.api_client.models.get_networks_order_by import GetNetworksOrderBy
from infuse_iot.api_client.models.get_rp_cs_order_by import GetRPCsOrderBy
from infuse_iot.credentials import get_api_auth_header
from infuse_iot.tools import rpc_cloud
from infuse_iot.util.crypto import chachapoly_encrypt, hkdf_derive

program, api, udp, directory = sys.argv[1:]
key = (Path(directory) / "api.keys").read_text().strip()
client = Client(base_url=api).with_headers(get_api_auth_header(key))
checked = 0


def check(condition, what):
    global checked
    checked += 1
    if not condition:
        sys.exit(f"check-client: {what}")


def answered(status, response, kind):
    """The parsed body of an answer, which has this status and parses as this."""
    check(response.status_code == status, f"{response.status_code} instead of {status}: {response.content}")
    check(isinstance(response.parsed, kind), f"{response.content} was not parsed as {kind.__name__}")
    return response.parsed


def refused(status, response):
    error = answered(status, response, models.Error)
    check(error.code == status, f"code {error.code} in an answer with the status {status}")


def organisations():
    name = "Acme / Ümläut & Söhne"
    made = answered(
        201, create_organisation.sync_detailed(client=client, body=models.NewOrganisation(name)), models.Organisation
    )
    refused(409, create_organisation.sync_detailed(client=client, body=models.NewOrganisation(name)))
    check(get_organisation_by_id.sync(made.id, client=client) == made, "an organisation is found by its id")
    check(get_organisation_by_name.sync(name, client=client) == made, "a name with a slash is found")
    refused(404, get_organisation_by_name.sync_detailed("nobody", client=client))
    refused(404, get_organisation_by_id.sync_detailed(uuid.uuid4(), client=client))
    check(get_all_organisations.sync(client=client) == [made], "every organisation is listed")
    return made.id


def boards(organisation):
    fields = [models.MetadataField("serial", required=True, unique=True)]
    new = models.NewBoard("sensor", "a board", "nRF9151", organisation, metadata_fields=fields)
    made = answered(201, create_board.sync_detailed(client=client, body=new), models.Board)
    refused(409, create_board.sync_detailed(client=client, body=new))
    dangling = models.NewBoard("other", "", "nRF9151", uuid.uuid4())
    refused(422, create_board.sync_detailed(client=client, body=dangling))
    check(get_board_by_id.sync(made.id, client=client) == made, "a board is found by its id")
    refused(404, get_board_by_id.sync_detailed(uuid.uuid4(), client=client))
    for order in GetBoardsOrderBy:
        listed = get_boards.sync(client=client, organisation_id=organisation, order_by=order, include_public=True)
        check(listed == [made], f"boards are listed by {order}")
    return made.id


def networks(organisation):
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    new = models.NewNetwork("fleet", "a network", key, organisation, network_id=0x000A17, public=False)
    made = answered(201, create_network.sync_detailed(client=client, body=new), models.Network)
    refused(409, create_network.sync_detailed(client=client, body=new))
    for order in GetNetworksOrderBy:
        listed = get_networks.sync(client=client, organisation_id=organisation, order_by=order)
        check(listed == [made], f"networks are listed by {order}")
    path = Path(directory) / "network.key"
    path.write_text(made.key)
    return path


def metadata(**values):
    return models.DeviceMetadata.from_dict(values)


def devices(organisation, board):
    state = models.NewDeviceState(application_id=7, application_version=models.ApplicationVersion(1, 2, 3, 4))
    new = models.NewDevice(
        "00aabb3344556677", board, organisation, "51a0000100000000", metadata(serial="1"), initial_device_state=state
    )
    made = answered(201, create_device.sync_detailed(client=client, body=new), models.Device)
    refused(409, create_device.sync_detailed(client=client, body=new))
    refused(422, create_device.sync_detailed(client=client, body=models.NewDevice("00aa", board, organisation)))
    refused(400, create_device.sync_detailed(client=client, body=models.NewDevice("hex", board, organisation)))
    lookups = [
        get_device_by_id.sync(made.id, client=client),
        get_device_by_device_id.sync(made.device_id, client=client),
        get_device_by_soc_and_mcu_id.sync("nRF9151", "00AABB3344556677", client=client),
    ]
    check(lookups == [made] * 3, "a device is found in each of three ways")
    refused(404, get_device_by_soc_and_mcu_id.sync_detailed("nRF/91%51", "00aa", client=client))
    # As a factory provisions: looked up, not there, made without an id, looked up again.
    refused(404, get_device_by_soc_and_mcu_id.sync_detailed("nRF9151", "1122334455667788", client=client))
    provisioned = models.NewDevice("1122334455667788", board, organisation, metadata=metadata(serial="2"))
    provisioned = answered(201, create_device.sync_detailed(client=client, body=provisioned), models.Device)
    found = get_device_by_soc_and_mcu_id.sync("nRF9151", "1122334455667788", client=client)
    check(found == provisioned and int(found.device_id, 16) != 0, "a provisioned device has an id of its own")
    for order in GetDevicesOrderBy:
        listed = get_devices.sync(client=client, organisation_id=organisation, board_ids=[board], order_by=order)
        check(len(listed) == 2, f"devices are listed by {order}")
    one = {"metadata_name": "serial", "metadata_value": "2"}
    check(get_devices.sync(client=client, organisation_id=organisation, **one) == [provisioned], "one is filtered out")
    check(get_devices_by_board_id.sync(board, client=client, **one) == [provisioned], "also of the board's devices")
    refused(404, get_devices_by_board_id.sync_detailed(uuid.uuid4(), client=client))
    return made, provisioned


def updates(device):
    def update(operation, values):
        change = models.DeviceMetadataUpdate(models.DeviceMetadataUpdateOperation(operation), metadata(**values))
        return update_device_by_id.sync_detailed(device.id, client=client, body=models.DeviceUpdate(change))

    patched = answered(200, update("patch", {"place": "roof"}), models.Device)
    check(patched.metadata.to_dict() == {"serial": "1", "place": "roof"}, "a patch merges")
    # The client parses neither 409 nor 422 here.
    check(update("replace", {"place": "roof"}).status_code == 422, "what the board requires cannot go")
    check(update("replace", {"serial": "2"}).status_code == 409, "nor be that of another device")
    replaced = answered(200, update("replace", {"serial": "3"}), models.Device)
    check(replaced.metadata.to_dict() == {"serial": "3"}, "a replacement drops what is not given")
    empty = update_device_by_id.sync_detailed(device.id, client=client, body=models.DeviceUpdate())
    answered(200, empty, models.Device)
    refused(404, update_device_by_id.sync_detailed(uuid.uuid4(), client=client, body=models.DeviceUpdate()))


def states(device):
    first = answered(200, get_device_state_by_id.sync_detailed(device.id, client=client), models.DeviceState)
    check((first.application_id, first.application_version.build_num) == (7, 4), "the first state is the one given")
    check(not first.last_route_time, "nothing was heard yet")
    body = models.NewDeviceState(application_id=8, algorithms=[models.Algorithm(1, 2)])
    changed = answered(
        200, update_device_state_by_id.sync_detailed(device.id, client=client, body=body), models.DeviceState
    )
    check(changed.application_id == 8 and changed.algorithms[0].version == 2, "the state is set")
    refused(404, get_device_state_by_device_id.sync_detailed("0" * 16, client=client))
    refused(404, get_device_application_state_by_device_id.sync_detailed(device.device_id, client=client))


def speak(network_key):
    """Has the device speak, and answer what it is asked, until this program ends."""
    simulate = [program, "simulate", "--gateway", udp, "--devices", "1", "--network", "000a17"]
    simulate += ["--network-key-file", str(network_key), "--cadence", "200ms", "--duration", "5m"]
    speaking = subprocess.Popen(simulate, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(speaking.terminate)


def routes(device, network_key):
    refused(404, get_device_last_route_by_device_id.sync_detailed(device.device_id, client=client))
    speak(network_key)
    for _ in range(100):
        if get_device_last_route_by_device_id.sync_detailed(device.device_id, client=client).status_code == 200:
            break
        time.sleep(0.1)
    route = get_device_last_route_by_device_id.sync(device.device_id, client=client)
    check(route.interface == models.RouteType.UDP and route.udp.address.startswith("127.0.0.1:"), "it has a route")
    body = models.GetLastRoutesForDevicesBody([device.device_id, "0" * 16])
    routes = get_last_routes_for_devices.sync(client=client, body=body)
    check([entry.device_id for entry in routes] == [device.device_id], "only the device that was heard is listed")
    state = get_device_state_by_device_id.sync(device.device_id, client=client)
    check(state.last_route_udp_address == route.udp.address and state.first_packet_time, "its state says so too")


APPLICATION_INFO = 9


def send(device_id, wait_ms, **rpc):
    body = models.NewRPCMessage(device_id, models.NewRPCReq(**rpc), wait_ms)
    return send_rpc.sync_detailed(client=client, body=body)


def completed(id):
    """A message once it is, or as it is after 10 s."""
    for _ in range(100):
        message = answered(200, get_rpc_by_id.sync_detailed(id, client=client), models.RpcMessage)
        if message.downlink_message.status == models.DownlinkMessageStatus.COMPLETED:
            break
        time.sleep(0.1)
    return message


def expired(id):
    """A message after its time."""
    message = answered(200, get_rpc_by_id.sync_detailed(id, client=client), models.RpcMessage)
    while datetime.datetime.now(tz=datetime.timezone.utc) <= message.downlink_message.expires_at:
        time.sleep(0.1)
    return answered(200, get_rpc_by_id.sync_detailed(id, client=client), models.RpcMessage)


def calls(device, silent, organisation):
    refused(400, send("0" * 16, 60_000, command_id=APPLICATION_INFO))
    refused(400, send(device.device_id, 60_000))
    refused(404, get_rpc_by_id.sync_detailed(uuid.uuid4(), client=client))
    begun = datetime.datetime.now(tz=datetime.timezone.utc) - datetime.timedelta(seconds=1)
    held = answered(201, send(silent.device_id, 60_000, command_id=APPLICATION_INFO), models.CreatedRpcMessage)
    waiting = answered(200, get_rpc_by_id.sync_detailed(held.id, client=client), models.RpcMessage)
    check(waiting.device.id == silent.id == waiting.downlink_message.device_id, "a message names the record of its device")
    check(waiting.downlink_message.status == models.DownlinkMessageStatus.WAITING, "it waits for its device")
    check(not waiting.downlink_message.sent_at and not waiting.downlink_message.rpc_req.route, "it is not sent yet")
    refused(400, send(silent.device_id, 0, command_id=APPLICATION_INFO))
    made = answered(201, send(device.device_id, 60_000, command_id=APPLICATION_INFO), models.CreatedRpcMessage)
    message = completed(made.id).downlink_message
    check(message.status == models.DownlinkMessageStatus.COMPLETED, f"it is answered, and not {message.status}")
    check(message.rpc_rsp.return_code == 0, "the device has carried it out")
    check(message.rpc_req.route.udp.address == message.rpc_rsp.route.udp.address, "it went to where the answer came from")
    check(message.sent_at <= message.completed_at <= message.expires_at, "its times are in order")
    at_once = answered(201, send(device.device_id, 0, command_name="application_info"), models.CreatedRpcMessage)
    message = completed(at_once.id).downlink_message
    check(message.status == models.DownlinkMessageStatus.COMPLETED, f"what is sent at once is answered, and not {message.status}")
    short = answered(201, send(silent.device_id, 1, command_id=40_000, params_encoded="AAEC"), models.CreatedRpcMessage)
    message = expired(short.id).downlink_message
    check(message.status == models.DownlinkMessageStatus.WAITING, "what has expired is not sent any more")
    for order in GetRPCsOrderBy:
        listed = get_rp_cs.sync(client=client, organisation_id=organisation, order_by=order)
        check({entry.id for entry in listed} == {held.id, made.id, at_once.id, short.id}, f"messages are listed by {order}")
    for filters, expected in [
        ({}, [short, at_once, made, held]),
        ({"device_id": device.device_id}, [at_once, made]),
        ({"status": models.DownlinkMessageStatus.COMPLETED}, [at_once, made]),
        ({"rpc_command_id": 40_000}, [short]),
        ({"show_expired": False}, [at_once, made, held]),
        ({"start_time": begun, "limit": 1}, [short]),
        ({"end_time": begun}, []),
    ]:
        listed = [entry.id for entry in get_rp_cs.sync(client=client, **filters)]
        check(listed == [entry.id for entry in expected], f"messages are filtered by {filters}")


def tool(*words):
    """What the client's own command says, which has the address of its service built in."""
    parser = argparse.ArgumentParser()
    rpc_cloud.SubCommand.add_parser(parser)
    rpc_cloud.Client = lambda base_url: Client(base_url=api)
    rpc_cloud.get_api_auth_header = lambda: get_api_auth_header(key)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        rpc_cloud.SubCommand(parser.parse_args(words)).run()
    return said.getvalue()


def commands(device, silent):
    def queued(device, seconds):
        said = tool("queue", "--id", device.device_id, "--queue-timeout", seconds, "application_info")
        return re.search("--id ([0-9a-f-]{36})", said)[1]

    check("State: waiting" in tool("query", "--id", queued(silent, "60")), "the command shows a message that waits")
    id = queued(silent, "1")
    expired(uuid.UUID(id))
    check("State: expired" in tool("query", "--id", id), "the command shows one that has expired")
    id = queued(device, "60")
    completed(uuid.UUID(id))
    said = tool("query", "--id", id)
    check("Result: 0" in said and "Application: 0x" in said, f"the command shows the answer: {said}")


def security_state(device, pair, cloud, challenge):
    """What a device with this key pair answers to security_state."""
    public = pair.public_key().public_bytes_raw()
    header = cloud + public + struct.pack("<IB", 0x000A17, 0)
    root = pair.exchange(X25519PublicKey.from_public_bytes(cloud))
    identity = challenge + bytes.fromhex(device.mcu_id).ljust(16, b"\0") + struct.pack("<Q", int(device.device_id, 16))
    nonce = secrets.token_bytes(12)
    sealed = chachapoly_encrypt(hkdf_derive(root, b"\x34\x12\0\0", b"sign"), header, nonce, identity)
    text = [base64.b64encode(part).decode() for part in (cloud, public, challenge, nonce + sealed)]
    return root, models.SecurityState(text[0], text[1], 0x000A17, text[2], 0, text[3])


def keys(device):
    cloud = base64.b64decode(answered(200, get_public_key.sync_detailed(client=client), models.Key).key)
    unknown = models.GetDeviceSharedSecretBody("0" * 16)
    check(get_device_shared_secret.sync_detailed(client=client, body=unknown).status_code == 404, "a stranger has no key")
    unknown = models.GetDeviceSharedSecretBody(device.device_id)
    check(get_device_shared_secret.sync_detailed(client=client, body=unknown).status_code == 422, "nothing is known yet")
    pair = X25519PrivateKey.generate()
    root, state = security_state(device, pair, cloud, secrets.token_bytes(16))
    body = models.GetDeviceSharedSecretBody(device.device_id, state)
    secret = answered(200, get_device_shared_secret.sync_detailed(client=client, body=body), models.Key)
    check(base64.b64decode(secret.key) == root, "an answer that is proved is worth the secret")
    state.challenge = base64.b64encode(secrets.token_bytes(16)).decode()
    check(get_device_shared_secret.sync_detailed(client=client, body=body).status_code == 422, "another one is not")
    public = base64.b64encode(pair.public_key().public_bytes_raw()).decode()
    given = client.get_httpx_client().put(f"/device/deviceId/{device.device_id}/key", json={"devicePublicKey": public})
    check(given.status_code == 204, "a public key is given")
    body = models.GetDeviceSharedSecretBody(device.device_id)
    secret = answered(200, get_device_shared_secret.sync_detailed(client=client, body=body), models.Key)
    check(base64.b64decode(secret.key) == root, "the secret is known from then on")
    for interface in models.KeyInterface:
        body = models.DeriveDeviceKeyBody(device.device_id, interface)
        derived = answered(200, derive_device_key.sync_detailed(client=client, body=body), models.Key)
        # GPS time has no leap seconds: 18 of them so far.
        days = {(int(time.time()) - 315_964_800 + 18 - ago) // 86_400 for ago in (0, 60)}
        fitting = [hkdf_derive(root, day.to_bytes(4, "little"), interface.value.encode()) for day in days]
        check(base64.b64decode(derived.key) in fitting, f"the key of {interface} is the one that the client derives")


def pages(organisation, board):
    for number in range(3, 251):
        new = models.NewDevice(f"{number:016x}", board, organisation, metadata=metadata(serial=str(number + 1)))
        answered(201, create_device.sync_detailed(client=client, body=new), models.Device)
    for order in GetDevicesAndStatesOrderBy:
        seen, offset = [], 0
        while True:
            page = get_devices_and_states.sync(
                client=client, organisation_id=organisation, offset=offset, order_by=order
            )
            seen += [entry.id for entry in page]
            offset += len(page)
            if len(page) < 100:
                break
        check(len(seen) == len(set(seen)) == 250, f"pages by {order} have every device once, not {len(seen)}")


check(get_health.sync(client=client).health, "it is healthy")
organisation = organisations()
board = boards(organisation)
network_key = networks(organisation)
device, silent = devices(organisation, board)
updates(device)
states(device)
routes(device, network_key)
calls(device, silent, organisation)
commands(device, silent)
keys(device)
pages(organisation, board)
stranger = Client(base_url=api).with_headers(get_api_auth_header("ik_nobody"))
check(get_all_organisations.sync_detailed(client=stranger).status_code == 401, "a stranger is turned away")
print(f"check-client: {checked} checks with infuse-iot 0.10.4, nothing wrong")
