//! Operations on devices: their records, state and routes.

use utoipa::PartialSchema;
use utoipa::openapi::Response;

use super::DEVICE;
use super::names::trust;
use super::operation::{Operation, header};
use super::parameters::{
    age, board_ids, device_id, export, mcu_id, metadata, organisation_id, page, part, record_id, soc,
};
use crate::api::transfer::Import;
use crate::api::views::{
    DeviceAndState, DeviceState, LastRoutes, NewDevices, RouteOfDevice, Unregistered, UplinkRoute,
};
use crate::explain::Explanation;
use crate::id::Cursor;
use crate::records::{Device, DeviceUpdate, ExportedDevice, GivenKey, ImportOutcome, NewDevice, NewDeviceState};

/// Orders of devices.
pub(super) const ORDER: [&str; 6] = ["boardId", "createdAt", "deviceId", "mcuId", "organisationId", "updatedAt"];

/// Orders of devices with their states.
const HEARD_ORDER: [&str; 9] = [
    "boardId",
    "createdAt",
    "deviceId",
    "firstPacketTime",
    "lastRouteTime",
    "lastRouteUdpTime",
    "mcuId",
    "organisationId",
    "updatedAt",
];

pub(super) fn operations() -> Vec<Operation> {
    [lists(), records(), states(), routes()].into_iter().flatten().collect()
}

fn lists() -> Vec<Operation> {
    vec![
        Operation::get("/device", "getDevices", DEVICE, "List the devices of an organisation.")
            .parameters([organisation_id(), board_ids()])
            .parameters(metadata())
            .parameters(page(&ORDER))
            .lists::<Device>(200, "One page of devices.")
            .refuses(&[403]),
        Operation::get(
            "/device-and-state",
            "getDevicesAndStates",
            DEVICE,
            "List the devices of an organisation, each with its state.",
        )
        .about(
            "In an order by what was heard, devices without the value come first, or last if the greatest comes first. \
             `silentForMs` and `heardWithinMs` are extensions; they may be given both.",
        )
        .parameters([
            organisation_id(),
            age("silentForMs", "Only devices that were not heard for so long, or never."),
            age("heardWithinMs", "Only devices that were heard within so long."),
        ])
        .parameters(page(&HEARD_ORDER))
        .lists::<DeviceAndState>(200, "One page of devices with their states.")
        .refuses(&[403]),
        Operation::get(
            "/device/unregistered",
            "getUnregisteredDevices",
            DEVICE,
            "List devices that are heard and not registered, the last heard first.",
        )
        .about(
            "To register one of them with `POST /device` keeps its route and state, unless with credentials for one organisation: \
             what was heard of it is forgotten then.",
        )
        .extension()
        .parameters(part())
        .lists::<Unregistered>(200, "One page of devices.")
        .refuses(&[403]),
    ]
}

fn records() -> Vec<Operation> {
    vec![
        Operation::post::<NewDevice>("/device", "createDevice", DEVICE, "Register a device.")
            .about(
                "It is in force for the next datagram. A device that was heard before keeps its route and state, unless it is \
                 registered with credentials for one organisation: what was heard is forgotten then. `devicePublicKey` and `deviceRootKey` are extensions; both are given for firmware of another cloud that holds this gateway's public key as its second one.",
            )
            .answers::<Device>(201, "The stored device, with its deviceId filled in.")
            .refuses(&[403, 409, 422]),
        Operation::post::<NewDevices>(
            "/device/batch",
            "createDevices",
            DEVICE,
            "Register up to 10 000 devices, all or none.",
        )
        .about("An error names the entry by its place, from 0. The body may have 16 MiB.")
        .extension()
        .lists::<Device>(201, "The stored devices, in the order of the request.")
        .refuses(&[403, 409, 422]),
        Operation::post::<Import<NewDevice>>(
            "/device/import",
            "importDevices",
            DEVICE,
            "Register up to 10 000 devices, each for itself.",
        )
        .about(
            "An entry that fails keeps none of the others from being stored, and is answered with its place, from 0, and \
             the error that `POST /device` would have answered. One that is registered already, exactly so, is left as it \
             is: to send a request again is harmless. With `stopAtError` no entry after the first one that fails is looked \
             at or stored, and `failed` has that one alone. The body may have 16 MiB.",
        )
        .extension()
        .answers::<ImportOutcome>(200, "What came of the entries.")
        .refuses(&[403, 422]),
        Operation::get(
            "/device/export",
            "exportDevices",
            DEVICE,
            "List devices in the order in which they were made, with the names of their boards and organisations.",
        )
        .about(
            "For programs that read them all: each page goes on after the last record of the one before, and the end is a \
             page without any; there is no `offset` and no order. None comes twice, and those that are made meanwhile come last. Keys are not in it.",
        )
        .extension()
        .parameters(export())
        .lists::<ExportedDevice>(200, "One page of devices.")
        .refuses(&[403]),
        Operation::get("/device/id/{id}", "getDeviceById", DEVICE, "Read one device by its record id.")
            .parameter(record_id())
            .answers::<Device>(200, "The device.")
            .refuses(&[404]),
        Operation::put::<DeviceUpdate>(
            "/device/id/{id}",
            "updateDeviceById",
            DEVICE,
            "Change the metadata of a device.",
        )
        .parameter(record_id())
        .answers::<Device>(200, "The device after the change.")
        .refuses(&[403, 404, 409, 422]),
        Operation::delete("/device/id/{id}", "deleteDevice", DEVICE, "Delete a device.")
            .about("Whoever waits for it is answered 404 at once; a stream of events says so and goes on without it.")
            .extension()
            .parameter(record_id())
            .refuses(&[404]),
        Operation::get(
            "/device/deviceId/{deviceId}",
            "getDeviceByDeviceId",
            DEVICE,
            "Read one device by its 16-hex device identifier.",
        )
        .parameter(device_id())
        .answers::<Device>(200, "The device.")
        .refuses(&[404]),
        Operation::put::<GivenKey>(
            "/device/deviceId/{deviceId}/key",
            "setDeviceKey",
            DEVICE,
            "Change the key of a device.",
        )
        .about("One of the two keys is given, or both for firmware of another cloud that holds this gateway's public key as its second one. They are in force for the next datagram in place of those before, which a key that the device proves is not, and are never answered.")
        .extension()
        .parameter(device_id())
        .with_response(204, Response::new("It is changed."))
        .refuses(&[403, 404, 422]),
        Operation::get(
            "/device/soc/{soc}/mcuId/{mcuId}",
            "getDeviceBySocAndMcuId",
            DEVICE,
            "Read one device by its hardware.",
        )
        .parameters([soc(), mcu_id()])
        .answers::<Device>(200, "The device.")
        .refuses(&[404]),
    ]
}

fn states() -> Vec<Operation> {
    vec![
        Operation::get(
            "/device/id/{id}/state",
            "getDeviceStateById",
            DEVICE,
            "Read the state of a device by its record id.",
        )
        .parameter(record_id())
        .answers::<DeviceState>(200, "The state.")
        .refuses(&[404]),
        Operation::put::<NewDeviceState>(
            "/device/id/{id}/state",
            "updateDeviceStateById",
            DEVICE,
            "Set the application and the algorithms of a device.",
        )
        .about("What the device announces later takes their place.")
        .parameter(record_id())
        .answers::<DeviceState>(200, "The state after the change.")
        .refuses(&[403, 404, 422]),
        Operation::get(
            "/device/deviceId/{deviceId}/state",
            "getDeviceStateByDeviceId",
            DEVICE,
            "Read the state of a device by its 16-hex device identifier.",
        )
        .parameter(device_id())
        .answers::<DeviceState>(200, "The state.")
        .refuses(&[404]),
    ]
}

fn routes() -> Vec<Operation> {
    let cursor = || header("The position of the device's last packet, to wait after.", Cursor::schema());
    let trust = || header("How the route was proved.", trust());
    vec![
        Operation::get(
            "/device/deviceId/{deviceId}/lastRoute",
            "getDeviceLastRouteByDeviceId",
            DEVICE,
            "Read the route of the most recent packet of a device.",
        )
        .about("A 404 also of a device that has not been heard yet. Devices that are not registered have a route, too.")
        .parameter(device_id())
        .answers::<UplinkRoute>(200, "The route.")
        .with_header(200, "Lastroute-Cursor", cursor())
        .with_header(200, "Lastroute-Trust", trust())
        .refuses(&[404]),
        Operation::get(
            "/device/deviceId/{deviceId}/explain",
            "explainDeviceByDeviceId",
            DEVICE,
            "Say in one sentence why a device is reachable or not, with the evidence.",
        )
        .about(
            "Like its last route it is told of devices that are not registered, too; and of registered ones that were never \
             heard. A 404 only where there is nothing to tell: not registered, never heard, and nothing claims to be it. \
             `claims` are packets of which nothing is proved: anybody may have sent them, and they never decide what \
             `reachable` and `reason` say. A caller for one organisation is told nothing from before the device was registered, \
             and no relay of another organisation. The wording of `sentence` is for people and may change; programs read the rest.",
        )
        .extension()
        .parameter(device_id())
        .answers::<Explanation>(200, "The explanation.")
        .refuses(&[404]),
        Operation::post::<LastRoutes>(
            "/device/lastRoute",
            "getLastRoutesForDevices",
            DEVICE,
            "Read the last routes of several devices in one call.",
        )
        .about("Unknown devices and those without a route are left out; one that is named twice is answered once.")
        .lists::<RouteOfDevice>(200, "One entry for each device that has a route.")
        .refuses(&[422]),
    ]
}
