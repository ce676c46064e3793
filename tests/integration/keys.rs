//! `key` against a real gateway, as an operator meets it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::Gateway;

const ADMINISTRATOR: &str = "ik_administrator_0123456789";

/// A gateway with an administrator, and the file of that one's key.
fn gateway() -> (Gateway, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ADMINISTRATOR).unwrap();
    (Gateway::start(&format!("api-key-file = {:?}", file.path())), file)
}

fn key(gateway: &Gateway, file: &tempfile::NamedTempFile, arguments: &[&str]) -> Output {
    command(gateway, file, arguments).output().unwrap()
}

fn command(gateway: &Gateway, file: &tempfile::NamedTempFile, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().arg("key").args(arguments).stdin(Stdio::null());
    command.arg("--gateway-api").arg(format!("http://{}", gateway.http)).arg("--api-key-file").arg(file.path());
    command
}

/// The exit code and what is on standard output and standard error.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn client(gateway: &Gateway, key: &str) -> lastroute::client::Client {
    lastroute::client::Client::new(&format!("http://{}", gateway.http), Some(key)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_listed_used_and_deleted() {
    let (gateway, file) = gateway();
    let administrator = client(&gateway, ADMINISTRATOR).await;
    let body = json!({"name": "Acme / Nord"}).to_string();
    let organisation: Value = administrator.post_json("/organisation", body.into()).await.unwrap().unwrap();
    let id = organisation["id"].as_str().unwrap();

    let create = ["create", "--name", "reports", "--organisation", "Acme / Nord", "--expires", "90d"];
    let (code, made, said) = told(&key(&gateway, &file, &create));
    assert_eq!((code, made.len(), made.lines().count()), (Some(0), 47, 1), "{made} {said}");
    assert!(said.contains(&format!("read of organisation {id}, until 20")), "{said}");
    assert!(!said.contains(made.trim()), "{said}");
    let made = made.trim();
    let refused = client(&gateway, made).await.status().await.unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("for one organisation"), "{refused}");

    let (code, for_all, said) = told(&key(&gateway, &file, &["create", "--name", "tools", "--access", "write"]));
    assert!(code == Some(0) && said.contains("write of all organisations, until deleted  tools"), "{said}");
    assert!(client(&gateway, for_all.trim()).await.status().await.is_ok());

    let (code, list, said) = told(&key(&gateway, &file, &["list"]));
    assert_eq!((code, list.lines().count(), said.as_str()), (Some(0), 2, ""), "{list}");
    assert!(!list.contains("ik_") && list.contains("reports") && list.contains("tools"), "{list}");
    let tools = list.lines().find(|line| line.contains("tools")).unwrap().split(' ').next().unwrap();
    let (code, text, said) = told(&key(&gateway, &file, &["delete", tools]));
    assert_eq!((code, text.as_str()), (Some(0), ""), "{said}");
    let refused = client(&gateway, for_all.trim()).await.status().await.unwrap_err().to_string();
    assert!(refused.contains("refuses this API key: credentials are missing or wrong;"), "{refused}");
    let (code, _, said) = told(&key(&gateway, &file, &["delete", tools]));
    assert_eq!((code, said), (Some(1), format!("lastroute: there is no API key {tools}; see lastroute key list\n")));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_can_be_shown_is_deleted_again() {
    let (gateway, file) = gateway();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for output in [Stdio::from(full), closed.into()] {
        let mut command = command(&gateway, &file, &["create", "--name", "reports"]);
        let (code, _, said) =
            told(&command.stdout(output).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
        let said: Vec<_> = said.lines().collect();
        assert_eq!((code, said.len()), (Some(1), 2), "{said:?}");
        assert!(said[0].starts_with("made API key ") && said[1].contains("; it is deleted again; "), "{said:?}");
    }
    assert_eq!(told(&key(&gateway, &file, &["list"])), (Some(0), String::new(), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    // Which is warned of.
    std::fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
    let made = command(&gateway, &file, &["create", "--name", "reports"]).stderr(full).output().unwrap();
    assert_eq!((made.status.code(), made.stdout.len()), (Some(0), 47), "nothing has to be said");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_one_line() {
    let (gateway, file) = gateway();
    for (arguments, code, words) in [
        (&["create", "--name", "a", "--organisation", "Nobody"][..], 2, "has no organisation \"Nobody\""),
        (&["create", "--name", ""], 1, "422"),
        (&["list", "--name", "a"], 2, "this action takes no --name; leave it out"),
        (&["list", "0198c0de-0000-7000-8000-00000000002a"], 2, "this action takes no record id; leave it out"),
    ] {
        let (found, text, said) = told(&key(&gateway, &file, arguments));
        assert_eq!((found, text.as_str(), said.lines().count()), (Some(code), "", 1), "{said}");
        assert!(said.contains(words) && !said.contains("ik_"), "{said}");
    }
    for arguments in [&["create"][..], &["delete"], &["delete", "reports"], &["make"]] {
        assert_eq!(key(&gateway, &file, arguments).status.code(), Some(2), "{arguments:?}");
    }
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "ik_somebody_else_0123456789").unwrap();
    let (code, _, said) = told(&key(&gateway, &wrong, &["list"]));
    assert!(code == Some(1) && said.contains("refuses this API key: credentials are missing or wrong;"), "{said}");
    gateway.stop().await;
}
