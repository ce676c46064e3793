//! The arguments of the `decode` command.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};

/// The port of a gateway where none is said.
pub(super) const GATEWAY_PORT: u16 = 3001;

/// Explain packets: every field, what is inside, and what a gateway would do with them
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DecodeArgs {
    /// A datagram in hex; spaces, colons, line ends and 0x do not matter, and several arguments are one datagram if each has
    /// fewer bytes than a frame, 38. Default: none, only what --file names
    #[arg(value_name = "HEX", required_unless_present = "file")]
    pub hex: Vec<String>,
    /// A pcap or pcapng capture, test vectors in JSON, or hex datagrams one a line; - for standard input. Default: none
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// The gateway's port: what travels to or from it is taken out of captures; `any` for all UDP. Default: 3001
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub port: Option<Port>,
    /// A network and the file of its root key; repeatable. Default: the factory network, whose key is public
    #[arg(long, value_name = "ID=FILE", value_parser = key_file::<KeyId>)]
    pub network_key: Vec<KeyFile<KeyId>>,
    /// A device and the file of its root key; repeatable. Default: none
    #[arg(long, value_name = "ID=FILE", value_parser = key_file::<DeviceId>)]
    pub device_key: Vec<KeyFile<DeviceId>>,
    /// A gateway's configuration: its networks, devices and policies hold. Default: none
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The gateway's private key, for devices listed by public key. Default: the one that --config names, else the one in its
    /// data directory, if there is one
    #[arg(long, value_name = "FILE")]
    pub cloud_key_file: Option<PathBuf>,
    /// When everything arrives, as 2026-11-23T02:13:21Z or in Unix seconds. Default: the time of capture, else now
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<Timestamp>,
    /// Print one JSON object a datagram. Default: text
    #[arg(long, conflicts_with = "brief")]
    pub json: bool,
    /// Print one line a datagram. Default: everything
    #[arg(long)]
    pub brief: bool,
}

/// Which datagrams of a capture are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Those from or to this port.
    Only(u16),
    /// All.
    Any,
}

impl DecodeArgs {
    pub(super) fn port(&self) -> Port {
        self.port.unwrap_or(Port::Only(GATEWAY_PORT))
    }
}

/// A key file and whose key it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile<T> {
    /// The network or device.
    pub id: T,
    /// Its file.
    pub path: PathBuf,
}

fn key_file<T: FromStr<Err = crate::id::IdError>>(text: &str) -> Result<KeyFile<T>, String> {
    let (id, path) =
        text.split_once('=').ok_or("write the id, '=' and the file of its key; a key itself is no argument")?;
    let id = id.parse().map_err(|error: crate::id::IdError| error.to_string())?;
    Ok(KeyFile { id, path: Path::new(path).to_owned() })
}

fn port(text: &str) -> Result<Port, String> {
    match text {
        "any" | "0" => Ok(Port::Any),
        _ => text.parse().map(Port::Only).map_err(|_| "a port is a number from 1 to 65535, or any".to_owned()),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Timestamp::from_unix_seconds(seconds.into()));
    }
    let millis = text.parse::<jiff::Timestamp>().map(|time| u64::try_from(time.as_millisecond()).unwrap_or_default());
    millis.map(Timestamp).map_err(|_| "a time is RFC 3339, such as 2026-11-23T02:13:21Z, or Unix seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: DecodeArgs,
    }

    fn parse(flags: &[&str]) -> Result<DecodeArgs, String> {
        let parsed = Command::try_parse_from([&["decode"], flags].concat());
        parsed.map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn times_ports_and_key_files_are_read() {
        let args = parse(&["7f00", "--at", "2026-11-23T02:13:21Z", "--network-key", "000a17=a=b.key"]).unwrap();
        assert_eq!(args.at, Some(Timestamp::from_unix_seconds(1_795_400_001)));
        assert_eq!(args.network_key, [KeyFile { id: KeyId::new(0xa17).unwrap(), path: "a=b.key".into() }]);
        assert_eq!((args.port(), parse(&["7f", "--at", "1795400001"]).unwrap().at), (Port::Only(3001), args.at));
        let ports = ["any", "0", "6200"].map(|port| parse(&["7f", "--port", port]).unwrap().port());
        assert_eq!(ports, [Port::Any, Port::Any, Port::Only(6200)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_remedy() {
        for (flags, said) in [
            (&["7f", "--port", "70000"][..], "a port is a number from 1 to 65535, or any"),
            (&["7f", "--at", "yesterday"], "a time is RFC 3339, such as 2026-11-23T02:13:21Z, or Unix seconds"),
            (&["7f", "--network-key", "000a17"], "write the id, '=' and the file of its key"),
            (&["7f", "--device-key", "1=file"], "a device id is 16 hex digits"),
            (&[], "required"),
            (&["7f", "--json", "--brief"], "cannot be used with"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
