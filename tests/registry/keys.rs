//! Keys that devices prove, against keys that were given (rule R12).

use lastroute::auth::keys::{DeviceKey, device_key_id};
use lastroute::records::{GivenKey, Key32};
use lastroute::registry::Registrar;
use lastroute::registry::device_keys::{
    DeviceKeyState, HeldReason, KeyChange, KeyOutcome, KeySource, KnownKey, SecurityState,
};
use lastroute::status::Time;

use super::*;

const DEVICE: DeviceId = DeviceId(1);
/// A key id that nobody has.
const ANY: KeyId = KeyId::from_le_bytes([1, 2, 3]);
/// The hardware of a device with the MCU id 0000000000000001.
const REGISTERED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
const STRANGE: [u8; 16] = [9; 16];

fn pair(private: u8) -> KeyPair {
    KeyPair::from_private([private; 32])
}

/// A registry with a device that was registered with these private keys of the device and these bytes of its root key.
async fn with_keys(public: Option<u8>, root: Option<u8>) -> Site {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    let new = NewDevice {
        device_public_key: public.map(|private| Key32::new(pair(private).public())),
        device_root_key: root.map(|byte| Key32::new([byte; 32])),
        ..new_device(&board, DEVICE.0)
    };
    site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    site
}

fn state(cloud: &KeyPair, device: u8, hardware: [u8; 16]) -> SecurityState {
    SecurityState {
        at: Time(Timestamp(1_795_402_800_123)),
        cloud_public: cloud.public(),
        device_public: pair(device).public(),
        network_id: 7,
        challenge: [3; 16],
        response_type: 0,
        response: vec![5; 68].into(),
        hardware_id: Some(hardware),
    }
}

/// What the gateway shares with a device.
fn shared(site: &Site, device: u8) -> RootKey {
    site.live.cloud_keys.shared_root(pair(device).public()).unwrap()
}

fn our_key_id(site: &Site, device: u8) -> KeyId {
    device_key_id(&site.live.cloud_keys.public(), &pair(device).public())
}

/// The device proves a key of this gateway.
async fn proves(site: &Site, device: u8, hardware: [u8; 16], policy: KeyChange) -> KeyOutcome {
    let state = state(&site.live.cloud_keys, device, hardware);
    site.registry.learn_device_key(DEVICE, state, shared(site, device), policy).await.unwrap()
}

/// The device proves a root key that it shares with another cloud.
async fn proves_other(site: &Site, device: u8, root: u8, policy: KeyChange) -> KeyOutcome {
    let state = state(&pair(200), device, REGISTERED);
    site.registry.learn_device_key(DEVICE, state, RootKey::new([root; 32]), policy).await.unwrap()
}

/// Whether frames under the key of this gateway and the device open.
fn opens(site: &Site, device: u8) -> bool {
    site.opens(DEVICE, our_key_id(site, device), &shared(site, device)).is_ok()
}

async fn known(site: &Site) -> DeviceKeyState {
    site.registry.device_key(DEVICE).await.unwrap().unwrap()
}

fn key(site: &Site, source: KeySource, device: u8) -> Option<KnownKey> {
    let (device_public, key_id) = (Some(pair(device).public()), Some(our_key_id(site, device)));
    Some(KnownKey { source, device_public, key_id })
}

const fn held(reason: HeldReason, is_new: bool) -> KeyOutcome {
    KeyOutcome::Held { reason, is_new }
}

#[tokio::test]
async fn the_first_key_is_in_force_at_once_and_lasts_and_a_newer_one_takes_its_place() {
    let site = with_keys(None, None).await;
    let nothing = DeviceKeyState { primary: None, secondary: None, held: None, security: None, hardware_fits: None };
    assert_eq!(known(&site).await, nothing);
    let learned = proves(&site, 9, REGISTERED, KeyChange::Accept).await;
    assert_eq!(learned, KeyOutcome::Learned { other_hardware: false });
    assert!(opens(&site, 9));
    let security = Some(state(&site.live.cloud_keys, 9, REGISTERED));
    let primary = key(&site, KeySource::Learned, 9);
    let expected = DeviceKeyState { primary, security, hardware_fits: Some(true), ..nothing };
    assert_eq!(known(&site).await, expected);
    let site = site.restart(0).await;
    assert!(opens(&site, 9));
    assert_eq!(known(&site).await, expected);
    let same = proves(&site, 9, REGISTERED, KeyChange::Hold).await;
    assert_eq!(same, KeyOutcome::Unchanged { other_hardware: false });
    let other = proves(&site, 10, REGISTERED, KeyChange::Accept).await;
    assert_eq!(other, KeyOutcome::Replaced);
    assert!(opens(&site, 10) && !opens(&site, 9));
}

#[tokio::test]
async fn under_hold_a_changed_key_waits_until_it_is_confirmed() {
    let site = with_keys(None, None).await;
    let first = proves(&site, 9, REGISTERED, KeyChange::Hold).await;
    assert_eq!(first, KeyOutcome::Learned { other_hardware: false });
    assert_eq!(proves(&site, 10, REGISTERED, KeyChange::Hold).await, held(HeldReason::Changed, true));
    assert_eq!(proves(&site, 11, REGISTERED, KeyChange::Hold).await, held(HeldReason::Changed, true), "the newer one");
    let site = site.restart(0).await;
    assert_eq!(proves(&site, 11, REGISTERED, KeyChange::Hold).await, held(HeldReason::Changed, false));
    assert!(opens(&site, 9) && !opens(&site, 11));
    let waiting = known(&site).await.held.unwrap();
    assert_eq!((waiting.device_public, waiting.key_id), (pair(11).public(), our_key_id(&site, 11)));
    assert_eq!((waiting.reason, waiting.hardware_id), (HeldReason::Changed, REGISTERED));
    let refused = site.registry.confirm_device_key(DEVICE, |held| held.device_public == pair(10).public()).await;
    let key_id = our_key_id(&site, 11);
    assert_eq!(refused, Err(Conflict::OtherKey { device: DEVICE, key_id }.into()), "another one waits by now");
    assert!(known(&site).await.held.is_some() && opens(&site, 9));
    let confirmed = site.registry.confirm_device_key(DEVICE, |held| held.key_id == key_id).await.unwrap();
    assert_eq!((confirmed.primary, confirmed.held), (key(&site, KeySource::Learned, 11), None));
    assert!(opens(&site, 11) && !opens(&site, 9));
    let refused = site.registry.confirm_device_key(DEVICE, |_| true).await.unwrap_err().to_string();
    assert_eq!(refused, format!("there is no key that waits for confirmation of device {DEVICE}"));
    let refused = site.registry.confirm_device_key(DeviceId(2), |_| true).await.unwrap_err().to_string();
    assert_eq!(refused, format!("there is no device {}", DeviceId(2)));
}

#[tokio::test]
async fn a_given_key_is_pinned_and_gives_way_only_to_one_that_is_confirmed_which_is_pinned_then() {
    for (public, root, by) in [
        (Some(9), None, KeySource::PublicKey),
        (None, Some(5), KeySource::RootKey),
        (Some(10), Some(5), KeySource::RootKey),
    ] {
        for policy in [KeyChange::Accept, KeyChange::Hold] {
            let site = with_keys(public, root).await;
            let before = known(&site).await;
            let pinned = |is_new| KeyOutcome::Pinned { by, key_id: our_key_id(&site, 10), is_new };
            assert_eq!(proves(&site, 10, REGISTERED, policy).await, pinned(true));
            assert_eq!(proves(&site, 10, REGISTERED, policy).await, pinned(false));
            let after = known(&site).await;
            assert_eq!((after.primary, after.secondary), (before.primary, before.secondary));
            assert_eq!(after.held.unwrap().reason, HeldReason::Given);
            let confirmed = site.registry.confirm_device_key(DEVICE, |_| true).await.unwrap();
            assert_eq!((confirmed.primary, confirmed.secondary), (key(&site, KeySource::PublicKey, 10), None));
            assert!(opens(&site, 10));
            assert!(matches!(proves(&site, 11, REGISTERED, policy).await, KeyOutcome::Pinned { .. }));
        }
    }
}

#[tokio::test]
async fn the_answer_of_firmware_of_another_cloud_tells_the_key_id_and_the_second_key() {
    let site = with_keys(None, Some(5)).await;
    let theirs = device_key_id(&pair(200).public(), &pair(9).public());
    assert_eq!(site.registry.given_root_key(DEVICE).await.unwrap().unwrap().bytes(), &[5; 32]);
    let learned = proves_other(&site, 9, 5, KeyChange::Hold).await;
    assert_eq!(learned, KeyOutcome::Learned { other_hardware: false });
    let primary = Some(KnownKey { source: KeySource::RootKey, device_public: None, key_id: Some(theirs) });
    let check = async |site: &Site| {
        let after = known(site).await;
        assert_eq!((after.primary, after.secondary), (primary, key(site, KeySource::Learned, 9)));
        assert!(opens(site, 9) && site.opens(DEVICE, theirs, &RootKey::new([5; 32])).is_ok());
        assert!(site.opens(DEVICE, ANY, &RootKey::new([5; 32])).is_err(), "its key id is known now");
    };
    check(&site).await;
    check(&site.restart(0).await).await;
}

#[tokio::test]
async fn the_second_key_changes_like_the_first_one() {
    let site = with_keys(None, Some(5)).await;
    proves_other(&site, 9, 5, KeyChange::Accept).await;
    assert_eq!(proves_other(&site, 9, 5, KeyChange::Hold).await, KeyOutcome::Unchanged { other_hardware: false });
    assert_eq!(proves_other(&site, 10, 5, KeyChange::Hold).await, held(HeldReason::Changed, true));
    assert!(opens(&site, 9) && !opens(&site, 10));
    let confirmed = site.registry.confirm_device_key(DEVICE, |_| true).await.unwrap();
    assert_eq!(confirmed.secondary, key(&site, KeySource::Learned, 10));
    assert!(opens(&site, 10) && !opens(&site, 9));
    assert_eq!(proves_other(&site, 11, 5, KeyChange::Accept).await, KeyOutcome::Replaced);
    assert!(opens(&site, 11) && !opens(&site, 10));
    let first = known(&site).await.primary.unwrap().key_id.unwrap();
    assert_eq!(site.opens(DEVICE, first, &RootKey::new([5; 32])), Ok(()));

    let site = with_keys(Some(9), Some(5)).await;
    assert_eq!(proves_other(&site, 9, 5, KeyChange::Accept).await, KeyOutcome::Unchanged { other_hardware: false });
    let pinned = KeyOutcome::Pinned { by: KeySource::PublicKey, key_id: our_key_id(&site, 10), is_new: true };
    assert_eq!(proves_other(&site, 10, 5, KeyChange::Accept).await, pinned);
    assert!(opens(&site, 9) && !opens(&site, 10));
}

#[tokio::test]
async fn a_key_of_other_hardware_is_told_of_and_waits_under_hold_and_wherever_it_would_replace_one() {
    let site = with_keys(None, None).await;
    assert_eq!(proves(&site, 9, STRANGE, KeyChange::Hold).await, held(HeldReason::Hardware, true));
    let waiting = known(&site).await;
    assert_eq!((waiting.primary, waiting.hardware_fits), (None, Some(false)));
    assert!(!opens(&site, 9));
    site.registry.confirm_device_key(DEVICE, |_| true).await.unwrap();
    assert!(opens(&site, 9));
    assert_eq!(proves(&site, 9, STRANGE, KeyChange::Hold).await, KeyOutcome::Unchanged { other_hardware: true });
    assert_eq!(
        proves(&site, 10, STRANGE, KeyChange::Accept).await,
        held(HeldReason::Hardware, true),
        "in place of another"
    );
    assert!(opens(&site, 9) && !opens(&site, 10));
}

#[tokio::test]
async fn what_is_not_proved_or_of_no_device_changes_nothing() {
    let site = with_keys(None, Some(5)).await;
    assert_eq!(proves_other(&site, 9, 6, KeyChange::Accept).await, KeyOutcome::Unknown, "not its root key");
    let state = state(&site.live.cloud_keys, 9, REGISTERED);
    let root = || shared(&site, 9);
    let unproved = SecurityState { hardware_id: None, ..state.clone() };
    for (device, state) in [(DEVICE, unproved.clone()), (DeviceId(2), state.clone())] {
        let outcome = site.registry.learn_device_key(device, state, root(), KeyChange::Accept).await;
        assert_eq!(outcome, Ok(KeyOutcome::Unknown));
    }
    assert_eq!(known(&site).await.security, None);
    assert!(site.registry.keep_security_state(DEVICE, unproved.clone()).await.unwrap());
    assert!(!site.registry.keep_security_state(DeviceId(2), unproved.clone()).await.unwrap());
    assert_eq!((known(&site).await.security, known(&site).await.hardware_fits), (Some(unproved.clone()), None));
    proves(&site, 9, REGISTERED, KeyChange::Accept).await;
    assert!(!site.registry.keep_security_state(DEVICE, unproved).await.unwrap(), "what is proved stays");
    assert_eq!(known(&site).await.security, Some(state));
}

#[tokio::test]
async fn keys_that_are_set_end_the_waiting_of_another_one() {
    let site = with_keys(Some(9), None).await;
    proves(&site, 10, REGISTERED, KeyChange::Accept).await;
    let record = site.registry.device_with_id(DEVICE).await.unwrap().unwrap();
    let given = GivenKey { device_public_key: Some(Key32::new(pair(10).public())), device_root_key: None };
    site.registry.set_device_key(record.device.id, &given).await.unwrap();
    let after = known(&site).await;
    assert_eq!((after.primary, after.held), (key(&site, KeySource::PublicKey, 10), None));
    assert_eq!(proves(&site, 10, REGISTERED, KeyChange::Accept).await, KeyOutcome::Unchanged { other_hardware: false });
}

#[tokio::test]
async fn a_key_in_the_configuration_file_stays_in_force_whatever_is_proved() {
    let site = Site::with(configured(DEVICE.0)).await;
    let (_, board) = site.owner().await;
    site.registry.create_device(&new_device(&board, DEVICE.0), Registrar::OfAll).await.unwrap();
    site.live.keys.set_device(DEVICE, DeviceKey { key_id: None, root: shared(&site, 9) }, None);
    assert_eq!(proves(&site, 9, REGISTERED, KeyChange::Accept).await, KeyOutcome::Unchanged { other_hardware: false });
    let pinned = |is_new| KeyOutcome::Pinned { by: KeySource::Configured, key_id: our_key_id(&site, 10), is_new };
    assert_eq!(proves(&site, 10, REGISTERED, KeyChange::Accept).await, pinned(true));
    assert_eq!(proves(&site, 10, REGISTERED, KeyChange::Accept).await, pinned(false));
    assert!(opens(&site, 9) && !opens(&site, 10));
    let refused = rule(site.registry.confirm_device_key(DEVICE, |_| true).await);
    assert!(refused.contains("the configuration file has the key"), "{refused}");
    let after = known(&site).await;
    assert_eq!(after.primary, Some(KnownKey { source: KeySource::Configured, device_public: None, key_id: None }));
    assert_eq!(after.security.unwrap().device_public, pair(10).public());
}

#[tokio::test]
async fn another_key_pair_of_the_gateway_makes_second_keys_anew_too() {
    let site = with_keys(Some(9), Some(5)).await;
    assert!(opens(&site, 9));
    site.registry.close().await;
    let other = Live { cloud_keys: pair(2), ..live(Configured::default()) };
    let site = Site::open(site.directory, other, 0).await;
    assert!(opens(&site, 9), "with what the new pair shares");
    assert!(site.opens(DEVICE, ANY, &RootKey::new([5; 32])).is_ok());
    assert_eq!(known(&site).await.secondary, key(&site, KeySource::PublicKey, 9));
}
