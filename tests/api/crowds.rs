//! Many clients at once, and many that leave in the middle: each wakes once, and nothing of the others is left.
//!
//! How many can be set, for a run by hand on a machine of its own: `LASTROUTE_TEST_WAITS=100000` and
//! `LASTROUTE_TEST_ABORTS=1000000` (files that may be open: `ulimit -n`).

use std::time::Duration;

use futures_util::future::join_all;
use lastroute::id::DeviceId;
use lastroute::waiters::WaitersConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{Client, DEVICE, PATIENCE, Server, WAIT, request_http2};
use crate::limits::patient;

/// In which a gateway has forgotten all who left.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// Requests on one connection of HTTP/2, of which 250 are taken.
const STREAMS: usize = 200;

/// A count from the environment.
fn count(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a count"))
}

async fn all_are_forgotten(server: &Server) {
    let begun = Instant::now();
    while server.waiters.waiting() > 0 {
        assert!(begun.elapsed() < FORGOTTEN, "{} still wait", server.waiters.waiting());
        tokio::task::yield_now().await;
    }
    let metrics = String::from_utf8(server.get("/metrics", "").await.body).unwrap();
    assert!(metrics.contains("\nlastroute_waiters 0"), "{metrics}");
}

/// Waits until no connection is open but the one that asks: those that are not served yet may still begin to wait.
async fn all_are_closed(server: &Server) {
    let begun = Instant::now();
    loop {
        let metrics = String::from_utf8(server.get("/metrics", "").await.body).unwrap();
        if metrics.contains("\nlastroute_http_connections 1\n") {
            return;
        }
        assert!(begun.elapsed() < FORGOTTEN, "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_one_of_a_crowd_wakes_once() {
    let waits = count("LASTROUTE_TEST_WAITS", 2_000);
    let mut setup = patient();
    setup.waiters = WaitersConfig { per_device: waits, total: waits };
    setup.config.waits_per_credential = waits;
    let server = Server::start(setup).await;
    let path = format!("{WAIT}?timeoutMs=600000");
    let connection = async |len: usize| {
        let sender = server.connect_http2().await;
        let one = || async { request_http2(&mut sender.clone(), "GET", &path).await };
        join_all((0..len).map(|_| one())).await
    };
    let lens = (0..waits).step_by(STREAMS).map(|first| STREAMS.min(waits - first));
    let all = join_all(lens.map(connection));
    let wake = async {
        server.waiting(waits).await;
        let begun = Instant::now();
        server.report(DEVICE, 1);
        begun
    };
    let (answers, begun) = tokio::join!(async { timeout(PATIENCE * 4, all).await.expect("in time") }, wake);
    println!("{waits} woke within {:?}", begun.elapsed());
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    assert_eq!(answers.len(), waits);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["packet"]["sequence"] == 1));
    all_are_forgotten(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_waits_whose_clients_are_gone() {
    let aborts = count("LASTROUTE_TEST_ABORTS", 2_000);
    let server = Server::start(patient()).await;
    let request = format!("GET {WAIT}?timeoutMs=600000 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    for n in 0..aborts {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // By a reset, so that no port of this machine rests afterwards, and with every part of the request sent.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        let len = if n % 4 == 0 { n / 4 % request.len() } else { request.len() };
        stream.write_all(&request.as_bytes()[..len]).await.unwrap();
        if n % 64 == 1 {
            // Some have begun to wait by then.
            let mut orderly = Client(stream);
            orderly.0.shutdown().await.unwrap();
        }
    }
    all_are_closed(&server).await;
    all_are_forgotten(&server).await;
    server.report(DeviceId(1), 1);
    assert_eq!(server.get("/device/deviceId/0000000000000001/lastRoute", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_waits_that_are_given_up_over_http2() {
    let server = Server::start(patient()).await;
    for _ in 0..3 {
        let sender = server.connect_http2().await;
        let path = format!("{WAIT}?timeoutMs=600000");
        let waits: Vec<_> = (0..STREAMS)
            .map(|_| {
                let (mut sender, path) = (sender.clone(), path.clone());
                tokio::spawn(async move { request_http2(&mut sender, "GET", &path).await })
            })
            .collect();
        server.waiting(STREAMS).await;
        waits.iter().for_each(|wait| wait.abort());
        server.waiting(0).await;
        // The connection is as good as before.
        assert_eq!(request_http2(&mut sender.clone(), "GET", "/health").await.status, 200);
    }
    all_are_forgotten(&server).await;
}
