//! Devices from files into a gateway and back, by the program as an operator runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use lastroute::id::DeviceId;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Gateway, eventually};

/// A gateway with the organisation `plant`, which has the boards `tag` and `hub`, and a folder for files.
struct Plant {
    gateway: Gateway,
    client: Client,
    organisation: String,
    folder: TempDir,
}

impl Plant {
    async fn new() -> Self {
        let gateway = Gateway::start("");
        let client = Client::http1(&gateway);
        let made = client.post("/organisation", &json!({"name": "plant"})).await.json();
        let organisation = made["id"].as_str().unwrap().to_owned();
        for (name, soc) in [("tag", "nRF9151"), ("hub", "nRF5340")] {
            let board = json!({"name": name, "description": "", "soc": soc, "organisationId": organisation});
            assert_eq!(client.post("/board", &board).await.status, 201);
        }
        Self { gateway, client, organisation, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What a command does with a file of this gateway.
    async fn run(&self, command: &str, file: &Path, flags: &[&str]) -> Ran {
        let mut command = self.command(command, file, flags);
        Ran::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    }

    fn command(&self, name: &str, file: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.env_clear().arg(name).arg(file).arg("--gateway-api").arg(format!("http://{}", self.gateway.http));
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn device(&self, id: u64) -> Option<Value> {
        let answer = self.client.get(&format!("/device/deviceId/{}", DeviceId(id))).await;
        (answer.status == 200).then(|| answer.json())
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
struct Ran {
    code: i32,
    output: String,
    error: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), output: text(output.stdout), error: text(output.stderr) }
    }
}

fn line(id: u64) -> String {
    format!(r#"{{"deviceId":"{id:016x}","mcuId":"{id:016x}","organisation":"plant","board":"tag"}}"#)
}

fn lines(ids: std::ops::RangeInclusive<u64>) -> String {
    ids.map(|id| line(id) + "\n").collect()
}

#[tokio::test]
async fn a_file_is_imported_in_batches_and_importing_it_again_changes_nothing() {
    let plant = Plant::new().await;
    let file = plant.file("fleet.ndjson", &lines(1..=25));
    let ran = plant.run("import", &file, &["--batch", "10"]).await;
    assert_eq!((ran.code, ran.output.as_str(), ran.error.as_str()), (0, "created 25, unchanged 0, failed 0\n", ""));
    let device = plant.device(25).await.unwrap();
    assert_eq!((&device["organisationId"], &device["mcuId"]), (&json!(plant.organisation), &json!("0000000000000019")));
    let ran = plant.run("import", &file, &["--from-line", "21"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (0, "created 0, unchanged 5, failed 0\n"));
}

#[tokio::test]
async fn every_bad_line_is_told_by_its_number_whoever_finds_it_bad() {
    let plant = Plant::new().await;
    let text = format!(
        "{}\n{{\n{}\n{}\n{}\n{}\n",
        line(1),
        line(2).replace("tag", "tug"),
        line(1).replace("\"mcuId\":\"0", "\"mcuId\":\"f"),
        line(3).replace('}', r#","deviceRootKey":"short"}"#),
        line(4)
    );
    let file = plant.file("fleet.ndjson", &text);
    let ran = plant.run("import", &file, &[]).await;
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 2, unchanged 0, failed 4\n"));
    let said: Vec<_> = ran.error.lines().collect();
    for (said, expected) in said.iter().zip([
        "line 2: EOF while parsing an object",
        "line 3: its organisation may use no board named \"tug\"",
        "line 4: deviceId \"0000000000000001\" is taken",
        "line 5: a key is 32 bytes in base64",
        "lastroute: 4 lines failed; correct them and import the file again: what is registered stays as it is",
    ]) {
        assert!(said.starts_with(expected), "{ran:?}");
    }
    assert_eq!(said.len(), 5, "{ran:?}");
    assert!(plant.device(4).await.is_some() && plant.device(2).await.is_none());
}

#[tokio::test]
async fn an_import_that_stops_at_a_bad_line_sends_none_after_it_and_names_the_command_that_goes_on() {
    let plant = Plant::new().await;
    let text = format!("{}{{\n{}", lines(1..=2), lines(4..=5));
    let file = plant.file("fleet.ndjson", &text);
    let ran = plant.run("import", &file, &["--on-error", "stop"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 2, unchanged 0, failed 1\n"));
    let command = format!("lastroute import {} --on-error stop --gateway-api", file.display());
    let expected =
        format!("lastroute: stopped at line 3, as --on-error stop asks; correct it and go on with: {command}");
    let last = ran.error.lines().last().unwrap();
    assert!(last.starts_with(&expected) && last.ends_with(" --from-line 3"), "{ran:?}");
    assert!(plant.device(4).await.is_none());
    plant.file("fleet.ndjson", &lines(1..=5));
    let ran = plant.run("import", &file, &["--on-error", "stop", "--from-line", "3"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (0, "created 3, unchanged 0, failed 0\n"));
}

#[tokio::test]
async fn nothing_is_registered_after_a_line_that_the_gateway_refuses_if_the_import_is_to_stop() {
    let plant = Plant::new().await;
    let twice = line(1).replace("\"mcuId\":\"0", "\"mcuId\":\"f");
    let file = plant.file("fleet.ndjson", &format!("{}{twice}\n{}{{\n", lines(1..=2), lines(4..=5)));
    let ran = plant.run("import", &file, &["--on-error", "stop"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 2, unchanged 0, failed 1\n"));
    let said: Vec<_> = ran.error.lines().collect();
    assert!(said[0].starts_with("line 3: deviceId \"0000000000000001\" is taken"), "{ran:?}");
    assert!(said.len() == 2 && said[1].ends_with(" --from-line 3"), "{ran:?}");
    assert!(plant.device(2).await.is_some() && plant.device(4).await.is_none());
}

#[tokio::test]
async fn what_is_exported_can_be_imported_elsewhere_in_either_form_and_comes_out_the_same() {
    let plant = Plant::new().await;
    let csv = "deviceId,mcuId,organisation,soc,metadata.serial,metadata.site,applicationId,applicationVersion,algorithms\n\
               0000000000000001,AA01,plant,nRF9151,7,\"hall \"\"A\"\", 2\",5,1.4.2+1700,1:3 7:1\n\
               0000000000000002,AA02,plant,nRF5340,,\"two\nlines\",,,\n";
    let ran = plant.run("import", &plant.file("fleet.csv", csv), &[]).await;
    assert_eq!((ran.code, ran.output.as_str()), (0, "created 2, unchanged 0, failed 0\n"), "{ran:?}");
    for form in ["csv", "ndjson"] {
        let file = plant.folder.path().join(format!("out.{form}"));
        let ran = plant.run("export", &file, &["--organisation", "plant"]).await;
        assert_eq!((ran.code, ran.output.as_str(), ran.error.as_str()), (0, "", ""));
        let other = Plant::new().await;
        let ran = other.run("import", &file, &[]).await;
        assert_eq!((ran.code, ran.output.as_str()), (0, "created 2, unchanged 0, failed 0\n"), "{ran:?}");
        let again = other.run("export", Path::new("-"), &["--format", form]).await;
        assert_eq!(again.output, std::fs::read_to_string(&file).unwrap());
        assert!(again.output.contains("hall ") && again.output.contains("aa02"), "{again:?}");
        let ran = plant.run("import", &file, &[]).await;
        assert_eq!(ran.output, "created 0, unchanged 2, failed 0\n", "{ran:?}");
    }
}

#[tokio::test]
async fn an_export_has_more_devices_than_a_page_and_each_once() {
    let plant = Plant::new().await;
    let file = plant.file("fleet.ndjson", &lines(1..=2500));
    assert_eq!(plant.run("import", &file, &[]).await.output, "created 2500, unchanged 0, failed 0\n");
    let ran = plant.run("export", Path::new("-"), &[]).await;
    let ids = ran.output.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        u64::from_str_radix(line["deviceId"].as_str().unwrap(), 16).unwrap()
    });
    assert_eq!(ids.collect::<Vec<_>>(), (1..=2500).collect::<Vec<_>>());
}

/// Whether a process does something of its own when Ctrl-C asks it to end.
fn catches_interrupts(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (Signal::SIGINT as u32 - 1) & 1 == 1
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

async fn ended(child: Child) -> Ran {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    Ran::of(tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap().unwrap())
}

#[tokio::test]
async fn an_import_ends_while_it_waits_for_its_file_to_be_written_or_for_its_header() {
    let plant = Plant::new().await;
    let pipe = plant.folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for (file, form) in [(&*pipe, "ndjson"), (&*pipe, "csv"), (Path::new("-"), "csv")] {
        let mut command = plant.command("import", file, &["--format", form]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        eventually(async || catches_interrupts(child.id())).await;
        interrupt(&child);
        let ran = ended(child).await;
        assert_eq!((ran.code, ran.output.as_str()), (1, "created 0, unchanged 0, failed 0\n"), "{ran:?}");
        assert!(ran.error.starts_with("lastroute: interrupted; go on with: lastroute import "), "{ran:?}");
        drop(input);
    }
}

#[tokio::test]
async fn an_export_ends_while_nobody_reads_it_and_says_what_is_written() {
    let plant = Plant::new().await;
    let file = plant.file("fleet.ndjson", &lines(1..=2500));
    assert_eq!(plant.run("import", &file, &[]).await.code, 0);
    let mut child = plant.command("export", Path::new("-"), &[]).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    interrupt(&child);
    // Read only now, so that the rest of the list had no room in the pipe.
    let ran = {
        let status = tokio::task::spawn_blocking(move || (child.wait().unwrap(), child));
        let (status, mut child) = tokio::time::timeout(Duration::from_secs(20), status).await.unwrap().unwrap();
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (status.code(), error)
    };
    assert_eq!(ran, (Some(1), "lastroute: interrupted; what was written is not the whole list\n".to_owned()));
}

#[tokio::test]
async fn a_second_signal_ends_an_import_that_a_gateway_holds_up() {
    let plant = Plant::new().await;
    let id = &plant.organisation;
    let text = format!(r#"{{"mcuId":"00","organisationId":"{id}","boardId":"{id}"}}"#);
    let file = plant.file("fleet.ndjson", &text);
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().arg("import").arg(&file).arg("--gateway-api");
    command.arg(format!("http://{}", hung.local_addr().unwrap()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (_held, _) = hung.accept().unwrap();
    interrupt(&child);
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "what is on its way is being finished; a second signal ends the import at once\n");
    interrupt(&child);
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 0, unchanged 0, failed 0\n"));
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("lastroute: interrupted; go on with: lastroute import "), "{line}");
    assert!(line.ends_with(" --from-line 1\n"), "{line}");
}

#[tokio::test]
async fn an_export_that_is_interrupted_leaves_no_file_and_the_one_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.csv");
    std::fs::write(&file, "yesterday's").unwrap();
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().arg("export").arg(&file).arg("--gateway-api");
    command.arg(format!("http://{}", hung.local_addr().unwrap()));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (_held, _) = hung.accept().unwrap();
    interrupt(&child);
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.error.as_str()), (1, "lastroute: interrupted; nothing was written\n"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "yesterday's");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_organisation_that_does_not_exist_leaves_yesterdays_file_and_no_line_is_tried() {
    let plant = Plant::new().await;
    let file = plant.file("fleet.ndjson", &line(1));
    let astray = "0198c0de-0000-7000-8000-00000000002a";
    for command in ["import", "export"] {
        let ran = plant.run(command, &file, &["--organisation", astray]).await;
        let expected =
            format!("--organisation: there is no organisation \"{astray}\", or this API key does not see it");
        assert_eq!((ran.code, ran.output.as_str(), ran.error), (2, "", format!("lastroute: {expected}\n")));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line(1));
    assert!(plant.device(1).await.is_none());
    let ran = plant.run("export", &file, &["--organisation", &plant.organisation]).await;
    assert_eq!((ran.code, std::fs::read_to_string(&file).unwrap().as_str()), (0, ""));
}

#[tokio::test]
async fn where_an_export_cannot_go_is_told_with_a_remedy() {
    let plant = Plant::new().await;
    let folder = plant.folder.path().to_owned();
    for (file, expected) in [
        (folder.clone(), "; name a file in it"),
        (folder.join("missing/fleet.ndjson"), "; make its folder or write elsewhere"),
        ("/dev/full".into(), "; make room or write elsewhere"),
    ] {
        let ran = plant.run("export", &file, &["--format", "csv"]).await;
        assert_eq!((ran.code, ran.output.as_str(), ran.error.lines().count()), (1, "", 1), "{ran:?}");
        let begin = format!("lastroute: cannot write to {}: ", file.display());
        assert!(ran.error.starts_with(&begin) && ran.error.trim_end().ends_with(expected), "{ran:?}");
    }
    assert!(Path::new("/dev/full").metadata().unwrap().file_type().is_char_device());
}

#[tokio::test]
async fn an_import_survives_output_that_cannot_be_written_and_says_what_is_missing() {
    let plant = Plant::new().await;
    let file = plant.file("fleet.ndjson", &format!("{{\n{}", line(1)));
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::of(plant.command("import", &file, &[]).stderr(full()).output().unwrap());
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 1, unchanged 0, failed 1\n"));
    let ran = Ran::of(plant.command("import", &file, &[]).stdout(full()).output().unwrap());
    assert_eq!((ran.code, ran.error.lines().count()), (1, 3), "{ran:?}");
    let last = "lastroute: 1 line failed; correct it and import the file again: what is registered stays as it is";
    assert_eq!(ran.error.lines().last(), Some(last));
}

/// An import that reads what it is given.
struct Fed {
    child: Child,
    input: ChildStdin,
}

impl Fed {
    fn begin(plant: &Plant) -> Self {
        let mut command = plant.command("import", Path::new("-"), &["--format", "ndjson", "--batch", "1"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        Self { child, input }
    }

    /// Ends it as Ctrl-C does, while it waits for more.
    fn interrupt(self) -> Ran {
        interrupt(&self.child);
        let ran = Ran::of(self.child.wait_with_output().unwrap());
        drop(self.input);
        ran
    }
}

#[tokio::test]
async fn an_interrupted_import_says_where_it_is_and_how_to_go_on() {
    let plant = Plant::new().await;
    let mut fed = Fed::begin(&plant);
    fed.input.write_all(lines(1..=2).as_bytes()).unwrap();
    eventually(async || plant.device(2).await.is_some()).await;
    let ran = tokio::task::spawn_blocking(move || fed.interrupt()).await.unwrap();
    assert_eq!((ran.code, ran.output.as_str()), (1, "created 2, unchanged 0, failed 0\n"));
    assert!(ran.error.starts_with("lastroute: interrupted; go on with: lastroute import - --format ndjson"), "{ran:?}");
    assert!(ran.error.ends_with(" --from-line 3\n"), "{ran:?}");
}

#[tokio::test]
async fn what_cannot_begin_is_told_in_one_line_and_exit_code_2() {
    let plant = Plant::new().await;
    let good = plant.file("fleet.ndjson", &lines(1..=1));
    let (odd, bad) = (plant.file("fleet.txt", ""), plant.file("fleet.csv", "deviceId,name\n"));
    let missing = plant.folder.path().join("missing.csv");
    for (file, flags, expected) in [
        (&odd, &[][..], "say its form with --format ndjson or --format csv"),
        (&missing, &[], "missing.csv: No such file or directory; create it or correct the path"),
        (&bad, &[], "fleet.csv: the header does not fit: there is no column \"name\"; there are deviceId, mcuId"),
        (&good, &["--organisation", "plan"], "there is no organisation \"plan\", or this API key does not see it"),
        (
            &good,
            &["--organisation", "plant", "--board", "nope"],
            "--board: its organisation may use no board named \"nope\"",
        ),
        (&good, &["--from-line", "3"], "--from-line 3: the file has only 1 lines; see that it is the right one"),
    ] {
        let ran = plant.run("import", file, flags).await;
        assert_eq!((ran.code, ran.output.as_str(), ran.error.lines().count()), (2, "", 1), "{ran:?}");
        assert!(ran.error.contains(expected), "{ran:?}");
    }
    assert!(plant.device(1).await.is_none());
}

#[tokio::test]
async fn entries_of_a_request_are_answered_each_with_the_status_of_its_own() {
    let plant = Plant::new().await;
    let boards = plant.client.get(&format!("/board?organisationId={}", plant.organisation)).await.json();
    let device = |id: u64| {
        json!({"deviceId": format!("{id:016x}"), "mcuId": format!("{id:016x}"), "organisationId": plant.organisation,
            "boardId": boards[0]["id"]})
    };
    let mut astray = device(3);
    astray["boardId"] = json!("0198c0de-0000-7000-8000-00000000002a");
    let mut taken = device(4);
    taken["mcuId"] = device(1)["mcuId"].clone();
    let request = json!({"devices": [device(1), {"mcuId": 7}, astray, taken, device(2)]});
    for (created, unchanged) in [(2, 0), (0, 2)] {
        let answer = plant.client.post("/device/import", &request).await;
        let outcome = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &outcome["created"], &outcome["unchanged"]),
            (200, &json!(created), &json!(unchanged))
        );
        let failed = outcome["failed"].as_array().unwrap().iter();
        let codes: Vec<_> = failed.map(|failure| (failure["index"].as_u64(), failure["code"].as_u64())).collect();
        assert_eq!(codes, [(1, 400), (2, 422), (3, 409)].map(|(index, code)| (Some(index), Some(code))));
    }
    let stopped = |devices: Value| json!({"devices": devices, "stopAtError": true});
    for (devices, created, failed) in [
        (json!([device(5), {"mcuId": 7}, astray, device(6)]), 1, (1, 400)),
        (json!([device(5), astray, device(6), {"mcuId": 7}]), 0, (1, 422)),
    ] {
        let outcome = plant.client.post("/device/import", &stopped(devices)).await.json();
        let only = json!([{"index": failed.0, "code": failed.1, "message": outcome["failed"][0]["message"]}]);
        assert_eq!(outcome, json!({"created": created, "unchanged": 1 - created, "failed": only}));
        assert!(plant.device(6).await.is_none());
    }
    plant.client.delete(&format!("/device/id/{}", plant.device(5).await.unwrap()["id"].as_str().unwrap())).await;
    let page = plant.client.get("/device/export?limit=1").await.json();
    assert_eq!((page[0]["board"].as_str(), page[0]["organisation"].as_str()), (Some("tag"), Some("plant")));
    let next = plant.client.get(&format!("/device/export?after={}", page[0]["id"].as_str().unwrap())).await.json();
    assert_eq!((next.as_array().unwrap().len(), &next[0]["deviceId"]), (1, &device(2)["deviceId"]));
    assert_eq!(plant.client.get("/device/export?after=x").await.status, 400);
    for other in ["offset=0", "orderDir=asc", "orderBy=createdAt"] {
        let refused = plant.client.get(&format!("/device/export?{other}")).await;
        assert_eq!(refused.status, 400, "{other}");
        assert!(refused.json()["message"].as_str().unwrap().contains("is not for this list"), "{other}");
    }
}
