//! What a device may be, and what becomes of it when it is changed.

use lastroute::records::{Algorithm, DeviceUpdate, MetadataOperation, NewDeviceState};
use lastroute::registry::{Registrar, RegistryError};
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn a_device_without_an_id_gets_one_and_is_found_in_every_way() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    let new = NewDevice { device_id: None, mcu_id: "00AAbb3344556677".parse().unwrap(), ..new_device(&board, 1) };
    let made = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    let device = &made.device;
    assert_ne!(device.device_id, DeviceId(0));
    assert_eq!((device.created_at, made.state_updated_at), (device.updated_at, device.created_at));
    let found = Some(made.clone());
    assert_eq!(site.registry.device(device.id).await.unwrap(), found);
    assert_eq!(site.registry.device_with_id(device.device_id).await.unwrap(), found);
    for mcu_id in ["00aabb3344556677", "00AABB3344556677"] {
        assert_eq!(site.registry.device_with_hardware("nRF9151", mcu_id).await.unwrap(), found);
    }
    for (soc, mcu_id) in [("nRF9160", "00aabb3344556677"), ("nRF9151", "00aabb3344556678"), ("nRF9151", "serial 7")] {
        assert_eq!(site.registry.device_with_hardware(soc, mcu_id).await.unwrap(), None, "{soc} {mcu_id}");
    }
    assert_eq!(site.registry.device(Uuid::nil()).await.unwrap(), None);
    assert_eq!(site.registry.device_with_id(DeviceId(0)).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_device_names_is_there_and_open_to_it() {
    let site = Site::new().await;
    let (owner, board) = site.owner().await;
    let other = site.organisation("other").await;
    let public = NewBoard { public: true, ..new_board(&other, "public", &[]) };
    let public = site.registry.create_board(&public).await.unwrap();
    let create = async |new: NewDevice| site.registry.create_device(&new, Registrar::OfAll).await;
    let nobody = Uuid::from_u128(7);
    assert_eq!(
        rule(create(NewDevice { organisation_id: nobody, ..new_device(&board, 1) }).await),
        format!("organisationId: there is no organisation {nobody}")
    );
    let no_board = create(NewDevice { board_id: nobody, ..new_device(&board, 1) }).await;
    assert_eq!(
        rule(no_board),
        format!("boardId: there is no board {nobody}, or it is private to another organisation")
    );
    let foreign = create(NewDevice { organisation_id: other.id, ..new_device(&board, 1) }).await;
    assert_eq!(
        rule(foreign),
        format!("boardId: there is no board {}, or it is private to another organisation", board.id)
    );
    let made = create(NewDevice { organisation_id: owner.id, ..new_device(&public, 1) }).await.unwrap();
    assert_eq!((made.device.organisation_id, made.device.board_id), (owner.id, public.id));
    assert_eq!(site.registry.devices(&DeviceFilter::default(), Default::default(), ALL).await.unwrap().len(), 1);
}

#[tokio::test]
async fn device_id_hardware_and_unique_metadata_are_nobody_elses() {
    let site = Site::new().await;
    let owner = site.organisation("acme").await;
    let board = site.board(&owner, "a", &[("serial", true, true), ("colour", false, false)]).await;
    let same_soc = site.board(&owner, "b", &[("serial", false, true)]).await;
    let stm = NewBoard { soc: "STM32".to_owned(), ..new_board(&owner, "c", &[]) };
    let stm = site.registry.create_board(&stm).await.unwrap();
    let create = async |new: NewDevice| site.registry.create_device(&new, Registrar::OfAll).await;
    let with = |number, board: &Board, serial: &str| NewDevice {
        metadata: metadata(&[("serial", serial), ("colour", "red")]),
        ..new_device(board, number)
    };
    create(with(1, &board, "x")).await.unwrap();
    let missing = create(new_device(&board, 2)).await;
    assert_eq!(rule(missing), "metadata \"serial\" is missing, which the board requires");
    let id = DeviceId(1).to_string();
    assert_eq!(
        taken(create(NewDevice { device_id: Some(DeviceId(1)), ..with(2, &board, "y") }).await),
        format!("deviceId {id}")
    );
    let hardware = NewDevice { device_id: Some(DeviceId(2)), ..with(1, &same_soc, "y") };
    assert_eq!(taken(create(hardware).await), format!("mcuId {id}"), "another board of the same system on chip");
    assert_eq!(taken(create(with(2, &board, "x")).await), "metadata serial x");
    create(NewDevice { device_id: Some(DeviceId(2)), ..with(1, &stm, "x") }).await.unwrap();
    create(with(3, &same_soc, "x")).await.unwrap();
    create(with(4, &board, "y")).await.unwrap();
}

#[tokio::test]
async fn an_update_is_checked_on_its_result_and_moves_the_time_of_the_last_change() {
    let site = Site::new().await;
    let owner = site.organisation("acme").await;
    let board = site.board(&owner, "a", &[("serial", true, true)]).await;
    for (number, serial) in [(1, "x"), (2, "y")] {
        let new = NewDevice { metadata: metadata(&[("serial", serial)]), ..new_device(&board, number) };
        site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    }
    let site = site.restart(60).await;
    let before = site.registry.device_with_id(DeviceId(1)).await.unwrap().unwrap();
    let id = before.device.id;
    let change =
        async |operation, pairs: &[(&str, &str)]| site.registry.update_device(id, &update(operation, pairs)).await;
    let replaced = change(MetadataOperation::Replace, &[("site", "north")]).await;
    assert_eq!(rule(replaced), "metadata \"serial\" is missing, which the board requires");
    assert_eq!(taken(change(MetadataOperation::Patch, &[("serial", "y")]).await), "metadata serial y");
    assert!(rule(change(MetadataOperation::Patch, &[("site", "a\0")]).await).contains("NUL"));
    assert_eq!(site.registry.update_device(id, &DeviceUpdate::default()).await.unwrap(), before, "nothing to change");
    assert_eq!(site.registry.device(id).await.unwrap().unwrap(), before);
    let patched = change(MetadataOperation::Patch, &[("serial", "x"), ("site", "north")]).await.unwrap();
    assert_eq!(patched.device.metadata, metadata(&[("serial", "x"), ("site", "north")]));
    assert!(patched.device.updated_at.0.0 >= before.device.updated_at.0.0 + 60_000);
    assert_eq!(
        (patched.device.created_at, patched.state_updated_at),
        (before.device.created_at, before.state_updated_at)
    );
    let replaced = change(MetadataOperation::Replace, &[("serial", "z")]).await.unwrap();
    assert_eq!(site.registry.device(id).await.unwrap(), Some(replaced));
    let found = async |name: &str, value: &str| {
        let filter = DeviceFilter { metadata: Some((name.to_owned(), value.to_owned())), ..DeviceFilter::default() };
        site.registry.devices(&filter, Default::default(), ALL).await.unwrap().len()
    };
    assert_eq!((found("serial", "z").await, found("serial", "x").await, found("site", "north").await), (1, 0, 0));
    let free = NewDevice { metadata: metadata(&[("serial", "x")]), ..new_device(&board, 3) };
    site.registry.create_device(&free, Registrar::OfAll).await.unwrap();
    let unknown = site.registry.update_device(Uuid::nil(), &DeviceUpdate::default()).await.unwrap_err();
    assert_eq!(unknown, RegistryError::NotFound { kind: "device", id: Uuid::nil().to_string() });
}

#[tokio::test]
async fn a_state_is_set_as_far_as_it_says_something_and_is_no_change_of_the_record() {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    let first = NewDeviceState { application_id: Some(7), ..NewDeviceState::default() };
    let new = NewDevice { initial_device_state: Some(first.clone()), ..new_device(&board, 1) };
    let made = site.registry.create_device(&new, Registrar::OfAll).await.unwrap();
    assert_eq!((&made.device.initial_device_state, &made.state), (&Some(first.clone()), &first));
    let site = site.restart(60).await;
    let second =
        NewDeviceState { algorithms: Some(vec![Algorithm { id: 1, version: 2 }]), ..NewDeviceState::default() };
    let set = site.registry.set_device_state(made.device.id, &second).await.unwrap();
    let both = NewDeviceState { application_id: first.application_id, ..second };
    assert_eq!((&set.device, &set.state), (&made.device, &both), "what was said at first stays");
    assert!(set.state_updated_at.0.0 >= made.state_updated_at.0.0 + 60_000);
    let site = site.restart(0).await;
    assert_eq!(site.registry.device(made.device.id).await.unwrap(), Some(set));
    let many =
        NewDeviceState { algorithms: Some(vec![Algorithm { id: 1, version: 2 }; 257]), ..NewDeviceState::default() };
    assert!(rule(site.registry.set_device_state(made.device.id, &many).await).contains("257 entries"));
    assert!(
        rule(
            site.registry
                .create_device(
                    &NewDevice { initial_device_state: Some(many), ..new_device(&board, 2) },
                    Registrar::OfAll
                )
                .await
        )
        .contains("257")
    );
    let unknown = site.registry.set_device_state(Uuid::nil(), &both).await.unwrap_err();
    assert!(matches!(unknown, RegistryError::NotFound { kind: "device", .. }));
}
