//! Shell completions and man pages, made from the definition of the command line and nothing else.

use std::io;
use std::iter::once;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use super::{Cli, Failure, print};

/// Arguments of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell that completes
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write every page to this directory, lastroute.1 and one for each command; made if it is missing. Default: none,
    /// the page of lastroute goes to standard output
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output_dir: Option<PathBuf>,
}

pub(super) fn completions(arguments: &CompletionsArgs) -> Result<(), Failure> {
    let mut command = visible(&Cli::command());
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, name, &mut script);
    print(&script)
}

/// The command, its arguments and its commands, as far as a person is told of them. Those that write completions leave nothing
/// out that is hidden.
fn visible(command: &clap::Command) -> clap::Command {
    let mut shown = clap::Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible);
    shown.args(arguments).subcommands(commands)
}

pub(super) fn man(arguments: &ManArgs) -> Result<(), Failure> {
    let pages = pages().map_err(Failure::running)?;
    match &arguments.output_dir {
        Some(directory) => write_pages(directory, &pages),
        None => print(&pages[0].1),
    }
}

fn write_pages(directory: &Path, pages: &[(String, Vec<u8>)]) -> Result<(), Failure> {
    let failed = |path: &Path, error: &io::Error| {
        let path = path.display();
        Failure::Configuration(format!(
            "--output-dir: cannot write {path}: {error}; name a directory that this user can write to"
        ))
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for (name, page) in pages {
        let path = directory.join(name);
        std::fs::write(&path, page).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

/// The man pages, each with the name of its file: that of the program, then those of its commands.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    // Gives the commands their full names.
    program.build();
    commands(&program).into_iter().map(page).collect()
}

/// A command and those in it, as far as a person is told of them.
fn commands(command: &clap::Command) -> Vec<&clap::Command> {
    let inner = command.get_subcommands().filter(|command| !command.is_hide_set());
    once(command).chain(inner.flat_map(commands)).collect()
}

fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone()).source(concat!("lastroute ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), text))
}
