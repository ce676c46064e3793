//! Why a device is reachable or not: what is known of it is collected here, and explained elsewhere.

use std::sync::Arc;

use crate::explain::{KeyState, Known, LOOKED_FOR, explain};
use crate::id::{DeviceId, KeyId};

use super::Api;
use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, apart};

impl Call {
    /// `GET /device/deviceId/{deviceId}/explain`.
    pub(super) async fn explain(&self, id: DeviceId) -> Answer {
        self.seen(id)?;
        let held = self.api.held_key(id).await;
        let api = Arc::clone(&self.api);
        // Goes through all that ingest remembers.
        let mut known = apart(true, move || Ok(api.known(id, held))).await?;
        if self.caller.scope() != Scope::All {
            // Once more: it may have become another's meanwhile.
            self.seen(id)?;
            known.forget_before(known.registered_since.unwrap_or(known.now));
            known.told_relays = Some(known.relays().into_iter().filter(|relay| self.sees(*relay)).collect());
        }
        if !known.is_anything() {
            return Err(ApiError::UnknownDevice(id));
        }
        self.ok(&explain(&known))
    }
}

impl Api {
    /// The key of a device that waits for confirmation. Whatever is wrong with the registry, the rest can be told.
    async fn held_key(&self, id: DeviceId) -> Option<KeyId> {
        let state = self.registry.device_key(id).await.ok().flatten()?;
        state.held.map(|held| held.key_id)
    }

    fn known(&self, id: DeviceId, held: Option<KeyId>) -> Known {
        let now = self.clock.now();
        let about = self.downlinks.questions.about(id, now);
        Known {
            device_id: id,
            now,
            registered_since: self.table.registered_since(id),
            policy: self.policy,
            snapshot: self.table.snapshot(id),
            send: self.table.send_route(id, now),
            floor: self.table.floor(),
            contest: self.table.contest(id, now).unwrap_or_default(),
            packets: self.traces.latest(id, LOOKED_FOR),
            claims: self.traces.latest_refused(id, LOOKED_FOR),
            key: KeyState {
                is_known: self.keys.has_device(id),
                named: about.named.filter(|(key_id, _)| !self.keys.is_known_key_id(id, *key_id)),
                asked_at: about.asked_at,
                is_answered: about.is_answered,
                held,
            },
            waiting: self.downlinks.outbox.waiting_for(id),
            troubles: self.health.troubles(),
            told_relays: None,
        }
    }
}
