//! Operations on the gateway itself, and waiting for packets.

use utoipa::PartialSchema;
use utoipa::openapi::Response;
use utoipa::openapi::schema::Type;

use super::operation::{Operation, header};
use super::parameters::{device_id, last_event_id, wait};
use super::{GATEWAY, HEALTH, WAITING};
use crate::api::format::EVENTS;
use crate::api::metrics_text;
use crate::api::views::{Health, ManyWaited, Ready, WaitForPackets, Waited};
use crate::id::Cursor;
use crate::status::GatewayStatus;

pub(super) fn operations() -> Vec<Operation> {
    [probes(), watching(), waiting()].into_iter().flatten().collect()
}

fn probes() -> Vec<Operation> {
    vec![
        Operation::get("/health", "getHealth", HEALTH, "Liveness of the service.")
            .open()
            .answers::<Health>(200, "The service answers."),
        Operation::get("/readyz", "getReadiness", HEALTH, "Whether the gateway takes requests.")
            .about(
                "A 503 once it shuts down. What is wrong while it goes on serving, such as a disk without space, is told in \
                 `degraded` and is no reason to take it out of service.",
            )
            .extension()
            .open()
            .answers::<Ready>(200, "It does."),
        Operation::get("/openapi.json", "getDescription", HEALTH, "This description.").extension().open().answers_as(
            "application/json",
            Type::Object,
            "The description.",
        ),
        Operation::get("/docs", "getPage", HEALTH, "A page to read this description and to try the API.")
            .extension()
            .open()
            .answers_as("text/html", Type::String, "The page."),
        Operation::get("/docs/page.js", "getPageScript", HEALTH, "The script of the page.")
            .extension()
            .open()
            .answers_as("text/javascript", Type::String, "The script."),
        Operation::get("/docs/page.css", "getPageStyle", HEALTH, "The style of the page.")
            .extension()
            .open()
            .answers_as("text/css", Type::String, "The style."),
    ]
}

fn watching() -> Vec<Operation> {
    vec![
        Operation::get("/gateway", "getGateway", GATEWAY, "How the gateway is.")
            .about("Counters, devices heard lately, who waits, and which routes moved last. Counters only rise, from its start on.")
            .extension()
            .answers::<GatewayStatus>(200, "How it is.")
            .refuses(&[403]),
        Operation::get("/metrics", "getMetrics", GATEWAY, "Metrics for Prometheus.")
            .extension()
            .answers_as(metrics_text::CONTENT_TYPE, Type::String, "The metrics, as OpenMetrics text.")
            .refuses(&[403]),
    ]
}

fn waiting() -> Vec<Operation> {
    let cursor = || header("The position of the device's last packet, to wait after.", Cursor::schema());
    vec![
        Operation::get(
            "/device/deviceId/{deviceId}/waitForPacket",
            "waitForPacket",
            WAITING,
            "Wait for the next packet of a device.",
        )
        .about(
            "Answers as soon as a packet is counted, or at once if there was one after the position `after`. With \
             `Accept: text/event-stream` each packet is an event, until `timeoutMs` is over if it is given, or without end. A \
             device that was never heard can be waited for, unless only registered ones are served.",
        )
        .extension()
        .parameter(device_id())
        .parameters(wait())
        .parameter(last_event_id())
        .answers::<Waited>(200, "The latest packet.")
        .or_text(200, EVENTS)
        .with_response(204, Response::new("Nothing came in time."))
        .with_header(204, "Lastroute-Cursor", cursor())
        .refuses(&[404, 429]),
        Operation::post::<WaitForPackets>(
            "/device/waitForPacket",
            "waitForPackets",
            WAITING,
            "Wait for the next packet of any of many devices, or of each, or of any device of an organisation.",
        )
        .about(
            "The devices are named either in `deviceIds` or by `organisationId`: all that are registered for it when they speak, \
             of which none is ever pending and up to 1000 are told of in one answer. With `Accept: text/event-stream` each packet \
             is an event. A stream of an organisation has an event `reset` with the `organisationId` where packets may have been \
             counted untold: at its beginning if it comes with a `Last-Event-ID`, and where its client is too far behind.",
        )
        .extension()
        .parameter(last_event_id())
        .answers::<ManyWaited>(200, "What came, by device.")
        .or_text(200, EVENTS)
        .with_response(204, Response::new("Nothing came in time."))
        .refuses(&[403, 404, 422, 429]),
    ]
}
