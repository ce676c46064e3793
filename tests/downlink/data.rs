//! Calls that move data, in either direction.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lastroute::simulate::{self, Count, exchange};
use serde_json::{Value, json};

use crate::harness::{Fleet, Gateway, seen, sleepers};
use crate::network::{Network, Trouble};

const FILE_WRITE_BASIC: u16 = 40;
const DATA_SENDER: u16 = 32_765;
const DATA_RECEIVER: u16 = 32_766;

/// The result that the device gave.
fn result(call: &Value) -> (i64, Vec<u8>) {
    let answer = &call["rpcRsp"];
    let body = answer["paramsEncoded"].as_str().map_or_else(Vec::new, |text| STANDARD.decode(text).unwrap());
    (answer["returnCode"].as_i64().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_both_ways_whole_while_the_device_is_awake() {
    let fleet = sleepers(2);
    let network = Network::start(3, Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let identities = fleet.identities().unwrap();
    gateway.api.register(&identities, |_| true).await;
    // Awake long enough for all of it, and then asleep.
    let patient = simulate::Config {
        window: std::time::Duration::from_secs(2),
        cadence: std::time::Duration::from_secs(4),
        ..fleet.clone()
    };
    let running = Fleet::start(&patient, &network);
    running.until(Count::Booted, 2).await;

    let data: Vec<u8> = (0..20_001_u32).map(|at| (at * 7) as u8).collect();
    let with_data = json!({"data": STANDARD.encode(&data)});
    let api = &gateway.api;
    let towards = async |command: u16, period: u8| {
        let header = json!({"size": data.len(), "rxAckPeriod": period});
        let rpc = json!({"commandId": command, "dataHeader": header, "paramsEncoded": STANDARD.encode([0; 5])});
        let id = api.call(identities[0].id, rpc, 60_000, with_data.clone()).await;
        api.call_once(&id, |call| call["status"] == "completed").await
    };
    let written = towards(FILE_WRITE_BASIC, 8).await;
    assert_eq!(result(&written), (0, exchange::received(&data)), "{written}");
    let written = towards(DATA_RECEIVER, 1).await;
    assert_eq!(result(&written), (0, exchange::received(&data)), "{written}");

    let size = 9 * exchange::PIECE + 5;
    let rpc = json!({"commandId": DATA_SENDER, "dataHeader": {"size": size, "rxAckPeriod": 0}});
    let id = api.call(identities[1].id, rpc, 60_000, json!({})).await;
    let sent = api.call_once(&id, |call| call["status"] == "completed").await;
    assert_eq!((result(&sent), sent["receivedLength"].as_u64()), ((0, Vec::new()), Some(size.into())), "{sent}");
    let expected: Vec<u8> = (0..size).map(exchange::sent_byte).collect();
    assert!(api.bytes(&format!("/rpc/{id}/data")).await == expected);

    let summary = running.stop().await;
    assert_eq!((summary.get(Count::Executed), summary.get(Count::ExecutedAgain)), (3, 0), "{summary}");
    network.seen(|seen| assert_eq!(seen.repeated, [], "nonces"));
    gateway.stop().await;
}
