//! The commands that the protocol names: their ids, what firmware asks of a call at least, and which form its header has
//! (docs/protocol.md, RPC).

use super::frame::Level;

/// A command by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedCommand {
    /// What stands in the header of its calls.
    pub id: u16,
    /// As firmware calls it.
    pub name: &'static str,
    /// The least level that firmware wants, unless its build changes that.
    pub level: Level,
    /// Whether the header of its calls says how much data is to move.
    pub moves_data: bool,
}

/// Every command that has a name here, by id.
pub const NAMED: [NamedCommand; 28] = [
    device(1, "reboot"),
    device(2, "fault"),
    network(3, "time_get"),
    device(4, "time_set"),
    device(5, "kv_write"),
    device(6, "kv_read"),
    device(7, "kv_reflect_crcs"),
    device(8, "zbus_channel_state"),
    network(9, "application_info"),
    device(10, "wifi_scan"),
    device(11, "wifi_state"),
    device(12, "last_reboot"),
    device(13, "data_logger_state"),
    moving(device(14, "data_logger_read")),
    moving(device(15, "mem_read")),
    device(20, "lte_at_cmd"),
    device(21, "lte_state"),
    device(30, "coap_download"),
    moving(network(40, "file_write_basic")),
    moving(network(44, "file_write")),
    device(50, "bt_connect_infuse"),
    device(51, "bt_disconnect"),
    network(30_000, "security_state"),
    device(30_001, "security_key_update"),
    network(30_002, "security_public_keys"),
    moving(device(32_765, "data_sender")),
    moving(device(32_766, "data_receiver")),
    network(32_767, "echo"),
];

/// The command of an id, if it has a name here.
pub fn named(id: u16) -> Option<&'static NamedCommand> {
    NAMED.iter().find(|command| command.id == id)
}

/// What a return code says, of older firmware or newer, if that is documented.
pub const fn return_code_meaning(code: i16) -> Option<&'static str> {
    Some(match code {
        0 => "success",
        -13 | -1180 => "the level is too low",
        -22 | -1001 => "malformed",
        -95 | -1000 => "unknown command",
        -134 => "not built in",
        -1002 => "bad argument",
        -1190 => "denied",
        -110 => "timed out",
        _ => return None,
    })
}

const fn network(id: u16, name: &'static str) -> NamedCommand {
    NamedCommand { id, name, level: Level::Network, moves_data: false }
}

const fn device(id: u16, name: &'static str) -> NamedCommand {
    NamedCommand { id, name, level: Level::Device, moves_data: false }
}

const fn moving(command: NamedCommand) -> NamedCommand {
    NamedCommand { moves_data: true, ..command }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_no_name_stands_twice() {
        assert!(NAMED.is_sorted_by(|one, next| one.id < next.id));
        let mut names: Vec<_> = NAMED.iter().map(|command| command.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next));
        assert_eq!(named(40).map(|command| (command.name, command.moves_data)), Some(("file_write_basic", true)));
        assert_eq!(named(99), None);
    }
}
