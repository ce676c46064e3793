//! What a simulated device makes of a call: which commands it has, which of them it refuses at network level, and what it says
//! of itself. [`super::calls`] does what is to be done.
//!
//! As captured firmware does (docs/protocol.md, seen on real firmware), it overlooks what follows the parameters.

use super::exchange::Call;
use crate::wire::calls::{APPLICATION_INFO, ApplicationInfo, NOT_SUPPORTED, TIME_GET, TimeInfo};
use crate::wire::frame::Level;
use crate::wire::rpc::{Command, DataHeader};
use crate::wire::security::{CHALLENGE_LEN, SECURITY_STATE};

/// The commands it has beside those that `wire` knows.
const REBOOT: u16 = 1;
const TIME_SET: u16 = 4;
const FILE_WRITE_BASIC: u16 = 40;
const FILE_WRITE: u16 = 44;
const DATA_SENDER: u16 = 32_765;
const DATA_RECEIVER: u16 = 32_766;
const ECHO: u16 = 32_767;

/// Errno values.
const DENIED: i16 = -13;
const INVALID: i16 = -22;

/// What a device says of itself when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) application: ApplicationInfo,
    pub(super) time: TimeInfo,
    pub(super) commands: Commands,
}

/// Which commands a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commands {
    /// All that there are.
    All,
    /// Those that ask and change nothing.
    Questions,
}

impl Facts {
    /// The result of application_info.
    pub(super) fn application(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.application.encode(&mut body);
        body
    }

    /// The result of time_get.
    pub(super) fn time(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.time.encode(&mut body);
        body
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<'a> {
    /// Nothing: it is answered with this return code.
    Refuse(i16),
    /// To say which application runs.
    ApplicationInfo,
    /// To tell the time.
    TimeGet,
    /// To set the clock, in 1/65536 s.
    TimeSet(u64),
    /// To say who it is.
    SecurityState(&'a [u8; CHALLENGE_LEN]),
    /// To repeat the parameters.
    Echo(&'a [u8]),
    /// To boot anew.
    Reboot,
    /// To take data.
    Receive(DataHeader),
    /// To send as many bytes.
    Send(u32),
}

/// Reads an RPC_CMD that came at `level` to a device that has `commands`. `None` for a call without a whole header: firmware answers one with whatever follows it
/// in memory, which nobody can rely on.
pub(super) fn read(payload: &[u8], level: Level, commands: Commands) -> Option<(Call, Action<'_>)> {
    let Command { request_id, command_id, parameters, .. } = Command::parse(payload)?;
    let call = Call { request_id, command_id, level };
    let action = match minimal_level(command_id) {
        Some(_) if commands == Commands::Questions && !is_question(command_id) => Action::Refuse(NOT_SUPPORTED),
        None => Action::Refuse(NOT_SUPPORTED),
        Some(minimal) if level < minimal => Action::Refuse(DENIED),
        Some(_) => action(command_id, payload, parameters).unwrap_or(Action::Refuse(INVALID)),
    };
    Some((call, action))
}

/// The lowest level at which it carries a command out; `None` for one that it does not have.
const fn minimal_level(command_id: u16) -> Option<Level> {
    match command_id {
        TIME_GET | APPLICATION_INFO | FILE_WRITE_BASIC | FILE_WRITE | SECURITY_STATE | ECHO => Some(Level::Network),
        REBOOT | TIME_SET | DATA_SENDER | DATA_RECEIVER => Some(Level::Device),
        _ => None,
    }
}

const fn is_question(command_id: u16) -> bool {
    matches!(command_id, TIME_GET | APPLICATION_INFO | SECURITY_STATE | ECHO)
}

/// `None` if parameters are missing, or are none.
fn action<'a>(command_id: u16, payload: &[u8], parameters: &'a [u8]) -> Option<Action<'a>> {
    let data = || Command::parse_with_data(payload)?.data;
    Some(match command_id {
        TIME_GET => Action::TimeGet,
        APPLICATION_INFO => Action::ApplicationInfo,
        // A device counts seconds in 32 bits: 48 with the fraction.
        TIME_SET => Action::TimeSet(
            parameters
                .first_chunk()
                .map(|time| u64::from_le_bytes(*time))
                .filter(|time| (1..1 << 48).contains(time))?,
        ),
        SECURITY_STATE => Action::SecurityState(parameters.first_chunk()?),
        ECHO => Action::Echo(parameters),
        REBOOT => Action::Reboot,
        FILE_WRITE_BASIC | FILE_WRITE | DATA_RECEIVER => Action::Receive(data()?),
        DATA_SENDER => Action::Send(data()?.size),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
pub(super) mod tests;
