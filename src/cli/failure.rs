//! How a command can end early, and with which exit code.

use std::fmt::Display;

use crate::app::StartError;
use crate::client::ClientError;
use crate::decode::DecodeError;
use crate::demo::DemoError;
use crate::simulate::SimulateError;
use crate::simulate::args::WriteError;
use crate::simulate::attack::AttackError;
use crate::top::TopError;
use crate::transfer::TransferError;

/// Why the program ends early. One line: where, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for cannot be done: a setting, an address in use.
    #[error("{0}")]
    Configuration(String),
    /// It went wrong while running.
    #[error("{0}")]
    Running(String),
    /// What was asked for was done, and came out otherwise than hoped for.
    #[error("{line}")]
    Outcome {
        /// The exit code of this outcome, which the command documents.
        code: u8,
        /// What came out.
        line: String,
    },
}

impl Failure {
    /// 2 for a fault of the configuration, as for the command line itself; that of an outcome; else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 2,
            Self::Running(_) => 1,
            Self::Outcome { code, .. } => *code,
        }
    }

    pub(super) fn configuration(error: impl Display) -> Self {
        Self::Configuration(error.to_string())
    }

    pub(super) fn running(error: impl Display) -> Self {
        Self::Running(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        if error.may_pass() { Self::running(error) } else { Self::configuration(error) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Address { .. } | ClientError::Key => Self::configuration(error),
            _ => Self::running(error),
        }
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        match error {
            SimulateError::Setting(_) | SimulateError::WeakCloudKey => Self::configuration(error),
            SimulateError::Socket { .. } | SimulateError::Panicked(_) => Self::running(error),
        }
    }
}

impl From<AttackError> for Failure {
    fn from(error: AttackError) -> Self {
        match error {
            AttackError::Simulate(error) => error.into(),
            AttackError::Api(_)
            | AttackError::Silent { .. }
            | AttackError::Down { .. }
            | AttackError::Foreign { .. } => Self::running(error),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Simulate(error) => error.into(),
            WriteError::Path(_) | WriteError::File { .. } => Self::configuration(error),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Input { .. } | DecodeError::Open { .. } => Self::configuration(error),
            DecodeError::Read { .. } | DecodeError::Write(_) => Self::running(error),
        }
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Simulate(error) => error.into(),
            DemoError::Write(error) => error.into(),
            DemoError::Exposed(_) | DemoError::Directory(_) | DemoError::Config(_) | DemoError::Start(_) => {
                Self::configuration(error)
            }
            DemoError::Random | DemoError::Register(_) | DemoError::Ended(_) | DemoError::Stop(_) => {
                Self::running(error)
            }
        }
    }
}

impl From<TopError> for Failure {
    fn from(error: TopError) -> Self {
        match error {
            TopError::Setting(_) | TopError::NoTerminal(_) => Self::configuration(error),
            TopError::Gateway(_) | TopError::Terminal(_) => Self::running(error),
        }
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        if error.is_of_command() { Self::configuration(error) } else { Self::running(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_wrongly_ends_with_2_and_what_failed_with_1() {
        let setting = || SimulateError::Setting("0 devices".to_owned());
        let code = |failure: Failure| failure.exit_code();
        assert_eq!([code(setting().into()), code(DemoError::from(setting()).into())], [2, 2]);
        assert_eq!(code(DemoError::Write(setting().into()).into()), 2);
        assert_eq!([code(DemoError::Ended("api").into()), code(DemoError::Random.into())], [1, 1]);
    }
}
