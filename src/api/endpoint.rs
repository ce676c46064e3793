//! What requests can ask for, each with what its path names.

use uuid::Uuid;

use crate::id::DeviceId;

/// An endpoint, with what its path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /health`: the process answers.
    Health,
    /// `GET /readyz`: it also takes requests.
    Ready,
    /// `GET /metrics`.
    Metrics,
    /// `GET /gateway`: how the gateway is.
    Gateway,
    /// `POST /apiKey`.
    CreateApiKey,
    /// `GET /apiKey`.
    ApiKeys,
    /// `DELETE /apiKey/id/{id}`.
    DeleteApiKey(Uuid),
    /// `GET /openapi.json`: what the API is.
    Description,
    /// `GET /docs`: a page to read that and to try the API.
    Page,
    /// `GET /docs/page.js`: its script.
    PageScript,
    /// `GET /docs/page.css`: its style.
    PageStyle,
    /// `GET /organisation`.
    Organisations,
    /// `POST /organisation`.
    CreateOrganisation,
    /// `GET /organisation/id/{id}`.
    Organisation(Uuid),
    /// `DELETE /organisation/id/{id}`.
    DeleteOrganisation(Uuid),
    /// `GET /organisation/name/{name}`.
    OrganisationNamed(Box<str>),
    /// `GET /board`.
    Boards,
    /// `POST /board`.
    CreateBoard,
    /// `GET /board/id/{id}`.
    Board(Uuid),
    /// `DELETE /board/id/{id}`.
    DeleteBoard(Uuid),
    /// `GET /board/id/{id}/devices`.
    DevicesOfBoard(Uuid),
    /// `GET /network`.
    Networks,
    /// `POST /network`.
    CreateNetwork,
    /// `GET /network/id/{id}`.
    Network(Uuid),
    /// `DELETE /network/id/{id}`.
    DeleteNetwork(Uuid),
    /// `GET /device`.
    Devices,
    /// `POST /device`.
    CreateDevice,
    /// `POST /device/batch`: several, all or none.
    CreateDevices,
    /// `POST /device/import`: several, each for itself.
    ImportDevices,
    /// `GET /device/export`.
    ExportDevices,
    /// `GET /device-and-state`.
    DevicesAndStates,
    /// `GET /device/unregistered`: what was heard of devices that are not registered.
    UnregisteredDevices,
    /// `GET /device/id/{id}`.
    Device(Uuid),
    /// `PUT /device/id/{id}`.
    UpdateDevice(Uuid),
    /// `DELETE /device/id/{id}`.
    DeleteDevice(Uuid),
    /// `GET /device/deviceId/{deviceId}`.
    DeviceWithId(DeviceId),
    /// `GET /device/soc/{soc}/mcuId/{mcuId}`.
    DeviceWithHardware(Box<Hardware>),
    /// `PUT /device/deviceId/{deviceId}/key`.
    SetDeviceKey(DeviceId),
    /// `GET /device/deviceId/{deviceId}/key`: what is known of its keys.
    DeviceKey(DeviceId),
    /// `POST /device/deviceId/{deviceId}/key/confirm`.
    ConfirmDeviceKey(DeviceId),
    /// `POST /device/deviceId/{deviceId}/downlink`: any packet but a call.
    SendDownlink(DeviceId),
    /// `GET /device/id/{id}/state`.
    StateOfRecord(Uuid),
    /// `PUT /device/id/{id}/state`.
    SetState(Uuid),
    /// `GET /device/deviceId/{deviceId}/state`.
    State(DeviceId),
    /// `GET /device/deviceId/{deviceId}/lastRoute`.
    LastRoute(DeviceId),
    /// `GET /device/deviceId/{deviceId}/explain`: why it is reachable or not.
    Explain(DeviceId),
    /// `POST /device/lastRoute`.
    LastRoutes,
    /// `GET /device/deviceId/{deviceId}/waitForPacket`.
    WaitForPacket(DeviceId),
    /// `POST /device/waitForPacket`.
    WaitForPackets,
    /// `GET /rpc`.
    Rpcs,
    /// `POST /rpc`.
    SendRpc,
    /// `GET /rpc/{id}`.
    Rpc(Uuid),
    /// `DELETE /rpc/{id}`.
    WithdrawRpc(Uuid),
    /// `GET /rpc/{id}/data`: what the device sent before its answer.
    RpcData(Uuid),
    /// `GET /downlink/{id}`: a message that is no call.
    Downlink(Uuid),
    /// `DELETE /downlink/{id}`.
    WithdrawDownlink(Uuid),
    /// `GET /key/publicKey`.
    PublicKey,
    /// `POST /key/sharedSecret`.
    SharedSecret,
    /// `POST /key/sharedSecret/device`.
    DeviceSharedSecret,
    /// `POST /key/derived/device`.
    DerivedKey,
}

/// What a path says of the hardware of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// The system on chip of its board.
    pub soc: Box<str>,
    /// Its hardware id, or any other text.
    pub mcu_id: Box<str>,
}
