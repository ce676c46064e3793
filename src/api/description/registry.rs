//! Operations on organisations, boards, networks and API keys.

use super::operation::Operation;
use super::parameters::{direction, include_public, metadata, name, organisation_id, page, part, record_id};
use super::{API_KEY, BOARD, NETWORK, ORGANISATION, devices};
use crate::api::keys::MadeKey;
use crate::records::{ApiKey, Board, Device, Network, NewApiKey, NewBoard, NewNetwork, NewOrganisation, Organisation};

/// Orders of boards and of networks.
const KIND_ORDER: [&str; 4] = ["createdAt", "name", "public", "updatedAt"];

pub(super) fn operations() -> Vec<Operation> {
    [organisations(), boards(), networks(), api_keys()].into_iter().flatten().collect()
}

fn organisations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/organisation",
            "getAllOrganisations",
            ORGANISATION,
            "List the organisations the caller may see.",
        )
        .parameters(page(&["createdAt", "name", "updatedAt"]))
        .lists::<Organisation>(200, "One page of organisations."),
        Operation::post::<NewOrganisation>(
            "/organisation",
            "createOrganisation",
            ORGANISATION,
            "Create an organisation.",
        )
        .answers::<Organisation>(201, "The stored organisation.")
        .refuses(&[403, 409, 422]),
        Operation::get(
            "/organisation/id/{id}",
            "getOrganisationById",
            ORGANISATION,
            "Read one organisation by its record id.",
        )
        .parameter(record_id())
        .answers::<Organisation>(200, "The organisation.")
        .refuses(&[404]),
        Operation::delete("/organisation/id/{id}", "deleteOrganisation", ORGANISATION, "Delete an organisation.")
            .about("A 409 while boards, networks, devices or API keys are its own.")
            .extension()
            .parameter(record_id())
            .refuses(&[404, 409]),
        Operation::get(
            "/organisation/name/{name}",
            "getOrganisationByName",
            ORGANISATION,
            "Read one organisation by its exact name.",
        )
        .parameter(name())
        .answers::<Organisation>(200, "The organisation.")
        .refuses(&[404]),
    ]
}

fn boards() -> Vec<Operation> {
    vec![
        Operation::get("/board", "getBoards", BOARD, "List the boards of an organisation.")
            .parameters([organisation_id(), include_public()])
            .parameters(page(&KIND_ORDER))
            .lists::<Board>(200, "One page of boards.")
            .refuses(&[403]),
        Operation::post::<NewBoard>("/board", "createBoard", BOARD, "Create a board profile.")
            .answers::<Board>(201, "The stored board.")
            .refuses(&[403, 409, 422]),
        Operation::get("/board/id/{id}", "getBoardById", BOARD, "Read one board by its record id.")
            .parameter(record_id())
            .answers::<Board>(200, "The board.")
            .refuses(&[404]),
        Operation::delete("/board/id/{id}", "deleteBoard", BOARD, "Delete a board.")
            .about("A 409 while devices are of it.")
            .extension()
            .parameter(record_id())
            .refuses(&[404, 409]),
        Operation::get(
            "/board/id/{id}/devices",
            "getDevicesByBoardId",
            BOARD,
            "List the devices of one board, optionally by one metadata value.",
        )
        .parameter(record_id())
        .parameters(metadata())
        .parameters(page(&devices::ORDER))
        .lists::<Device>(200, "One page of devices.")
        .refuses(&[404]),
    ]
}

fn networks() -> Vec<Operation> {
    vec![
        Operation::get("/network", "getNetworks", NETWORK, "List the networks of an organisation.")
            .parameters([organisation_id(), include_public()])
            .parameters(page(&KIND_ORDER))
            .lists::<Network>(200, "One page of networks.")
            .refuses(&[403]),
        Operation::post::<NewNetwork>("/network", "createNetwork", NETWORK, "Register a network key.")
            .about(
                "It is in force for the next datagram. A network of the configuration file stays as it is: its `networkId` is \
                 taken. With `public` it speaks for the devices of all organisations, takes credentials for all, and is shown with \
                 its key to everybody who may list it.",
            )
            .answers::<Network>(201, "The stored network.")
            .refuses(&[403, 409, 422]),
        Operation::get("/network/id/{id}", "getNetworkById", NETWORK, "Read one network by its record id.")
            .extension()
            .parameter(record_id())
            .answers::<Network>(200, "The network.")
            .refuses(&[404]),
        Operation::delete("/network/id/{id}", "deleteNetwork", NETWORK, "Delete a network.")
            .about("Its packets are not accepted any more, unless the configuration file has the network, too.")
            .extension()
            .parameter(record_id())
            .refuses(&[404]),
    ]
}

fn api_keys() -> Vec<Operation> {
    vec![
        Operation::get("/apiKey", "getApiKeys", API_KEY, "List the stored API keys, without their secrets.")
            .about("In the order they were made; also those that have expired.")
            .extension()
            .parameters(part())
            .parameter(direction())
            .lists::<ApiKey>(200, "One page of API keys.")
            .refuses(&[403]),
        Operation::post::<NewApiKey>("/apiKey", "createApiKey", API_KEY, "Make an API key.")
            .about(
                "A key for one organisation sees that organisation's records and public boards and networks. A gateway without \
                 configured credentials asks for no key. Credentials that expire make only keys that expire no later. Up to 100 000 \
                 keys are stored, expired ones counted.",
            )
            .extension()
            .answers::<MadeKey<'_>>(201, "The stored key with its secret, which is told only here.")
            .refuses(&[403, 409, 422]),
        Operation::delete("/apiKey/id/{id}", "deleteApiKey", API_KEY, "Delete an API key.")
            .about("It is worthless at once. Keys that were made with it stay.")
            .extension()
            .parameter(record_id())
            .refuses(&[404]),
    ]
}
