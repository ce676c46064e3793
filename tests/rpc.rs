//! `lastroute rpc` against a gateway that answers as it is told: what is asked, what is printed, how it ends.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use lastroute::clock::Clock;
use lastroute::status::Time;
use serde_json::{Value, json};

const DEVICE: &str = "d291d4d66bf0a955";
const MESSAGE: &str = "01a214c3-cce6-7c24-ace9-bcac3d6e8235";
const PAST: &str = "2026-01-01T00:00:00.000Z";
const FUTURE: &str = "2126-01-01T00:00:00.000Z";

/// A request: method and path, and its body.
type Asked = (String, String);

/// A gateway that gives these answers in turn, each with its status and what its clock shows; gives what it was asked.
fn gateway(clock: Option<&'static str>, answers: Vec<(u16, Vec<u8>)>) -> (SocketAddr, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let exchange = |(status, body): (u16, Vec<u8>)| {
            let (stream, _) = listener.accept().unwrap();
            let asked = asked(&stream);
            answer(stream, clock, status, &body);
            asked
        };
        answers.into_iter().map(exchange).collect()
    });
    (address, serving)
}

fn asked(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    (line, String::from_utf8(body).unwrap())
}

fn answer(mut stream: TcpStream, clock: Option<&str>, status: u16, body: &[u8]) {
    let date = clock.map_or_else(String::new, |clock| format!("date: {clock}\r\n"));
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\n{date}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
}

/// How a run ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
    asked: Vec<Asked>,
}

fn ok(body: &Value) -> (u16, Vec<u8>) {
    (200, body.to_string().into_bytes())
}

fn program(arguments: &[&str], address: SocketAddr) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    program.arg("rpc").args(arguments).args(["--gateway-api", &format!("http://{address}")]);
    program
}

fn rpc(arguments: &[&str], answers: Vec<(u16, Vec<u8>)>) -> Ended {
    rpc_at(None, arguments, answers)
}

/// A run against a gateway whose clock is another.
fn rpc_at(clock: Option<&'static str>, arguments: &[&str], answers: Vec<(u16, Vec<u8>)>) -> Ended {
    let (address, serving) = gateway(clock, answers);
    let output = program(arguments, address).output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        asked: serving.join().unwrap(),
    }
}

/// A run that asks nothing.
fn unasked(arguments: &[&str]) -> (i32, String) {
    let ended = rpc(arguments, Vec::new());
    assert_eq!(ended.stdout, "");
    (ended.code, ended.stderr)
}

fn created() -> (u16, Vec<u8>) {
    let body = json!({"createdAt": PAST, "id": MESSAGE, "downlinkMessageId": "01a214c3-cce6-7c24-ace9-bcac3d6e8236"});
    (201, body.to_string().into_bytes())
}

/// A message as it waits, with what is different.
fn message(status: &str, expires_at: &str, other: &Value) -> Value {
    let id = "01a214c3-cce6-7c24-ace9-bcac3d6e8236";
    let mut downlink = json!({
        "id": id, "createdAt": PAST, "updatedAt": PAST, "deviceId": id, "payloadType": 3, "auth": 1, "status": status,
        "sendWaitTimeoutMs": 600_000, "expiresAt": expires_at, "attempts": 0, "level": "best", "retry": "never",
        "rpcReq": {"requestId": 7, "commandId": 9, "commandName": "application_info", "params": {}},
    });
    for (key, value) in other.as_object().unwrap() {
        downlink[key] = value.clone();
    }
    let device = json!({
        "id": id, "createdAt": PAST, "updatedAt": PAST, "mcuId": "0123456789abcdef", "boardId": id, "organisationId": id,
        "deviceId": DEVICE, "metadata": {},
    });
    json!({"createdAt": PAST, "id": MESSAGE, "downlinkMessageId": id, "device": device, "downlinkMessage": downlink})
}

fn waiting() -> Value {
    message("waiting", FUTURE, &json!({}))
}

fn sent(at: &str) -> Value {
    let route = json!({"interface": "udp", "interfaceData": {"sequence": 5}, "udp": {"address": "203.0.113.7:6200"}});
    let request =
        json!({"requestId": 7, "commandId": 9, "commandName": "application_info", "params": {}, "route": route});
    message("sent", FUTURE, &json!({"sentAt": at, "attempts": 1, "auth": 2, "rpcReq": request}))
}

fn completed(return_code: i16, result: &Value) -> Value {
    let route = json!({"interface": "udp", "interfaceData": {"sequence": 6},
        "udp": {"address": "203.0.113.7:6200", "time": PAST}});
    let mut response = json!({"route": route, "returnCode": return_code});
    for (key, value) in result.as_object().unwrap() {
        response[key] = value.clone();
    }
    let mut message = sent(PAST);
    message["downlinkMessage"]["status"] = json!("completed");
    message["downlinkMessage"]["completedAt"] = json!("2026-01-01T00:00:00.250Z");
    message["downlinkMessage"]["rpcRsp"] = response;
    message
}

fn heard() -> (u16, Vec<u8>) {
    ok(&json!({"interface": "udp", "interfaceData": {"sequence": 4711},
        "udp": {"address": "203.0.113.7:6200", "time": PAST}}))
}

#[test]
fn a_call_is_followed_through_its_states_to_its_answer() {
    let info = json!({"params": {"uptime": "12", "version": {"major": "1"}}});
    let answers =
        vec![created(), ok(&waiting()), heard(), ok(&waiting()), heard(), ok(&sent(FUTURE)), ok(&completed(0, &info))];
    let ended = rpc(&["send", DEVICE, "application_info", "--wait", "10m"], answers);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let request: Value = serde_json::from_str(&ended.asked[0].1).unwrap();
    assert_eq!(request, json!({"deviceId": DEVICE, "rpc": {"commandId": 9}, "sendWaitTimeoutMs": 600_000}));
    let paths: Vec<_> = ended.asked.iter().map(|(line, _)| line.as_str()).collect();
    let look = format!("GET /rpc/{MESSAGE}?timeoutMs=10000");
    let last_route = format!("GET /device/deviceId/{DEVICE}/lastRoute");
    let first = format!("GET /rpc/{MESSAGE}?timeoutMs=0");
    assert_eq!(paths, ["POST /rpc", &first, &last_route, &look, &last_route, &look, &look]);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "a line for each state: {lines:?}");
    assert_eq!(lines[0], format!("message {MESSAGE}"));
    assert!(lines[1].starts_with(&format!("waits for device {DEVICE} to speak (last heard ")), "{lines:?}");
    assert!(lines[2].starts_with("sent at device level to 203.0.113.7:6200 "), "{lines:?}");
    let told = "\
message  01a214c3-cce6-7c24-ace9-bcac3d6e8235
device   d291d4d66bf0a955
command  application_info (9)
params   none
made     2026-01-01T00:00:00.000Z
status   answered 0 (success) after 250 ms
sent     2026-01-01T00:00:00.000Z; sent at device level to 203.0.113.7:6200
result   {
           \"uptime\": \"12\",
           \"version\": {
             \"major\": \"1\"
           }
         }
";
    assert_eq!(ended.stdout, told);
}

#[test]
fn every_end_has_its_exit_code_and_a_line() {
    let wait = ["wait", MESSAGE];
    let ended = |answer: (u16, Vec<u8>)| {
        let Ended { code, stderr, .. } = rpc(&wait, vec![answer]);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        (code, stderr.trim_end().to_owned())
    };
    assert_eq!(rpc(&wait, vec![ok(&completed(0, &json!({})))]).code, 0);
    assert_eq!(
        ended(ok(&completed(-13, &json!({})))),
        (3, format!("lastroute: device {DEVICE} answered -13 (the level is too low)"))
    );
    assert_eq!(
        ended(ok(&message("waiting", PAST, &json!({})))),
        (5, format!("lastroute: message {MESSAGE} expired: device {DEVICE} did not speak in time"))
    );
    assert_eq!(
        ended(ok(&message("waiting", PAST, &json!({"note": "the route has moved"})))),
        (5, format!("lastroute: message {MESSAGE} was not sent: the route has moved"))
    );
    let late = format!("if it does later, lastroute rpc show {MESSAGE} has the answer");
    let Ended { code, stderr, .. } = rpc(&["wait", MESSAGE, "--answer-within", "0s"], vec![ok(&sent(PAST))]);
    assert_eq!((code, stderr), (6, format!("lastroute: device {DEVICE} did not answer within 0ns; {late}\n")));
    let (code, line) = ended((404, b"{}".to_vec()));
    assert_eq!(code, 1);
    assert!(line.starts_with(&format!("lastroute: there is no message {MESSAGE}: it was taken back")), "{line}");
    let refused = (403, br#"{"code":403,"message":"this key may only read"}"#.to_vec());
    assert_eq!(ended(refused), (4, "lastroute: the gateway refuses: this key may only read".to_owned()));
}

#[test]
fn a_message_that_goes_at_once_is_not_expired_before_it_can_be_written_down_that_it_was_sent() {
    let now = serde_json::to_value(Time(Clock::default().now())).unwrap();
    let unwritten = message("waiting", now.as_str().unwrap(), &json!({"sendWaitTimeoutMs": 0}));
    let answers = vec![ok(&unwritten), ok(&unwritten), ok(&completed(0, &json!({})))];
    let ended = rpc(&["wait", MESSAGE], answers);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, "goes at once to device d291d4d66bf0a955 over its last route\n")
    );
}

#[test]
fn a_message_that_is_sent_until_it_is_answered_is_followed_until_it_expires() {
    let mut again = sent(PAST);
    again["downlinkMessage"]["retry"] = json!("untilAnswered");
    let mut over = again.clone();
    over["downlinkMessage"]["expiresAt"] = json!(PAST);
    let ended = rpc(&["wait", MESSAGE, "--answer-within", "0s"], vec![ok(&again), ok(&over)]);
    assert_eq!((ended.code, ended.asked.len()), (6, 2));
}

#[test]
fn it_is_the_clock_of_the_gateway_that_says_whether_a_message_has_expired() {
    let (morning, evening) = ("2026-01-01T06:00:00.000Z", "2126-01-01T18:00:00.000Z");
    let done = || ok(&completed(0, &json!({})));
    // Both clocks are far from that of this machine.
    let early = Some("Thu, 01 Jan 2026 00:00:00 GMT");
    let ended = rpc_at(early, &["wait", MESSAGE], vec![ok(&message("waiting", morning, &json!({}))), heard(), done()]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.ends_with("expires in 6 h\n"), "{}", ended.stderr);
    let late = Some("Wed, 02 Jan 2126 00:00:00 GMT");
    let ended = rpc_at(late, &["wait", MESSAGE], vec![ok(&message("waiting", evening, &json!({})))]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    let ended = rpc_at(late, &["show", MESSAGE], vec![ok(&message("waiting", evening, &json!({})))]);
    assert!(ended.stdout.contains("expired: the device did not speak in time"), "{}", ended.stdout);
    let health = (200, b"{}".to_vec());
    let ended = rpc_at(late, &["list", "--since", "1d"], vec![health, ok(&json!([]))]);
    assert!(ended.asked[1].0.starts_with("GET /rpc?limit=100&startTime=2126-01-01T00:00:0"), "{:?}", ended.asked);
}

#[test]
fn a_call_expires_by_the_time_since_it_was_accepted_if_the_gateway_tells_no_other() {
    let soon = "2026-01-01T00:00:00.500Z";
    let answers = vec![created(), ok(&message("waiting", soon, &json!({}))), heard(), ok(&completed(0, &json!({})))];
    let ended = rpc(&["send", DEVICE, "9", "--wait", "500ms"], answers);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn the_answer_is_waited_for_from_when_it_is_seen_that_the_call_was_sent() {
    for at in [PAST, FUTURE] {
        let ended = rpc(&["wait", MESSAGE], vec![ok(&sent(at)), ok(&completed(0, &json!({})))]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let answers = vec![ok(&sent(at)); 2];
        let ended = rpc(&["wait", MESSAGE, "--answer-within", "50ms"], answers);
        assert_eq!((ended.code, ended.asked.len()), (6, 2), "{}", ended.stderr);
    }
}

#[test]
fn a_gateway_that_is_started_anew_is_asked_again() {
    let (busy, done) = ((503, b"{}".to_vec()), ok(&completed(0, &json!({}))));
    let ended = rpc(&["wait", MESSAGE, "--output", "json"], vec![busy, done]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap(), completed(0, &json!({})));
}

#[test]
fn programs_get_the_id_alone_or_the_answer_of_the_gateway() {
    let send = ["send", DEVICE, "application_info", "--no-follow"];
    let ended = rpc(&send, vec![created()]);
    assert_eq!((ended.code, ended.stdout, ended.stderr), (0, format!("{MESSAGE}\n"), String::new()));
    let ended = rpc(&[&send[..], &["--output", "json"]].concat(), vec![created()]);
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap()["id"], MESSAGE);
    let refused = (400, br#"{"code":400,"message":"device has no route"}"#.to_vec());
    let ended = rpc(&send, vec![refused]);
    assert_eq!((ended.code, ended.stderr.as_str()), (4, "lastroute: the gateway refuses: device has no route\n"));
}

#[test]
fn what_is_given_for_a_call_reaches_the_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.path().join(name), bytes).unwrap();
        directory.path().join(name).display().to_string()
    };
    let (params, data) = (path("params.json", br#"{"a": "1"}"#), path("data", b"abc"));
    let definitions = path(
        "rpc.json",
        br#"{"commands": {"40000": {"name": "pump", "rpc_data": true,
            "request_params": [{"name": "litres", "type": "uint16_t"}],
            "response_params": [{"name": "left", "type": "uint8_t"}]}}}"#,
    );
    let rest = ["--level", "device", "--until-answered", "--wait", "1h"];
    let sending = json!({"sendWaitTimeoutMs": 3_600_000, "level": "device", "retry": "untilAnswered"});
    let own = ["--rpc-definitions", &definitions];
    let reads = json!({"size": 4_294_967_295_u32, "rxAckPeriod": 0});
    for (arguments, rpc_part, data) in [
        (vec!["pump", "--params", "{\"litres\": 5}"], json!({"commandName": "pump", "params": {"litres": 5}}), None),
        (
            [&["pump", "--params", "{\"litres\": 5}", "--receive"], &own[..]].concat(),
            json!({"commandId": 40_000, "paramsEncoded": "BQA=", "dataHeader": reads}),
            None,
        ),
        (vec!["1", "--params-hex", "0aff"], json!({"commandId": 1, "paramsEncoded": "Cv8="}), None),
        (vec!["reboot", "--params-file", &params], json!({"commandId": 1, "params": {"a": "1"}}), None),
        (vec!["file_write_basic", "--data", &data], json!({"commandId": 40}), Some("YWJj")),
        (vec!["mem_read"], json!({"commandId": 15, "dataHeader": reads}), None),
        (vec!["99", "--receive"], json!({"commandId": 99, "dataHeader": reads}), None),
        (
            vec!["data_sender", "--receive=900"],
            json!({"commandId": 32_765, "dataHeader": {"size": 900, "rxAckPeriod": 0}}),
            None,
        ),
    ] {
        let arguments = [&["send", DEVICE], &arguments[..], &rest, &["--no-follow"]].concat();
        let ended = rpc(&arguments, vec![created()]);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        let mut expected = sending.clone();
        expected["deviceId"] = json!(DEVICE);
        expected["rpc"] = rpc_part;
        if let Some(data) = data {
            expected["data"] = json!(data);
        }
        assert_eq!(serde_json::from_str::<Value>(&ended.asked[0].1).unwrap(), expected, "{arguments:?}");
    }
    let mut shown = completed(0, &json!({"paramsEncoded": "Bw=="}));
    shown["downlinkMessage"]["rpcReq"]["commandId"] = json!(40_000);
    let ended = rpc(&["show", MESSAGE, own[0], own[1], "--output", "json"], vec![ok(&shown)]);
    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(shown["downlinkMessage"]["rpcRsp"]["params"], json!({"left": "7"}));
    assert_eq!(shown["downlinkMessage"]["rpcRsp"].get("paramsEncoded"), None);
}

#[test]
fn what_cannot_be_asked_is_told_before_anything_is_sent() {
    let send = ["send", DEVICE, "9"];
    for (more, line) in [
        (
            vec!["--params", "[1]"],
            "--params: invalid type: sequence, expected a map at line 1 column 0; give an object",
        ),
        (vec!["--params-hex", "0"], "--params-hex: not hex; give two digits for each byte"),
        (vec!["--params-file", "/no/such"], "--params-file: cannot read /no/such: No such file or directory; correct"),
        (vec!["--data", "/dev/zero"], "--data: /dev/zero has more than 1048576 bytes; give less"),
        (
            vec!["--rpc-definitions", "/no/such"],
            "--rpc-definitions: cannot read /no/such: No such file or directory; create",
        ),
    ] {
        let (code, stderr) = unasked(&[&send[..], &more].concat());
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.starts_with(&format!("lastroute: {line}")), "{stderr}");
    }
    for command in ["file_write_basic", "44", "data_receiver"] {
        for more in [&[][..], &["--receive"]] {
            let (code, stderr) = unasked(&[&["send", DEVICE, command], more].concat());
            let line = format!("{command} brings data to the device; name the file that has it with --data");
            assert_eq!((code, stderr), (2, format!("lastroute: {line}\n")));
        }
    }
    let (code, stderr) = unasked(&["send", DEVICE, "data_sender"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("lastroute: data_sender moves data; say with --receive=BYTES how much"), "{stderr}");
    let definitions = tempfile::NamedTempFile::new().unwrap();
    let text = br#"{"commands": {"9": {"name": "info", "request_params": [], "response_params": []}}}"#;
    std::fs::write(definitions.path(), text).unwrap();
    let path = definitions.path().to_str().unwrap();
    let (code, stderr) = unasked(&[&send[..], &["--rpc-definitions", path, "--params", "{\"a\": 1}"]].concat());
    let line = "lastroute: the params of command 9 (info) do not fit: a: no such field; there are none, leave it out\n";
    assert_eq!((code, stderr.as_str()), (2, line));
    let (code, stderr) = unasked(&["list", "--command", "pump"]);
    assert_eq!(code, 2);
    assert!(
        stderr.starts_with("lastroute: --command: no command is called \"pump\" here; give its number"),
        "{stderr}"
    );
    for wrong in [&["send", "d291", "9"][..], &["send", DEVICE], &["wait", "7"], &["list", "--limit", "0"], &[]] {
        assert_eq!(unasked(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn messages_are_listed_a_line_each_by_the_filters_that_are_given() {
    let messages = json!([waiting(), completed(-1180, &json!({})), message("waiting", PAST, &json!({}))]);
    let filters = ["--device", DEVICE, "--status", "waiting", "--command", "application_info", "--hide-expired"];
    let ended = rpc(&[&["list", "--limit", "5"], &filters[..]].concat(), vec![ok(&messages)]);
    let path = format!("GET /rpc?limit=5&deviceId={DEVICE}&status=waiting&rpcCommandId=9&showExpired=false");
    assert_eq!(ended.asked[0].0, path);
    let line = format!("{MESSAGE}  {DEVICE}  {PAST}  application_info (9)  ");
    let outcomes = [
        "waits for the device to speak",
        "answered -1180 (the level is too low) after 250 ms",
        "expired: the device did not speak in time",
    ];
    assert_eq!(ended.stdout, outcomes.map(|outcome| format!("{line}{outcome}\n")).concat());
    let health = (200, b"{}".to_vec());
    let ended = rpc(&["list", "--since", "1h", "--output", "json"], vec![health, ok(&messages)]);
    assert_eq!(ended.asked[0].0, "GET /health");
    assert!(ended.asked[1].0.starts_with("GET /rpc?limit=100&startTime=20"), "{:?}", ended.asked);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), messages);
}

#[test]
fn a_message_that_waits_is_taken_back_and_one_that_was_sent_is_not() {
    let ended = rpc(&["cancel", MESSAGE], vec![(204, Vec::new())]);
    assert_eq!(ended.asked[0].0, format!("DELETE /rpc/{MESSAGE}"));
    assert_eq!((ended.code, ended.stderr), (0, format!("took back message {MESSAGE}: it will not be sent\n")));
    let sent = (409, br#"{"code":409,"message":"it was sent already"}"#.to_vec());
    let ended = rpc(&["cancel", MESSAGE], vec![sent]);
    assert_eq!((ended.code, ended.stderr.as_str()), (4, "lastroute: the gateway refuses: it was sent already\n"));
    assert_eq!(rpc(&["cancel", MESSAGE], vec![(404, b"{}".to_vec())]).code, 1);
}

#[test]
fn data_of_a_device_goes_to_a_file_or_to_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.bin");
    let data = vec![(200, b"\x01\x02\x03".to_vec())];
    let ended = rpc(&["data", MESSAGE, "--to", path.to_str().unwrap()], data.clone());
    assert_eq!((ended.code, ended.stderr), (0, format!("wrote 3 bytes to {}\n", path.display())));
    assert_eq!(std::fs::read(&path).unwrap(), [1, 2, 3]);
    assert_eq!(rpc(&["data", MESSAGE], data.clone()).stdout, "\x01\x02\x03");
    let ended = rpc(&["data", MESSAGE, "-o", "/no/such/file"], data);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.starts_with("lastroute: --to: cannot write /no/such/file: No such file"), "{}", ended.stderr);
    assert_eq!(rpc(&["data", MESSAGE], vec![(404, b"{}".to_vec())]).code, 1);
}

#[test]
fn an_interrupt_leaves_the_message_and_says_how_to_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let program = program(&["wait", MESSAGE], address).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for body in [ok(&waiting()), heard()] {
        let (stream, _) = listener.accept().unwrap();
        asked(&stream);
        answer(stream, None, body.0, &body.1);
    }
    // Now it waits for this answer, and the handler of the signal stands.
    let (_held, _) = listener.accept().unwrap();
    assert!(Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap().success());
    let output = program.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = format!(
        "lastroute: interrupted; the message stays: lastroute rpc wait {MESSAGE} goes on, and lastroute rpc cancel {MESSAGE} \
         takes it back as long as it waits"
    );
    assert_eq!(stderr.lines().last(), Some(line.as_str()));
}
