//! Keeping web pages from an API that everybody may use. What a page in a browser on this machine sends would be as good as
//! an administrator's request.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::Request;
use hyper::header::{HOST, ORIGIN};

use super::error::ApiError;

/// That a request came to this machine by its address, and from no page of another site.
///
/// A name may be one that its owner lets lead here (DNS rebinding), so that a page there counts as of this site. A page of
/// another site may send requests whose answers it does not see; those that change something have an `Origin`.
///
/// # Errors
/// There is no `Host`, and no `:authority`, that is an IP address or `localhost`, or one that is not; or the `Origin` is of
/// another host or port.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), ApiError> {
    let named = request.headers().get_all(HOST).iter().map(|host| host.as_bytes());
    let mut hosts = request.uri().authority().map(|authority| authority.as_str().as_bytes()).into_iter().chain(named);
    let host = hosts.next().filter(|host| is_address(host)).ok_or(ApiError::HostName)?;
    if !hosts.all(is_address) {
        return Err(ApiError::HostName);
    }
    let mut origins = request.headers().get_all(ORIGIN).iter();
    if origins.all(|origin| is_of(origin.as_bytes(), host)) { Ok(()) } else { Err(ApiError::OtherOrigin) }
}

/// Whether this is an IP address or `localhost`, with or without a port: nothing that is asked of name servers.
fn is_address(host: impl AsRef<[u8]>) -> bool {
    let Ok(host) = str::from_utf8(host.as_ref()) else { return false };
    let bracketed = || host.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() || bracketed().is_some() || is_localhost(host)
}

fn is_localhost(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    name.eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok()
}

/// Whether an origin is that of the pages of `host`.
fn is_of(origin: &[u8], host: &[u8]) -> bool {
    let own = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme.as_bytes()));
    own.is_some_and(|own| own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, headers: &[(&str, &str)]) -> Result<(), ApiError> {
        let request = headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        check(&request.body(()).unwrap())
    }

    #[test]
    fn an_address_and_localhost_are_answered_and_names_are_not() {
        for host in ["127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "localhost", "LocalHost:8080"] {
            assert_eq!(checked("/", &[("host", host)]), Ok(()), "{host}");
            assert_eq!(checked(&format!("http://{host}/"), &[]), Ok(()), "{host}");
        }
        for host in [
            "",
            "gateway",
            "rebound.example:8080",
            "127.0.0.1.example",
            "localhost.example",
            "localhost:",
            "localhost:x",
            "user@127.0.0.1",
            "[::1",
            "127.0.0.1:99999",
        ] {
            assert_eq!(checked("/", &[("host", host)]), Err(ApiError::HostName), "{host}");
        }
        assert_eq!(checked("/", &[]), Err(ApiError::HostName));
        assert_eq!(checked("http://rebound.example/", &[("host", "127.0.0.1")]), Err(ApiError::HostName));
        assert_eq!(checked("http://127.0.0.1/", &[("host", "rebound.example")]), Err(ApiError::HostName));
    }

    #[test]
    fn a_page_of_this_host_is_answered_and_those_of_others_are_not() {
        for (host, origin) in [("127.0.0.1:8080", "http://127.0.0.1:8080"), ("localhost", "http://LOCALHOST")] {
            assert_eq!(checked("/", &[("host", host), ("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in ["null", "", "http://site.example", "http://127.0.0.1", "http://127.0.0.1:3000", "127.0.0.1:8080"]
        {
            let checked = checked("/", &[("host", "127.0.0.1:8080"), ("origin", origin)]);
            assert_eq!(checked, Err(ApiError::OtherOrigin), "{origin}");
        }
    }
}
