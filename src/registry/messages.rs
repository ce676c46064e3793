//! Messages to devices, made to last: finding them, and what happens to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use super::database::{Connection, SIZE, from_device_id, from_time, to_json};
use super::device_rows::Query;
use super::message_rows::{self, TO_SEND};
use super::{Page, Registry, RegistryError, pages};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::records::message::{Message, MessageAnswer, MessageChange, MessageStatus};
use crate::records::route::DownlinkRoute;
use crate::status::Time;
use crate::wire::frame::Level;

/// Messages that are forgotten in one change, so that others get their turn meanwhile.
const BATCH: i64 = 1000;

/// Orders of messages. Those without a value come before all others, in descending order after them. Ties go by creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageOrder {
    /// By command.
    CommandId,
    /// When they were answered.
    CompletedAt,
    /// When they were accepted.
    #[default]
    CreatedAt,
    /// By device id.
    DeviceId,
    /// Until when they may be sent.
    ExpiresAt,
    /// When they were sent.
    SentAt,
    /// In the order completed, sent, waiting, which is that of their names.
    Status,
    /// When something last happened to them.
    UpdatedAt,
}

/// Which messages a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Those to devices of this organisation; `None`: of all.
    pub organisation: Option<Uuid>,
    /// Those to this device.
    pub device: Option<DeviceId>,
    /// Those that have come so far.
    pub status: Option<MessageStatus>,
    /// Those accepted at this moment or later.
    pub from: Option<Timestamp>,
    /// Those accepted at this moment or earlier.
    pub to: Option<Timestamp>,
    /// Those of this command.
    pub command_id: Option<u16>,
    /// Leaves out those that expired before they were sent.
    pub hide_expired: bool,
    /// Calls only, as `GET /rpc` lists them.
    pub calls_only: bool,
}

impl Registry {
    /// Writes down what happened, all in one commit, in order; the messages that are changed by it. What is told again, or of a
    /// message that is gone, changes nothing.
    ///
    /// # Errors
    /// The database does not take it; nothing is written then.
    pub async fn change_messages(&self, changes: Vec<MessageChange>) -> Result<BTreeSet<i64>, RegistryError> {
        let mut change = self.database.begin().await?;
        let mut changed = BTreeSet::new();
        for event in &changes {
            if apply(&mut change, event).await? {
                changed.insert(event.message());
            }
        }
        change.commit(|| changed).await
    }

    /// The message with this id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn message(&self, id: Uuid) -> Result<Option<Message>, RegistryError> {
        let mut query = message_rows::select();
        query.push("m.id = ").push_bind(id);
        self.one_message(query).await
    }

    /// The message with this number.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn message_numbered(&self, n: i64) -> Result<Option<Message>, RegistryError> {
        let mut query = message_rows::select();
        query.push("m.n = ").push_bind(n);
        self.one_message(query).await
    }

    /// The last call to a device with this request id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn message_of_call(&self, device: DeviceId, request_id: u32) -> Result<Option<Message>, RegistryError> {
        let mut query = message_rows::select();
        query.push("m.n = (SELECT max(n) FROM message WHERE device = (SELECT n FROM device WHERE device_id = ");
        query.push_bind(from_device_id(device)).push(") AND request_id = ").push_bind(i64::from(request_id)).push(")");
        self.one_message(query).await
    }

    /// A part of a list.
    ///
    /// # Errors
    /// The database does not answer, or the messages are too long for one page.
    pub async fn messages(
        &self,
        filter: &MessageFilter,
        order: MessageOrder,
        page: Page,
    ) -> Result<Vec<Message>, RegistryError> {
        let mut query = message_rows::page(filter, order, page, self.clock.now());
        let mut reader = self.database.reader().await?;
        let rows = query.build().fetch(&mut reader);
        pages::collect(&self.database, &mut { pages::PAGE }, rows, |row| message_rows::measured(&row)).await
    }

    /// Takes a message back that has not been sent: it is as if it had never been. False if it was sent or is not there.
    ///
    /// # Errors
    /// The database does not take it.
    pub async fn withdraw_message(&self, id: Uuid) -> Result<bool, RegistryError> {
        let mut change = self.database.begin().await?;
        let delete = sqlx::query("DELETE FROM message WHERE id = $1 AND status = 'waiting'").bind(id);
        let deleted = delete.execute(&mut *change).await?;
        change.commit(|| ()).await?;
        Ok(deleted.rows_affected() > 0)
    }

    /// Messages that are yet to be sent, with the data that follows them, by number, the next `limit` after number `after`:
    /// those that wait and have not expired, and those to be sent until they are answered.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn messages_to_send(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(Message, Option<Arc<[u8]>>)>, RegistryError> {
        let mut query = message_rows::select_with_data();
        query.push("m.n IN (SELECT n FROM message WHERE send_before > ").push_bind(from_time(self.clock.now()));
        query.push(" AND n > ").push_bind(after).push(" ORDER BY n LIMIT ").push_bind(i64::from(limit));
        query.push(") ORDER BY m.n");
        let mut reader = self.database.reader().await?;
        let rows = self.database.read(query.build().fetch_all(&mut reader)).await?;
        let read = |row| Ok((message_rows::stored(row)?, row.try_get::<Option<&[u8]>, _>(TO_SEND)?.map(Arc::from)));
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    /// Data that the device sent for a message, once it is answered.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn message_data(&self, id: Uuid) -> Result<Option<Box<[u8]>>, RegistryError> {
        let query = "SELECT received FROM message_data WHERE message = (SELECT n FROM message WHERE id = $1)";
        let query = sqlx::query_scalar(query).bind(id);
        let mut reader = self.database.reader().await?;
        let found: Option<Option<Vec<u8>>> = self.database.read(query.fetch_optional(&mut reader)).await?;
        Ok(found.flatten().map(Vec::into_boxed_slice))
    }

    /// Forgets what was to follow calls that have expired, and will not be sent any more.
    ///
    /// # Errors
    /// The database does not take it.
    pub async fn forget_unsent_data(&self) -> Result<(), RegistryError> {
        let delete = "DELETE FROM message_data WHERE to_send IS NOT NULL AND EXISTS (SELECT 1 FROM message \
                      WHERE n = message_data.message AND (send_before IS NULL OR send_before <= $1))";
        let mut change = self.database.begin().await?;
        sqlx::query(delete).bind(from_time(self.clock.now())).execute(&mut *change).await?;
        change.commit(|| ()).await
    }

    /// Bytes that the database has in use, messages and all else.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn size(&self) -> Result<u64, RegistryError> {
        let mut reader = self.database.reader().await?;
        let size: i64 = self.database.read(sqlx::query_scalar(SIZE).fetch_one(&mut reader)).await?;
        Ok(size.unsigned_abs())
    }

    /// Forgets messages that were accepted before this moment and are not to be sent any more; how many.
    ///
    /// # Errors
    /// The database does not take it. Some may be forgotten.
    pub async fn forget_messages(&self, before: Timestamp) -> Result<u64, RegistryError> {
        let delete = "DELETE FROM message WHERE n IN (SELECT n FROM message WHERE created_at < $1 \
                      AND (send_before IS NULL OR send_before <= $2) ORDER BY created_at LIMIT $3)";
        let mut forgotten = 0;
        loop {
            let mut change = self.database.begin().await?;
            let now = from_time(self.clock.now());
            let delete = sqlx::query(delete).bind(from_time(before)).bind(now).bind(BATCH);
            let deleted = delete.execute(&mut *change).await?.rows_affected();
            change.commit(|| ()).await?;
            forgotten += deleted;
            if deleted < BATCH.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }

    async fn one_message(&self, mut query: Query) -> Result<Option<Message>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let row = self.database.read(query.build().fetch_optional(&mut reader)).await?;
        Ok(row.as_ref().map(message_rows::stored).transpose()?)
    }
}

/// Whether it changed anything.
async fn apply(connection: &mut Connection, change: &MessageChange) -> Result<bool, RegistryError> {
    match change {
        MessageChange::Sent { n, at, level, route, note } => {
            sent(connection, *n, *at, *level, route, note.as_deref()).await
        }
        MessageChange::Dropped { n, at, note } => dropped(connection, *n, *at, note).await,
        MessageChange::Answered { n, at, answer, data } => answered(connection, *n, *at, answer, data.as_deref()).await,
        MessageChange::Terminated { n, at, reason } => terminated(connection, *n, *at, *reason).await,
    }
}

/// Of one that is answered already, which other threads may tell of first, only what is not known yet.
async fn sent(
    connection: &mut Connection,
    n: i64,
    at: Time,
    level: Level,
    route: &DownlinkRoute,
    note: Option<&str>,
) -> Result<bool, RegistryError> {
    let update = "UPDATE message SET sent_at = $1, level = $2, route = $3, note = $4, attempts = attempts + 1, \
                  status = CASE WHEN status = 'waiting' THEN 'sent' ELSE status END, \
                  send_before = CASE WHEN retry THEN send_before ELSE NULL END, \
                  updated_at = CASE WHEN updated_at < $1 THEN $1 ELSE updated_at END \
                  WHERE n = $5 AND (sent_at IS NULL OR (status <> 'completed' AND sent_at <> $1)) \
                  RETURNING data_len IS NOT NULL AND send_before IS NULL";
    let update =
        sqlx::query_scalar(update).bind(from_time(at.0)).bind(level.name()).bind(to_json(route)?).bind(note).bind(n);
    let Some(has_spare_data): Option<bool> = update.fetch_optional(&mut *connection).await? else { return Ok(false) };
    if has_spare_data {
        forget_data(connection, n).await?;
    }
    Ok(true)
}

/// Data that is to be sent with no call any more. While it moves it is in memory.
async fn forget_data(connection: &mut Connection, n: i64) -> Result<(), RegistryError> {
    let delete = sqlx::query("DELETE FROM message_data WHERE message = $1 AND to_send IS NOT NULL").bind(n);
    delete.execute(connection).await?;
    Ok(())
}

/// One that is sent again and again is not from then on.
async fn dropped(connection: &mut Connection, n: i64, at: Time, note: &str) -> Result<bool, RegistryError> {
    let stop = sqlx::query("UPDATE message SET send_before = NULL WHERE n = $1 AND send_before IS NOT NULL").bind(n);
    let stopped = stop.execute(&mut *connection).await?.rows_affected();
    forget_data(connection, n).await?;
    let update = "UPDATE message SET expires_at = $1, note = $2, \
                  updated_at = CASE WHEN updated_at < $1 THEN $1 ELSE updated_at END \
                  WHERE n = $3 AND status = 'waiting'";
    let noted = sqlx::query(update).bind(from_time(at.0)).bind(note).bind(n).execute(connection).await?.rows_affected();
    Ok(stopped + noted > 0)
}

async fn answered(
    connection: &mut Connection,
    n: i64,
    at: Time,
    answer: &MessageAnswer,
    data: Option<&[u8]>,
) -> Result<bool, RegistryError> {
    let update = "UPDATE message SET status = 'completed', completed_at = $1, answer_route = $2, answer_code = $3, \
                  answer_body = $4, received_len = $5, send_before = NULL, \
                  updated_at = CASE WHEN updated_at < $1 THEN $1 ELSE updated_at END \
                  WHERE n = $6 AND status <> 'completed' RETURNING data_len";
    let update = sqlx::query_scalar(update)
        .bind(from_time(at.0))
        .bind(to_json(&answer.route)?)
        .bind(i64::from(answer.return_code))
        .bind(&answer.body[..])
        .bind(data.map(stored_len))
        .bind(n);
    let Some(sent): Option<Option<i64>> = update.fetch_optional(&mut *connection).await? else { return Ok(false) };
    if sent.is_some() {
        sqlx::query("DELETE FROM message_data WHERE message = $1").bind(n).execute(&mut *connection).await?;
    }
    if let Some(data) = data {
        let insert = sqlx::query("INSERT INTO message_data (message, received) VALUES ($1, $2)").bind(n).bind(data);
        insert.execute(connection).await?;
    }
    Ok(true)
}

async fn terminated(connection: &mut Connection, n: i64, at: Time, reason: i16) -> Result<bool, RegistryError> {
    let update = "UPDATE message SET terminated = $1, \
                  updated_at = CASE WHEN updated_at < $2 THEN $2 ELSE updated_at END WHERE n = $3";
    let update = sqlx::query(update).bind(i64::from(reason)).bind(from_time(at.0)).bind(n);
    Ok(update.execute(connection).await?.rows_affected() > 0)
}

/// A length as it is stored.
pub(super) fn stored_len(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::event::Way;
    use crate::downlink::intent::{Retry, Sealing};
    use crate::records::message::{MessageCall, NewMessage};
    use crate::registry::testing::{BARE, Site};
    use crate::wire::frame::PacketType;

    const DEVICE: DeviceId = DeviceId(1);

    /// A call that 10 bytes are to follow.
    fn with_data(request_id: u32, send_wait_timeout_ms: u64, retry: Retry) -> NewMessage {
        NewMessage {
            device: DEVICE,
            packet_type: PacketType::RPC_CMD,
            sealing: Sealing::Best,
            call: Some(MessageCall { request_id, command_id: 9, data: None }),
            payload: [].into(),
            data: Some([7; 10].as_slice().into()),
            send_wait_timeout_ms,
            retry,
            if_route: None,
        }
    }

    async fn with_stored_data(site: &Site) -> Vec<i64> {
        let query = "SELECT message FROM message_data WHERE to_send IS NOT NULL ORDER BY message";
        let mut reader = site.registry.database.reader().await.unwrap();
        sqlx::query_scalar(query).fetch_all(&mut reader).await.unwrap()
    }

    #[tokio::test]
    async fn no_list_of_all_has_to_be_sorted() {
        use MessageOrder::{CommandId, CompletedAt, CreatedAt, DeviceId, ExpiresAt, SentAt, Status, UpdatedAt};
        let site = Site::new().await;
        let mut reader = site.registry.database.reader().await.unwrap();
        for order in [CommandId, CompletedAt, CreatedAt, DeviceId, ExpiresAt, SentAt, Status, UpdatedAt] {
            for (calls_only, descending) in [(false, false), (true, false), (false, true), (true, true)] {
                let filter = MessageFilter { calls_only, ..MessageFilter::default() };
                let mut query = Query::new("EXPLAIN QUERY PLAN ");
                message_rows::push_numbers(
                    &mut query,
                    &filter,
                    order,
                    Page { limit: 10, offset: 0, descending },
                    Timestamp(0),
                );
                let plan = query.build().fetch_all(&mut reader).await.unwrap();
                let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
                assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{order:?} {calls_only}: {plan:?}");
            }
        }
    }

    #[tokio::test]
    async fn data_for_a_device_is_kept_as_long_as_it_is_to_be_sent_and_no_longer() {
        let site = Site::new().await;
        let owner = site.organisation("acme").await;
        site.device(&site.board(&owner, "tag", false).await, DEVICE, BARE).await;
        let mut made = Vec::new();
        for (request_id, wait_ms, retry) in [
            (1, 60_000, Retry::Never),
            (2, 60_000, Retry::UntilAnswered),
            (3, 60_000, Retry::Never),
            (4, 0, Retry::Never),
        ] {
            made.push(site.registry.add_message(with_data(request_id, wait_ms, retry)).await.unwrap().n);
        }
        assert_eq!(with_stored_data(&site).await, made);
        let at = Time(site.registry.clock.now());
        let address = ([192, 0, 2, 1], 4000).into();
        let sent = |n| MessageChange::Sent {
            n,
            at,
            level: Level::Network,
            route: DownlinkRoute::from(&Way { sequence: 1, level: Level::Network, address, relay: None }),
            note: None,
        };
        let dropped = MessageChange::Dropped { n: made[2], at, note: "no use".to_owned() };
        let gone = MessageChange::Terminated { n: 99, at, reason: 1 };
        let changes = vec![sent(made[0]), sent(made[1]), dropped, gone];
        let changed = site.registry.change_messages(changes.clone()).await.unwrap();
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), made[..3]);
        assert_eq!(with_stored_data(&site).await, [made[1], made[3]]);
        site.registry.forget_unsent_data().await.unwrap();
        assert_eq!(with_stored_data(&site).await, [made[1]], "what is to be sent at once is never sent later");
        let again = site.registry.change_messages(changes[..2].to_vec()).await.unwrap();
        assert!(again.is_empty(), "nothing that is told again");
    }
}
