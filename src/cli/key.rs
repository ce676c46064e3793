//! `key`: makes, lists and deletes API keys of a running gateway.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::body::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::{Failure, client_key, print, runtime_of, say, start_logging};
use crate::client::{Client, ClientError, DEFAULT_ADDRESS};
use crate::clock::Clock;
use crate::config;
use crate::duration::duration;
use crate::quote::{one_line, reason};
use crate::records::{AccessLevel, ApiKey, NewApiKey};
use crate::status::Time;

/// Keys that one request lists.
const PAGE: usize = 1000;

/// Arguments of `key`.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// What to do
    #[arg(value_enum)]
    pub action: KeyAction,
    /// The record id of the key to delete, as list shows it
    #[arg(required_if_eq("action", "delete"))]
    pub id: Option<Uuid>,
    /// What the new key is for, in a few words. Default: none, create needs one
    #[arg(long, value_name = "TEXT", required_if_eq("action", "create"))]
    pub name: Option<String>,
    /// Name or record id of the organisation whose devices and records the new key is for. Default: all organisations
    #[arg(long, value_name = "NAME")]
    pub organisation: Option<String>,
    /// What the new key may do: read, or also write. Default: read
    #[arg(long, value_name = "read|write")]
    pub access: Option<KeyAccess>,
    /// How long the new key is good, with unit, for example 90d or 12h. Default: until it is deleted
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires: Option<Duration>,
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, value_name = "URL", default_value = DEFAULT_ADDRESS)]
    pub gateway_api: String,
    /// File with an administrator's API key, for example the one the gateway reads; the first in it is used. Default: none
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

/// What `key` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyAction {
    /// Make a key, and print it on standard output: the only time that it is shown
    Create,
    /// Print the keys there are, without their secrets
    List,
    /// Delete a key: from then on it opens nothing
    Delete,
}

/// What a new key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyAccess {
    /// Look and wait.
    Read,
    /// Also make, change and delete.
    Write,
}

/// The answer to the request for a new key.
#[derive(Deserialize)]
struct MadeKey {
    #[serde(flatten)]
    record: ApiKey,
    key: String,
}

pub(super) fn run(arguments: &KeyArgs) -> Result<(), Failure> {
    start_logging("warn");
    check(arguments)?;
    let key = client_key(arguments.api_key_file.as_deref())?;
    let client = Client::new(&arguments.gateway_api, key.as_ref().map(config::ApiKey::text))?;
    runtime_of(Some(1))?.block_on(async {
        match arguments.action {
            KeyAction::Create => create(&client, arguments).await,
            KeyAction::List => list(&client).await,
            KeyAction::Delete => delete(&client, arguments.id.unwrap_or_default()).await,
        }
    })
}

/// What belongs to another action is a mistake, as somebody who deletes the wrong key would find out.
fn check(arguments: &KeyArgs) -> Result<(), Failure> {
    let KeyArgs { action, id, name, organisation, access, expires, .. } = arguments;
    let of_create = [
        ("--name", name.is_some()),
        ("--organisation", organisation.is_some()),
        ("--access", access.is_some()),
        ("--expires", expires.is_some()),
    ];
    let given = of_create.into_iter().find(|(_, given)| *given && *action != KeyAction::Create);
    let surplus = given.map(|(flag, _)| flag).or((id.is_some() && *action != KeyAction::Delete).then_some("record id"));
    match surplus {
        Some(surplus) => Err(Failure::Configuration(format!("this action takes no {surplus}; leave it out"))),
        None => Ok(()),
    }
}

async fn create(client: &Client, arguments: &KeyArgs) -> Result<(), Failure> {
    let organisation_id = match &arguments.organisation {
        Some(organisation) => Some(find(client, organisation).await?),
        None => None,
    };
    let new = NewApiKey {
        name: arguments.name.clone().unwrap_or_default(),
        organisation_id,
        access: match arguments.access {
            Some(KeyAccess::Write) => AccessLevel::Write,
            Some(KeyAccess::Read) | None => AccessLevel::Read,
        },
        expires_at: arguments.expires.map(|expires| Time(Clock::default().now().after(expires))),
    };
    let body = serde_json::to_vec(&new).map_err(Failure::running)?;
    let made: Option<MadeKey> = client.post_json("/apiKey", Bytes::from(body)).await?;
    let MadeKey { record, key } = made.ok_or_else(|| missing(client))?;
    // First, so that it can be deleted whatever happens to the key itself.
    say(&format!("made API key {}", described(&record)));
    if let Err(error) = tell(&key) {
        return Err(take_back(client, record.id, &error).await);
    }
    say("it is shown this once; keep it where only its user can read it");
    Ok(())
}

/// Writes a key to standard output. Unlike with other texts, a reader that has left is a failure.
fn tell(key: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{key}")?;
    output.flush()
}

/// Deletes a key that nobody was told, and says so.
async fn take_back(client: &Client, id: Uuid, error: &io::Error) -> Failure {
    let wrong = format!("cannot write the key to standard output: {}", reason(error));
    let done = match client.delete(&format!("/apiKey/id/{id}")).await {
        Ok(_) => "it is deleted again; make room or write elsewhere, and make another".to_owned(),
        Err(error) => format!("it could not be deleted again ({error}): do that with lastroute key delete {id}"),
    };
    Failure::Running(format!("{wrong}; {done}"))
}

/// The record id of an organisation, given that or its name.
async fn find(client: &Client, organisation: &str) -> Result<Uuid, Failure> {
    client.organisation(organisation).await?.ok_or_else(|| {
        let name = one_line(organisation);
        Failure::Configuration(format!("--organisation: the gateway has no organisation {name:?}; create it first"))
    })
}

async fn list(client: &Client) -> Result<(), Failure> {
    let mut offset = 0;
    loop {
        let keys: Option<Vec<ApiKey>> = client.get_json(&format!("/apiKey?limit={PAGE}&offset={offset}")).await?;
        let keys = keys.ok_or_else(|| missing(client))?;
        print(keys.iter().map(|key| described(key) + "\n").collect::<String>().as_bytes())?;
        offset += keys.len();
        if keys.len() < PAGE {
            return Ok(());
        }
    }
}

async fn delete(client: &Client, id: Uuid) -> Result<(), Failure> {
    if !client.delete(&format!("/apiKey/id/{id}")).await? {
        return Err(Failure::Running(format!("there is no API key {id}; see lastroute key list")));
    }
    say(&format!("deleted API key {id}"));
    Ok(())
}

/// A key in one line.
fn described(key: &ApiKey) -> String {
    let access = match key.access {
        AccessLevel::Read => "read",
        AccessLevel::Write => "write",
    };
    let organisation = key.organisation_id.map_or("all organisations".to_owned(), |id| format!("organisation {id}"));
    let until = key.expires_at.map_or("deleted".to_owned(), |at| time(&at));
    format!("{}  {access} of {organisation}, until {until}  {}", key.id, one_line(&key.name))
}

fn time(time: &Time) -> String {
    serde_json::to_value(time).ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
}

fn missing(client: &Client) -> Failure {
    ClientError::Missing { address: client.address().to_owned(), path: "/apiKey".to_owned() }.into()
}
