//! The columns of a CSV file of devices: their names, and what their values say.

use std::fmt::Display;
use std::str::FromStr;

use super::csv::Values;
use super::draft::Draft;
use super::shown;
use crate::records::{Algorithm, ApplicationVersion, NewDeviceState};

/// What begins the name of a column of metadata.
const METADATA: &str = "metadata.";

/// What a column says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    DeviceId,
    McuId,
    Organisation,
    OrganisationId,
    Board,
    BoardId,
    Soc,
    ApplicationId,
    ApplicationVersion,
    Algorithms,
    DevicePublicKey,
    DeviceRootKey,
    /// Of a record, and made by each gateway itself.
    Ignored(&'static str),
    /// The metadata of this name.
    Metadata(String),
}

/// The columns whose names are fixed.
const FIXED: [(&str, Column); 15] = [
    ("deviceId", Column::DeviceId),
    ("mcuId", Column::McuId),
    ("organisation", Column::Organisation),
    ("organisationId", Column::OrganisationId),
    ("board", Column::Board),
    ("boardId", Column::BoardId),
    ("soc", Column::Soc),
    ("applicationId", Column::ApplicationId),
    ("applicationVersion", Column::ApplicationVersion),
    ("algorithms", Column::Algorithms),
    ("devicePublicKey", Column::DevicePublicKey),
    ("deviceRootKey", Column::DeviceRootKey),
    ("id", Column::Ignored("id")),
    ("createdAt", Column::Ignored("createdAt")),
    ("updatedAt", Column::Ignored("updatedAt")),
];

/// The columns of a file in order.
#[derive(Debug)]
pub(super) struct Columns(Vec<Column>);

impl Columns {
    /// By their names.
    ///
    /// # Errors
    /// A name that is none or stands twice, or none for the hardware id, without which there is no device.
    pub(super) fn of(names: &Values<'_>) -> Result<Self, String> {
        let mut columns = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let name = name.ok_or_else(|| format!("the name of column {} is not UTF-8", index + 1))?;
            let column = Column::named(name).ok_or_else(|| {
                let known = FIXED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                format!("there is no column {}; there are {known} and {METADATA}NAME", shown(name))
            })?;
            if columns.contains(&column) {
                return Err(format!("the column {} stands there twice", shown(name)));
            }
            columns.push(column);
        }
        if columns.contains(&Column::McuId) { Ok(Self(columns)) } else { Err("it has no column mcuId".to_owned()) }
    }

    /// What a record says. An empty value says nothing.
    ///
    /// # Errors
    /// What is wrong with it, without its value, which may be a key.
    pub(super) fn draft(&self, values: &Values<'_>) -> Result<Draft, String> {
        if values.len() != self.0.len() {
            return Err(format!("it has {} values below a header of {} columns", values.len(), self.0.len()));
        }
        let mut draft = Draft::default();
        for (column, text) in self.0.iter().zip(values.iter()) {
            let wrong = |problem: String| format!("{}: {problem}", column.name());
            let text = text.ok_or_else(|| wrong("it is not UTF-8".to_owned()))?;
            let text = if column.keeps_spaces() { text } else { text.trim() };
            if !text.is_empty() {
                column.set(&mut draft, text).map_err(wrong)?;
            }
        }
        Ok(draft)
    }
}

impl Column {
    fn named(name: &str) -> Option<Self> {
        // Spaces at the end belong to the name of metadata.
        if let Some(metadata) = name.trim_start().strip_prefix(METADATA) {
            return (!metadata.is_empty()).then(|| Self::Metadata(metadata.to_owned()));
        }
        let name = name.trim();
        FIXED.iter().find(|(fixed, _)| *fixed == name).map(|(_, column)| column.clone())
    }

    /// Whether its values are texts of records, where spaces at the ends count.
    const fn keeps_spaces(&self) -> bool {
        matches!(self, Self::Organisation | Self::Board | Self::Soc | Self::Metadata(_))
    }

    fn name(&self) -> String {
        match self {
            Self::Metadata(name) => metadata_column(name),
            fixed => {
                FIXED.iter().find(|(_, column)| column == fixed).map_or_else(String::new, |(name, _)| (*name).into())
            }
        }
    }

    /// Puts what `text` says into `draft`.
    fn set(&self, draft: &mut Draft, text: &str) -> Result<(), String> {
        match self {
            Self::DeviceId => draft.device_id = Some(parsed(text)?),
            Self::McuId => draft.mcu_id = Some(parsed(text)?),
            Self::Organisation => draft.organisation = Some(text.to_owned()),
            Self::OrganisationId => draft.organisation_id = Some(parsed(text)?),
            Self::Board => draft.board = Some(text.to_owned()),
            Self::BoardId => draft.board_id = Some(parsed(text)?),
            Self::Soc => draft.soc = Some(text.to_owned()),
            Self::ApplicationId => state(draft).application_id = Some(parsed(text)?),
            Self::ApplicationVersion => state(draft).application_version = Some(version(text)?),
            Self::Algorithms => state(draft).algorithms = Some(algorithms(text)?),
            Self::DevicePublicKey => draft.device_public_key = Some(parsed(text)?),
            Self::DeviceRootKey => draft.device_root_key = Some(parsed(text)?),
            Self::Ignored(_) => {}
            Self::Metadata(name) => drop(draft.metadata.insert(name.clone(), text.to_owned())),
        }
        Ok(())
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn state(draft: &mut Draft) -> &mut NewDeviceState {
    draft.initial_device_state.get_or_insert_default()
}

/// The name of the column of the metadata `name`.
pub(super) fn metadata_column(name: &str) -> String {
    format!("{METADATA}{name}")
}

/// The text of a version.
pub(super) fn version_text(version: &ApplicationVersion) -> String {
    let ApplicationVersion { major, minor, revision, build_num } = version;
    format!("{major}.{minor}.{revision}+{build_num}")
}

fn version(text: &str) -> Result<ApplicationVersion, String> {
    let parts = || {
        let (version, build) = text.split_once('+')?;
        let (major, rest) = version.split_once('.')?;
        let (minor, revision) = rest.split_once('.')?;
        Some(ApplicationVersion {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            revision: revision.parse().ok()?,
            build_num: build.parse().ok()?,
        })
    };
    parts().ok_or_else(|| "a version is major.minor.revision+build, for example 1.4.2+1700".to_owned())
}

/// The text of algorithms.
pub(super) fn algorithms_text(algorithms: &[Algorithm]) -> String {
    let texts: Vec<_> = algorithms.iter().map(|algorithm| format!("{}:{}", algorithm.id, algorithm.version)).collect();
    texts.join(" ")
}

fn algorithms(text: &str) -> Result<Vec<Algorithm>, String> {
    let one = |text: &str| {
        let (id, version) = text.split_once(':')?;
        Some(Algorithm { id: id.parse().ok()?, version: version.parse().ok()? })
    };
    let all: Option<Vec<_>> = text.split_ascii_whitespace().map(one).collect();
    all.ok_or_else(|| "algorithms are id:version with spaces between them, for example 1:3 7:1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::csv::CsvRecords;
    use super::*;

    /// What the one record below a header says.
    fn record(header: &str, record: &str) -> Result<Draft, String> {
        let text = format!("{header}\n{record}\n");
        CsvRecords::new(text.as_bytes(), 1).unwrap().next().unwrap().unwrap().draft
    }

    #[test]
    fn every_column_has_its_place_and_an_empty_value_says_nothing() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let header = FIXED.map(|(name, _)| name).join(",") + ",metadata.serial no";
        let values = format!(
            "D291D4D66BF0A955, 00Aa ,plant,0197c8a8-0000-7000-8000-000000000001,b,0197c8a8-0000-7000-8000-000000000002,\
             nRF9151,5,1.4.2+1700,1:3 7:1,{key},{key},x,y,z, 7 "
        );
        let draft = record(&header, &values).unwrap();
        let json = r#"{"deviceId":"d291d4d66bf0a955","mcuId":"00aa","organisation":"plant","board":"b","soc":"nRF9151",
            "organisationId":"0197c8a8-0000-7000-8000-000000000001","boardId":"0197c8a8-0000-7000-8000-000000000002",
            "initialDeviceState":{"applicationId":5,"algorithms":[{"id":1,"version":3},{"id":7,"version":1}],
            "applicationVersion":{"major":1,"minor":4,"revision":2,"buildNum":1700}},"devicePublicKey":"KEY",
            "deviceRootKey":"KEY","metadata":{"serial no":" 7 "}}"#;
        assert_eq!(draft, Draft::of_json(json.replace("KEY", key).as_bytes()).unwrap());
        assert_eq!(record(&header, &",".repeat(FIXED.len())), Ok(Draft::default()));
        let state = draft.initial_device_state.unwrap();
        let texts = (version_text(&state.application_version.unwrap()), algorithms_text(&state.algorithms.unwrap()));
        assert_eq!(texts, ("1.4.2+1700".to_owned(), "1:3 7:1".to_owned()));
    }

    #[test]
    fn a_bad_value_is_told_by_its_column_and_not_quoted() {
        for (column, problem) in [
            ("deviceId", "a device id is 16 hex digits"),
            ("mcuId", "an MCU id is pairs of hex digits"),
            ("organisationId", "invalid"),
            ("boardId", "invalid"),
            ("applicationId", "invalid digit"),
            ("applicationVersion", "a version is major.minor.revision+build"),
            ("algorithms", "algorithms are id:version"),
            ("devicePublicKey", "a key is 32 bytes in base64"),
            ("deviceRootKey", "a key is 32 bytes in base64"),
        ] {
            let header = if column == "mcuId" { "mcuId,id".to_owned() } else { format!("{column},mcuId") };
            let error = record(&header, "s3cret,00").unwrap_err();
            assert!(error.starts_with(&format!("{column}: {problem}")) && !error.contains("s3cret"), "{error}");
        }
        for bad in ["1.2.3", "1.2+3", "256.0.0+0", "1.2.3+", "-1.0.0+0"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }
}
