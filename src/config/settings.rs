//! The settings as their sources give them: texts, and where each came from. What a text means is decided in
//! `values.rs`, and what settings mean together in `check.rs`.
//!
//! Sources override one another whole, setting by setting: file < environment < flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::values::Fault;

/// A setting. Its flag is `--` and the key, its variable `LASTROUTE_` and the key in capitals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// The configuration file itself; the only setting that cannot stand in it.
    Config,
    DataDir,
    CloudKeyFile,
    ApiKeyFile,
    JwtKeyFile,
    JwtAudience,
    RpcDefinitions,
    UdpListen,
    UdpReceiveBuffer,
    UdpThreads,
    HttpListen,
    MetricsListen,
    Unregistered,
    UnregisteredLimit,
    RoutePolicy,
    KeyChange,
    MessageRetention,
    ClockStep,
    WaitersPerDevice,
    WaitersPerCredential,
    WaitersTotal,
    Log,
}

impl Name {
    pub(super) const ALL: [Self; 22] = [
        Self::Config,
        Self::DataDir,
        Self::CloudKeyFile,
        Self::ApiKeyFile,
        Self::JwtKeyFile,
        Self::JwtAudience,
        Self::RpcDefinitions,
        Self::UdpListen,
        Self::UdpReceiveBuffer,
        Self::UdpThreads,
        Self::HttpListen,
        Self::MetricsListen,
        Self::Unregistered,
        Self::UnregisteredLimit,
        Self::RoutePolicy,
        Self::KeyChange,
        Self::MessageRetention,
        Self::ClockStep,
        Self::WaitersPerDevice,
        Self::WaitersPerCredential,
        Self::WaitersTotal,
        Self::Log,
    ];

    /// The key in the configuration file.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::DataDir => "data-dir",
            Self::CloudKeyFile => "cloud-key-file",
            Self::ApiKeyFile => "api-key-file",
            Self::JwtKeyFile => "jwt-key-file",
            Self::JwtAudience => "jwt-audience",
            Self::RpcDefinitions => "rpc-definitions",
            Self::UdpListen => "udp-listen",
            Self::UdpReceiveBuffer => "udp-receive-buffer",
            Self::UdpThreads => "udp-threads",
            Self::HttpListen => "http-listen",
            Self::MetricsListen => "metrics-listen",
            Self::Unregistered => "unregistered",
            Self::UnregisteredLimit => "unregistered-limit",
            Self::RoutePolicy => "route-policy",
            Self::KeyChange => "key-change",
            Self::MessageRetention => "message-retention",
            Self::ClockStep => "clock-step",
            Self::WaitersPerDevice => "waiters-per-device",
            Self::WaitersPerCredential => "waiters-per-credential",
            Self::WaitersTotal => "waiters-total",
            Self::Log => "log",
        }
    }

    /// The environment variable.
    pub(super) fn variable(self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key().to_ascii_uppercase().replace('-', "_"))
    }
}

/// What every environment variable of this program begins with; none of them is ignored.
const VARIABLE_PREFIX: &str = "LASTROUTE_";

/// Where a setting was given.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    File { path: PathBuf, line: usize },
    Environment,
    Flag,
}

/// What one source says of a setting: one text, or several where the setting may be repeated.
#[derive(Clone, Debug)]
struct Given {
    texts: Vec<String>,
    origin: Origin,
    /// Sources that say something in vain, the strongest first.
    overridden: Vec<Origin>,
}

/// Settings of one source, or of several laid over each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings(BTreeMap<Name, Given>);

impl Settings {
    /// Every `LASTROUTE_` variable among `variables`; one that names no setting is an error.
    pub(super) fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for (variable, value) in variables {
            let variable = variable.to_string_lossy();
            if !variable.starts_with(VARIABLE_PREFIX) {
                continue;
            }
            let Some(name) = Name::ALL.into_iter().find(|name| name.variable() == variable) else {
                return Err(unknown_variable(&variable));
            };
            let text = value.into_string().map_err(|_| Fault::new("is not UTF-8", "correct it").at(variable))?;
            settings.set(name, vec![text], Origin::Environment);
        }
        Ok(settings)
    }

    /// Sets one setting; no texts leave it as it is.
    pub(super) fn set(&mut self, name: Name, texts: Vec<String>, origin: Origin) {
        if !texts.is_empty() {
            self.0.insert(name, Given { texts, origin, overridden: Vec::new() });
        }
    }

    /// These settings, and where `other` has one, that one.
    pub(super) fn overridden_by(mut self, other: Self) -> Self {
        for (name, mut given) in other.0 {
            if let Some(Given { origin, overridden, .. }) = self.0.remove(&name) {
                given.overridden.push(origin);
                given.overridden.extend(overridden);
            }
            self.0.insert(name, given);
        }
        self
    }

    /// Who gives the setting, the strongest first, whose texts hold; nobody if it is the default.
    pub(super) fn sources(&self, name: Name) -> Vec<String> {
        let told = |origin: &Origin| match origin {
            Origin::File { path, line } => format!("{}:{line}", path.display()),
            Origin::Environment => format!("environment {}", name.variable()),
            Origin::Flag => format!("flag --{}", name.key()),
        };
        let given = self.0.get(&name).into_iter();
        given.flat_map(|given| std::iter::once(&given.origin).chain(&given.overridden)).map(told).collect()
    }

    /// How errors name the setting: as the source that gave it does.
    pub(super) fn place(&self, name: Name) -> String {
        match self.0.get(&name).map(|given| &given.origin) {
            Some(Origin::File { path, line }) => format!("{}:{line}: {}", path.display(), name.key()),
            Some(Origin::Environment) => name.variable(),
            Some(Origin::Flag) => format!("--{}", name.key()),
            None => name.key().to_owned(),
        }
    }

    /// What the text of a setting means; `None` where no source gives it.
    pub(super) fn value<T>(
        &self,
        name: Name,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Result<Option<T>, ConfigError> {
        let text = self.0.get(&name).and_then(|given| given.texts.last());
        text.map(|text| parse(text)).transpose().map_err(|fault| fault.at(self.place(name)))
    }

    /// What the texts of a setting mean, each a list of one or more separated by commas; `None` where no source gives it.
    pub(super) fn values<T>(
        &self,
        name: Name,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(given) = self.0.get(&name) else { return Ok(None) };
        let parts = given.texts.iter().flat_map(|text| text.split(','));
        let values: Result<_, _> = parts.map(|part| parse(part.trim())).collect();
        values.map(Some).map_err(|fault| fault.at(self.place(name)))
    }

    /// A path. One in a file is relative to the directory of that file, any other to the working directory.
    pub(super) fn path(&self, name: Name) -> Result<Option<PathBuf>, ConfigError> {
        let Some(Given { texts, origin, .. }) = self.0.get(&name) else { return Ok(None) };
        let text = texts.last().map_or("", String::as_str);
        if text.is_empty() {
            return Err(Fault::new("the path is empty", "name one, or leave the setting out").at(self.place(name)));
        }
        Ok(Some(match origin {
            Origin::File { path, .. } => beside(path, text),
            Origin::Environment | Origin::Flag => PathBuf::from(text),
        }))
    }
}

fn unknown_variable(variable: &str) -> ConfigError {
    let key = variable.trim_start_matches(VARIABLE_PREFIX).to_ascii_lowercase().replace('_', "-");
    let near = nearest(&key, Name::ALL.map(Name::key));
    let remedy = match Name::ALL.into_iter().find(|name| near == Some(name.key())) {
        Some(name) => format!("write {}, or unset it", name.variable()),
        None => format!("use one of {}, or unset it", Name::ALL.map(Name::variable).join(", ")),
    };
    Fault::new("no such setting", remedy).at(variable.escape_debug().to_string())
}

/// The name among `known` that `word` is most likely meant to be: a third of its letters may be wrong.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|name| (strsim::osa_distance(word, name), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= name.len() / 3).then_some(name)
}

/// `path` as it is meant in `file`: relative to its directory.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        Settings::from_environment(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn text(settings: &Settings, name: Name) -> Option<String> {
        settings.value(name, |text| Ok(text.to_owned())).unwrap()
    }

    #[test]
    fn a_later_source_overrides_a_whole_setting_and_leaves_the_others() {
        let mut file = Settings::default();
        let origin = Origin::File { path: "fleet.toml".into(), line: 3 };
        file.set(Name::UdpListen, vec!["a".to_owned(), "b".to_owned()], origin.clone());
        file.set(Name::Log, vec!["debug".to_owned()], origin);
        let settings = file.overridden_by(environment(&[("LASTROUTE_UDP_LISTEN", "c, d")]).unwrap());
        let addresses = settings.values(Name::UdpListen, |text| Ok(text.to_owned())).unwrap();
        assert_eq!(addresses, Some(vec!["c".to_owned(), "d".to_owned()]));
        assert_eq!(text(&settings, Name::Log).as_deref(), Some("debug"));
        assert_eq!(text(&settings, Name::HttpListen), None);
    }

    #[test]
    fn a_setting_is_named_as_its_source_names_it() {
        let mut settings = environment(&[("LASTROUTE_HTTP_LISTEN", "x")]).unwrap();
        settings.set(Name::Log, vec!["x".to_owned()], Origin::Flag);
        settings.set(Name::DataDir, vec!["x".to_owned()], Origin::File { path: "a/b.toml".into(), line: 7 });
        let names = [Name::HttpListen, Name::Log, Name::DataDir, Name::UdpListen];
        let places = names.map(|name| settings.place(name));
        assert_eq!(places, ["LASTROUTE_HTTP_LISTEN", "--log", "a/b.toml:7: data-dir", "udp-listen"]);
    }

    #[test]
    fn variables_of_other_programs_are_no_error() {
        assert!(environment(&[("PATH", "/bin"), ("LASTROUTES", "1")]).is_ok());
    }

    #[test]
    fn a_misspelt_name_is_near_one_name_at_most() {
        for (word, near) in [
            ("udp-listne", Some("udp-listen")),
            ("http_listen", Some("http-listen")),
            ("lgo", Some("log")),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, Name::ALL.map(Name::key)), near, "{word}");
        }
    }

    #[test]
    fn a_path_in_a_file_is_relative_to_that_file_and_an_empty_one_is_an_error() {
        let mut settings = environment(&[("LASTROUTE_DATA_DIR", "data"), ("LASTROUTE_API_KEY_FILE", "")]).unwrap();
        let origin = Origin::File { path: "etc/fleet.toml".into(), line: 1 };
        settings.set(Name::CloudKeyFile, vec!["cloud.key".to_owned()], origin);
        assert_eq!(settings.path(Name::DataDir).unwrap(), Some("data".into()));
        assert_eq!(settings.path(Name::CloudKeyFile).unwrap(), Some("etc/cloud.key".into()));
        let error = settings.path(Name::ApiKeyFile).unwrap_err().to_string();
        assert_eq!(error, "LASTROUTE_API_KEY_FILE: the path is empty; name one, or leave the setting out");
    }
}
