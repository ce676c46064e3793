//! Operations on messages to devices: calls, and what is none.

use utoipa::openapi::schema::Type;

use super::operation::Operation;
use super::parameters::{
    choice, command_id, device_id, moment, of_device, of_organisation, page_of_messages, record_id, show_expired,
    timeout_ms,
};
use super::{DOWNLINK, RPC};
use crate::api::format::EVENTS;
use crate::records::message::MessageStatus;
use crate::records::rpc::{CreatedRpcMessage, NewDownlink, NewRpcMessage, PlainMessage, RpcMessage};

const ACCEPTED: &str = "The message was accepted. Read it back through its id.";
/// Of each of the two kinds of messages.
const WAITING: &str = "With `timeoutMs`, an extension, it waits until nothing more is to be expected: it is completed, has \
     expired or is given up, or it was sent and expects no answer. Once the time is over it is told as it is then. A message \
     that expired is `waiting` with `expiresAt` in the past; one that was given up has a `note` besides.";

pub(super) fn operations() -> Vec<Operation> {
    [calls(), call(), others()].into_iter().flatten().collect()
}

fn calls() -> Vec<Operation> {
    vec![
        Operation::get("/rpc", "getRPCs", RPC, "List RPC messages, newest first by default.")
            .about(
                "With `Accept: text/event-stream`, an extension, what happens to RPC messages from now on is told instead: \
                 events `sent`, `completed`, `expired`, `dropped` and `withdrawn`, each with the message, of the devices of \
                 `organisationId` or the device `deviceId` if they are given. Of messages that are no RPC nothing is told. No \
                 other parameter goes with it. An event `reset` says that others were missed: the client comes back, or is too \
                 far behind.",
            )
            .parameters([
                of_organisation(),
                of_device(),
                choice("status", "Only those that have come so far.", &MessageStatus::ALL.map(MessageStatus::name)),
                moment("startTime", "Only those accepted at this time or later."),
                moment("endTime", "Only those accepted at this time or earlier."),
                command_id(),
                show_expired(),
            ])
            .parameters(page_of_messages())
            .lists::<RpcMessage>(200, "One page of RPC messages.")
            .or_text(200, EVENTS)
            .refuses(&[403, 404, 429]),
        Operation::post::<NewRpcMessage>("/rpc", "sendRPC", RPC, "Send an RPC to a device, or hold it until the device is heard.")
            .about(
                "Answers at once, when the message is stored. One of `commandId` and `commandName` is given. `paramsEncoded` \
                 wins over `params`, which may have fields only for commands whose definitions are loaded. Those of \
                 `security_key_update` (30001) have a key in them, and are not shown when the message is read. Extensions: \
                 `data` for the device follows the call; its `dataHeader` need not be given. `level`, `retry`, and `ifRoute`: a \
                 409 if the route of the device has moved since that position, with the present one as `cursor` and `lastRoute`. \
                 A device that is not registered is a 400, and so is one without a route unless `sendWaitTimeoutMs` is given.",
            )
            .answers::<CreatedRpcMessage>(201, ACCEPTED)
            .refuses(&[403, 409, 429]),
    ]
}

fn call() -> Vec<Operation> {
    vec![
        Operation::get("/rpc/{id}", "getRPCById", RPC, "Read one RPC message with its delivery state.")
            .about(WAITING)
            .parameters([record_id(), timeout_ms()])
            .answers::<RpcMessage>(200, "The RPC message.")
            .refuses(&[404, 429]),
        Operation::delete(
            "/rpc/{id}",
            "deleteRPC",
            RPC,
            "Take an RPC message back that waits, or delete one that has expired.",
        )
        .about("A 409 once it was sent.")
        .extension()
        .parameter(record_id())
        .refuses(&[404, 409]),
        Operation::get("/rpc/{id}/data", "getRPCData", RPC, "Read the data that the device sent before its answer.")
            .about("While it comes, as much as is there; what is missing in between is zeros. A 404 if there is none.")
            .extension()
            .parameter(record_id())
            .answers_as("application/octet-stream", Type::String, "The data.")
            .refuses(&[404]),
    ]
}

fn others() -> Vec<Operation> {
    vec![
        Operation::post::<NewDownlink>(
            "/device/deviceId/{deviceId}/downlink",
            "sendDownlink",
            DOWNLINK,
            "Send a packet that is no RPC to a device, or hold it until the device is heard.",
        )
        .about(
            "It goes the way of `POST /rpc`, and is read at `GET /downlink/{id}`. What belongs to an RPC is a 400, and so is \
             what devices send: if it came back, it would count as theirs.",
        )
        .extension()
        .parameter(device_id())
        .answers::<CreatedRpcMessage>(201, ACCEPTED)
        .refuses(&[403, 404, 409, 429]),
        Operation::get("/downlink/{id}", "getDownlink", DOWNLINK, "Read one message that is no RPC.")
            .about(WAITING)
            .extension()
            .parameters([record_id(), timeout_ms()])
            .answers::<PlainMessage>(200, "The message.")
            .refuses(&[404, 429]),
        Operation::delete(
            "/downlink/{id}",
            "deleteDownlink",
            DOWNLINK,
            "Take a message back that waits, or delete one that has expired.",
        )
        .about("A 409 once it was sent.")
            .extension()
            .parameter(record_id())
            .refuses(&[404, 409]),
    ]
}
