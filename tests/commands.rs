//! Help, man pages, completions and README describe the same command line.
//!
//! For every visible flag of every command: the help says its default (`Default: X` at its end; a default of clap; or
//! it is required, or a switch), the man page of the command has it, and README.md has one row
//!
//! ```text
//! | `--name` | default | meaning |
//! ```
//!
//! whose default is the one of the help, backticks aside: `required` for what is required, `off` for a switch. A row
//! belongs to the command that the nearest heading above it names, the heading of its section or of one around it: a
//! heading names a command when the name is a word of it, as in "### `simulate`" or "### Settings of `serve`". Rows of
//! flags that do not exist, and rows under no command, are errors.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command as Process;

use clap::{Arg, ArgAction, Command, CommandFactory};
use lastroute::cli::Cli;
use lastroute::config::{Flags, Report};

const README: &str = include_str!("../README.md");
const EXAMPLE: &str = include_str!("../lastroute.example.toml");
const SERVICE: &str = include_str!("../packaging/lastroute.service");
const UDP_SOCKET: &str = include_str!("../packaging/lastroute-udp.socket");
const HTTP_SOCKET: &str = include_str!("../packaging/lastroute-http.socket");

fn cli() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// The commands a person can give, but for `help`, by what is typed for them: `rpc`, then `rpc send`.
fn commands(cli: &Command) -> Vec<(String, &Command)> {
    let given = cli.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let with_inner = |command| {
        let name = Command::get_name(command);
        let inner = commands(command).into_iter().map(move |(inner, command)| (format!("{name} {inner}"), command));
        std::iter::once((name.to_owned(), command)).chain(inner)
    };
    given.flat_map(with_inner).collect()
}

/// The flags a person can give, but for those every command has.
fn flags(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let visible = command.get_arguments().filter(|flag| !flag.is_hide_set());
    visible.filter_map(|flag| Some((flag.get_long()?, flag))).filter(|(name, _)| !["help", "version"].contains(name))
}

/// The flags that are a command's own: those of all commands in another belong to that.
fn own_flags<'a>(name: &str, command: &'a Command) -> impl Iterator<Item = (&'a str, &'a Arg)> {
    let is_inner = name.contains(' ');
    flags(command).filter(move |(_, flag)| !(is_inner && flag.is_global_set()))
}

fn help(flag: &Arg) -> String {
    flag.get_help().map(ToString::to_string).unwrap_or_default()
}

/// The default that the help of a flag says, if it says one.
fn default(flag: &Arg) -> Option<String> {
    let said = help(flag).split_once("Default: ").map(|(_, default)| default.to_owned());
    let of_clap: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match flag.get_action() {
        _ if flag.is_required_set() => Some("required".to_owned()),
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count => Some("off".to_owned()),
        _ if said.is_some() => said,
        _ => (!of_clap.is_empty()).then(|| of_clap.join(",")),
    }
}

/// The values of a setting of a unit.
fn set<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_give_flags_that_exist_and_sockets_that_the_defaults_name() {
    let cli = cli();
    let serve = cli.find_subcommand("serve").unwrap();
    let start = set(SERVICE, "ExecStart");
    let [start] = start[..] else { panic!("{start:?}") };
    let (program, arguments) = start.split_once(' ').unwrap();
    assert!(program.ends_with("/lastroute") && arguments.starts_with("serve "), "{start}");
    for word in arguments.split(' ').filter_map(|word| word.strip_prefix("--")) {
        assert!(flags(serve).any(|(name, _)| name == word), "serve has no flag --{word}");
    }
    // What is named there is handed over.
    let handed_over: Vec<_> =
        set(SERVICE, "LoadCredential").iter().map(|credential| credential.split(':').next().unwrap()).collect();
    for name in arguments.split(' ').filter_map(|word| word.strip_prefix("%d/")) {
        assert!(handed_over.contains(&name), "{name} is not among {handed_over:?}");
    }
    let default_of = |name: &str| default(flags(serve).find(|(flag, _)| *flag == name).unwrap().1).unwrap();
    assert_eq!(set(UDP_SOCKET, "ListenDatagram"), [default_of("udp-listen")]);
    assert_eq!(set(HTTP_SOCKET, "ListenStream"), [default_of("http-listen")]);
    for socket in [UDP_SOCKET, HTTP_SOCKET] {
        assert_eq!(set(socket, "Service"), ["lastroute.service"]);
        // It outlives whatever becomes of the service.
        assert_eq!(set(socket, "TriggerLimitIntervalSec"), ["0"]);
    }
    // What waits in the sockets would start one that is not started anew at once, and without an end.
    assert_eq!([set(SERVICE, "Restart"), set(SERVICE, "StartLimitIntervalSec")], [["on-failure"], ["0"]]);
    assert!(set(SERVICE, "RestartPreventExitStatus").is_empty());
    assert_eq!(
        [set(SERVICE, "Type"), set(SERVICE, "DynamicUser"), set(SERVICE, "CapabilityBoundingSet")],
        [["notify"], ["yes"], [""]]
    );
}

/// A row of a table of flags: the flag, its default without backticks, and its meaning.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    command: Option<&'a str>,
    flag: &'a str,
    default: String,
    meaning: &'a str,
}

fn rows<'a>(readme: &'a str, names: &[&'a str]) -> Vec<Row<'a>> {
    let mut headings: Vec<(usize, Option<&str>)> = Vec::new();
    let mut rows = Vec::new();
    for line in readme.lines() {
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if level > 0 {
            let words: Vec<_> = line.split(|letter: char| !letter.is_alphanumeric() && letter != '-').collect();
            let named = names.iter().copied().filter(|name| name.split(' ').all(|word| words.contains(&word)));
            headings.retain(|(above, _)| *above < level);
            headings.push((level, named.max_by_key(|name| name.len())));
        } else if let Some(row) = line.strip_prefix("| `--") {
            let command = headings.iter().rev().find_map(|(_, name)| *name);
            let cells: Vec<_> = row.trim_end().trim_end_matches('|').splitn(3, " | ").collect();
            let [flag, default, meaning] = cells[..] else { panic!("not a row of three cells: {line}") };
            let flag = flag.trim_end_matches('`');
            rows.push(Row { command, flag, default: default.replace('`', ""), meaning: meaning.trim() });
        }
    }
    rows
}

/// Everything wrong with the descriptions of flags in the help and a README.
fn problems(cli: &Command, readme: &str) -> Vec<String> {
    let commands = commands(cli);
    let names: Vec<_> = commands.iter().map(|(name, _)| name.as_str()).collect();
    let rows = rows(readme, &names);
    let mut problems: Vec<String> = rows
        .iter()
        .filter(|row| row.command.is_none())
        .map(|row| format!("README: --{} stands under no heading that names a command", row.flag))
        .collect();
    for (name, command) in &commands {
        let own: Vec<_> = rows.iter().filter(|row| row.command == Some(name)).collect();
        for row in &own {
            if !own_flags(name, command).any(|(flag, _)| flag == row.flag) {
                problems.push(format!("README: {name} has no flag --{}", row.flag));
            }
        }
        for (flag, arg) in own_flags(name, command) {
            problems.extend(problem(arg, &own, flag).map(|problem| format!("{name} --{flag}: {problem}")));
        }
    }
    problems
}

fn problem(arg: &Arg, rows: &[&Row<'_>], flag: &str) -> Option<String> {
    let Some(default) = default(arg) else { return Some("its help says no default".to_owned()) };
    if help(arg).is_empty() {
        return Some("no help".to_owned());
    }
    match rows.iter().filter(|row| row.flag == flag).collect::<Vec<_>>()[..] {
        [row] if row.meaning.is_empty() => Some("its row in README has no meaning".to_owned()),
        [row] if row.default != default => {
            Some(format!("README says the default is {:?}, the help {default:?}", row.default))
        }
        [_] => None,
        [] => Some(format!("no row `| `--{flag}` | {default} | ... |` in README")),
        _ => Some("several rows in README".to_owned()),
    }
}

fn lastroute(arguments: &[&str]) -> String {
    let output = Process::new(env!("CARGO_BIN_EXE_lastroute")).args(arguments).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_and_readme_agree_on_every_flag() {
    let problems = problems(&cli(), README);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_settings_of_serve_are_flags_and_keys_of_the_example() {
    let cli = cli();
    let serve = cli.find_subcommand("serve").unwrap();
    let settings: BTreeSet<_> = Report::of(&Flags::default(), []).unwrap().settings.iter().map(|s| s.name).collect();
    // Those are for one start.
    let once = ["check", "set-aside-routes"];
    let named: BTreeSet<_> = flags(serve).map(|(flag, _)| flag).filter(|flag| !once.contains(flag)).collect();
    assert_eq!(settings, named);
    for name in settings.iter().filter(|name| **name != "config") {
        assert!(EXAMPLE.contains(&format!("\n#{name} = ")), "{name}");
    }
}

/// The text of a man page without what is for the typesetter.
fn plain(page: &str) -> String {
    [("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\-", "-"), ("\\*(Aq", "'")]
        .iter()
        .fold(page.to_owned(), |text, (escape, meaning)| text.replace(escape, meaning))
}

#[test]
fn every_command_has_a_man_page_with_its_flags_and_what_the_help_says_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("share/man1");
    assert_eq!(lastroute(&["man", "--output-dir", pages.to_str().unwrap()]), "");
    let cli = cli();
    for (name, command) in commands(&cli) {
        let name = name.replace(' ', "-");
        let page = std::fs::read_to_string(pages.join(format!("lastroute-{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH lastroute-{name} 1 ")), "{page}");
        let page = plain(&page);
        for (name, flag) in flags(command) {
            let entry = page.split(".TP\n").find(|entry| {
                // Behind a letter that stands for it, if there is one.
                let entry = if entry.starts_with("--") { entry } else { entry.get(4..).unwrap_or_default() };
                entry.strip_prefix(&format!("--{name}")).is_some_and(|rest| rest.starts_with([' ', '[', '\n']))
            });
            let entry = entry.unwrap_or_else(|| panic!("--{name} is missing in {page}"));
            assert!(entry.contains(&help(flag)), "{entry}");
        }
        assert!(!page.contains("clock-offset"), "{page}");
    }
    let count = std::fs::read_dir(&pages).unwrap().count();
    assert_eq!(count, commands(&cli).len() + 1, "no page of a command that is not there");
    let program = lastroute(&["man"]);
    assert_eq!(std::fs::read_to_string(pages.join("lastroute.1")).unwrap(), program);
    for (name, _) in commands(&cli) {
        let (page, named) = match name.split_once(' ') {
            Some((outer, _)) => {
                (std::fs::read_to_string(pages.join(format!("lastroute-{outer}.1"))).unwrap(), name.replace(' ', "-"))
            }
            None => (program.clone(), name),
        };
        assert!(plain(&page).contains(&format!("\nlastroute-{named}(1)\n")), "{page}");
    }
}

#[test]
fn a_directory_for_man_pages_that_cannot_be_made_is_one_line_and_exit_code_2() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let under = file.path().join("man1");
    let output = Process::new(env!("CARGO_BIN_EXE_lastroute"))
        .args(["man", "--output-dir", under.to_str().unwrap()])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
    assert_eq!(
        error,
        format!(
            "lastroute: --output-dir: cannot write {}: Not a directory (os error 20); \
             name a directory that this user can write to\n",
            under.display()
        )
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_disk_is() {
    let gateway = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = gateway.local_addr().unwrap().to_string();
    let simulate = ["simulate", "--gateway", &address, "--duration", "0s"];
    for arguments in [&["man"][..], &["completions", "bash"], &["serve", "--check"], &simulate] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let program = || {
            let mut program = Process::new(env!("CARGO_BIN_EXE_lastroute"));
            program.args(arguments).stderr(std::process::Stdio::piped());
            program
        };
        let output = program().stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = program().stdout(full).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
            (
                Some(1),
                "lastroute: cannot write to standard output: No space left on device (os error 28); \
                 make room or write elsewhere\n"
            ),
            "{arguments:?}"
        );
    }
}

/// The flags that a script offers after a command, without dashes.
fn offered(shell: &str, script: &str, command: &str) -> BTreeSet<String> {
    let (start, end) = match shell {
        "bash" => {
            (format!("\n        lastroute__subcmd__{})\n", command.replace(' ', "__subcmd__")), "\n            if ")
        }
        // Of a command in another only the last word stands there.
        "zsh" => (format!("({})\n_arguments", command.rsplit(' ').next().unwrap_or_default()), "\n&& ret=0"),
        "elvish" => (format!("'lastroute;{}'= {{\n", command.replace(' ', ";")), "\n        }"),
        "powershell" => (format!("'lastroute;{}' {{\n", command.replace(' ', ";")), "\n            break"),
        _ => {
            // In fish every line says for itself which command it is of.
            let of_command = match command.split_once(' ') {
                Some((outer, inner)) => format!("{outer}; and __fish_seen_subcommand_from {inner}\""),
                None => command.to_owned(),
            };
            let own = format!("\"__fish_lastroute_using_subcommand {of_command}");
            let ends = |rest: &str| rest.starts_with(['"', ' ']) || rest.starts_with("; and not ");
            let lines = script.lines().filter_map(|line| {
                let rest = line.split_once(&own)?.1;
                ends(rest).then(|| rest.split_once("-l ")).flatten()
            });
            return lines.map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned()).collect();
        }
    };
    let section = script.split_once(&start).and_then(|(_, rest)| rest.split_once(end)).unwrap_or_default().0;
    // Bash has all in one line; elsewhere a line is of one flag, whose description may name others.
    let in_line = if shell == "bash" { usize::MAX } else { 1 };
    let words = |line: &str| -> Vec<String> {
        // Zsh begins with those that exclude it.
        let line = line.strip_prefix("'(").and_then(|rest| rest.split_once(')')).map_or(line, |(_, flag)| flag);
        let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
        words
            .filter_map(|word| word.strip_prefix("--"))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .take(in_line)
            .collect()
    };
    section.lines().flat_map(words).collect()
}

#[test]
fn every_shell_completes_every_command_and_flag_and_nothing_hidden() {
    let cli = cli();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lastroute(&["completions", shell]);
        for (name, command) in commands(&cli) {
            let expected: BTreeSet<_> =
                flags(command).map(|(flag, _)| flag).chain(["help"]).map(str::to_owned).collect();
            assert_eq!(offered(shell, &script, &name), expected, "{shell}: {name}");
        }
        assert!(!script.contains("clock-offset"), "{shell}");
    }
}

#[test]
fn bash_takes_the_completions_and_completes_with_them() {
    let completions = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(completions.path(), lastroute(&["completions", "bash"])).unwrap();
    let checked = Process::new("bash").arg("-n").arg(completions.path()).status().unwrap();
    assert!(checked.success());
    let complete = "source \"$1\"; COMP_WORDS=(lastroute serve --udp-l); COMP_CWORD=2; \
                    _lastroute lastroute --udp-l serve; echo \"${COMPREPLY[@]}\"";
    let output = Process::new("bash").args(["-c", complete, "bash"]).arg(completions.path()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--udp-listen\n");
}

#[test]
fn what_is_undescribed_or_described_wrongly_is_caught() {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let switch = flag("all", "Everything").action(ArgAction::SetTrue);
    let run = Command::new("run").arg(flag("rate", "How fast. Default: 5, or less")).arg(switch);
    let run = run.arg(flag("key", "Which key").required(true)).arg(flag("hidden", "").hide(true));
    let run = run.arg(flag("times", "How often").default_value("3"));
    let mut cli = Command::new("program").subcommand(run).subcommand(Command::new("walk-on"));
    cli.build();
    let rate = "| `--rate` | `5`, or less | how fast |\n";
    let rest = "| `--all` | off | all |\n| `--key` | required | which |\n| `--times` | 3 | how often |\n";
    for good in [
        format!("# program\n## To `run`\n{rate}\n### More\n{rest}\n## End"),
        format!("## run\n{rate}## walk-on\n## Again: program run\n{rest}"),
    ] {
        assert_eq!(problems(&cli, &good), Vec::<String>::new(), "{good}");
    }
    for (bad, expected) in [
        (format!("## run\n{rest}"), "run --rate: no row `| `--rate` | 5, or less | ... |` in README"),
        (format!("## run\n{rate}{rate}{rest}"), "run --rate: several rows in README"),
        (
            format!("## run\n{rest}| `--rate` | 6 | how fast |"),
            "run --rate: README says the default is \"6\", the help \"5, or less\"",
        ),
        (format!("## run\n{rest}| `--rate` | 5, or less | |"), "run --rate: its row in README has no meaning"),
        (format!("## run\n{rate}{rest}| `--hidden` | 1 | it |"), "README: run has no flag --hidden"),
        (format!("## run\n{rate}{rest}### walk-on\n| `--a` | 1 | it |"), "README: walk-on has no flag --a"),
        (
            format!("## run\n{rate}{rest}## walk\n| `--a` | 1 | it |"),
            "README: --a stands under no heading that names a command",
        ),
    ] {
        assert_eq!(problems(&cli, &bad), [expected], "{bad}");
    }
    for (arg, expected) in [
        (flag("pace", "How fast"), "stroll --pace: its help says no default"),
        (Arg::new("pace").long("pace").required(true), "stroll --pace: no help"),
    ] {
        let cli = Command::new("program").subcommand(Command::new("stroll").arg(arg));
        assert_eq!(problems(&cli, "## stroll\n| `--pace` | 1 | it |"), [expected]);
    }
}
