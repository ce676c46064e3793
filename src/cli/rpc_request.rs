//! A call as the command line of `rpc send` makes it.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use serde_json::Value;

use super::Failure;
use crate::definitions::Definitions;
use crate::duration::duration;
use crate::id::DeviceId;
use crate::quote::reason;
use crate::records::Base64;
use crate::records::rpc::{AskedLevel, AskedRetry, NewRpc, NewRpcMessage, NewSending, Params, RpcDataHeader};

/// Bytes of data for a device at most; the gateway takes no more.
const MAX_DATA: u64 = 1 << 20;

/// Bytes of a file of parameters at most, far more than a datagram holds.
const MAX_PARAMS: u64 = 1 << 16;

/// Arguments of `rpc send`.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// The device, as 16 hex digits
    pub device: DeviceId,
    /// The command, by name or number
    pub command: String,
    /// Parameters, as JSON: {"name": "value"}. Default: none
    #[arg(long, value_name = "JSON", group = "parameters")]
    pub params: Option<String>,
    /// Packed parameters, in hex. Default: none
    #[arg(long, value_name = "HEX", group = "parameters")]
    pub params_hex: Option<String>,
    /// File of parameters, as JSON; - for standard input. Default: none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "parameters")]
    pub params_file: Option<PathBuf>,
    /// File whose bytes follow the call, for commands that take data, at most 1 MiB. Default: none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub data: Option<PathBuf>,
    /// The device sends data before it answers: so many bytes, or without a number as many as it has; data_logger_read and
    /// mem_read do so by themselves. Default: none
    #[arg(
        long, value_name = "BYTES", num_args = 0..=1, require_equals = true, default_missing_value = "4294967295",
        conflicts_with = "data"
    )]
    pub receive: Option<u32>,
    /// How long it may wait until the device speaks, with unit, for example 10m or 2d; 0s: it is sent at once, or not at all
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Under which key it goes: best (the device's if that is known by then, else the network's), network or device
    #[arg(long, value_name = "LEVEL", default_value = "best", hide_possible_values = true)]
    pub level: Level,
    /// Send it again each time the device speaks, until it answers or the time is up: it may be carried out more than once
    #[arg(long)]
    pub until_answered: bool,
    /// Print the id of the message and end, once it is accepted
    #[arg(long)]
    pub no_follow: bool,
    /// How long to wait for the answer once it is seen to be sent, with unit
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub answer_within: Duration,
}

/// Under which key a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// The device's if it is known, else the network's.
    Best,
    /// The network's.
    Network,
    /// The device's.
    Device,
}

/// What the gateway is asked. Definitions of the command line go before those of the gateway.
pub(super) fn request(arguments: &SendArgs, own: Option<&Definitions>) -> Result<NewRpcMessage, Failure> {
    let known = own.map_or_else(|| Definitions::default().id(&arguments.command), |own| own.id(&arguments.command));
    let id = arguments.command.parse().ok().or(known);
    let params = params(arguments)?;
    let (params, params_encoded) = match (params, own, id) {
        (Some(Given::Packed(bytes)), ..) => (None, Some(Base64(bytes))),
        (Some(Given::Fields(fields)), Some(own), Some(id)) => {
            let packed = own.encode(id, &Value::Object(fields)).map_err(Failure::configuration)?;
            (None, Some(Base64(packed)))
        }
        (Some(Given::Fields(fields)), ..) => (Some(fields), None),
        (None, ..) => (None, None),
    };
    let size = received(arguments, id.filter(|id| moves_data(own, *id)).map(way))?;
    let data = arguments.data.as_deref().map(|path| file("--data", path, MAX_DATA)).transpose()?.map(Base64);
    Ok(NewRpcMessage {
        device_id: arguments.device,
        rpc: NewRpc {
            command_id: id,
            command_name: id.is_none().then(|| arguments.command.clone()),
            params,
            params_encoded,
            data_header: size.map(|size| RpcDataHeader { size, rx_ack_period: 0 }),
        },
        data,
        sending: sending(arguments),
    })
}

fn sending(arguments: &SendArgs) -> NewSending {
    let level = match arguments.level {
        Level::Best => None,
        Level::Network => Some(AskedLevel::Network),
        Level::Device => Some(AskedLevel::Device),
    };
    NewSending {
        send_wait_timeout_ms: Some(u64::try_from(arguments.wait.as_millis()).unwrap_or(u64::MAX)),
        level,
        retry: arguments.until_answered.then_some(AskedRetry::UntilAnswered),
        if_route: None,
    }
}

/// Whether data moves with a call, as far as it is known here.
fn moves_data(own: Option<&Definitions>, id: u16) -> bool {
    let command = |definitions: &Definitions| definitions.command(id).is_some_and(|command| command.moves_data);
    own.map_or_else(|| command(&Definitions::default()), command)
}

/// Which way the data of a command goes.
enum Way {
    ToDevice,
    /// As much as its parameters say.
    FromDevice,
    /// One of these, or as much as its header says.
    Other,
}

const fn way(id: u16) -> Way {
    match id {
        // file_write_basic, file_write, data_receiver.
        40 | 44 | 32_766 => Way::ToDevice,
        // data_logger_read, mem_read.
        14 | 15 => Way::FromDevice,
        _ => Way::Other,
    }
}

/// How many bytes the device sends of a call, if it sends any, whose data goes this way as far as it is known.
fn received(arguments: &SendArgs, way: Option<Way>) -> Result<Option<u32>, Failure> {
    let fault = |remedy: &str| Failure::Configuration(format!("{} {remedy}", arguments.command));
    match (way, arguments.receive) {
        _ if arguments.data.is_some() => Ok(None),
        (Some(Way::ToDevice), _) => Err(fault("brings data to the device; name the file that has it with --data")),
        (Some(Way::FromDevice), None) => Ok(Some(u32::MAX)),
        (Some(Way::Other), None) => Err(fault(
            "moves data; say with --receive=BYTES how much the device sends, or name with --data a file for the device",
        )),
        (_, receive) => Ok(receive),
    }
}

/// Parameters as they were given.
enum Given {
    Packed(Vec<u8>),
    Fields(Params),
}

fn params(arguments: &SendArgs) -> Result<Option<Given>, Failure> {
    let fields = |flag: &str, text: &[u8]| match serde_json::from_slice(text) {
        Ok(fields) => Ok(Some(Given::Fields(fields))),
        Err(error) => {
            let remedy = "give an object with the fields, for example {\"delay_ms\": \"1000\"}";
            Err(Failure::Configuration(format!("{flag}: {error}; {remedy}")))
        }
    };
    if let Some(text) = &arguments.params {
        return fields("--params", text.as_bytes());
    }
    if let Some(path) = &arguments.params_file {
        return fields("--params-file", &file("--params-file", path, MAX_PARAMS)?);
    }
    let Some(hex) = &arguments.params_hex else { return Ok(None) };
    match hex::decode(hex) {
        Ok(bytes) => Ok(Some(Given::Packed(bytes))),
        Err(_) => Err(Failure::Configuration("--params-hex: not hex; give two digits for each byte".to_owned())),
    }
}

/// The bytes of a file, or of standard input if it is called `-`.
fn file(flag: &str, path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(max + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
    };
    let shown = path.display();
    if let Err(error) = read {
        let reason = reason(&error);
        return Err(Failure::Configuration(format!("{flag}: cannot read {shown}: {reason}; correct the path")));
    }
    if bytes.len() as u64 > max {
        return Err(Failure::Configuration(format!("{flag}: {shown} has more than {max} bytes; give less")));
    }
    Ok(bytes)
}
