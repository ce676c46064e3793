//! Thousands at once, several at the same time, and requests that are given up.

use lastroute::records::{Key32, NewDeviceState};
use lastroute::registry::{Imported, Registrar};

use super::*;

/// An organisation's board on which `serial` is unique.
async fn serials(site: &Site) -> Board {
    let owner = site.organisation("acme").await;
    site.board(&owner, "tracker", &[("serial", false, true)]).await
}

fn with_serial(board: &Board, number: u64, serial: u64) -> NewDevice {
    NewDevice { metadata: metadata(&[("serial", &serial.to_string())]), ..new_device(board, number) }
}

async fn count(site: &Site) -> usize {
    site.registry.devices(&DeviceFilter::default(), Default::default(), ALL).await.unwrap().len()
}

#[tokio::test]
async fn a_batch_is_made_whole_and_in_its_order_or_not_at_all() {
    let site = Site::new().await;
    let board = serials(&site).await;
    let mut new: Vec<_> = (1..=1234).map(|number| with_serial(&board, number, number)).collect();
    new[700].device_id = None;
    new[900].organisation_id = uuid::Uuid::nil();
    let (at, error) = site.registry.create_devices(&new, Registrar::OfAll).await.unwrap_err();
    assert_eq!(
        (at, error),
        (900, RegistryError::Rule(format!("organisationId: there is no organisation {}", uuid::Uuid::nil())))
    );
    assert_eq!((count(&site).await, site.live.table.registration(DeviceId(1))), (0, None));
    new[900].organisation_id = board.organisation_id;
    let made = site.registry.create_devices(&new, Registrar::OfAll).await.unwrap();
    assert!(made.is_sorted_by_key(|record| record.device.id));
    for (new, made) in new.iter().zip(&made) {
        assert_eq!((&new.mcu_id, &new.metadata), (&made.device.mcu_id, &made.device.metadata));
        assert!(new.device_id.is_none_or(|id| id == made.device.device_id));
    }
    assert_eq!(site.registry.devices(&DeviceFilter::default(), Default::default(), ALL).await.unwrap(), made);
    let numbers = made.iter().map(|made| site.live.table.registration(made.device.device_id).unwrap().record);
    assert!(numbers.eq(1..=1234));
    assert_eq!(site.registry.create_devices(&[], Registrar::OfAll).await.unwrap(), []);
}

#[tokio::test]
async fn two_of_a_batch_that_collide_are_told_which_value_it_is() {
    let site = Site::new().await;
    let board = serials(&site).await;
    for (second, said) in [
        (NewDevice { device_id: Some(DeviceId(1)), ..with_serial(&board, 2, 2) }, format!("deviceId {}", DeviceId(1))),
        (NewDevice { device_id: Some(DeviceId(2)), ..with_serial(&board, 1, 2) }, format!("mcuId {}", DeviceId(1))),
        (NewDevice { device_id: None, ..with_serial(&board, 1, 2) }, format!("mcuId {}", DeviceId(1))),
        (with_serial(&board, 2, 1), "metadata serial 1".to_owned()),
    ] {
        let batch = [with_serial(&board, 1, 1), second];
        let (at, error) = site.registry.create_devices(&batch, Registrar::OfAll).await.unwrap_err();
        assert_eq!((at, taken::<()>(Err(error))), (1, said.clone()));
        let mut results = site.registry.import_devices(&batch, Registrar::OfAll, false).await.unwrap();
        assert_eq!((taken(results.pop().unwrap()), results), (said, vec![Ok(Imported::Created)]));
        let made = site.registry.device_with_id(DeviceId(1)).await.unwrap().unwrap();
        site.registry.delete_device(made.device.id).await.unwrap();
    }
}

#[tokio::test]
async fn an_import_tells_of_each_entry_and_may_be_repeated() {
    let site = Site::new().await;
    let board = serials(&site).await;
    let pair = KeyPair::from_private([9; 32]);
    let new = [
        with_serial(&board, 1, 1),
        NewDevice { device_id: None, ..with_serial(&board, 2, 2) },
        NewDevice { board_id: uuid::Uuid::nil(), ..new_device(&board, 3) },
        NewDevice { device_public_key: Some(Key32::new(pair.public())), ..with_serial(&board, 4, 4) },
        NewDevice { device_root_key: Some(Key32::new([5; 32])), ..with_serial(&board, 5, 5) },
        NewDevice { metadata: metadata(&[("", "")]), ..new_device(&board, 6) },
        NewDevice { initial_device_state: Some(NewDeviceState::default()), ..with_serial(&board, 7, 7) },
    ];
    let summary = |results: Vec<Result<Imported, RegistryError>>| {
        results
            .into_iter()
            .map(|result| result.map_err(|error| matches!(error, RegistryError::Rule(_))))
            .collect::<Vec<_>>()
    };
    let bad = Err(true);
    let (made, same) = (Ok(Imported::Created), Ok(Imported::Unchanged));
    assert_eq!(
        summary(site.registry.import_devices(&new, Registrar::OfAll, false).await.unwrap()),
        [made, made, bad, made, made, bad, made]
    );
    assert_eq!(count(&site).await, 5);
    assert_eq!(
        summary(site.registry.import_devices(&new, Registrar::OfAll, false).await.unwrap()),
        [same, same, bad, same, same, bad, same]
    );
    assert_eq!(count(&site).await, 5);
    assert!(site.live.keys.has_device(DeviceId(4)) && site.live.keys.has_device(DeviceId(5)));
    let other = [
        with_serial(&board, 1, 9),
        NewDevice { device_id: None, ..with_serial(&board, 2, 9) },
        NewDevice { device_root_key: Some(Key32::new([5; 32])), ..with_serial(&board, 4, 4) },
        NewDevice { device_root_key: Some(Key32::new([6; 32])), ..with_serial(&board, 5, 5) },
        NewDevice { device_id: Some(DeviceId(8)), ..with_serial(&board, 5, 5) },
        with_serial(&board, 5, 5),
    ];
    let results = site.registry.import_devices(&other, Registrar::OfAll, false).await.unwrap();
    let said: Vec<_> = results[..5].iter().map(|result| taken(result.clone())).collect();
    let id = |number| DeviceId(number).to_string();
    assert_eq!(
        said,
        [
            format!("deviceId {}", id(1)),
            format!("mcuId {}", id(2)),
            format!("deviceId {}", id(4)),
            format!("deviceId {}", id(5)),
            format!("mcuId {}", id(5))
        ]
    );
    assert_eq!(results[5], Ok(Imported::Unchanged), "a key that is not given may be any");
}

#[tokio::test]
async fn an_import_that_stops_makes_nothing_after_the_first_entry_that_fails() {
    let site = Site::new().await;
    let board = serials(&site).await;
    let missing = NewDevice { metadata: metadata(&[]), ..new_device(&board, 3) };
    let new = [with_serial(&board, 1, 1), with_serial(&board, 2, 1), missing, with_serial(&board, 4, 4)];
    let results = site.registry.import_devices(&new, Registrar::OfAll, true).await.unwrap();
    assert_eq!((results.len(), &results[0], count(&site).await), (2, &Ok(Imported::Created), 1));
    assert_eq!(taken(results[1].clone()), "metadata serial 1");
    assert!(site.live.table.registration(DeviceId(4)).is_none());
    let good = [with_serial(&board, 1, 1), with_serial(&board, 4, 4)];
    let results = site.registry.import_devices(&good, Registrar::OfAll, true).await.unwrap();
    assert_eq!(results, [Ok(Imported::Unchanged), Ok(Imported::Created)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_who_want_the_same_value_at_once_exactly_one_gets_it() {
    let site = Site::new().await;
    let board = serials(&site).await;
    type Make = fn(&Board, u64) -> NewDevice;
    let cases: [(&str, Make); 3] = [
        ("deviceId", |board, at| NewDevice { device_id: Some(DeviceId(1)), ..with_serial(board, 100 + at, 100 + at) }),
        ("mcuId", |board, at| NewDevice { device_id: Some(DeviceId(200 + at)), ..with_serial(board, 2, 200 + at) }),
        ("metadata", |board, at| with_serial(board, 300 + at, 3)),
    ];
    for (what, make) in cases {
        let tasks: Vec<_> = (0..16)
            .map(|at| {
                let (registry, new) = (site.registry.clone(), make(&board, at));
                tokio::spawn(async move { registry.create_device(&new, Registrar::OfAll).await })
            })
            .collect();
        let (mut made, mut refused) = (0, 0);
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => made += 1,
                refusal => refused += usize::from(taken(refusal).starts_with(what)),
            }
        }
        assert_eq!((made, refused), (1, 15), "{what}");
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_is_done_whole_or_not_at_all() {
    let site = Site::new().await;
    let board = serials(&site).await;
    for number in 1..=60 {
        let new = NewDevice { device_root_key: Some(Key32::new([5; 32])), ..with_serial(&board, number, number) };
        let given_up = async {
            for _ in 0..number {
                tokio::task::yield_now().await;
                // Time for the thread of the database.
                std::thread::yield_now();
            }
        };
        tokio::select! {
            biased;
            _ = site.registry.create_device(&new, Registrar::OfAll) => {}
            () = given_up => {}
        }
        // Whatever goes on of it comes before this.
        site.registry
            .create_device(&with_serial(&board, 1000 + number, 1000 + number), Registrar::OfAll)
            .await
            .unwrap();
        let stored = site.registry.device_with_id(DeviceId(number)).await.unwrap().is_some();
        let known = site.live.table.registration(DeviceId(number)).is_some();
        assert_eq!((known, site.live.keys.has_device(DeviceId(number))), (stored, stored), "{number}");
    }
}
