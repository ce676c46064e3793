//! What a simulated device answers to calls: time_get and application_info; it has no other command.
//!
//! As captured firmware does (docs/protocol.md, seen on real firmware), it answers at any level and overlooks what follows
//! the parameters.

use crate::wire::calls::{APPLICATION_INFO, ApplicationInfo, NOT_SUPPORTED, TIME_GET, TimeInfo};
use crate::wire::rpc::{Command, Response};

/// What a device says of itself when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) application: ApplicationInfo,
    pub(super) time: TimeInfo,
}

/// The payload of the RPC_RSP to the RPC_CMD `call`, and its return code. `None` for a call without a whole header: firmware
/// answers one with whatever follows it in memory, which nobody can rely on.
pub(super) fn answer(call: &[u8], facts: &Facts) -> Option<(Vec<u8>, i16)> {
    let Command { request_id, command_id, .. } = Command::parse(call)?;
    let mut body = Vec::new();
    let return_code = match command_id {
        APPLICATION_INFO => {
            facts.application.encode(&mut body);
            0
        }
        TIME_GET => {
            facts.time.encode(&mut body);
            0
        }
        _ => NOT_SUPPORTED,
    };
    let mut payload = Vec::new();
    Response { request_id, command_id, return_code, body: &body }.encode(&mut payload);
    Some((payload, return_code))
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
