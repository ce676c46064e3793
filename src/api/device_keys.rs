//! Keys between devices and this gateway: its public one, and what it shares with each device (rule R12).
//!
//! Who has such a secret can read and forge what goes between the device and the gateway, so that it is told to callers only
//! who may write for the device, and who could give the device another key anyway.

use hyper::Request;
use hyper::body::{Body, Incoming};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::identity::check_key_answer;
use crate::auth::keys::RootKey;
use crate::id::{DeviceId, KeyId};
use crate::records::{Base64, Device, Key32, one_of, present};
use crate::registry::RegistryError;
use crate::registry::device_keys::{
    DeviceKeyState, HeldKey, HeldReason, KeySource, KnownKey, SecurityState as Answered, hardware_fits,
};
use crate::status::Time;
use crate::wire::security::CHALLENGE_LEN;

use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, apart};

/// Seconds of a day, for each of which there is another derived key (docs/protocol.md, keys).
const DAY: u32 = 86_400;

/// A key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Key {
    /// 32 bytes.
    key: Key32,
}

/// The answer of a device to security_state, as a client has it from there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityState {
    /// The public key of the cloud that its firmware was built for: this gateway's.
    cloud_public_key: Key32,
    /// The public key of the device.
    device_public_key: Key32,
    /// Its network.
    #[schema(maximum = 4_294_967_295_u32)]
    network_id: u32,
    /// What it was asked with: 16 bytes.
    challenge: Base64,
    /// 0 is a proof by hardware id, the only one that is understood.
    #[schema(maximum = 255)]
    challenge_response_type: u8,
    /// The proof: nonce, ciphertext and tag.
    challenge_response: Base64,
}

/// The request of `POST /key/sharedSecret/device`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GetDeviceSharedSecretBody)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfDevice {
    /// The device.
    device_id: DeviceId,
    /// Its answer to security_state. Without it the key is told that is known of it.
    #[serde(default, deserialize_with = "present")]
    security_state: Option<SecurityState>,
}

/// The request of `POST /key/derived/device`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DeriveDeviceKeyBody)]
#[serde(rename_all = "camelCase")]
pub(super) struct Derived {
    /// The device.
    device_id: DeviceId,
    /// What packets are sealed for.
    interface: KeyInterface,
    /// Its answer to security_state. Without it the key is told that is known of it.
    #[serde(default, deserialize_with = "present")]
    security_state: Option<SecurityState>,
}

/// What a key is derived for.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyInterface {
    /// Bluetooth advertising.
    BtAdv,
    /// Bluetooth GATT.
    BtGatt,
    /// A serial line.
    Serial,
    /// UDP.
    Udp,
}

impl KeyInterface {
    /// What it adds to the derivation.
    const fn info(self) -> &'static [u8] {
        match self {
            Self::BtAdv => b"bt_adv",
            Self::BtGatt => b"bt_gatt",
            Self::Serial => b"serial",
            Self::Udp => b"udp",
        }
    }
}

/// `GET /device/deviceId/{deviceId}/key`: what is known of the keys of a device, and none of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeviceKeys)]
#[serde(rename_all = "camelCase")]
pub(super) struct Keys {
    /// Whose.
    device_id: DeviceId,
    /// Its key, if one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    primary: Option<Known>,
    /// Its key for this gateway, where the first one is for another cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    secondary: Option<Known>,
    /// The one that waits for confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
    /// What the device last answered when it was asked for its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer: Option<LastAnswer>,
}

/// One of the keys of a device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KnownDeviceKey)]
#[serde(rename_all = "camelCase")]
struct Known {
    /// Where it came from.
    #[schema(schema_with = key_source)]
    source: &'static str,
    /// What packets under it carry; without it, the first one that opens will tell.
    #[schema(maximum = 16_777_215)]
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<u32>,
}

/// A key that waits for confirmation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HeldDeviceKey)]
#[serde(rename_all = "camelCase")]
struct Held {
    /// What packets under it carry.
    #[schema(maximum = 16_777_215)]
    key_id: u32,
    /// The public key of the device that it is made of.
    device_public_key: Key32,
    /// Why it waits: the key `changed`, another one was `given`, or the `hardware` is not the registered one.
    #[schema(schema_with = held_reason)]
    reason: &'static str,
    /// The hardware that proved it: 16 bytes in hex, padded with zeros. If it is not the registered one, only those are told who
    /// may see all organisations: with it for an `mcuId` anybody could say that this device is his own, and be told the key.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    hardware_id: Option<String>,
    /// Since when.
    since: Time,
}

/// The request of `POST /device/deviceId/{deviceId}/key/confirm`: which key is meant. Another may wait by then than the one
/// that somebody has looked at.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ConfirmDeviceKeyBody)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meant {
    /// The one with this id. Ids have 24 bits: who makes many key pairs finds two with the same one.
    #[schema(maximum = 16_777_215)]
    #[serde(default, deserialize_with = "present")]
    key_id: Option<u32>,
    /// The one that is made of this public key.
    #[serde(default, deserialize_with = "present")]
    device_public_key: Option<Key32>,
}

/// What a device answered when it was asked for its keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeviceKeyAnswer)]
#[serde(rename_all = "camelCase")]
struct LastAnswer {
    /// When.
    at: Time,
    /// Whether its firmware was built for this gateway.
    for_this_gateway: bool,
    /// Its network.
    network_id: u32,
    /// Whether its hardware is the registered one; without it, the answer could not be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    hardware_fits: Option<bool>,
}

impl Call {
    /// `GET /key/publicKey`.
    pub(super) fn public_key(&self) -> Answer {
        self.ok(&Key { key: Key32::new(self.api.cloud_keys.public()) })
    }

    /// `POST /key/sharedSecret`: the router lets nobody ask who may not see everything. Whoever knows the public key of a
    /// device of another organisation would have its secret.
    pub(super) async fn shared_secret(&self, request: Box<Request<Incoming>>) -> Answer {
        let Key { key } = self.body(request).await?;
        self.told(&self.shared_with(*key.bytes()).await?)
    }

    /// `POST /key/sharedSecret/device`.
    pub(super) async fn device_shared_secret(&self, request: Box<Request<Incoming>>) -> Answer {
        let of = self.body(request).await?;
        self.told(&self.root_of(of).await?)
    }

    /// `POST /key/derived/device`.
    ///
    /// The key of today, by GPS time. The published client never calls it. What it derives itself, from the shared secret, has
    /// the day of each packet as salt, in 4 bytes: `gps_time // 86400` in `infuse_iot/database.py` of its release 0.10.4. The
    /// request names no day, so that the present one is all that can be meant.
    pub(super) async fn derived_key(&self, request: Box<Request<Incoming>>) -> Answer {
        let Derived { device_id, interface, security_state } = self.body(request).await?;
        let root = self.root_of(OfDevice { device_id, security_state }).await?;
        let day = self.api.clock.now().gps() / DAY;
        self.told(&RootKey::new(root.derive(&day.to_le_bytes(), interface.info())))
    }

    /// `GET /device/deviceId/{deviceId}/key`.
    pub(super) async fn device_key(&self, id: DeviceId) -> Answer {
        let device = self.visible_device_with_id(id).await?.device;
        let state = self.key_state(id).await?;
        self.ok(&self.keys_view(&device, &state))
    }

    /// `POST /device/deviceId/{deviceId}/key/confirm`.
    pub(super) async fn confirm_device_key(&self, id: DeviceId, request: Box<Request<Incoming>>) -> Answer {
        let meant = if request.is_end_stream() { Meant::default() } else { self.body(request).await? };
        let device = self.visible_device_with_id(id).await?.device;
        let state = self.api.registry.confirm_device_key(id, |held| meant.is(held)).await?;
        self.ok(&self.keys_view(&device, &state))
    }

    fn told(&self, root: &RootKey) -> Answer {
        self.ok(&Key { key: Key32::new(*root.bytes()) })
    }

    async fn shared_with(&self, device_public: [u8; 32]) -> Result<RootKey, ApiError> {
        let cloud_keys = self.api.cloud_keys.clone();
        let weak = || rule("the public key is one that protects nothing: every secret shared with it is the same");
        apart(true, move || cloud_keys.shared_root(device_public).ok_or_else(weak)).await
    }

    async fn key_state(&self, id: DeviceId) -> Result<DeviceKeyState, ApiError> {
        self.api.registry.device_key(id).await?.ok_or_else(|| ApiError::no_record("device", id))
    }

    async fn root_of(&self, OfDevice { device_id, security_state }: OfDevice) -> Result<RootKey, ApiError> {
        let device = self.visible_device_with_id(device_id).await?.device;
        match security_state {
            Some(state) => self.proved_root(&device, &state).await,
            None => self.known_root(device_id).await,
        }
    }

    /// The root key of a device that has answered so. Whether it answered just now, only who asked knows.
    async fn proved_root(&self, device: &Device, state: &SecurityState) -> Result<RootKey, ApiError> {
        let challenge: [u8; CHALLENGE_LEN] = state.challenge.0.as_slice().try_into().map_err(|_| {
            rule("securityState.challenge has not 16 bytes; give the one that the device was asked with")
        })?;
        let (cloud_keys, answer, id) = (self.api.cloud_keys.clone(), state.answer(), device.device_id);
        let checked = apart(true, move || {
            check_key_answer(&cloud_keys, None, &answer, &challenge, id)
                .map_err(|error| rule(format!("securityState: {error}")))
        });
        let checked = checked.await?;
        if !self.is_for_all() && !hardware_fits(&device.mcu_id, &checked.hardware_id) {
            return Err(rule(
                "securityState: it was proved by other hardware than the mcuId of the device says; correct that, or have \
                 somebody ask whose credentials are for all",
            ));
        }
        Ok(checked.root)
    }

    /// The root key of a device as far as this gateway knows one, and the caller may be told of it.
    async fn known_root(&self, id: DeviceId) -> Result<RootKey, ApiError> {
        let state = self.key_state(id).await?;
        let unknown = || {
            rule(format!(
                "no key of device {id} is known; give securityState, its devicePublicKey or its deviceRootKey, or wait until \
                 it has answered for its key"
            ))
        };
        match state.primary.ok_or_else(unknown)? {
            KnownKey { source: KeySource::Configured, .. } => Err(rule(format!(
                "the key of device {id} is one of the configuration file, which tells it to nobody; look it up there"
            ))),
            KnownKey { device_public: Some(public), .. } if self.is_for_all() || self.has_proved(&state, &public) => {
                self.shared_with(public).await
            }
            KnownKey { device_public: Some(_), .. } => Err(rule(format!(
                "device {id} has not proved, by the hardware that its mcuId says, that its key is its own; wait until it has \
                 answered for its key, give securityState, or have somebody ask whose credentials are for all"
            ))),
            KnownKey { device_public: None, .. } => self.api.registry.given_root_key(id).await?.ok_or_else(unknown),
        }
    }

    /// Whether the caller may have any secret anyway. Of others more is asked: anybody may register a device id that nobody has
    /// and give it the public key of another device, which is no secret, nor are answers to security_state. What cannot be
    /// known from outside is the hardware id in the proof.
    fn is_for_all(&self) -> bool {
        self.caller.scope() == Scope::All
    }

    /// Whether the device has proved that it has this public key, by the hardware that is registered. An answer that names
    /// another cloud was opened with a given root key, and proves nothing of who has the private key.
    fn has_proved(&self, state: &DeviceKeyState, public: &[u8; 32]) -> bool {
        let is_of_key =
            |answer: &Answered| answer.cloud_public == self.api.cloud_keys.public() && answer.device_public == *public;
        state.hardware_fits == Some(true) && state.security.as_ref().is_some_and(is_of_key)
    }

    fn keys_view(&self, device: &Device, state: &DeviceKeyState) -> Keys {
        let last_answer = state.security.as_ref().map(|answer| LastAnswer {
            at: answer.at,
            for_this_gateway: answer.cloud_public == self.api.cloud_keys.public(),
            network_id: answer.network_id,
            hardware_fits: state.hardware_fits,
        });
        Keys {
            device_id: device.device_id,
            primary: state.primary.as_ref().map(Known::from),
            secondary: state.secondary.as_ref().map(Known::from),
            held: state.held.as_ref().map(|held| self.held_view(device, held)),
            last_answer,
        }
    }

    fn held_view(&self, device: &Device, held: &HeldKey) -> Held {
        let may_know = self.is_for_all() || hardware_fits(&device.mcu_id, &held.hardware_id);
        Held {
            key_id: held.key_id.get(),
            device_public_key: Key32::new(held.device_public),
            reason: reason_name(held.reason),
            hardware_id: may_know.then(|| hex::encode(held.hardware_id)),
            since: held.since,
        }
    }
}

impl SecurityState {
    /// As the device sent it.
    fn answer(&self) -> Vec<u8> {
        let mut bytes = [&self.cloud_public_key.bytes()[..], self.device_public_key.bytes()].concat();
        bytes.extend_from_slice(&self.network_id.to_le_bytes());
        bytes.push(self.challenge_response_type);
        bytes.extend_from_slice(&self.challenge_response.0);
        bytes
    }
}

impl From<&KnownKey> for Known {
    fn from(key: &KnownKey) -> Self {
        Self { source: source_name(key.source), key_id: key.key_id.map(KeyId::get) }
    }
}

impl Meant {
    fn is(&self, held: &HeldKey) -> bool {
        self.key_id.is_none_or(|key_id| key_id == held.key_id.get())
            && self.device_public_key.as_ref().is_none_or(|public| *public.bytes() == held.device_public)
    }
}

const fn source_name(source: KeySource) -> &'static str {
    match source {
        KeySource::Configured => "configuration",
        KeySource::RootKey => "rootKey",
        KeySource::PublicKey => "publicKey",
        KeySource::Learned => "learned",
    }
}

const fn reason_name(reason: HeldReason) -> &'static str {
    match reason {
        HeldReason::Changed => "changed",
        HeldReason::Given => "given",
        HeldReason::Hardware => "hardware",
    }
}

fn key_source() -> utoipa::openapi::schema::Object {
    let sources = [KeySource::Configured, KeySource::RootKey, KeySource::PublicKey, KeySource::Learned];
    one_of(&sources.map(source_name)).build()
}

fn held_reason() -> utoipa::openapi::schema::Object {
    one_of(&[HeldReason::Changed, HeldReason::Given, HeldReason::Hardware].map(reason_name)).build()
}

/// A request that breaks a rule.
fn rule(sentence: impl Into<String>) -> ApiError {
    RegistryError::Rule(sentence.into()).into()
}
