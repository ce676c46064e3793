//! Parts of lists: nothing comes twice and nothing is lost, in whatever order.

use lastroute::records::Device;
use lastroute::registry::{DeviceOrder, Registrar};
use uuid::Uuid;

use super::*;

const ORDERS: [DeviceOrder; 6] = [
    DeviceOrder::BoardId,
    DeviceOrder::CreatedAt,
    DeviceOrder::DeviceId,
    DeviceOrder::McuId,
    DeviceOrder::OrganisationId,
    DeviceOrder::UpdatedAt,
];

/// Devices of two organisations on four boards, with ties in every order that has any. In the order they were made.
async fn fleet(site: &Site) -> Vec<Device> {
    let mut boards = Vec::new();
    for owner in ["acme", "other"] {
        let owner = site.organisation(owner).await;
        for name in ["a", "b"] {
            boards.push(site.board(&owner, name, &[]).await);
        }
    }
    for batch in 0..4_u64 {
        let new = (0..20_u64).map(|at| {
            let number = (batch * 20 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let place = [("place", if at % 3 == 0 { "north" } else { "south" })];
            NewDevice { metadata: metadata(&place), ..new_device(&boards[at as usize % 4], number) }
        });
        site.registry.create_devices(&new.collect::<Vec<_>>(), Registrar::OfAll).await.unwrap();
    }
    let all = site.registry.devices(&DeviceFilter::default(), DeviceOrder::CreatedAt, ALL).await.unwrap();
    for record in all.iter().step_by(7) {
        let change = update(MetadataOperation::Patch, &[("changed", "yes")]);
        site.registry.update_device(record.device.id, &change).await.unwrap();
    }
    let mut all = site.registry.devices(&DeviceFilter::default(), DeviceOrder::CreatedAt, ALL).await.unwrap();
    all.sort_by_key(|record| record.device.id);
    assert_eq!(all.len(), 80);
    all.into_iter().map(|record| record.device).collect()
}

/// The list as it should be.
fn sorted<'a>(devices: impl Iterator<Item = &'a Device>, order: DeviceOrder, descending: bool) -> Vec<Uuid> {
    let mut devices: Vec<&Device> = devices.collect();
    // Stable: ties stay in the order they were made.
    match order {
        DeviceOrder::BoardId => devices.sort_by_key(|device| device.board_id),
        DeviceOrder::CreatedAt => devices.sort_by_key(|device| device.created_at),
        DeviceOrder::DeviceId => devices.sort_by_key(|device| device.device_id),
        DeviceOrder::McuId => devices.sort_by_key(|device| device.mcu_id.clone()),
        DeviceOrder::OrganisationId => devices.sort_by_key(|device| device.organisation_id),
        DeviceOrder::UpdatedAt => devices.sort_by_key(|device| device.updated_at),
    }
    if descending {
        devices.reverse();
    }
    devices.into_iter().map(|device| device.id).collect()
}

#[tokio::test]
async fn pages_make_up_the_whole_list_in_every_order_and_with_every_filter() {
    let site = Site::new().await;
    let fleet = fleet(&site).await;
    let (owner, boards) = (fleet[0].organisation_id, [fleet[0].board_id, fleet[3].board_id]);
    let north = || Some(("place".to_owned(), "north".to_owned()));
    let filter =
        |organisation, boards: &[Uuid], metadata| DeviceFilter { organisation, boards: boards.to_vec(), metadata };
    for filter in [
        filter(None, &[], None),
        filter(Some(owner), &[], None),
        filter(Some(owner), &boards[..1], None),
        filter(None, &boards[..1], None),
        filter(None, &boards, None),
        filter(Some(owner), &[], north()),
        filter(None, &boards, north()),
        filter(Some(owner), &boards[1..], None),
        filter(Some(Uuid::nil()), &[], None),
    ] {
        let passes = |device: &&Device| {
            filter.organisation.is_none_or(|owner| device.organisation_id == owner)
                && (filter.boards.is_empty() || filter.boards.contains(&device.board_id))
                && filter.metadata.as_ref().is_none_or(|(name, value)| device.metadata.get(name) == Some(value))
        };
        for (order, descending) in ORDERS.into_iter().flat_map(|order| [(order, false), (order, true)]) {
            let (mut found, mut offset) = (Vec::new(), 0);
            loop {
                let page = Page { limit: 7, offset, descending };
                let part = site.registry.devices(&filter, order, page).await.unwrap();
                found.extend(part.iter().map(|record| record.device.id));
                offset += 7;
                if part.len() < 7 {
                    break;
                }
            }
            let expected = sorted(fleet.iter().filter(passes), order, descending);
            assert_eq!(found, expected, "{filter:?} {order:?} {descending}");
        }
    }
    let far = Page { limit: 7, offset: u64::MAX, descending: false };
    assert_eq!(site.registry.devices(&of_all(), DeviceOrder::CreatedAt, far).await.unwrap(), []);
}

fn of_all() -> DeviceFilter {
    DeviceFilter::default()
}

#[tokio::test]
async fn an_export_goes_through_all_devices_even_if_the_one_to_go_on_from_is_gone() {
    let site = Site::new().await;
    let fleet = fleet(&site).await;
    let owner = fleet[0].organisation_id;
    for organisation in [None, Some(owner)] {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let part = site.registry.devices_after(organisation, last, 7).await.unwrap();
            found.extend(part.iter().map(|record| record.device.id));
            let Some(record) = part.last() else { break };
            last = Some(record.device.id);
        }
        let of = fleet.iter().filter(|device| organisation.is_none_or(|owner| device.organisation_id == owner));
        assert_eq!(found, of.map(|device| device.id).collect::<Vec<_>>());
    }
    site.registry.delete_device(fleet[10].id).await.unwrap();
    let next = site.registry.devices_after(None, Some(fleet[10].id), 1).await.unwrap();
    assert_eq!(next[0].device, fleet[11]);
}
