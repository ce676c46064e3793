//! The `import` and `export` commands: devices into and out of a running gateway, and what came of it.

use super::{Failure, client_key, interrupted, interrupted_again, print, runtime, say, start_logging};
use crate::config::ApiKey;
use crate::transfer::{self, ExportArgs, ImportArgs};

pub(super) fn import(arguments: &ImportArgs) -> Result<(), Failure> {
    start_logging("warn");
    let key = client_key(arguments.api_key_file.as_deref())?;
    let imported = runtime()?.block_on(async {
        let interrupted = interrupted()?;
        let stop = async {
            interrupted.await;
        };
        let key = key.as_ref().map(ApiKey::text);
        transfer::import(arguments, key, stop, interrupted_again()).await.map_err(Failure::from)
    })?;
    let printed = print(format!("{imported}\n").as_bytes());
    let Some(shortfall) = imported.shortfall() else { return printed };
    // What is missing matters more than a summary that nobody gets.
    if let Err(failure) = printed {
        say(&format!("lastroute: {failure}"));
    }
    Err(Failure::Running(shortfall))
}

pub(super) fn export(arguments: &ExportArgs) -> Result<(), Failure> {
    start_logging("warn");
    let key = client_key(arguments.api_key_file.as_deref())?;
    runtime()?.block_on(async {
        let interrupted = interrupted()?;
        let stop = async {
            interrupted.await;
        };
        let exported = transfer::export(arguments, key.as_ref().map(ApiKey::text), stop).await;
        exported.or_else(|error| if error.is_unread() { Ok(0) } else { Err(Failure::from(error)) }).map(drop)
    })
}
