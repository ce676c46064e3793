//! Answers of devices to the question for their keys: checked, kept, and told of (rule R12).

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Inner;
use super::counters::KeyAnswer;
use crate::auth::identity::{Checked, KeyAnswerError, check_key_answer};
use crate::auth::keys::device_key_id;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::registry::RegistryError;
use crate::registry::device_keys::{KeyOutcome, SecurityState};
use crate::status::Time;
use crate::wire::security::{self, PROVED_LEN};

/// Answers that wait to be checked: what comes in a tenth of a second where 10 000 devices a second answer.
pub(super) const WAITING: usize = 1024;

/// An answer to the question for keys, to be checked.
#[derive(Debug)]
pub(super) struct ToCheck {
    pub(super) device: DeviceId,
    /// What was asked.
    pub(super) challenge: [u8; 16],
    /// What was answered.
    pub(super) body: Box<[u8]>,
    pub(super) at: Timestamp,
}

impl Inner {
    /// Checks answers one after the other.
    pub(super) async fn check_keys(&self, mut answers: mpsc::Receiver<ToCheck>) {
        while let Some(answer) = answers.recv().await {
            let (device, at) = (answer.device, answer.at);
            let state = security::SecurityState::parse(&answer.body);
            let key_id = state.map(|state| device_key_id(&state.cloud_public, &state.device_public));
            let result = self.check_key(answer).await.unwrap_or_else(|error| {
                tracing::warn!(%device, %error, "cannot keep what the device says of its keys; it will be asked again");
                KeyAnswer::Dropped
            });
            self.counters.key_answer(result);
            if result.tells_key() {
                self.downlinks.questions.settle(device, key_id, at);
            }
            if matches!(result, KeyAnswer::Learned | KeyAnswer::Replaced) {
                self.release(device);
            }
        }
    }

    async fn check_key(&self, answer: ToCheck) -> Result<KeyAnswer, RegistryError> {
        let device = answer.device;
        let Some(state) = security::SecurityState::parse(&answer.body) else {
            tracing::warn!(%device, len = answer.body.len(), "the answer of the device to the question for its keys is cut");
            return Ok(KeyAnswer::Refused);
        };
        let given = match state.cloud_public == self.cloud_keys.public() {
            true => None,
            false => self.registry.given_root_key(device).await?,
        };
        let (pair, answer) = (self.cloud_keys.clone(), Arc::new(answer));
        let to_check = Arc::clone(&answer);
        let checking = spawn_blocking(move || {
            check_key_answer(&pair, given.as_ref(), &to_check.body, &to_check.challenge, device)
        });
        match checking.await {
            Ok(Ok(checked)) => self.keep_key(&answer, &state, checked).await,
            Ok(Err(KeyAnswerError::OtherCloud)) => {
                tracing::info!(%device, "{}", KeyAnswerError::OtherCloud);
                let kept = self.registry.keep_security_state(device, record(&answer, &state, None)).await?;
                Ok(if kept { KeyAnswer::Unchecked } else { KeyAnswer::Unregistered })
            }
            Ok(Err(error)) => {
                tracing::warn!(%device, %error, "nothing is learned from what the device says of its keys");
                Ok(KeyAnswer::Refused)
            }
            Err(_) => Ok(KeyAnswer::Dropped),
        }
    }

    async fn keep_key(
        &self,
        answer: &ToCheck,
        state: &security::SecurityState,
        checked: Checked,
    ) -> Result<KeyAnswer, RegistryError> {
        let (device, policy) = (answer.device, self.config.key_change);
        let record = record(answer, state, Some(checked.hardware_id));
        let outcome = self.registry.learn_device_key(device, record, checked.root, policy).await?;
        log(device, &outcome);
        Ok(match outcome {
            KeyOutcome::Unknown => KeyAnswer::Unregistered,
            KeyOutcome::Unchanged { .. } => KeyAnswer::Unchanged,
            KeyOutcome::Learned { .. } => KeyAnswer::Learned,
            KeyOutcome::Replaced => KeyAnswer::Replaced,
            KeyOutcome::Held { .. } => KeyAnswer::Held,
            KeyOutcome::Pinned { .. } => KeyAnswer::Pinned,
        })
    }
}

/// An answer as the registry keeps it.
fn record(answer: &ToCheck, state: &security::SecurityState, hardware_id: Option<[u8; 16]>) -> SecurityState {
    SecurityState {
        at: Time(answer.at),
        cloud_public: state.cloud_public,
        device_public: state.device_public,
        network_id: state.network,
        challenge: answer.challenge,
        response_type: state.kind,
        response: answer.body.get(PROVED_LEN..).unwrap_or_default().into(),
        hardware_id,
    }
}

/// Tells the operator. No key is in it.
fn log(device: DeviceId, outcome: &KeyOutcome) {
    match outcome {
        KeyOutcome::Unchanged { other_hardware } | KeyOutcome::Learned { other_hardware } if !other_hardware => {
            tracing::info!(%device, ?outcome, "the device has proved its key");
        }
        KeyOutcome::Unchanged { .. } | KeyOutcome::Learned { .. } => {
            tracing::warn!(%device, "the key of the device is proved, by hardware that is not the registered one");
        }
        KeyOutcome::Replaced => {
            tracing::warn!(%device, "the device has another key than before, which is in force now");
        }
        KeyOutcome::Held { reason, is_new: true } => tracing::warn!(
            %device, ?reason,
            "the device has another key, which waits: confirm it with POST /device/deviceId/{device}/key/confirm if that is right"
        ),
        KeyOutcome::Pinned { by, key_id, is_new: true } => tracing::warn!(
            %device, ?by, %key_id,
            "the device has another key than the one that was given, which stays: replace it with PUT \
             /device/deviceId/{device}/key, or confirm the other one, if that is right"
        ),
        KeyOutcome::Held { .. } | KeyOutcome::Pinned { .. } | KeyOutcome::Unknown => {
            tracing::debug!(%device, ?outcome, "an answer to the question for keys");
        }
    }
}
