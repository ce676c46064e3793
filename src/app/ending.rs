//! The end of the thread that has messages and the registry.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::dispatch::Work;
use crate::registry::Registry;

/// How long it may take to close the registry, once records are written. What is then still in its write-ahead log is found there at the next
/// start.
const CLOSE: Duration = Duration::from_millis(600);

/// How far the end has come, for the thread that has messages and the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It has not begun.
    NotYet,
    /// Nothing more happens to messages: what did is written down.
    WriteDown,
    /// Nobody else uses the data directory.
    Close,
}

/// Writes down what happens to messages until it ends, and closes the registry.
pub(super) async fn write_until(work: Work, registry: Registry, end: watch::Receiver<Ending>) -> io::Result<()> {
    // An error: whoever would tell is gone.
    let comes = async |mut end: watch::Receiver<Ending>, to| drop(end.wait_for(|now| *now >= to).await);
    let late = async {
        comes(end.clone(), Ending::Close).await;
        sleep(CLOSE).await;
    };
    let closing = async {
        work.run(comes(end.clone(), Ending::WriteDown)).await;
        comes(end.clone(), Ending::Close).await;
        registry.close().await;
    };
    tokio::select! {
        () = closing => {}
        () = late => {}
    }
    Ok(())
}
