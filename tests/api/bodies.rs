//! That bodies are read by the handlers as by what is fuzzed in their place.

use lastroute::api::format::Format;
use lastroute::api::router::{ROWS, Router};
use lastroute::api::understand;
use lastroute::definitions::Definitions;

use crate::harness::{DEVICE, Server, Setup};

const RECORD: &str = "0198c0de-0000-7000-8000-00000000002a";

/// A refusal names the type that the body was to be, or the first of its fields that is missing.
#[tokio::test]
async fn every_handler_reads_its_body_as_it_is_understood_without_a_server() {
    let server = Server::start(Setup::default()).await;
    let (router, definitions) = (Router::new(), Definitions::default());
    let mut refused = 0;
    for row in ROWS.iter().filter(|row| ["POST", "PUT"].contains(&row.method.as_str())) {
        let path = row.template.replace("{deviceId}", &DEVICE.to_string()).replace("{id}", RECORD);
        let endpoint = router.resolve(row.method, &path).endpoint.unwrap();
        for (format, headers, bodies) in [
            (Format::Json, "content-type: application/json\r\n", [&b"7"[..], b"{}", b"{", b"[1]"]),
            (
                Format::MessagePack("application/msgpack"),
                "content-type: application/msgpack\r\n",
                [b"\x07", b"\x80", b"\x81", b"\x91\x01"],
            ),
        ] {
            for body in bodies {
                let Err(error) = understand::body(&endpoint, format, body, &definitions) else { continue };
                let answer = server.connect().await.request(row.method.as_str(), &path, headers, body).await;
                assert_eq!(answer.status, error.status().as_u16(), "{path} {body:?}: {error}");
                assert_eq!(answer.json()["message"], error.to_string(), "{path} {body:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
