//! `explain`: says why a device is reachable or not, in the words of a running gateway. How it is written out is in
//! `explain_text.rs`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::Value;

use super::explain_text::told;
use super::{Failure, client_key, print, runtime_of, start_logging};
use crate::client::{Client, ClientError, DEFAULT_ADDRESS};
use crate::config;
use crate::explain::{Explanation, Reachable};
use crate::id::DeviceId;
use crate::quote::one_line;

/// The device is not reachable.
const NOT_REACHABLE: u8 = 3;
/// Nobody can say.
const UNKNOWN: u8 = 4;

/// Arguments of `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The device, 16 hex digits
    pub device: DeviceId,
    /// Print what the gateway answers, as JSON in one line
    #[arg(long)]
    pub json: bool,
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, value_name = "URL", default_value = DEFAULT_ADDRESS)]
    pub gateway_api: String,
    /// File with an API key that may read the device; the first in it is used. Default: none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub api_key_file: Option<PathBuf>,
}

pub(super) fn run(arguments: &ExplainArgs) -> Result<(), Failure> {
    start_logging("warn");
    let key = client_key(arguments.api_key_file.as_deref())?;
    let client = Client::new(&arguments.gateway_api, key.as_ref().map(config::ApiKey::text))?;
    let answer = runtime_of(Some(1))?.block_on(ask(&client, arguments.device))?;
    let explanation = serde_json::from_value(answer.clone()).map_err(|error| ClientError::Malformed {
        address: client.address().to_owned(),
        path: path(arguments.device),
        reason: one_line(&error.to_string()),
    })?;
    let text = if arguments.json { format!("{answer}\n") } else { told(&explanation) };
    print(text.as_bytes())?;
    outcome(&explanation)
}

async fn ask(client: &Client, device: DeviceId) -> Result<Value, Failure> {
    client.get_json(&path(device)).await?.ok_or_else(|| {
        Failure::Running(format!(
            "the gateway can tell nothing of device {device}: it is not registered, was never heard, and nothing claims to be it, \
             or the API key is for another organisation; check the id"
        ))
    })
}

fn path(device: DeviceId) -> String {
    format!("/device/deviceId/{device}/explain")
}

/// A device that cannot be reached is a failure for whoever asks by its exit code.
fn outcome(explanation: &Explanation) -> Result<(), Failure> {
    let device = explanation.device_id;
    let (code, is) = match explanation.reachable {
        Reachable::Yes | Reachable::Asleep => return Ok(()),
        Reachable::No => (NOT_REACHABLE, "is not reachable"),
        Reachable::Unknown => (UNKNOWN, "may be reachable or not"),
    };
    Err(Failure::Outcome { code, line: format!("device {device} {is}") })
}
