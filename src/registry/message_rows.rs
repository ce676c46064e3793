//! Messages as they are stored, and the queries that find them.

use std::sync::Arc;

use sqlx::Row;

use super::Page;
use super::database::{Engine, from_device_id, from_json, from_time, to_number, to_time, unreadable};
use super::device_rows::{self, COLUMN_COUNT, COLUMNS, JOINED, Query};
use super::messages::{MessageFilter, MessageOrder};
use crate::clock::Timestamp;
use crate::downlink::intent::{Retry, Sealing};
use crate::id::Cursor;
use crate::records::message::{Message, MessageAnswer, MessageCall, MessageStatus};
use crate::status::Time;
use crate::wire::frame::{Level, PacketType};
use crate::wire::rpc::DataHeader;

/// A row of the engine.
type EngineRow = <Engine as sqlx::Database>::Row;

/// What [`stored`] reads after the device.
const OWN: &str = "m.n, m.id, m.downlink_id, m.created_at, m.updated_at, m.organisation, m.packet_type, m.sealing, m.level, \
                   m.request_id, m.command_id, m.data_size, m.data_period, m.payload, m.data_len, m.received_len, m.wait_ms, \
                   m.retry, m.if_epoch, m.if_position, m.status, m.attempts, m.expires_at, m.sent_at, m.completed_at, \
                   m.route, m.answer_route, m.answer_code, m.answer_body, m.note, m.terminated";

/// A query for messages that fulfil the condition that is yet to be added. Messages are `m` there, their devices `d`.
pub(super) fn select() -> Query {
    Query::new(format!("SELECT {COLUMNS}, {OWN} FROM message m JOIN device d ON d.n = m.device {JOINED} WHERE "))
}

/// The same with what is to be sent after each message, in the column [`TO_SEND`].
pub(super) fn select_with_data() -> Query {
    Query::new(format!(
        "SELECT {COLUMNS}, {OWN}, t.to_send FROM message m JOIN device d ON d.n = m.device {JOINED} \
         LEFT JOIN message_data t ON t.message = m.n WHERE "
    ))
}

/// Where [`select_with_data`] has the data.
pub(super) const TO_SEND: usize = COLUMN_COUNT + 31;

/// Reads the columns of a message one after the other.
struct Columns<'a> {
    row: &'a EngineRow,
    next: usize,
}

impl<'a> Columns<'a> {
    fn read<T: sqlx::Decode<'a, Engine> + sqlx::Type<Engine>>(&mut self) -> Result<T, sqlx::Error> {
        self.next += 1;
        self.row.try_get(self.next - 1)
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, sqlx::Error> {
        T::try_from(self.read()?).map_err(|_| unreadable(OUT_OF_RANGE))
    }

    fn number_if_any<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, sqlx::Error> {
        let stored: Option<i64> = self.read()?;
        stored.map(T::try_from).transpose().map_err(|_| unreadable(OUT_OF_RANGE))
    }

    fn time(&mut self) -> Result<Time, sqlx::Error> {
        Ok(Time(to_time(self.read()?)))
    }

    fn time_if_any(&mut self) -> Result<Option<Time>, sqlx::Error> {
        let stored: Option<i64> = self.read()?;
        Ok(stored.map(|at| Time(to_time(at))))
    }
}

const OUT_OF_RANGE: &str = "a number of a message that is out of its range";

/// A message that [`select`] found.
pub(super) fn stored(row: &EngineRow) -> Result<Message, sqlx::Error> {
    let device = device_rows::stored(row)?.record.device;
    let mut columns = Columns { row, next: COLUMN_COUNT };
    Ok(Message {
        device,
        n: columns.read()?,
        id: columns.read()?,
        downlink_id: columns.read()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        organisation: to_number(columns.read()?)?,
        packet_type: PacketType(columns.number()?),
        sealing: to_sealing(columns.read()?)?,
        level: columns.read::<Option<&str>>()?.map(to_level).transpose()?,
        call: call(&mut columns)?,
        payload: Arc::from(columns.read::<&[u8]>()?),
        data_len: columns.number_if_any()?,
        received_len: columns.number_if_any()?,
        send_wait_timeout_ms: columns.number()?,
        retry: if columns.read()? { Retry::UntilAnswered } else { Retry::Never },
        if_route: cursor(&mut columns)?,
        status: to_status(columns.read()?)?,
        attempts: columns.number()?,
        expires_at: columns.time()?,
        sent_at: columns.time_if_any()?,
        completed_at: columns.time_if_any()?,
        route: columns.read::<Option<&str>>()?.map(from_json).transpose()?,
        answer: answer(&mut columns)?,
        note: columns.read()?,
        terminated: columns.number_if_any()?,
    })
}

/// The same with the bytes of all that has no fixed length.
pub(super) fn measured(row: &EngineRow) -> Result<(Message, usize), sqlx::Error> {
    let (_, of_device) = device_rows::measured(row)?;
    let message = stored(row)?;
    let own = message.payload.len()
        + message.answer.as_ref().map_or(0, |answer| answer.body.len())
        + message.note.as_ref().map_or(0, String::len);
    Ok((message, of_device + own))
}

fn call(columns: &mut Columns<'_>) -> Result<Option<MessageCall>, sqlx::Error> {
    let (request_id, command_id) = (columns.number_if_any()?, columns.number_if_any()?);
    let data = match (columns.number_if_any()?, columns.number_if_any()?) {
        (Some(size), Some(rx_ack_period)) => Some(DataHeader { size, rx_ack_period }),
        _ => None,
    };
    Ok(request_id.zip(command_id).map(|(request_id, command_id)| MessageCall { request_id, command_id, data }))
}

fn cursor(columns: &mut Columns<'_>) -> Result<Option<Cursor>, sqlx::Error> {
    let halves: (Option<i64>, Option<i64>) = (columns.read()?, columns.read()?);
    Ok(halves.0.zip(halves.1).map(|(epoch, n)| Cursor { epoch: epoch.cast_unsigned(), n: n.cast_unsigned() }))
}

fn answer(columns: &mut Columns<'_>) -> Result<Option<MessageAnswer>, sqlx::Error> {
    let (route, code, body): (Option<&str>, _, Option<&[u8]>) =
        (columns.read()?, columns.number_if_any()?, columns.read()?);
    let (Some(route), Some(return_code), Some(body)) = (route, code, body) else { return Ok(None) };
    Ok(Some(MessageAnswer { route: from_json(route)?, return_code, body: body.into() }))
}

/// The query for a part of a list. The inner one finds the numbers, in most cases in an index alone.
pub(super) fn page(filter: &MessageFilter, order: MessageOrder, page: Page, now: Timestamp) -> Query {
    let mut query = select();
    query.push("m.n IN (");
    push_numbers(&mut query, filter, order, page, now);
    query.push(")");
    push_order(&mut query, "m.", order, page.descending);
    query
}

/// The query for the numbers of a part of a list.
pub(super) fn push_numbers(query: &mut Query, filter: &MessageFilter, order: MessageOrder, page: Page, now: Timestamp) {
    query.push("SELECT n FROM message");
    push_filter(query, filter, now);
    push_order(query, "", order, page.descending);
    query.push(" LIMIT ").push_bind(page.limit()).push(" OFFSET ").push_bind(page.offset());
}

fn push_filter(query: &mut Query, filter: &MessageFilter, now: Timestamp) {
    let mut word = " WHERE ";
    let mut and = || std::mem::replace(&mut word, " AND ");
    if let Some(organisation) = filter.organisation {
        query.push(and()).push("organisation = (SELECT n FROM organisation WHERE id = ");
        query.push_bind(organisation).push(")");
    }
    if let Some(device) = filter.device {
        query.push(and()).push("device = (SELECT n FROM device WHERE device_id = ");
        query.push_bind(from_device_id(device)).push(")");
    }
    if let Some(status) = filter.status {
        query.push(and()).push("status = ").push_bind(status_text(status));
    }
    if let Some(from) = filter.from {
        query.push(and()).push("created_at >= ").push_bind(from_time(from));
    }
    if let Some(to) = filter.to {
        query.push(and()).push("created_at <= ").push_bind(from_time(to));
    }
    if let Some(command_id) = filter.command_id {
        query.push(and()).push("command_id = ").push_bind(i64::from(command_id));
    }
    if filter.calls_only {
        query.push(and()).push("command_id IS NOT NULL");
    }
    if filter.hide_expired {
        query.push(and()).push("(status <> 'waiting' OR expires_at > ").push_bind(from_time(now)).push(")");
    }
}

/// Those without a value come first, in descending order last. Engines differ in that, so it is said.
fn push_order(query: &mut Query, table: &str, order: MessageOrder, descending: bool) {
    let (direction, absent) = if descending { ("DESC", "NULLS LAST") } else { ("ASC", "NULLS FIRST") };
    let columns: &[&str] = match order {
        MessageOrder::CommandId => &["command_id", "created_at"],
        MessageOrder::CompletedAt => &["completed_at"],
        MessageOrder::CreatedAt => &["created_at"],
        MessageOrder::DeviceId => &["device_id", "created_at"],
        MessageOrder::ExpiresAt => &["expires_at"],
        MessageOrder::SentAt => &["sent_at"],
        MessageOrder::Status => &["status", "created_at"],
        MessageOrder::UpdatedAt => &["updated_at"],
    };
    query.push(" ORDER BY ");
    for column in columns {
        query.push(format_args!("{table}{column} {direction} {absent}, "));
    }
    query.push(format_args!("{table}n {direction}"));
}

pub(super) const fn status_text(status: MessageStatus) -> &'static str {
    match status {
        MessageStatus::Waiting => "waiting",
        MessageStatus::Sent => "sent",
        MessageStatus::Completed => "completed",
    }
}

fn to_status(stored: &str) -> Result<MessageStatus, sqlx::Error> {
    match stored {
        "waiting" => Ok(MessageStatus::Waiting),
        "sent" => Ok(MessageStatus::Sent),
        "completed" => Ok(MessageStatus::Completed),
        _ => Err(unreadable("a status of a message that is none")),
    }
}

pub(super) const fn sealing_text(sealing: Sealing) -> &'static str {
    match sealing {
        Sealing::Best => "best",
        Sealing::Network => "network",
        Sealing::Device => "device",
    }
}

fn to_sealing(stored: &str) -> Result<Sealing, sqlx::Error> {
    match stored {
        "best" => Ok(Sealing::Best),
        "network" => Ok(Sealing::Network),
        "device" => Ok(Sealing::Device),
        _ => Err(unreadable("a kind of key of a message that is none")),
    }
}

fn to_level(stored: &str) -> Result<Level, sqlx::Error> {
    let known = [Level::Network, Level::Device].into_iter().find(|level| level.name() == stored);
    known.ok_or_else(|| unreadable("a level of a message that is none"))
}
