//! What is stored is in force at once, and again after a restart.

use std::future::Future;
use std::task::{Context, Waker};

use lastroute::auth::keys::{DeviceKey, device_key_id};
use lastroute::records::{ApplicationVersion, GivenKey, Key32, NewDeviceState};
use lastroute::registry::{Imported, Lock, Registrar};
use lastroute::table::Registration;
use lastroute::table::route::Application;
use lastroute::waiters::Ended;
use lastroute::wire::tdf::Version;
use uuid::Uuid;

use super::*;

const DEVICE: DeviceId = DeviceId(1);

fn runs(id: u32) -> NewDeviceState {
    let version = ApplicationVersion { major: 1, minor: 2, revision: 3, build_num: 4 };
    NewDeviceState { application_id: Some(id), application_version: Some(version), algorithms: None }
}

fn application(site: &Site) -> Option<u32> {
    site.live.table.snapshot(DEVICE).and_then(|snapshot| snapshot.application).map(|application| application.id)
}

#[tokio::test]
async fn a_device_that_was_heard_before_is_registered_with_what_was_heard() {
    let site = Site::new().await;
    let (owner, board) = site.owner().await;
    site.hear(DEVICE, Timestamp::from_gps(1_479_435_219));
    assert_eq!(site.live.table.devices(), (1, 1));
    let made = site.registry.create_device(&new_device(&board, 1), Registrar::OfAll).await.unwrap();
    let snapshot = site.live.table.snapshot(DEVICE).unwrap();
    assert_eq!((snapshot.registered, snapshot.cursor.n, site.live.table.devices()), (true, 1, (1, 0)));
    let number = site.registry.organisation_number(owner.id).await.unwrap().unwrap();
    let registration = Registration { at: made.device.created_at.0, organisation: number, record: 1 };
    assert_eq!(site.live.table.registration(DEVICE), Some(registration));
    let second = site.registry.create_device(&new_device(&board, 2), Registrar::OfAll).await.unwrap();
    assert_eq!(site.live.table.registration(second.device.device_id).unwrap().record, 2);
    let site = site.restart(60).await;
    assert_eq!(site.live.table.registration(DEVICE), Some(registration));
}

#[tokio::test]
async fn a_first_state_yields_to_what_the_device_said_and_a_later_one_does_not() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    // Heard of while the device was registered, then registered once more.
    let new = NewDevice { initial_device_state: Some(runs(5)), ..new_device(&board, 1) };
    let made = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    assert_eq!(application(&site), Some(5));
    site.registry.delete_device(made.device.id).await.unwrap();
    assert_eq!(application(&site), None);
    site.live.table.register(DEVICE, Timestamp(1));
    let said = Application { id: 6, version: Version::default() };
    assert!(site.live.table.set_application(DEVICE, said, Timestamp(1)));
    let made = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    assert_eq!(application(&site), Some(6));
    site.registry.set_device_state(made.device.id, &runs(7)).await.unwrap();
    assert_eq!(application(&site), Some(7));
    let half = NewDeviceState { application_id: Some(8), ..NewDeviceState::default() };
    site.registry.set_device_state(made.device.id, &half).await.unwrap();
    assert_eq!(application(&site), Some(8), "its version is the one it has");
}

#[tokio::test]
async fn keys_are_in_force_at_once_and_after_a_restart() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    let (cloud, pair) = (site.live.cloud_keys.public(), KeyPair::from_private([9; 32]));
    let key_id = device_key_id(&cloud, &pair.public());
    let root = pair.shared_root(cloud).unwrap();
    let new = NewDevice { device_public_key: Some(Key32::new(pair.public())), ..new_device(&board, 1) };
    let before = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    assert_eq!(site.opens(DEVICE, key_id, &root), Ok(()));
    let site = site.restart(60).await;
    assert_eq!(site.opens(DEVICE, key_id, &root), Ok(()));
    let set = async |site: &Site, public: Option<[u8; 32]>, root: Option<[u8; 32]>| {
        let given = GivenKey { device_public_key: public.map(Key32::new), device_root_key: root.map(Key32::new) };
        site.registry.set_device_key(before.device.id, &given).await
    };
    assert!(rule(set(&site, None, None).await).contains("is missing"));
    assert!(rule(set(&site, Some([0; 32]), None).await).contains("make the device another"));
    assert_eq!(site.opens(DEVICE, key_id, &root), Ok(()), "nothing of that changed anything");
    set(&site, None, Some([5; 32])).await.unwrap();
    assert!(site.opens(DEVICE, key_id, &root).is_err());
    // Its key id is not known, so the first frame that opens settles it.
    assert_eq!(site.opens(DEVICE, KeyId::from_le_bytes([1, 2, 3]), &RootKey::new([5; 32])), Ok(()));
    let after = site.registry.device_with_id(DEVICE).await.unwrap().unwrap();
    assert!(after.device.updated_at.0.0 >= before.device.updated_at.0.0 + 60_000);
    let site = site.restart(0).await;
    assert_eq!(site.opens(DEVICE, KeyId::from_le_bytes([1, 2, 3]), &RootKey::new([5; 32])), Ok(()));
    set(&site, Some(pair.public()), Some([5; 32])).await.unwrap();
    let opens_both = |site: &Site| {
        assert_eq!(site.opens(DEVICE, key_id, &root), Ok(()));
        assert_eq!(site.opens(DEVICE, KeyId::from_le_bytes([1, 2, 3]), &RootKey::new([5; 32])), Ok(()));
    };
    opens_both(&site);
    let site = site.restart(0).await;
    opens_both(&site);
    let given = GivenKey { device_public_key: None, device_root_key: Some(Key32::new([5; 32])) };
    let unknown = site.registry.set_device_key(Uuid::nil(), &given).await.unwrap_err();
    assert_eq!(unknown, RegistryError::NotFound { kind: "device", id: Uuid::nil().to_string() });
}

#[tokio::test]
async fn a_deleted_device_is_forgotten_its_values_are_free_and_who_waits_is_told() {
    let site = Site::new().await;
    let owner = site.organisation("acme").await;
    let board = site.board(&owner, "a", &[("serial", true, true)]).await;
    let new = NewDevice {
        metadata: metadata(&[("serial", "x")]),
        device_root_key: Some(Key32::new([5; 32])),
        ..new_device(&board, 1)
    };
    let made = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    site.hear(DEVICE, Timestamp::from_gps(1_479_435_219));
    let gone = || site.live.table.registration(DEVICE).is_none().then_some(());
    let mut waiting = std::pin::pin!(site.live.waiters.wait(DEVICE, gone));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    site.registry.delete_device(made.device.id).await.unwrap();
    assert_eq!(site.live.waiters.woken(), 1);
    assert!(matches!(waiting.await, Err(Ended::Dismissed)));
    assert_eq!((site.live.table.snapshot(DEVICE), site.live.keys.has_device(DEVICE)), (None, false));
    assert_eq!(site.registry.device(made.device.id).await.unwrap(), None);
    assert!(matches!(site.registry.delete_device(made.device.id).await, Err(RegistryError::NotFound { .. })));
    let again = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    assert!(again.device.id > made.device.id);
    assert!(site.live.table.registration(DEVICE).unwrap().record > 1, "no number is given twice");
}

#[tokio::test]
async fn a_device_of_the_configuration_keeps_the_key_it_has_there() {
    let site = Site::with(configured(1)).await;
    let (_, board) = site.owner().await;
    let own = DeviceKey { key_id: Some(NETWORK), root: RootKey::new([3; 32]) };
    site.live.keys.set_device(DEVICE, own, None);
    site.live.table.register(DEVICE, Timestamp(1));
    let opens = |site: &Site| site.opens(DEVICE, NETWORK, &RootKey::new([3; 32]));
    let with_key = NewDevice { device_root_key: Some(Key32::new([5; 32])), ..new_device(&board, 1) };
    assert!(
        rule(site.registry.create_device(&with_key, Registrar::OfAll).await)
            .starts_with("the configuration file has the key")
    );
    let made = site.registry.create_device(&new_device(&board, 1), Registrar::OfAll).await.unwrap();
    assert_eq!(site.live.table.registration(DEVICE).unwrap().at, Timestamp(1), "since when it was");
    let given = GivenKey { device_public_key: None, device_root_key: Some(Key32::new([5; 32])) };
    assert!(
        rule(site.registry.set_device_key(made.device.id, &given).await)
            .starts_with("the configuration file has the key")
    );
    assert_eq!(opens(&site), Ok(()));
    site.registry.delete_device(made.device.id).await.unwrap();
    let left = site.live.table.registration(DEVICE).unwrap();
    assert_eq!((left.organisation, left.record, opens(&site)), (0, 0, Ok(())));
}

#[tokio::test]
async fn a_key_is_not_set_for_whoever_has_the_device_id_by_now() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    let before = site.registry.create_device(&new_device(&board, 1), Registrar::OfAll).await.unwrap();
    site.registry.delete_device(before.device.id).await.unwrap();
    let other = site.organisation("other").await;
    let board = site.board(&other, "tracker", &[]).await;
    let new = NewDevice { device_root_key: Some(Key32::new([5; 32])), ..new_device(&board, 1) };
    site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    let given = GivenKey { device_public_key: None, device_root_key: Some(Key32::new([6; 32])) };
    let gone = site.registry.set_device_key(before.device.id, &given).await.unwrap_err();
    assert_eq!(gone, RegistryError::NotFound { kind: "device", id: before.device.id.to_string() });
    assert_eq!(site.opens(DEVICE, NETWORK, &RootKey::new([5; 32])), Ok(()));
}

#[tokio::test]
async fn who_registers_for_one_organisation_takes_over_nothing_that_was_heard_and_who_registers_for_all_does() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    for (number, by) in [(1, Registrar::OfAll), (2, Registrar::OfOne), (3, Registrar::OfOne)] {
        let id = DeviceId(number);
        site.hear(id, Timestamp::from_gps(1_479_435_219));
        let cursor = site.live.table.cursor(id);
        match number {
            3 => drop(site.registry.import_devices(&[new_device(&board, number)], by, false).await.unwrap()),
            _ => drop(site.registry.create_device(&new_device(&board, number), by).await.unwrap()),
        }
        let kept = by == Registrar::OfAll;
        assert_eq!(site.live.table.snapshot(id).is_some(), kept, "{number}");
        assert_eq!(site.live.table.cursor(id) == cursor, kept, "{number}");
        assert!(site.live.table.registration(id).is_some_and(|registration| registration.organisation == 1));
        site.hear(id, Timestamp::from_gps(1_479_435_220));
        let snapshot = site.live.table.snapshot(id).unwrap();
        assert!(snapshot.registered && (snapshot.cursor.n == 2) == kept, "{number}");
    }
    assert_eq!(site.live.table.devices(), (3, 0));
}

#[tokio::test]
async fn it_is_known_after_a_restart_for_whom_a_device_was_registered() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    // More than one query asks for.
    let numbers = 1..=1200;
    for by in [Registrar::OfAll, Registrar::OfOne] {
        let new = numbers.clone().filter(|number| (number % 3 == 0) == (by == Registrar::OfOne));
        let new: Vec<_> = new.map(|number| new_device(&board, number)).collect();
        site.registry.create_devices(&new, by).await.unwrap();
    }
    site.registry.close().await;
    let opening = Registry::begin(Lock::take(site.directory.path()).unwrap(), site.live.clone(), Clock::default());
    let loaded = opening.await.unwrap().load_devices().await.unwrap();
    // And some that are not registered at all.
    let asked: Vec<_> = (1..=1300).filter(|number| number % 2 == 0).map(DeviceId).collect();
    let mut afresh = loaded.afresh(&asked).await.unwrap();
    afresh.sort_unstable();
    assert_eq!(afresh, numbers.filter(|number| number % 6 == 0).map(DeviceId).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_registers_for_one_organisation_finds_a_device_of_the_configuration_taken() {
    let site = Site::with(configured(1)).await;
    let (_, board) = site.owner().await;
    site.live.table.register(DEVICE, Timestamp(1));
    let with_key = NewDevice { device_root_key: Some(Key32::new([5; 32])), ..new_device(&board, 1) };
    for new in [new_device(&board, 1), with_key] {
        let said = "deviceId 0000000000000001";
        assert_eq!(taken(site.registry.create_device(&new, Registrar::OfOne).await), said);
        let imported = site.registry.import_devices(&[new], Registrar::OfOne, false).await.unwrap().remove(0);
        assert_eq!(taken(imported), said);
    }
    assert_eq!(site.live.table.registration(DEVICE).unwrap().organisation, 0);
    let made = site.registry.create_device(&new_device(&board, 1), Registrar::OfAll).await.unwrap();
    let imported = site.registry.import_devices(&[new_device(&board, 1)], Registrar::OfOne, false).await.unwrap();
    assert_eq!(imported, [Ok(Imported::Unchanged)]);
    assert_eq!(site.registry.device_with_id(DEVICE).await.unwrap(), Some(made));
}
