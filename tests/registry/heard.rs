//! Lists by what was heard.

use lastroute::registry::{DeviceOrder, HeardFilter, HeardOrder, Registrar};

use super::*;

const HEARD: [HeardOrder; 3] = [HeardOrder::FirstPacketTime, HeardOrder::LastRouteTime, HeardOrder::LastRouteUdpTime];

/// Devices 1 to 6 of an organisation; 2, 4 and 5 were heard 30, 10 and 20 minutes ago, 5 also 5 minutes ago. Devices of
/// another organisation, and one that is not registered, were heard too.
async fn fleet(site: &Site) -> (Organisation, Board) {
    let (owner, board) = site.owner().await;
    let other = site.organisation("other").await;
    let others = site.board(&other, "tracker", &[]).await;
    for number in 1..=6 {
        site.registry.create_device(&new_device(&board, number), Registrar::OfAll).await.unwrap();
        site.registry.create_device(&new_device(&others, 10 + number), Registrar::OfAll).await.unwrap();
    }
    for (device, minutes) in [(2, 30), (5, 20), (12, 15), (4, 10), (5, 5), (20, 5)] {
        site.hear(DeviceId(device), Timestamp(Clock::default().now().0 - minutes * 60_000));
    }
    (owner, board)
}

fn filter(silent_minutes: Option<u64>, heard_minutes: Option<u64>) -> HeardFilter {
    let span = |minutes: Option<u64>| minutes.map(|minutes| minutes * 60_000);
    HeardFilter { silent_for_ms: span(silent_minutes), heard_within_ms: span(heard_minutes) }
}

async fn by_heard(site: &Site, owner: &Organisation, heard: HeardFilter, order: HeardOrder, page: Page) -> Vec<u64> {
    let records = site.registry.devices_by_heard(owner.id, heard, order, page).await.unwrap();
    records.into_iter().map(|record| record.device.device_id.0).collect()
}

async fn all_by_heard(site: &Site, owner: &Organisation, order: HeardOrder) -> Vec<u64> {
    by_heard(site, owner, HeardFilter::default(), order, ALL).await
}

#[tokio::test]
async fn those_never_heard_come_first_and_pages_make_up_the_whole_list() {
    let site = Site::new().await;
    let (owner, _) = fleet(&site).await;
    for (order, expected) in HEARD.into_iter().zip([[1, 3, 6, 2, 5, 4], [1, 3, 6, 2, 4, 5], [1, 3, 6, 2, 4, 5]]) {
        for descending in [false, true] {
            let mut found = Vec::new();
            for offset in [0, 2, 4, 6] {
                let page = Page { limit: 2, offset, descending };
                found.extend(by_heard(&site, &owner, HeardFilter::default(), order, page).await);
            }
            let mut expected = expected;
            if descending {
                expected.reverse();
            }
            assert_eq!(found, expected, "{order:?} {descending}");
        }
    }
    let nobody = Organisation { id: uuid::Uuid::nil(), ..owner };
    assert_eq!(all_by_heard(&site, &nobody, HeardOrder::LastRouteTime).await, [0; 0]);
}

#[tokio::test]
async fn devices_made_and_deleted_after_the_list_was_made_are_in_it_and_not() {
    let site = Site::new().await;
    let (owner, board) = fleet(&site).await;
    assert_eq!(all_by_heard(&site, &owner, HeardOrder::LastRouteTime).await, [1, 3, 6, 2, 4, 5]);
    site.hear(DeviceId(8), Clock::default().now());
    for number in [8, 7] {
        site.registry.create_device(&new_device(&board, number), Registrar::OfAll).await.unwrap();
    }
    for number in [3, 4, 7] {
        let record = site.registry.device_with_id(DeviceId(number)).await.unwrap().unwrap();
        site.registry.delete_device(record.device.id).await.unwrap();
    }
    let list = all_by_heard(&site, &owner, HeardOrder::FirstPacketTime).await;
    // The list may have been made anew meanwhile.
    assert!([vec![1, 6, 8, 2, 5], vec![1, 6, 2, 5, 8]].contains(&list), "{list:?}");
}

#[tokio::test]
async fn silent_and_heard_devices_are_told_apart_in_every_order() {
    let site = Site::new().await;
    let (owner, _) = fleet(&site).await;
    for (filter, expected) in [
        (filter(None, None), vec![1, 2, 3, 4, 5, 6]),
        (filter(Some(7), None), vec![1, 2, 3, 4, 6]),
        (filter(None, Some(25)), vec![4, 5]),
        (filter(Some(7), Some(25)), vec![4]),
        (filter(Some(60), Some(60)), vec![]),
    ] {
        for order in [
            DeviceOrder::CreatedAt,
            DeviceOrder::DeviceId,
            DeviceOrder::McuId,
            DeviceOrder::BoardId,
            DeviceOrder::UpdatedAt,
            DeviceOrder::OrganisationId,
        ] {
            for descending in [false, true] {
                let mut found = Vec::new();
                for offset in [0, 2, 4, 6] {
                    let page = Page { limit: 2, offset, descending };
                    let part = site.registry.devices_heard(owner.id, filter, order, page).await.unwrap();
                    found.extend(part.into_iter().map(|record| record.device.device_id.0));
                }
                let mut expected = expected.clone();
                if descending {
                    expected.reverse();
                }
                assert_eq!(found, expected, "{filter:?} {order:?} {descending}");
            }
        }
        let mut found = by_heard(&site, &owner, filter, HeardOrder::LastRouteTime, ALL).await;
        found.sort_unstable();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn the_filters_go_by_what_was_heard_up_to_now() {
    let site = Site::new().await;
    let (owner, _) = fleet(&site).await;
    let silent = async || {
        let records = site.registry.devices_heard(owner.id, filter(Some(7), None), DeviceOrder::CreatedAt, ALL).await;
        records.unwrap().into_iter().map(|record| record.device.device_id.0).collect::<Vec<_>>()
    };
    assert_eq!(silent().await, [1, 2, 3, 4, 6]);
    site.hear(DeviceId(4), Clock::default().now());
    assert_eq!(silent().await, [1, 2, 3, 6]);
}
