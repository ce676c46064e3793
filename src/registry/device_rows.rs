//! Devices as they are stored, and the queries that find them.

use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::database::{Connection, Engine, from_json, to_device_id, to_time, unreadable};
use super::{DeviceFilter, DeviceOrder, DeviceRecord, Page};
use crate::records::Device;
use crate::status::Time;

/// A query that is being written.
pub(super) type Query = QueryBuilder<Engine>;

/// Values in one list of a query. More make it no faster, and the engine remembers how it runs a list of this length.
pub(super) const CHUNK: usize = 500;

/// What [`stored`] reads, in front of all else.
pub(super) const COLUMNS: &str = "d.id, d.created_at, d.updated_at, d.mcu_id, b.id, o.id, d.device_id, d.metadata, \
                                  d.initial_state, d.state_updated_at, d.state, d.n, d.board, d.organisation";

/// How many those are.
pub(super) const COLUMN_COUNT: usize = 14;

/// What belongs to a device `d`.
pub(super) const JOINED: &str = "JOIN board b ON b.n = d.board JOIN organisation o ON o.n = d.organisation";

/// A device with the numbers behind its ids.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: DeviceRecord,
    pub(super) n: i64,
    pub(super) board: i64,
    pub(super) organisation: i64,
}

/// A query for devices that fulfil the condition that is yet to be added. Devices are `d` there, boards `b`, organisations
/// `o`.
pub(super) fn select() -> Query {
    Query::new(format!("SELECT {COLUMNS} FROM device d {JOINED} WHERE "))
}

/// A device that [`select`] found.
pub(super) fn stored(row: &<Engine as sqlx::Database>::Row) -> Result<Stored, sqlx::Error> {
    let time = |column| row.try_get(column).map(|at| Time(to_time(at)));
    let mcu_id: &str = row.try_get(3)?;
    let initial_state: Option<&str> = row.try_get(8)?;
    let device = Device {
        id: row.try_get(0)?,
        created_at: time(1)?,
        updated_at: time(2)?,
        mcu_id: mcu_id.parse().map_err(|_| unreadable("an MCU id that is none"))?,
        board_id: row.try_get(4)?,
        organisation_id: row.try_get(5)?,
        device_id: to_device_id(row.try_get(6)?),
        metadata: from_json(row.try_get(7)?)?,
        initial_device_state: initial_state.map(from_json).transpose()?,
    };
    let record = DeviceRecord { device, state_updated_at: time(9)?, state: from_json(row.try_get(10)?)? };
    Ok(Stored { record, n: row.try_get(11)?, board: row.try_get(12)?, organisation: row.try_get(13)? })
}

/// The same with the bytes of its texts.
pub(super) fn measured(row: &<Engine as sqlx::Database>::Row) -> Result<(Stored, usize), sqlx::Error> {
    let (metadata, initial_state, state): (&str, Option<&str>, &str) =
        (row.try_get(7)?, row.try_get(8)?, row.try_get(10)?);
    Ok((stored(row)?, metadata.len() + initial_state.map_or(0, str::len) + state.len()))
}

/// The device with this record id, for a change.
pub(super) async fn find(connection: &mut Connection, id: Uuid) -> Result<Option<Stored>, sqlx::Error> {
    let mut query = select();
    query.push("d.id = ").push_bind(id);
    query.build().fetch_optional(connection).await?.as_ref().map(stored).transpose()
}

/// The query for a part of a list. The inner one finds the numbers; for all devices of an organisation, in whatever order, it
/// reads nothing but an index. To skip 100 000 devices takes it 3 ms, and twice as long if it read the rows as well.
pub(super) fn page(filter: &DeviceFilter, order: DeviceOrder, page: Page) -> Query {
    let mut query = select();
    query.push("d.n IN (SELECT n FROM device");
    push_filter(&mut query, filter);
    push_order(&mut query, "", filter, order, page.descending);
    query.push(" LIMIT ").push_bind(page.limit()).push(" OFFSET ").push_bind(page.offset()).push(")");
    push_order(&mut query, "d.", filter, order, page.descending);
    query
}

/// The query for the numbers of all devices of a list, in order.
pub(super) fn numbers(filter: &DeviceFilter, order: DeviceOrder, descending: bool) -> Query {
    let mut query = Query::new("SELECT n FROM device");
    push_filter(&mut query, filter);
    push_order(&mut query, "", filter, order, descending);
    query
}

fn push_filter(query: &mut Query, filter: &DeviceFilter) {
    let mut word = " WHERE ";
    let mut and = || std::mem::replace(&mut word, " AND ");
    if let Some(organisation) = filter.organisation {
        query
            .push(and())
            .push("organisation = (SELECT n FROM organisation WHERE id = ")
            .push_bind(organisation)
            .push(")");
    }
    match filter.boards[..] {
        [] => {}
        // Not a list of one: only so the index of the board is in the order of creation.
        [board] => {
            query.push(and()).push("board = (SELECT n FROM board WHERE id = ").push_bind(board).push(")");
        }
        _ => {
            query.push(and()).push("board IN (SELECT n FROM board WHERE id IN ");
            push_list(query, filter.boards.iter().copied());
            query.push(")");
        }
    }
    if let Some((name, value)) = &filter.metadata {
        query.push(and()).push("n IN (SELECT device FROM device_metadata WHERE name = ").push_bind(name.clone());
        query.push(" AND value = ").push_bind(value.clone()).push(")");
    }
}

/// Ids of records rise with their numbers, so an order by a number is one by an id. In one organisation the order by
/// organisation is that of creation.
fn push_order(query: &mut Query, table: &str, filter: &DeviceFilter, order: DeviceOrder, descending: bool) {
    let column = match order {
        DeviceOrder::BoardId => "board",
        DeviceOrder::DeviceId => "device_id",
        DeviceOrder::McuId => "mcu_id",
        DeviceOrder::OrganisationId if filter.organisation.is_none() => "organisation",
        DeviceOrder::CreatedAt | DeviceOrder::OrganisationId => "created_at",
        DeviceOrder::UpdatedAt => "updated_at",
    };
    let direction = if descending { " DESC" } else { "" };
    query.push(format_args!(" ORDER BY {table}{column}{direction}, {table}n{direction}"));
}

/// A list of values, in brackets.
pub(super) fn push_list<'a, T>(query: &mut Query, values: impl IntoIterator<Item = T>)
where
    T: sqlx::Encode<'a, Engine> + sqlx::Type<Engine>,
{
    query.push("(");
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    query.push(")");
}
