//! What settings mean together, beyond the text of each: defaults, and what excludes what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::file::{Listed, ListedKey};
use super::secrets::{self, ApiKey};
use super::settings::{Name, Settings};
use super::values::{self, Fault};
use super::{ConfigError, Device, Missing};
use crate::api::tokens::TokenRules;
use crate::auth::keys::{DeviceKey, KeyPair, device_key_id};
use crate::definitions::Definitions;
use crate::table::TableConfig;
use crate::waiters::WaitersConfig;

/// Settings of the table; what is not said stays as the table has it.
pub(super) fn table(settings: &Settings) -> Result<TableConfig, ConfigError> {
    let default = TableConfig::default();
    let unregistered = settings.value(Name::Unregistered, values::unregistered)?;
    let limit = settings.value(Name::UnregisteredLimit, values::count)?;
    Ok(TableConfig {
        unregistered: unregistered.unwrap_or(default.unregistered),
        unregistered_limit: limit.unwrap_or(default.unregistered_limit),
        ..default
    })
}

/// Bounds of waiting; what is not said stays as the waiters have it.
pub(super) fn waiters(settings: &Settings) -> Result<WaitersConfig, ConfigError> {
    let default = WaitersConfig::default();
    let per_device = settings.value(Name::WaitersPerDevice, values::count)?;
    let total = settings.value(Name::WaitersTotal, values::count)?;
    Ok(WaitersConfig { per_device: per_device.unwrap_or(default.per_device), total: total.unwrap_or(default.total) })
}

/// Bytes asked of the kernel for the receive buffer of a socket: over loopback it then holds 150 000 datagrams of 100 bytes,
/// what a core takes in 0.2 s at its limit; drivers that charge more for each make it fewer. Kernels give less to ordinary
/// users, which the log says.
const RECEIVE_BUFFER: usize = 64 << 20;

/// Receive buffer of each UDP socket in bytes.
pub(super) fn udp_receive_buffer(settings: &Settings) -> Result<usize, ConfigError> {
    Ok(settings.value(Name::UdpReceiveBuffer, values::buffer_size)?.unwrap_or(RECEIVE_BUFFER))
}

/// Where datagrams are received.
pub(super) fn udp_addresses(settings: &Settings) -> Result<Vec<SocketAddr>, ConfigError> {
    let Some(addresses) = settings.values(Name::UdpListen, values::address)? else {
        return Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 3001))]);
    };
    for (at, address) in addresses.iter().enumerate() {
        let Some(before) = addresses[..at].iter().find(|before| udp_clash(**before, *address)) else { continue };
        let fault = if before == address {
            Fault::new(format!("{address} is given twice"), "remove one of them")
        } else {
            Fault::new(
                format!("{before} and {address} cannot be listened on together: one takes in the other"),
                "remove one of them, or give it another port",
            )
        };
        return Err(fault.at(settings.place(Name::UdpListen)));
    }
    Ok(addresses)
}

/// Whether datagrams cannot be received on both: the same address, or one of all addresses of its family.
fn udp_clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one == other || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// As [`udp_clash`], for listening on TCP, where `[::]` takes IPv4 too, as systems have it by default.
fn tcp_clash(one: SocketAddr, other: SocketAddr) -> bool {
    let all = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let takes_in =
        |wide: SocketAddr, narrow: SocketAddr| wide.ip().is_unspecified() && (wide.is_ipv6() || all(narrow).is_ipv4());
    one.port() != 0
        && one.port() == other.port()
        && (one == other || all(one) == all(other) || takes_in(all(one), other) || takes_in(all(other), one))
}

/// Addresses of the API and of `/metrics`. Without credentials the API must not be reached from elsewhere.
pub(super) fn http_addresses(
    settings: &Settings,
    credentials: bool,
) -> Result<(SocketAddr, Option<SocketAddr>), ConfigError> {
    let http =
        settings.value(Name::HttpListen, values::address)?.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    if !credentials && !is_loopback(http.ip()) {
        let fault = Fault::new(
            format!("without credentials the API is served on a loopback address only, and {http} is none"),
            "name keys with --api-key-file or --jwt-key-file, or listen on 127.0.0.1 or [::1]",
        );
        return Err(fault.at(settings.place(Name::HttpListen)));
    }
    let metrics = settings.value(Name::MetricsListen, values::address)?;
    if let Some(metrics) = metrics.filter(|metrics| tcp_clash(http, *metrics)) {
        let fault = if metrics == http {
            Fault::new(
                format!("{http} is the address of the API"),
                "use another, or leave it out: the API serves /metrics too",
            )
        } else {
            Fault::new(
                format!("{metrics} and {http}, the address of the API, cannot be listened on together"),
                "use another port, or leave it out: the API serves /metrics too",
            )
        };
        return Err(fault.at(settings.place(Name::MetricsListen)));
    }
    Ok((http, metrics))
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Keys of the API's administrators; none without a file of them.
pub(super) fn api_keys(settings: &Settings, warnings: &mut Vec<String>) -> Result<Vec<ApiKey>, ConfigError> {
    match settings.path(Name::ApiKeyFile)? {
        Some(path) => secrets::api_keys(&path, warnings).map_err(|fault| fault.at(settings.place(Name::ApiKeyFile))),
        None => Ok(Vec::new()),
    }
}

/// Which tokens are believed; none without a file of keys.
pub(super) fn tokens(settings: &Settings) -> Result<Option<TokenRules>, ConfigError> {
    let audience = settings.value(Name::JwtAudience, values::name)?;
    match (settings.path(Name::JwtKeyFile)?, audience) {
        (Some(path), Some(audience)) => {
            secrets::tokens(&path, &audience).map(Some).map_err(|fault| fault.at(settings.place(Name::JwtKeyFile)))
        }
        (Some(_), None) => {
            let problem = "tokens need an audience, or one made for another service would open this one";
            let remedy = "say with --jwt-audience what tokens for this gateway have as aud";
            Err(Fault::new(problem, remedy).at(settings.place(Name::JwtKeyFile)))
        }
        (None, Some(_)) => {
            let fault = Fault::new("there are no keys of tokens", "name them with --jwt-key-file, or leave it out");
            Err(fault.at(settings.place(Name::JwtAudience)))
        }
        (None, None) => Ok(None),
    }
}

/// The calls whose names and fields are known.
pub(super) fn definitions(settings: &Settings) -> Result<Definitions, ConfigError> {
    let Some(path) = settings.path(Name::RpcDefinitions)? else { return Ok(Definitions::default()) };
    Definitions::read(&path).map_err(|error| {
        let line = error.to_string();
        // Its errors end in what to do, as all do.
        let (problem, remedy) = line.rsplit_once("; ").unwrap_or((&line, "correct the file"));
        Fault::new(problem, remedy).at(settings.place(Name::RpcDefinitions))
    })
}

/// What the gateway keeps.
pub(super) struct Kept {
    pub(super) data_dir: PathBuf,
    /// The file of the gateway's key.
    pub(super) key_file: PathBuf,
    pub(super) cloud_keys: KeyPair,
    /// The directory is missing, and was left so.
    pub(super) directory_missing: bool,
    /// The key is missing, and was left so: `cloud_keys` are any.
    pub(super) key_missing: bool,
}

/// The directory of everything the gateway keeps.
pub(super) fn data_dir(settings: &Settings) -> Result<PathBuf, ConfigError> {
    Ok(settings.path(Name::DataDir)?.unwrap_or_else(|| PathBuf::from("lastroute-data")))
}

/// The data directory and the gateway's key pair: as given, or that of the data directory.
pub(super) fn kept(settings: &Settings, missing: Missing, warnings: &mut Vec<String>) -> Result<Kept, ConfigError> {
    let data_dir = data_dir(settings)?;
    let given = match settings.path(Name::CloudKeyFile)? {
        Some(path) => {
            let key =
                secrets::key_file(&path, warnings).map_err(|fault| fault.at(settings.place(Name::CloudKeyFile)))?;
            Some((path, KeyPair::from_private(*key)))
        }
        None => None,
    };
    let at_data_dir = |fault: Fault| fault.at(settings.place(Name::DataDir));
    let directory_missing = secrets::data_dir(&data_dir, missing).map_err(at_data_dir)?;
    let (key_file, cloud_keys, key_missing) = match given {
        Some((path, keys)) => (path, keys, false),
        None => {
            let path = secrets::cloud_key_path(&data_dir);
            let (keys, key_missing) = secrets::cloud_key(&data_dir, missing, warnings).map_err(at_data_dir)?;
            (path, keys, key_missing)
        }
    };
    Ok(Kept { data_dir, key_file, cloud_keys, directory_missing, key_missing })
}

/// The device with its root key, which may follow from its public key and the gateway's private one.
pub(super) fn device(listed: &Listed, cloud_keys: &KeyPair) -> Result<Device, ConfigError> {
    let key = match &listed.key {
        ListedKey::Root(key) => key.clone(),
        ListedKey::Public(public) => {
            let root = cloud_keys.shared_root(*public).ok_or_else(|| {
                let problem =
                    format!("the public key of device {} is of small order: its root key would be known", listed.id);
                Fault::new(problem, "give the key that the device made").at(&listed.place)
            })?;
            DeviceKey { key_id: Some(device_key_id(&cloud_keys.public(), public)), root }
        }
    };
    Ok(Device { id: listed.id, key })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::udp::BoundSocket;

    /// Addresses without ports; those the system has.
    fn addresses() -> Vec<IpAddr> {
        let all = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"].map(|ip| ip.parse().unwrap());
        all.into_iter().filter(|ip: &IpAddr| TcpListener::bind((*ip, 0)).is_ok()).collect()
    }

    /// Whether the system says so of these addresses on one port. Another program may hold the one port of an address, but
    /// hardly several.
    fn refused(one: IpAddr, other: IpAddr, refuses: impl Fn(IpAddr, IpAddr) -> bool) -> bool {
        (0..5).all(|_| refuses(one, other))
    }

    #[test]
    fn tcp_addresses_clash_where_the_system_refuses_them() {
        let system = |one, other| {
            let held = TcpListener::bind((one, 0)).unwrap();
            TcpListener::bind((other, held.local_addr().unwrap().port())).is_err()
        };
        for one in addresses() {
            for other in addresses() {
                let clash = tcp_clash(SocketAddr::new(one, 7), SocketAddr::new(other, 7));
                assert_eq!(clash, refused(one, other, system), "{one} {other}");
            }
        }
    }

    #[test]
    fn udp_addresses_clash_where_the_system_refuses_them() {
        let bind = |ip, port| BoundSocket::bind(SocketAddr::new(ip, port), 4096);
        let system = |one, other| {
            let held = bind(one, 0).unwrap();
            bind(other, held.address().port()).is_err()
        };
        // A socket of IPv6 alone takes no IPv4 address in IPv6 form.
        let addresses: Vec<_> = addresses().into_iter().filter(|ip| ip.to_canonical() == *ip).collect();
        for &one in &addresses {
            for &other in &addresses {
                let clash = udp_clash(SocketAddr::new(one, 7), SocketAddr::new(other, 7));
                assert_eq!(clash, refused(one, other, system), "{one} {other}");
            }
        }
    }

    #[test]
    fn any_port_clashes_with_none() {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        assert_eq!((udp_clash(any, any), tcp_clash(any, any)), (false, false));
    }
}
