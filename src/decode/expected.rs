//! What a file of test vectors says should become of a datagram, compared with what became of it.

use super::Explained;
use super::part::Part;
use crate::metrics::Disposition;

/// What should become of a datagram or a plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It opens. As an uplink it is not one of the gateway's own come back.
    Authentic,
    /// It ends in this, and is no more than that.
    Refused(Disposition),
    /// It is authentic and holds entries, of which so many come before a fault.
    Entries(usize),
    /// It counts, and its time is of this class.
    Counted(String),
    /// Its readings end in a fault, or not.
    Malformed(bool),
}

impl Expected {
    /// What is expected, in words.
    pub fn text(&self) -> String {
        match self {
            Self::Authentic => "authentic".to_owned(),
            Self::Refused(disposition) => disposition.label().to_owned(),
            Self::Entries(1) => "authentic, 1 entry before a fault".to_owned(),
            Self::Entries(sound) => format!("authentic, {sound} entries before a fault"),
            Self::Counted(class) => format!("accepted, {class}"),
            Self::Malformed(true) => "malformed".to_owned(),
            Self::Malformed(false) => "well-formed".to_owned(),
        }
    }

    /// Whether it became so.
    pub(super) fn is_met_by(&self, explained: &Explained) -> bool {
        let verdict = explained.verdict.as_ref();
        let disposition = verdict.and_then(|verdict| verdict.disposition);
        let payload = explained.parts.last();
        // A payload is explained of what opened, and of nothing else.
        let opened = explained.parts.len() > 1;
        match self {
            Self::Authentic => opened && disposition != Some(Disposition::Reflected),
            Self::Refused(expected) => disposition == Some(*expected),
            Self::Entries(sound) => {
                opened && payload.is_some_and(|payload| payload.parts.len() == *sound && !payload.faults.is_empty())
            }
            Self::Counted(class) => {
                let got = verdict.and_then(|verdict| verdict.class).map(|class| class.name());
                disposition == Some(Disposition::Accepted) && got == Some(class.as_str())
            }
            Self::Malformed(expected) => payload.is_some_and(Part::is_faulty) == *expected,
        }
    }
}
