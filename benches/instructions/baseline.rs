//! The committed counts: which compiler they are of, and how far from them is too far.

use std::collections::BTreeMap;
use std::fmt;

/// Builds and judges.
pub(crate) const COMMAND: &str = "cargo bench --locked --no-default-features --bench instructions";

/// More than so much above the baseline is a fault, as a share of it.
const BOUND: f64 = 0.05;

/// And so many instructions: of a few, one is more than the share.
const LEAST: f64 = 2.0;

/// Who compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// As in `1.95.0`.
    pub(crate) rustc: String,
    /// What it compiles for.
    pub(crate) host: String,
}

impl Compiler {
    /// From what `rustc -vV` says.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some(Self { rustc: value("release: ")?, host: value("host: ")? })
    }
}

/// Instructions of our own code for each packet, by case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) compiler: Compiler,
    pub(crate) own: BTreeMap<String, f64>,
}

/// What a count is to its baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Within the bound.
    Within,
    /// So many percent less: a baseline that stays lets that be lost again.
    Better { percent: f64 },
    /// So many percent more.
    Worse { percent: f64 },
    /// There is none.
    Unknown,
}

impl Baseline {
    /// From the text of its file, which is as [`Self::fmt`] writes it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut baseline = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
            let (name, value) = line.split_once(" = ").ok_or_else(|| format!("no value in {line:?}"))?;
            let (name, value) = (name.trim_matches('"'), value.trim_matches('"'));
            match name {
                "rustc" => value.clone_into(&mut baseline.compiler.rustc),
                "host" => value.clone_into(&mut baseline.compiler.host),
                _ => {
                    let count = value.parse().map_err(|_| format!("no number in {line:?}"))?;
                    baseline.own.insert(name.to_owned(), count);
                }
            }
        }
        if baseline.own.is_empty() { Err("it has no counts".to_owned()) } else { Ok(baseline) }
    }

    /// Whether what this compiler makes can be held against it.
    pub(crate) fn is_of(&self, compiler: &Compiler) -> Result<(), String> {
        if self.compiler == *compiler {
            return Ok(());
        }
        let Compiler { rustc, host } = &self.compiler;
        Err(format!(
            "the baseline is of rustc {rustc} for {host}, and this is {} for {}; renew it: {COMMAND} -- --renew",
            compiler.rustc, compiler.host
        ))
    }

    /// Judges the count of a case.
    pub(crate) fn judge(&self, case: &str, count: f64) -> Verdict {
        let Some(before) = self.own.get(case) else { return Verdict::Unknown };
        let (more, percent) = (count - before, (count / before - 1.0) * 100.0);
        let allowed = (before * BOUND).max(LEAST);
        match () {
            () if more > allowed => Verdict::Worse { percent },
            () if -more > allowed => Verdict::Better { percent: -percent },
            () => Verdict::Within,
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler { rustc, host } = &self.compiler;
        writeln!(
            f,
            "# Instructions of our own code for each packet, in the profile `bench` without default features."
        )?;
        writeln!(f, "# {COMMAND} -- --renew")?;
        writeln!(f, "rustc = \"{rustc}\"\nhost = \"{host}\"\n\n[own]")?;
        self.own.iter().try_for_each(|(case, count)| writeln!(f, "\"{case}\" = {count:.1}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within => f.write_str("ok"),
            Self::Better { percent } => write!(f, "{percent:.0} % better"),
            Self::Worse { percent } => write!(f, "{percent:.0} % WORSE"),
            Self::Unknown => f.write_str("NOT IN THE BASELINE"),
        }
    }
}
