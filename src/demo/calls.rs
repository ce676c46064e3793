//! Calls to the sleeping devices of the demonstration, now and then: each leaves in the moment its device speaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, interval_at};
use uuid::Uuid;

use super::say;
use crate::client::{Client, ClientError};
use crate::dispatch::{Dispatch, SendError};
use crate::downlink::intent::{Retry, Sealing};
use crate::id::DeviceId;
use crate::records::message::{Message, MessageCall, MessageStatus, NewMessage};
use crate::status::Time;
use crate::wire::calls::{APPLICATION_INFO, ApplicationInfo};
use crate::wire::frame::PacketType;

/// Time from one call to the next.
const CALL_EVERY: Duration = Duration::from_secs(10);

/// How long a call may wait for its device: longer than any sleeps here.
const PATIENCE_MS: u64 = 600_000;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A record that was made.
#[derive(Deserialize)]
struct Made {
    id: Uuid,
}

/// Registers devices, each with its hardware id: calls go to registered devices only.
pub(super) async fn register(client: &Client, devices: &[DeviceId]) -> Result<(), ClientError> {
    let make = async |path: &str, body: serde_json::Value| -> Result<Made, ClientError> {
        let made = client.post_json(path, body.to_string().into()).await?;
        made.ok_or_else(|| ClientError::Missing { address: client.address().to_owned(), path: path.to_owned() })
    };
    let organisation = make("/organisation", json!({"name": "Demonstration"})).await?.id;
    let board = json!({"name": "simulated", "description": "", "soc": "simulated", "organisationId": organisation});
    let board = make("/board", board).await?.id;
    for device in devices {
        let device = json!({"deviceId": device, "mcuId": device, "organisationId": organisation, "boardId": board});
        make("/device", device).await?;
    }
    Ok(())
}

/// Calls one of these devices after the other, and shows what became of it, until dropped.
pub(super) async fn call_now_and_then(dispatch: &Dispatch, devices: &[DeviceId]) -> Infallible {
    let mut ticks = interval_at(Instant::now(), CALL_EVERY);
    for device in devices.iter().cycle() {
        ticks.tick().await;
        say(&format!("calling {device}: application_info, which waits until the device speaks"));
        say(&match dispatch.send_on_next_packet(application_info(dispatch, *device), ANSWER_WITHIN).await {
            Ok(message) => outcome_line(&message),
            Err(error) => refusal_line(*device, &error),
        });
    }
    // None of them sleeps.
    std::future::pending().await
}

fn application_info(dispatch: &Dispatch, device: DeviceId) -> NewMessage {
    NewMessage {
        device,
        packet_type: PacketType::RPC_CMD,
        sealing: Sealing::Best,
        call: Some(MessageCall { request_id: dispatch.request_id(), command_id: APPLICATION_INFO, data: None }),
        payload: Arc::default(),
        data: None,
        send_wait_timeout_ms: PATIENCE_MS,
        retry: Retry::Never,
        if_route: None,
    }
}

fn outcome_line(message: &Message) -> String {
    let device = message.device.device_id;
    let after = |from: Time, to: Option<Time>| to.map(|to| Duration::from_millis(to.0.0.saturating_sub(from.0.0)));
    let waited = after(message.created_at, message.sent_at).unwrap_or_default();
    let left = format!("called  {device}: left {waited:?} later, while it was awake");
    let info = message.answer.as_ref().and_then(|answer| ApplicationInfo::parse(&answer.body));
    let answered = message.sent_at.and_then(|sent_at| after(sent_at, message.completed_at));
    match (info, answered) {
        (Some(info), Some(answered)) => format!(
            "{left}; answered after {answered:?}: application {:08x}, up for {} s",
            info.application_id, info.uptime
        ),
        _ if message.status == MessageStatus::Waiting => format!("called  {device}: it did not speak"),
        _ => format!("{left}; not answered"),
    }
}

fn refusal_line(device: DeviceId, error: &SendError) -> String {
    format!("called  {device}: {error}")
}
