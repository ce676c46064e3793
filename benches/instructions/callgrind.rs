//! Runs a process under callgrind and reads what it counted.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// Only what happens in here is counted; the pattern fits its name with module and hash.
const TOGGLE: &str = "*cases::counted*";

/// Instructions, by whose code they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counted {
    /// Ours, with what the compiler made part of it.
    pub(crate) own: f64,
    /// Of `ring`.
    pub(crate) ring: f64,
    /// Of the libraries of the system, such as the copying of bytes.
    pub(crate) elsewhere: f64,
}

impl Counted {
    /// For each of so many packets.
    pub(crate) fn each(self, packets: u64) -> Self {
        let each = |count: f64| count / packets as f64;
        Self { own: each(self.own), ring: each(self.ring), elsewhere: each(self.elsewhere) }
    }
}

/// Runs `executable` with one variable of the environment under `valgrind`, which writes to `out`.
pub(crate) fn count(valgrind: &str, executable: &Path, out: &Path, variable: (&str, &str)) -> Result<Counted, String> {
    let mut valgrind = Command::new(valgrind);
    valgrind.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.arg(format!("--toggle-collect={TOGGLE}")).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(executable).env(variable.0, variable.1).stdout(Stdio::null());
    let output = match valgrind.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err("there is no valgrind here; install it (Debian package valgrind)".to_owned());
        }
        Err(error) => return Err(format!("valgrind cannot be started: {error}")),
    };
    if !output.status.success() {
        return Err(format!("valgrind failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = std::fs::read_to_string(out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(read(&text, &executable.display().to_string()))
}

/// Adds up what callgrind wrote. Of a call only the caller's own instruction counts here: what was called is listed by itself.
pub(crate) fn read(text: &str, executable: &str) -> Counted {
    let mut counted = Counted::default();
    let (mut object, mut file, mut of_call) = ("", "", false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = name;
        } else if let Some(name) = ["fl=", "fi=", "fe="].iter().find_map(|key| line.strip_prefix(key)) {
            file = name;
        } else if line.starts_with("calls=") {
            of_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let count = line.split(' ').nth(1).and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0);
            match () {
                () if std::mem::take(&mut of_call) => {}
                () if object != executable => counted.elsewhere += count,
                () if is_of_ring(file) => counted.ring += count,
                () => counted.own += count,
            }
        }
    }
    counted
}

/// By the folder of the crate: its assembly has functions whose names do not tell.
fn is_of_ring(file: &str) -> bool {
    file.split('/').any(|folder| folder == "ring" || folder.starts_with("ring-"))
}
