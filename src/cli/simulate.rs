//! The `simulate` command: a fleet, and what the gateway counted of it; attacks, and what got through.

use std::sync::Arc;

use super::{Failure, client_key, interrupted, print, runtime, runtime_of, start_logging, warn};
use crate::client::Client;
use crate::clock::Clock;
use crate::config::{self, ApiKey};
use crate::simulate::args::{self, SimulateArgs};
use crate::simulate::attack::{self, Plan};
use crate::simulate::compare::Watched;
use crate::simulate::verdict::{Kinds, Outcome};
use crate::simulate::{self, Config, Stats};

pub(super) fn run(arguments: &SimulateArgs) -> Result<(), Failure> {
    start_logging("warn");
    let mut warnings = Vec::new();
    let key_file = arguments.network_key_file.as_deref();
    let network_key = key_file.map(|path| config::key_file(path, "--network-key-file", &mut warnings)).transpose();
    let config = arguments.config(network_key.map_err(Failure::configuration)?)?;
    warn(&warnings);
    let gateway = gateway_of(arguments)?;
    if let Some(path) = &arguments.write_config {
        return Ok(args::write_gateway_config(path, &config, key_file)?);
    }
    if let Some(kinds) = &arguments.attack {
        return attack(arguments, &config, kinds, gateway);
    }
    let workers = arguments.workers.map(usize::from);
    runtime_of(workers)?.block_on(beside(gateway, config, arguments.expect_all))
}

/// A client of the gateway to compare with, if there is one.
fn gateway_of(arguments: &SimulateArgs) -> Result<Option<Client>, Failure> {
    let key = client_key(arguments.api_key_file.as_deref())?;
    let address = arguments.gateway_api.as_deref();
    let client = address.map(|address| Client::new(address, key.as_ref().map(ApiKey::text))).transpose();
    client.map_err(Failure::configuration)
}

/// Runs a fleet, says what it did, and compares that with what the gateway counted meanwhile.
async fn beside(gateway: Option<Client>, config: Config, expect_all: bool) -> Result<(), Failure> {
    let watched = match gateway.clone() {
        Some(gateway) => Some(Watched::start(gateway).await.map_err(Failure::running)?),
        None => None,
    };
    let interrupted = interrupted()?;
    let stop = async {
        interrupted.await;
    };
    let stats = Arc::new(Stats::default());
    let summary = tokio::select! {
        summary = simulate::run(config, Clock::default(), stats.clone(), stop) => summary?,
        never = simulate::report(stats.clone(), gateway) => match never {},
    };
    print(format!("{summary}\n").as_bytes())?;
    let Some(watched) = watched else { return Ok(()) };
    let again = self::interrupted()?;
    let comparison = tokio::select! {
        comparison = watched.compare(&summary) => comparison.map_err(Failure::running)?,
        signal = again => {
            let text = format!("ended by {signal} before the counters of the gateway stood still; nothing was compared");
            return Err(Failure::Running(text));
        }
    };
    print(format!("{comparison}\n").as_bytes())?;
    match comparison.unexplained() {
        Some(difference) if expect_all => Err(Failure::Running(difference)),
        Some(difference) => print(format!("  {difference}\n").as_bytes()),
        None => Ok(()),
    }
}

/// Attacks a gateway, and tells what got through.
fn attack(arguments: &SimulateArgs, config: &Config, kinds: &Kinds, api: Option<Client>) -> Result<(), Failure> {
    let packets = arguments.attack_packets.unwrap_or(attack::DEFAULT_PACKETS);
    let plan = Plan { kinds: kinds.0.clone(), packets, api };
    let mut told = Ok(());
    let tell = |line| {
        if told.is_ok() {
            told = print(format!("{line}\n").as_bytes());
        }
    };
    let outcomes = runtime()?.block_on(attack::run(config, &plan, Clock::default(), tell))?;
    told?;
    let named = |what: &str, is: fn(&Outcome) -> bool| {
        let kinds: Vec<_> = outcomes.iter().filter(|outcome| is(outcome)).map(|outcome| outcome.kind.name()).collect();
        if kinds.is_empty() { None } else { Some(format!("{what}: {}", kinds.join(", "))) }
    };
    let through = named("got through", |outcome| !outcome.findings.is_empty());
    let inconclusive = named("inconclusive", |outcome| outcome.findings.is_empty() && outcome.inconclusive);
    let failed: Vec<_> = through.into_iter().chain(inconclusive).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::Running(failed.join("; "))) }
}
