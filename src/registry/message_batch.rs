//! Accepting messages: those that come in while a commit is under way share the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::database::{Connection, from_device_id, from_time, to_number, unreadable};
use super::device_rows::{self, CHUNK, Query, Stored, push_list};
use super::message_rows::{sealing_text, status_text};
use super::messages::stored_len;
use super::{Registry, RegistryError};
use crate::clock::Timestamp;
use crate::downlink::intent::Retry;
use crate::id::DeviceId;
use crate::records::message::{Message, MessageStatus, NewMessage};
use crate::status::Time;

/// Messages that share a commit, so that no one waits long for those that came with it.
const BATCH: usize = 512;

/// Bytes of payload and data that share a commit, but for the last message.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Rows that one statement inserts.
const ROWS: usize = 64;

type Accepted = Result<Message, RegistryError>;

/// Messages that wait to be written. There are no more than callers, who wait each for their own.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(NewMessage, oneshot::Sender<Accepted>)>,
    /// Whether a task is at it.
    is_written: bool,
}

impl Incoming {
    /// Whether a task is to be started that writes.
    fn push(&self, new: NewMessage, accepted: oneshot::Sender<Accepted>) -> bool {
        let mut waiting = self.waiting();
        waiting.messages.push_back((new, accepted));
        !std::mem::replace(&mut waiting.is_written, true)
    }

    /// The next messages for one commit; without any, the task ends.
    fn take(&self) -> Vec<(NewMessage, oneshot::Sender<Accepted>)> {
        let mut waiting = self.waiting();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some((new, accepted)) = waiting.messages.pop_front() else { break };
            bytes += new.payload.len() + new.data.as_ref().map_or(0, |data| data.len());
            batch.push((new, accepted));
        }
        waiting.is_written = !batch.is_empty();
        batch
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Accepts a message: durable when this returns. Many at the same time share a commit. Who goes away meanwhile may find
    /// it accepted.
    ///
    /// # Errors
    /// The device is not registered, or the database does not take it.
    pub async fn add_message(&self, new: NewMessage) -> Result<Message, RegistryError> {
        let (accepted, answer) = oneshot::channel();
        if self.incoming.push(new, accepted) {
            tokio::spawn(self.clone().write_messages());
        }
        answer.await.unwrap_or(Err(RegistryError::Unavailable("write the message down")))
    }

    /// Writes until nothing waits.
    async fn write_messages(self) {
        loop {
            let batch = self.incoming.take();
            if batch.is_empty() {
                return;
            }
            // A task of its own: a defect in it is told to who waits for these messages, and the next ones are written.
            let _ = tokio::spawn(self.clone().write_batch(batch)).await;
        }
    }

    async fn write_batch(self, batch: Vec<(NewMessage, oneshot::Sender<Accepted>)>) {
        let (new, callers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answers = match self.insert_messages(&new).await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); callers.len()],
        };
        for (caller, answer) in callers.into_iter().zip(answers) {
            // An error: the caller has gone away.
            let _ = caller.send(answer);
        }
    }

    /// Writes messages in one change. Each has an answer.
    async fn insert_messages(&self, new: &[NewMessage]) -> Result<Vec<Accepted>, RegistryError> {
        let mut change = self.database.begin().await?;
        let devices = devices(&mut change, new).await?;
        let now = self.clock.now();
        let mut answers = Vec::with_capacity(new.len());
        for new in new {
            answers.push(match devices.get(&new.device) {
                // The one that is looked for is the greater one.
                Some(device) => Ok(message(new, device, self.ids.next(now), self.ids.next(now), now)?),
                None => Err(RegistryError::NotFound { kind: "device", id: new.device.to_string() }),
            });
        }
        let mut made: Vec<_> =
            answers.iter_mut().zip(new).filter_map(|(answer, new)| Some((answer.as_mut().ok()?, new))).collect();
        for rows in made.chunks(ROWS) {
            insert(&mut change, rows, &devices).await?;
        }
        number(&mut change, &mut made).await?;
        for (message, new) in &made {
            insert_data(&mut change, message.n, new).await?;
        }
        change.commit(|| ()).await?;
        Ok(answers)
    }
}

/// Those of the devices that are registered.
async fn devices(connection: &mut Connection, new: &[NewMessage]) -> Result<HashMap<DeviceId, Stored>, sqlx::Error> {
    let mut ids: Vec<_> = new.iter().map(|new| new.device).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut found = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(CHUNK) {
        let mut query = device_rows::select();
        query.push("d.device_id IN ");
        push_list(&mut query, ids.iter().map(|id| from_device_id(*id)));
        for row in query.build().fetch_all(&mut *connection).await? {
            let device = device_rows::stored(&row)?;
            found.insert(device.record.device.device_id, device);
        }
    }
    Ok(found)
}

/// A message as it is before it has a number.
fn message(
    new: &NewMessage,
    device: &Stored,
    downlink_id: Uuid,
    id: Uuid,
    now: Timestamp,
) -> Result<Message, sqlx::Error> {
    Ok(Message {
        n: 0,
        id,
        downlink_id,
        created_at: Time(now),
        updated_at: Time(now),
        device: device.record.device.clone(),
        organisation: to_number(device.organisation)?,
        packet_type: new.packet_type,
        sealing: new.sealing,
        level: None,
        call: new.call,
        payload: Arc::clone(&new.payload),
        data_len: new.data.as_ref().map(|data| data.len() as u64),
        send_wait_timeout_ms: new.send_wait_timeout_ms,
        retry: new.retry,
        if_route: new.if_route,
        status: MessageStatus::Waiting,
        expires_at: Time(Timestamp(now.0.saturating_add(new.send_wait_timeout_ms))),
        sent_at: None,
        attempts: 0,
        completed_at: None,
        route: None,
        answer: None,
        received_len: None,
        note: None,
        terminated: None,
    })
}

/// Inserts messages, in this order.
async fn insert(
    connection: &mut Connection,
    rows: &[(&mut Message, &NewMessage)],
    devices: &HashMap<DeviceId, Stored>,
) -> Result<(), sqlx::Error> {
    let mut query = Query::new(
        "INSERT INTO message (id, downlink_id, created_at, updated_at, device, organisation, device_id, packet_type, \
         sealing, request_id, command_id, data_size, data_period, payload, data_len, wait_ms, retry, if_epoch, if_position, \
         status, attempts, expires_at, send_before) ",
    );
    query.push_values(rows, |mut row, (message, new)| {
        let created_at = from_time(message.created_at.0);
        row.push_bind(message.id).push_bind(message.downlink_id).push_bind(created_at).push_bind(created_at);
        row.push_bind(devices.get(&new.device).map(|device| device.n)).push_bind(i64::from(message.organisation));
        row.push_bind(from_device_id(new.device)).push_bind(i64::from(new.packet_type.0));
        row.push_bind(sealing_text(new.sealing));
        let data = new.call.and_then(|call| call.data);
        row.push_bind(new.call.map(|call| i64::from(call.request_id)));
        row.push_bind(new.call.map(|call| i64::from(call.command_id)));
        row.push_bind(data.map(|data| i64::from(data.size)));
        row.push_bind(data.map(|data| i64::from(data.rx_ack_period)));
        row.push_bind(&new.payload[..]).push_bind(new.data.as_deref().map(stored_len));
        row.push_bind(i64::try_from(new.send_wait_timeout_ms).unwrap_or(i64::MAX));
        row.push_bind(new.retry == Retry::UntilAnswered);
        row.push_bind(new.if_route.map(|cursor| cursor.epoch.cast_signed()));
        row.push_bind(new.if_route.map(|cursor| cursor.n.cast_signed()));
        row.push_bind(status_text(message.status)).push_bind(0_i64);
        let expires_at = from_time(message.expires_at.0);
        // One that is to be sent at once is never found to be sent later.
        row.push_bind(expires_at).push_bind((expires_at > created_at).then_some(expires_at));
    });
    query.build().execute(connection).await?;
    Ok(())
}

/// Gives messages that were just inserted their numbers: one after the other, as nobody else inserts any meanwhile.
async fn number(connection: &mut Connection, made: &mut [(&mut Message, &NewMessage)]) -> Result<(), sqlx::Error> {
    let Some((first, _)) = made.first() else { return Ok(()) };
    // Record ids rise, so no older message has one of these.
    let query = "SELECT count(*), min(n), max(n) FROM message WHERE id >= $1";
    let (count, least, greatest): (i64, i64, i64) = sqlx::query_as(query).bind(first.id).fetch_one(connection).await?;
    if !i64::try_from(made.len()).is_ok_and(|len| count == len && greatest - least + 1 == len) {
        return Err(unreadable("numbers of new messages that do not rise by one"));
    }
    for ((message, _), n) in made.iter_mut().zip(least..) {
        message.n = n;
    }
    Ok(())
}

async fn insert_data(connection: &mut Connection, n: i64, new: &NewMessage) -> Result<(), sqlx::Error> {
    let Some(data) = &new.data else { return Ok(()) };
    let insert = sqlx::query("INSERT INTO message_data (message, to_send) VALUES ($1, $2)").bind(n).bind(&data[..]);
    insert.execute(connection).await?;
    Ok(())
}
