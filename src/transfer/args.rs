//! The flags of `import` and `export`, and what they come to.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::TransferError;
use crate::client::DEFAULT_ADDRESS;
use crate::records::MAX_IMPORT;

/// Standard input or output in place of a file.
const STANDARD: &str = "-";

/// Arguments of `import`.
#[derive(clap::Args, Clone, Debug)]
pub struct ImportArgs {
    /// File of devices, one a line; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Form of the file: ndjson or csv. Default: by the ending of its name
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    pub format: Option<Format>,
    /// Organisation, by name or record id, of devices whose line names none. Default: none
    #[arg(long, value_name = "NAME")]
    pub organisation: Option<String>,
    /// Board, by name or record id, of devices whose line names none. Default: none
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// Whether to go on after a line that cannot be imported: continue or stop
    #[arg(long, value_name = "WHAT", default_value = "continue", hide_possible_values = true)]
    pub on_error: OnError,
    /// Line to begin with: those before it are skipped, but for the header of a CSV file
    #[arg(long, value_name = "LINE", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    pub from_line: u64,
    /// Devices in one request, 1 to 10000
    #[arg(
        long,
        value_name = "DEVICES",
        default_value = "10000",
        value_parser = clap::value_parser!(u32).range(1..=MAX_IMPORT as i64)
    )]
    pub batch: u32,
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, alias = "url", value_name = "URL", default_value = DEFAULT_ADDRESS)]
    pub gateway_api: String,
    /// File with an API key that may write, an administrator's or a stored one; the first in it is used. Default: none
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

/// Arguments of `export`.
#[derive(clap::Args, Clone, Debug)]
pub struct ExportArgs {
    /// File to write, for this user alone; one that exists is replaced. - for standard output
    #[arg(value_name = "FILE", default_value = STANDARD)]
    pub file: PathBuf,
    /// Form of the file: ndjson or csv. Default: by the ending of its name, ndjson for standard output
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    pub format: Option<Format>,
    /// Organisation, by name or record id, whose devices are written. Default: all that the API key may see
    #[arg(long, value_name = "NAME")]
    pub organisation: Option<String>,
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, alias = "url", value_name = "URL", default_value = DEFAULT_ADDRESS)]
    pub gateway_api: String,
    /// File with an API key, an administrator's or a stored one; the first in it is used. Default: none
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

/// The form of a list of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// Values between commas, below a header that names them.
    Csv,
}

/// What a line that cannot be imported does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// It is reported, and the next one is looked at.
    Continue,
    /// It ends the import, once what stands before it is done.
    Stop,
}

impl ImportArgs {
    /// The form of the file.
    ///
    /// # Errors
    /// It is not given, and the name of the file does not tell.
    pub(super) fn form(&self) -> Result<Format, TransferError> {
        self.format.or_else(|| by_ending(&self.file)).ok_or_else(|| TransferError::Format(self.file.clone()))
    }

    /// The command that does the same from `line` on.
    pub(super) fn from(&self, line: u64) -> String {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let format = self.format.and_then(|format| Some(format.to_possible_value()?.get_name().to_owned()));
        let flags = [
            ("--format", format),
            ("--organisation", self.organisation.clone()),
            ("--board", self.board.clone()),
            ("--on-error", (self.on_error == OnError::Stop).then(|| "stop".to_owned())),
            ("--batch", (self.batch != 10_000).then(|| self.batch.to_string())),
            ("--gateway-api", (self.gateway_api != DEFAULT_ADDRESS).then(|| self.gateway_api.clone())),
            ("--api-key-file", self.api_key_file.as_deref().map(path)),
            ("--from-line", Some(line.to_string())),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| Some(format!(" {flag} {}", shell_word(&value?))));
        format!("lastroute import {}{}", shell_word(&path(&self.file)), given.collect::<String>())
    }
}

impl ExportArgs {
    /// The form of the file.
    ///
    /// # Errors
    /// It is not given, and the name of the file does not tell.
    pub(super) fn form(&self) -> Result<Format, TransferError> {
        let standard = is_standard(&self.file).then_some(Format::Ndjson);
        let form = self.format.or(standard).or_else(|| by_ending(&self.file));
        form.ok_or_else(|| TransferError::Format(self.file.clone()))
    }
}

/// Whether standard input or output is meant.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

fn by_ending(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "csv" => Some(Format::Csv),
        _ => None,
    }
}

/// A text as a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        import: ImportArgs,
    }

    fn import(arguments: &[&str]) -> ImportArgs {
        Command::try_parse_from([&["import"], arguments].concat()).unwrap().import
    }

    #[test]
    fn the_ending_of_a_file_tells_its_form_unless_that_is_given() {
        for (arguments, form) in [
            (&["a.ndjson"][..], Some(Format::Ndjson)),
            (&["a.b.jsonl"], Some(Format::Ndjson)),
            (&["a.csv"], Some(Format::Csv)),
            (&["a.csv", "--format", "ndjson"], Some(Format::Ndjson)),
            (&["-", "--format", "csv"], Some(Format::Csv)),
            (&["-"], None),
            (&["csv"], None),
            (&["a.txt"], None),
        ] {
            assert_eq!(import(arguments).form().ok(), form, "{arguments:?}");
        }
    }

    #[test]
    fn the_command_that_goes_on_has_every_flag_that_was_given() {
        assert_eq!(import(&["a.csv"]).from(7), "lastroute import a.csv --from-line 7");
        let flags = "--format csv --organisation 'Joe'\\''s plant' --board b1 --on-error stop --batch 10 \
                     --gateway-api http://gateway:8080 --api-key-file /run/keys";
        let given =
            ["my list", "--format", "csv", "--organisation", "Joe's plant", "--board", "b1", "--on-error", "stop"];
        let more = ["--batch", "10", "--url", "http://gateway:8080", "--api-key-file", "/run/keys", "--from-line", "3"];
        let command = import(&[&given[..], &more].concat()).from(7);
        assert_eq!(command, format!("lastroute import 'my list' {flags} --from-line 7"));
    }
}
