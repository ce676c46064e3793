"""Uses a gateway through the published client. Called by check-client: PROGRAM API UDP DIRECTORY."""

import base64
import secrets
import subprocess
import sys
import uuid
from pathlib import Path

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
from infuse_iot.api_client.api.network import create_network, get_networks
from infuse_iot.api_client.api.organisation import (
    create_organisation,
    get_all_organisations,
    get_organisation_by_id,
    get_organisation_by_name,
)
from infuse_iot.api_client.models.get_boards_order_by import GetBoardsOrderBy
from infuse_iot.api_client.models.get_devices_and_states_order_by import GetDevicesAndStatesOrderBy
from infuse_iot.api_client.models.get_devices_order_by import GetDevicesOrderBy
from infuse_iot.api_client.models.get_networks_order_by import GetNetworksOrderBy
from infuse_iot.credentials import get_api_auth_header

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
    return made


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


def routes(device, network_key):
    refused(404, get_device_last_route_by_device_id.sync_detailed(device.device_id, client=client))
    simulate = [program, "simulate", "--gateway", udp, "--devices", "1", "--network", "000a17"]
    simulate += ["--network-key-file", str(network_key), "--cadence", "100ms", "--packets", "5"]
    subprocess.run(simulate, check=True, capture_output=True, timeout=60)
    route = get_device_last_route_by_device_id.sync(device.device_id, client=client)
    check(route.interface == models.RouteType.UDP and route.udp.address.startswith("127.0.0.1:"), "it has a route")
    body = models.GetLastRoutesForDevicesBody([device.device_id, "0" * 16])
    routes = get_last_routes_for_devices.sync(client=client, body=body)
    check([entry.device_id for entry in routes] == [device.device_id], "only the device that was heard is listed")
    state = get_device_state_by_device_id.sync(device.device_id, client=client)
    check(state.last_route_udp_address == route.udp.address and state.first_packet_time, "its state says so too")


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
device = devices(organisation, board)
updates(device)
states(device)
routes(device, network_key)
pages(organisation, board)
stranger = Client(base_url=api).with_headers(get_api_auth_header("ik_nobody"))
check(get_all_organisations.sync_detailed(client=stranger).status_code == 401, "a stranger is turned away")
print(f"check-client: {checked} checks with infuse-iot 0.10.4, nothing wrong")
