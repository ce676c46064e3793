//! A process that is killed between answers, over and over: every write it answered is there, every other one is there
//! whole or not at all.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use serde_json::{Value, json};

/// Kills of the process.
const KILLS: usize = 200;
/// Clients that write at once.
const CLIENTS: usize = 4;
/// Devices of a batch.
const BATCH: u32 = 50;
/// The most answers that all of them get before the process is killed.
const MAX_ANSWERS: usize = 24;

#[test]
fn every_answered_write_survives_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut gateway = Gateway::start(data.path());
    let board = prepare(&gateway.http);
    let mut writers: Vec<_> = (0..CLIENTS).map(|number| Writer::new(number, &board)).collect();
    for _ in 0..KILLS {
        let answers = random.usize(1..=MAX_ANSWERS);
        write_until_killed(&mut gateway, &mut writers, answers);
        gateway = Gateway::start(data.path());
        let mut client = Client::connect(&gateway.http).unwrap();
        for writer in &mut writers {
            writer.check_recent(&mut client);
        }
    }
    let mut client = Client::connect(&gateway.http).unwrap();
    let devices: usize = writers.iter_mut().map(|writer| writer.check_all(&mut client)).sum();
    assert!(devices > KILLS, "only {devices} devices were written");
    let cut_off: usize = writers.iter().flat_map(|writer| writer.cut_off).sum();
    assert!(cut_off > 0, "no batch was cut off");
    let calls = writers.iter().flat_map(|writer| &writer.devices).flat_map(|device| &device.calls);
    let (withdrawn, waiting): (Vec<_>, Vec<_>) = calls.partition(|call| call.is_withdrawn == Some(true));
    assert!(withdrawn.len() > KILLS / 4 && waiting.len() > KILLS / 4, "{} and {}", withdrawn.len(), waiting.len());
}

/// Lets `writers` write until they have `answers` in all, then kills the process with whatever is under way.
fn write_until_killed(gateway: &mut Gateway, writers: &mut [Writer], answers: usize) {
    let http = gateway.http.clone();
    thread::scope(|scope| {
        let (answered, count) = channel();
        for writer in writers {
            let (answered, http) = (answered.clone(), &http);
            scope.spawn(move || writer.write(http, &answered));
        }
        drop(answered);
        assert_eq!(count.iter().take(answers).count(), answers, "the gateway ended by itself");
        gateway.kill();
    });
}

/// An organisation with a board; the id of both.
fn prepare(http: &str) -> (String, String) {
    let mut client = Client::connect(http).unwrap();
    let mut create = |path, body| {
        let (status, made) = client.call("POST", path, Some(&body)).unwrap();
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    };
    let organisation = create("/organisation", json!({"name": "Survivors"}));
    let board = json!({"name": "b", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = create("/board", board);
    (organisation, board)
}

/// Writes devices of its own, and knows what of them may be there.
struct Writer {
    number: usize,
    organisation: String,
    board: String,
    made: u32,
    devices: Vec<Written>,
    /// Devices from here on were written since the last check.
    recent: usize,
    /// MCU ids of devices whose creation, alone or in one batch, was not answered: all are there or none.
    unanswered: Vec<String>,
    /// Batches that were cut off: how many of them were there, and how many not.
    cut_off: [usize; 2],
}

/// A device whose creation was answered.
struct Written {
    id: String,
    /// Its id on the wire.
    device_id: String,
    /// Calls to it that were accepted.
    calls: Vec<Accepted>,
    /// What its last answered write left.
    answered: State,
    /// What a write without an answer may have made of it.
    perhaps: Option<State>,
}

/// A call that was accepted, and waits for a device that never speaks.
struct Accepted {
    id: String,
    /// Whether it was taken back; `None`: nobody was told.
    is_withdrawn: Option<bool>,
}

/// What a record is: its metadata `turn`, or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Turn(String),
    Gone,
}

impl Writer {
    fn new(number: usize, (organisation, board): &(String, String)) -> Self {
        let (organisation, board) = (organisation.clone(), board.clone());
        Self {
            number,
            organisation,
            board,
            made: 0,
            devices: Vec::new(),
            recent: 0,
            unanswered: Vec::new(),
            cut_off: [0; 2],
        }
    }

    /// Creates, changes, changes again and deletes, until the process is gone.
    fn write(&mut self, http: &str, answered: &Sender<()>) {
        let Ok(mut client) = Client::connect(http) else { return };
        self.recent = self.devices.len();
        while self.write_one(&mut client, answered).is_ok() {}
    }

    /// A new device of which nobody knows yet whether it is there.
    fn new_device(&mut self) -> Value {
        self.made += 1;
        let mcu_id = format!("{:08x}{:08x}", self.number, self.made);
        let new = json!({"mcuId": mcu_id, "boardId": self.board, "organisationId": self.organisation,
            "metadata": {"turn": "0", "serial": mcu_id}});
        self.unanswered.push(mcu_id);
        new
    }

    /// Creates a batch.
    fn write_batch(&mut self, client: &mut Client, answered: &Sender<()>) -> io::Result<()> {
        let devices: Vec<Value> = (0..BATCH).map(|_| self.new_device()).collect();
        let (status, made) = client.call("POST", "/device/batch", Some(&json!({"devices": devices})))?;
        assert_eq!(status, 201, "{made}");
        self.unanswered.clear();
        self.devices.extend(made.as_array().unwrap().iter().map(Written::new));
        let _ = answered.send(());
        Ok(())
    }

    /// Has two calls wait for the last device, and takes the second back.
    fn call(&mut self, client: &mut Client, answered: &Sender<()>) -> io::Result<()> {
        let Self { devices, .. } = self;
        let device = devices.last_mut().unwrap();
        for _ in 0..2 {
            let call = json!({"deviceId": device.device_id, "rpc": {"commandId": 9}, "sendWaitTimeoutMs": 86_400_000});
            let (status, made) = client.call("POST", "/rpc", Some(&call))?;
            assert_eq!(status, 201, "{made}");
            let id = made["id"].as_str().unwrap().to_owned();
            device.calls.push(Accepted { id, is_withdrawn: Some(false) });
            let _ = answered.send(());
        }
        let call = device.calls.last_mut().unwrap();
        call.is_withdrawn = None;
        let (status, answer) = client.call("DELETE", &format!("/rpc/{}", call.id), None)?;
        assert_eq!(status, 204, "{answer}");
        call.is_withdrawn = Some(true);
        let _ = answered.send(());
        Ok(())
    }

    /// A device from its creation to its last change, and calls to it. Every third is deleted. The first writer creates a batch before.
    fn write_one(&mut self, client: &mut Client, answered: &Sender<()>) -> io::Result<()> {
        if self.number == 0 {
            self.write_batch(client, answered)?;
        }
        let new = self.new_device();
        let (status, made) = client.call("POST", "/device", Some(&new))?;
        assert_eq!(status, 201, "{made}");
        self.unanswered.clear();
        self.devices.push(Written::new(&made));
        let _ = answered.send(());
        self.call(client, answered)?;
        let serial = &new["mcuId"];
        for turn in ["1", "2"] {
            let change = json!({"metadata": {"operation": "replace", "value": {"turn": turn, "serial": serial}}});
            self.change(client, "PUT", Some(&change), State::Turn(turn.to_owned()))?;
            let _ = answered.send(());
        }
        if self.made.is_multiple_of(3) {
            self.change(client, "DELETE", None, State::Gone)?;
            let _ = answered.send(());
        }
        Ok(())
    }

    /// Changes the last device to `state`.
    fn change(&mut self, client: &mut Client, method: &str, body: Option<&Value>, state: State) -> io::Result<()> {
        let device = self.devices.last_mut().unwrap();
        device.perhaps = Some(state);
        let (status, answer) = client.call(method, &format!("/device/id/{}", device.id), body)?;
        assert!((200..300).contains(&status), "{status} {answer}");
        device.answered = device.perhaps.take().unwrap();
        Ok(())
    }

    fn check_recent(&mut self, client: &mut Client) {
        let recent = self.recent;
        self.devices[recent..].iter_mut().for_each(|device| device.check(client));
        self.check_unanswered(client);
    }

    /// All devices of a creation without an answer are there whole, or none is anywhere.
    fn check_unanswered(&mut self, client: &mut Client) {
        let unanswered = std::mem::take(&mut self.unanswered);
        let organisation = self.organisation.clone();
        let mut there = Vec::new();
        for mcu_id in &unanswered {
            let (status, device) = client.call("GET", &format!("/device/soc/nRF9151/mcuId/{mcu_id}"), None).unwrap();
            if status != 404 {
                assert_eq!((status, &device["metadata"]["turn"]), (200, &json!("0")), "{device}");
                there.push(device);
            }
        }
        if let Some(last) = unanswered.last() {
            let serial = format!("/device?organisationId={organisation}&metadataName=serial&metadataValue={last}");
            let (_, found) = client.call("GET", &serial, None).unwrap();
            assert_eq!(found.as_array().unwrap().first(), there.last(), "by its metadata");
        }
        self.devices.extend(there.iter().map(Written::new));
        let there = there.len();
        assert!(there == 0 || there == unanswered.len(), "{there} of {}", unanswered.len());
        if unanswered.len() > 1 {
            self.cut_off[usize::from(there == 0)] += 1;
        }
    }

    /// Looks for every device; how many there are or were.
    fn check_all(&mut self, client: &mut Client) -> usize {
        self.devices.iter_mut().for_each(|device| device.check(client));
        self.devices.len()
    }
}

impl Written {
    /// As a gateway shows it that has just been created.
    fn new(made: &Value) -> Self {
        let [id, device_id] = ["id", "deviceId"].map(|field| made[field].as_str().unwrap().to_owned());
        Self { id, device_id, calls: Vec::new(), answered: State::Turn("0".to_owned()), perhaps: None }
    }

    /// What is there now is what was answered, or what was under way; from now on it is settled.
    fn check(&mut self, client: &mut Client) {
        let (status, body) = client.call("GET", &format!("/device/id/{}", self.id), None).unwrap();
        let found = match status {
            404 => State::Gone,
            _ => State::Turn(body["metadata"]["turn"].as_str().unwrap().to_owned()),
        };
        let expected = found == self.answered || Some(&found) == self.perhaps.as_ref();
        assert!(expected, "{}: {found:?}, not {:?} or {:?}", self.id, self.answered, self.perhaps);
        (self.answered, self.perhaps) = (found, None);
        let is_gone = self.answered == State::Gone;
        self.calls.iter_mut().for_each(|call| call.check(client, is_gone));
        if !is_gone && !self.calls.is_empty() {
            self.check_list(client);
        }
    }

    /// The calls to it are those that wait, and perhaps one more, whose acceptance was not answered.
    fn check_list(&self, client: &mut Client) {
        let (_, listed) = client.call("GET", &format!("/rpc?deviceId={}&limit=10", self.device_id), None).unwrap();
        let listed = listed.as_array().unwrap();
        assert!(listed.iter().all(|call| call["downlinkMessage"]["status"] == "waiting"));
        let there: Vec<&str> = listed.iter().map(|call| call["id"].as_str().unwrap()).collect();
        let waiting: Vec<&Accepted> = self.calls.iter().filter(|call| call.is_withdrawn == Some(false)).collect();
        assert!(waiting.iter().all(|call| there.contains(&&*call.id)), "{}: {there:?}", self.device_id);
        assert!(there.len() <= waiting.len() + usize::from(self.calls.len() < 2), "{}: {there:?}", self.device_id);
    }
}

impl Accepted {
    /// It waits, unless it was taken back or went with its device; from now on that is settled.
    fn check(&mut self, client: &mut Client, is_device_gone: bool) {
        let (status, call) = client.call("GET", &format!("/rpc/{}", self.id), None).unwrap();
        if is_device_gone {
            assert_eq!(status, 404, "{call}");
            return;
        }
        let is_withdrawn = status == 404;
        assert_eq!(self.is_withdrawn.unwrap_or(is_withdrawn), is_withdrawn, "{call}");
        let message = &call["downlinkMessage"];
        assert!(is_withdrawn || message["status"] == "waiting" && message["attempts"] == 0, "{call}");
        self.is_withdrawn = Some(is_withdrawn);
    }
}

/// A gateway as a process of its own; killed when it is dropped.
struct Gateway {
    child: Child,
    http: String,
}

impl Gateway {
    fn start(data: &Path) -> Self {
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.env_clear().args(["serve", "--udp-listen", any, "--http-listen", any, "--data-dir"]).arg(data);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let http = loop {
            let start = told.len();
            assert_ne!(log.read_line(&mut told).unwrap(), 0, "ended before it was ready: {told}");
            let line: Value = serde_json::from_str(&told[start..]).unwrap();
            if line["message"] == "ready" {
                break line["http"].as_str().unwrap().to_owned();
            }
        };
        // Read on, so that the process is never held up by a full pipe.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self { child, http }
    }

    /// SIGKILL, and nothing of the process is left after that.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(http: &str) -> io::Result<Self> {
        Ok(Self(BufReader::new(TcpStream::connect(http)?)))
    }

    /// A request and its answer. An error: the connection ended first.
    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
