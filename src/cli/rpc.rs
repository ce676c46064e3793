//! `rpc`: calls devices through a running gateway. What a call is made of is in `rpc_request.rs`, how it is followed in
//! `rpc_follow.rs`, and how messages are told in `rpc_text.rs`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use hyper::body::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::rpc_follow::{Following, INTERRUPTED, follow};
use super::rpc_request::{SendArgs, request};
use super::rpc_text::{Shown, line, told};
use super::{Failure, client_key, interrupted, print, runtime_of, say, start_logging};
use crate::client::{Client, ClientError, DEFAULT_ADDRESS, TIMEOUT};
use crate::clock::Timestamp;
use crate::config;
use crate::definitions::Definitions;
use crate::duration::duration;
use crate::id::DeviceId;
use crate::quote::reason;
use crate::records::rpc::CreatedRpcMessage;
use crate::status::Time;

/// The longest answer that is read: a thousand messages with parameters, or all the data a device may have sent.
const MAX_ANSWER: usize = 16 << 20;

/// The gateway refuses.
const REFUSED: u8 = 4;

/// Arguments of `rpc`.
#[derive(Args, Clone, Debug)]
pub struct RpcArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RpcAction,
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, value_name = "URL", default_value = DEFAULT_ADDRESS, global = true)]
    pub gateway_api: String,
    /// File with an API key, which must be one that may write to send and to cancel; the first in it is used. Default: none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub api_key_file: Option<PathBuf>,
    /// Definitions of calls that the gateway does not know: the rpc.json of the firmware. Default: those of the gateway
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub rpc_definitions: Option<PathBuf>,
    /// Form of what is printed: text, or json with one message a line as the API shows it
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true, global = true)]
    pub output: Output,
}

/// What `rpc` does.
#[derive(Clone, Debug, Subcommand)]
pub enum RpcAction {
    /// Call a device, at once or when it speaks next, and follow the call until it is answered
    Send(SendArgs),
    /// Print a message and what has become of it
    Show {
        /// The id of the message
        id: Uuid,
    },
    /// Follow a message until it is answered, has expired, or is not answered in time
    Wait {
        /// The id of the message
        id: Uuid,
        /// How long to wait for the answer once it is seen to be sent, with unit
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
        answer_within: Duration,
    },
    /// Print messages in a line each, the newest first
    List(ListArgs),
    /// Take back a message that waits: it is as if it had never been
    Cancel {
        /// The id of the message
        id: Uuid,
    },
    /// Print the data that a device has sent for a call
    Data {
        /// The id of the message
        id: Uuid,
        /// File to write it to; one that exists is replaced. Default: standard output
        #[arg(short = 'o', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        to: Option<PathBuf>,
    },
}

/// Arguments of `rpc list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Those to this device. Default: all
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Those that have come so far: waiting, sent or completed. Default: all
    #[arg(long, value_name = "STATUS", hide_possible_values = true)]
    pub status: Option<Status>,
    /// Those of this command, by name or number. Default: all
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Those made in this time up to now, with unit. Default: all that are kept
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// Leave out those that expired before they were sent
    #[arg(long)]
    pub hide_expired: bool,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Status {
    /// Not sent.
    Waiting,
    /// Not answered.
    Sent,
    /// Answered.
    Completed,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Completes when the user ends the program: the name of the signal.
pub(super) trait Stop: Future<Output = &'static str> {}

impl<T: Future<Output = &'static str>> Stop for T {}

/// A gateway and how its messages are told.
pub(super) struct Desk {
    pub(super) client: Client,
    /// Those of the command line.
    pub(super) definitions: Option<Definitions>,
    pub(super) output: Output,
}

pub(super) fn run(arguments: &RpcArgs) -> Result<(), Failure> {
    start_logging("warn");
    let definitions = arguments.rpc_definitions.as_deref().map(read_definitions).transpose()?;
    let key = client_key(arguments.api_key_file.as_deref())?;
    let client = Client::new(&arguments.gateway_api, key.as_ref().map(config::ApiKey::text))?;
    let client = client.with_limits(TIMEOUT, MAX_ANSWER);
    let desk = Desk { client, definitions, output: arguments.output };
    runtime_of(Some(1))?.block_on(async {
        let stop = pin!(interrupted()?);
        act(&desk, &arguments.action, stop).await
    })
}

fn read_definitions(path: &Path) -> Result<Definitions, Failure> {
    Definitions::read(path).map_err(|error| Failure::Configuration(format!("--rpc-definitions: {error}")))
}

async fn act(desk: &Desk, action: &RpcAction, mut stop: Pin<&mut impl Stop>) -> Result<(), Failure> {
    match action {
        RpcAction::Send(arguments) => {
            let Some(id) = unless(stop.as_mut(), send(desk, arguments)).await? else { return Ok(()) };
            follow(desk, Following { id, answer_within: arguments.answer_within }, stop).await
        }
        RpcAction::Show { id } => unless(stop, async { desk.tell(&desk.message(*id).await?) }).await,
        RpcAction::Wait { id, answer_within } => {
            follow(desk, Following { id: *id, answer_within: *answer_within }, stop).await
        }
        RpcAction::List(arguments) => unless(stop, list(desk, arguments)).await,
        RpcAction::Cancel { id } => unless(stop, cancel(desk, *id)).await,
        RpcAction::Data { id, to } => unless(stop, data(desk, *id, to.as_deref())).await,
    }
}

/// Does something unless the user ends it first.
async fn unless<T>(stop: impl Stop, act: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = act => done,
        _ = stop => {
            let line = "interrupted; lastroute rpc list shows what was accepted".to_owned();
            Err(Failure::Outcome { code: INTERRUPTED, line })
        }
    }
}

/// Has a call accepted; gives its id if it is to be followed.
async fn send(desk: &Desk, arguments: &SendArgs) -> Result<Option<Uuid>, Failure> {
    let request = request(arguments, desk.definitions.as_ref())?;
    let body = serde_json::to_vec(&request).map_err(Failure::running)?;
    let made: Option<Value> = desk.client.post_json("/rpc", Bytes::from(body)).await.map_err(refusal)?;
    let made = made.ok_or_else(|| missing(desk, "/rpc"))?;
    let CreatedRpcMessage { id, created_at, .. } = serde_json::from_value(made.clone()).map_err(Failure::running)?;
    desk.client.learn_time(created_at.0);
    if !arguments.no_follow {
        say(&format!("message {id}"));
        return Ok(Some(id));
    }
    match desk.output {
        Output::Text => print(format!("{id}\n").as_bytes())?,
        Output::Json => print(format!("{made}\n").as_bytes())?,
    }
    Ok(None)
}

async fn list(desk: &Desk, arguments: &ListArgs) -> Result<(), Failure> {
    if arguments.since.is_some() {
        // Any answer tells the gateway's time, from which it is reckoned.
        let _: Option<Bytes> = desk.client.get_bytes("/health").await.map_err(refusal)?;
    }
    let path = list_path(desk, arguments)?;
    let messages: Option<Vec<Value>> = desk.client.get_json(&path).await.map_err(refusal)?;
    let now = desk.client.now();
    let mut lines = String::new();
    for message in messages.ok_or_else(|| missing(desk, "/rpc"))? {
        let shown = desk.shown(message)?;
        match desk.output {
            Output::Text => lines.push_str(&line(&shown, now)),
            Output::Json => lines.push_str(&shown.json.to_string()),
        }
        lines.push('\n');
    }
    print(lines.as_bytes())
}

fn list_path(desk: &Desk, arguments: &ListArgs) -> Result<String, Failure> {
    let mut path = format!("/rpc?limit={}", arguments.limit);
    if let Some(device) = arguments.device {
        path.push_str(&format!("&deviceId={device}"));
    }
    if let Some(status) = arguments.status.as_ref().and_then(Status::to_possible_value) {
        path.push_str(&format!("&status={}", status.get_name()));
    }
    if let Some(command) = &arguments.command {
        path.push_str(&format!("&rpcCommandId={}", desk.command_id(command)?));
    }
    if let Some(since) = arguments.since {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let begin = Time(Timestamp(desk.client.now().0.saturating_sub(since)));
        let text = serde_json::to_value(begin).map_err(Failure::running)?;
        path.push_str(&format!("&startTime={}", text.as_str().unwrap_or_default()));
    }
    if arguments.hide_expired {
        path.push_str("&showExpired=false");
    }
    Ok(path)
}

async fn cancel(desk: &Desk, id: Uuid) -> Result<(), Failure> {
    match desk.client.delete(&format!("/rpc/{id}")).await {
        Ok(true) => {
            say(&format!("took back message {id}: it will not be sent"));
            Ok(())
        }
        Ok(false) => Err(no_message(id)),
        Err(error) => Err(refusal(error)),
    }
}

async fn data(desk: &Desk, id: Uuid, to: Option<&Path>) -> Result<(), Failure> {
    let data = desk.client.get_bytes(&format!("/rpc/{id}/data")).await.map_err(refusal)?;
    let data = data.ok_or_else(|| {
        Failure::Running(format!("there is no message {id}, or no data of it; see lastroute rpc show {id}"))
    })?;
    let Some(path) = to else { return print(&data) };
    write(path, &data).map_err(|error| {
        let (path, reason) = (path.display(), reason(&error));
        Failure::Configuration(format!("--to: cannot write {path}: {reason}; name a file that this user can write"))
    })?;
    say(&format!("wrote {} bytes to {}", data.len(), path.display()));
    Ok(())
}

fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

impl Desk {
    /// A message as it is now.
    pub(super) async fn message(&self, id: Uuid) -> Result<Shown, Failure> {
        let message: Option<Value> = self.client.get_json(&format!("/rpc/{id}")).await.map_err(refusal)?;
        self.shown(message.ok_or_else(|| no_message(id))?)
    }

    /// A message with the fields that only the definitions of the command line know.
    pub(super) fn shown(&self, json: Value) -> Result<Shown, Failure> {
        Shown::new(json, self.definitions.as_ref()).map_err(|error| {
            let (address, reason) = (self.client.address().to_owned(), error.to_string());
            ClientError::Malformed { address, path: "/rpc".to_owned(), reason }.into()
        })
    }

    /// Prints a message.
    pub(super) fn tell(&self, shown: &Shown) -> Result<(), Failure> {
        match self.output {
            Output::Text => print(told(shown, self.client.now()).as_bytes()),
            Output::Json => print(format!("{}\n", shown.json).as_bytes()),
        }
    }

    /// The id of a command, given that or a name that is known here.
    fn command_id(&self, command: &str) -> Result<u16, Failure> {
        let named = match &self.definitions {
            Some(definitions) => definitions.id(command),
            None => Definitions::default().id(command),
        };
        command.parse().ok().or(named).ok_or_else(|| {
            let remedy = "give its number, or the definitions that have it with --rpc-definitions";
            Failure::Configuration(format!("--command: no command is called {command:?} here; {remedy}"))
        })
    }
}

/// What the gateway says against it, with an exit code of its own.
pub(super) fn refusal(error: ClientError) -> Failure {
    match error {
        ClientError::Status { status: 400..500, message, .. } => {
            Failure::Outcome { code: REFUSED, line: format!("the gateway refuses: {message}") }
        }
        error => error.into(),
    }
}

pub(super) fn no_message(id: Uuid) -> Failure {
    Failure::Running(format!(
        "there is no message {id}: it was taken back, or is no longer kept; see lastroute rpc list"
    ))
}

fn missing(desk: &Desk, path: &str) -> Failure {
    ClientError::Missing { address: desk.client.address().to_owned(), path: path.to_owned() }.into()
}
