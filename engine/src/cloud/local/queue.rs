//! Queues: rows that are hidden until a time. Receiving is one write; who waits is woken by the next send.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rand::Rng;
use rusqlite::{Connection, OptionalExtension};
use tokio::time::Instant;

use super::{Store, definition::QueueDef, items::invalid, log::millis};
use crate::cloud::{
    CloudError, ErrorKind, Queue, Result, limits,
    queue::{Message, Outgoing, QueueDepth, Receipt},
};

/// A queue of the local cloud.
pub(super) struct LocalQueue {
    pub store: Arc<Store>,
    pub def: Arc<QueueDef>,
}

/// What one receive found.
struct Received {
    messages: Vec<Message>,
    /// The queues that got dead letters.
    moved_to: Option<i64>,
    /// If there were no messages: when the next one is visible.
    next_visible_ms: Option<i64>,
}

/// Makes every received message visible again: whoever had them was the last owner of the folder, and is gone. That
/// receive doesn't count towards the dead letters: a process that is killed a few times must not cost its messages.
pub fn give_back_all(connection: &Connection, now_ms: i64) -> Result<()> {
    let sql = "UPDATE messages SET receives_here = receives_here - 1, visible_ms = received_ms
               WHERE visible_ms > ?1 AND receives_here > 0";
    connection.execute(sql, [now_ms])?;
    Ok(())
}

#[async_trait]
impl Queue for LocalQueue {
    fn name(&self) -> &str {
        &self.def.name
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        let operation = self.operation("SendMessageBatch");
        limits::check_send(&operation, messages)?;
        let checked: Vec<Result<()>> =
            messages.iter().map(|message| limits::check_message(&operation, message)).collect();
        let taken: Vec<Outgoing> =
            messages.iter().zip(&checked).filter(|(_, checked)| checked.is_ok()).map(|(m, _)| m.clone()).collect();
        if taken.is_empty() {
            return Ok(checked);
        }
        let (queue_id, now_ms) = (self.def.id, self.store.now_ms());
        let signals = Arc::clone(&self.store.signals);
        self.store
            .db
            .write_then(
                operation,
                move |connection| taken.iter().try_for_each(|message| insert(connection, queue_id, message, now_ms)),
                move |()| signals.wake(queue_id),
            )
            .await?;
        Ok(checked)
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        limits::check_receive(&self.operation("ReceiveMessage"), max, wait)?;
        let deadline = Instant::now() + wait;
        loop {
            // Listen before looking: a message that is sent in between still wakes us.
            let woken = self.store.signals.waiter(self.def.id);
            tokio::pin!(woken);
            woken.as_mut().enable();
            let received = self.receive_now(max).await?;
            if !received.messages.is_empty() || Instant::now() >= deadline {
                return Ok(received.messages);
            }
            let visible = received.next_visible_ms.map(|at_ms| {
                let hidden_ms = u64::try_from(at_ms - self.store.now_ms()).unwrap_or(0).max(1);
                Instant::now() + Duration::from_millis(hidden_ms)
            });
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(visible.map_or(deadline, |at| at.min(deadline))) => {}
            }
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        let operation = self.operation("DeleteMessageBatch");
        limits::check_batch(&operation, receipts.len())?;
        let places: Vec<Result<Place>> = receipts.iter().map(|receipt| self.place(&operation, receipt)).collect();
        let wanted: Vec<Place> = places.iter().filter_map(|place| place.as_ref().ok().copied()).collect();
        if !wanted.is_empty() {
            self.store
                .db
                .write(operation, move |connection| {
                    let sql = "DELETE FROM messages WHERE id = ?1 AND queue_id = ?2 AND receives = ?3";
                    let mut statement = connection.prepare_cached(sql)?;
                    for Place { row, queue_id, receives } in wanted {
                        statement.execute((row, queue_id, receives))?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(places.into_iter().map(|place| place.map(|_| ())).collect())
    }

    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        let operation = self.operation("ChangeMessageVisibility");
        limits::check_visibility(&operation, timeout)?;
        let place = self.place(&operation, receipt)?;
        let (now_ms, signals) = (self.store.now_ms(), Arc::clone(&self.store.signals));
        self.store
            .db
            .write_then(
                operation.clone(),
                move |connection| hide(connection, &operation, place, now_ms, timeout),
                move |()| signals.wake(place.queue_id),
            )
            .await
    }

    async fn give_back(&self, message: &Message) -> Result<()> {
        let operation = self.operation("give back");
        let Place { queue_id, row, receives } = self.place(&operation, &message.receipt)?;
        let (now_ms, signals) = (self.store.now_ms(), Arc::clone(&self.store.signals));
        let sql = "UPDATE messages SET receives_here = receives_here - 1, visible_ms = ?4
                   WHERE id = ?1 AND queue_id = ?2 AND receives = ?3 AND visible_ms > ?4";
        self.store
            .db
            .write_then(
                operation,
                move |connection| {
                    connection.prepare_cached(sql)?.execute((row, queue_id, receives, now_ms))?;
                    Ok(())
                },
                move |()| signals.wake(queue_id),
            )
            .await
    }

    fn visibility_timeout(&self) -> Duration {
        self.def.spec.visibility
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let (queue_id, now_ms) = (self.def.id, self.store.now_ms());
        self.store
            .db
            .read(self.operation("GetQueueAttributes"), move |connection| {
                let sql = "SELECT count(*) FILTER (WHERE visible_ms <= ?2),
                                  count(*) FILTER (WHERE visible_ms > ?2 AND receives_here > 0),
                                  count(*) FILTER (WHERE visible_ms > ?2 AND receives_here = 0)
                           FROM messages WHERE queue_id = ?1";
                Ok(connection.prepare_cached(sql)?.query_row((queue_id, now_ms), |row| {
                    Ok(QueueDepth { visible: row.get(0)?, in_flight: row.get(1)?, delayed: row.get(2)? })
                })?)
            })
            .await
    }
}

impl LocalQueue {
    fn operation(&self, name: &str) -> String {
        format!("{name} of queue {}", self.def.name)
    }

    async fn receive_now(&self, max: usize) -> Result<Received> {
        let (def, now_ms) = (Arc::clone(&self.def), self.store.now_ms());
        let signals = Arc::clone(&self.store.signals);
        self.store
            .db
            .write_then(
                self.operation("ReceiveMessage"),
                move |connection| take(connection, &def, max, now_ms),
                move |received| {
                    if let Some(queue_id) = received.moved_to {
                        signals.wake(queue_id);
                    }
                },
            )
            .await
    }

    fn place(&self, operation: &str, receipt: &Receipt) -> Result<Place> {
        let mut numbers = receipt.0.split('.').map(str::parse::<i64>);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(queue_id)), Some(Ok(row)), Some(Ok(receives)), None) if queue_id == self.def.id => {
                Ok(Place { queue_id, row, receives })
            }
            _ => Err(invalid(operation, format!("`{}` is no receipt of this queue", receipt.0))),
        }
    }
}

/// What a receipt says: the row of a message and which of its deliveries.
#[derive(Clone, Copy)]
struct Place {
    queue_id: i64,
    row: i64,
    receives: i64,
}

/// Puts a message into a queue.
pub(super) fn insert(connection: &Connection, queue_id: i64, message: &Outgoing, now_ms: i64) -> Result<()> {
    let sql = "INSERT INTO messages (queue_id, message_id, body, sent_ms, visible_ms, receives, receives_here)
               VALUES (?1, ?2, ?3, ?4, ?5, 0, 0)";
    let visible_ms = now_ms + millis(message.delay);
    connection.prepare_cached(sql)?.execute((queue_id, new_uuid(), &message.body, now_ms, visible_ms))?;
    Ok(())
}

/// A random id in the form of a UUID.
pub(super) fn new_uuid() -> String {
    let bits: u128 = rand::rng().random();
    let bits = (bits & !(0xf << 76) | (0x4 << 76)) & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn take(connection: &Connection, def: &QueueDef, max: usize, now_ms: i64) -> Result<Received> {
    let mut received = Received { messages: Vec::new(), moved_to: None, next_visible_ms: None };
    let oldest_ms = now_ms - millis(def.spec.retention);
    let hidden_until_ms = now_ms + millis(def.spec.visibility);
    let mut find = connection.prepare_cached(
        "SELECT id, message_id, body, sent_ms, receives, receives_here FROM messages
         WHERE queue_id = ?1 AND visible_ms <= ?2 AND sent_ms > ?3 ORDER BY visible_ms LIMIT 1",
    )?;
    // One at a time: each that is found gets out of the way of the next search.
    while received.messages.len() < max {
        let found = find
            .query_row((def.id, now_ms, oldest_ms), |row| {
                let message = Message {
                    id: row.get(1)?,
                    body: row.get(2)?,
                    receipt: Receipt(String::new()),
                    receive_count: row.get(4)?,
                    sent_ms: row.get(3)?,
                };
                Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(5)?, message))
            })
            .optional()?;
        let Some((row, receives_here, mut message)) = found else { break };
        match def.dead_letter {
            Some(dead) if receives_here >= dead.max_receives => {
                let sql = "UPDATE messages SET queue_id = ?2, source_id = ?3, visible_ms = ?4, receives_here = 0
                           WHERE id = ?1";
                connection.prepare_cached(sql)?.execute((row, dead.queue_id, def.id, now_ms))?;
                received.moved_to = Some(dead.queue_id);
                tracing::warn!(queue = def.name, id = message.id, receives_here, "A message went to the dead letters.");
            }
            _ => {
                let sql = "UPDATE messages SET visible_ms = ?2, received_ms = ?3, receives = receives + 1,
                           receives_here = receives_here + 1 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute((row, hidden_until_ms, now_ms))?;
                message.receive_count += 1;
                message.receipt = Receipt(format!("{}.{row}.{}", def.id, message.receive_count));
                received.messages.push(message);
            }
        }
    }
    if received.messages.is_empty() {
        let sql = "SELECT min(visible_ms) FROM messages WHERE queue_id = ?1 AND visible_ms > ?2";
        received.next_visible_ms = connection.prepare_cached(sql)?.query_row((def.id, now_ms), |row| row.get(0))?;
    }
    Ok(received)
}

fn hide(connection: &Connection, operation: &str, place: Place, now_ms: i64, timeout: Duration) -> Result<()> {
    let Place { queue_id, row, receives } = place;
    let received_ms: Option<i64> = connection
        .prepare_cached(
            "SELECT received_ms FROM messages
             WHERE id = ?1 AND queue_id = ?2 AND receives = ?3 AND visible_ms > ?4",
        )?
        .query_row((row, queue_id, receives, now_ms), |row| row.get(0))
        .optional()?;
    let Some(received_ms) = received_ms else {
        let message = "the message is gone, was given back or was received again since";
        return Err(CloudError::new(ErrorKind::NotFound, operation, message));
    };
    let until_ms = now_ms + millis(timeout);
    if until_ms - received_ms > millis(Duration::from_secs(limits::VISIBILITY_SECS)) {
        let limit = limits::VISIBILITY_SECS;
        return Err(invalid(
            operation,
            format!("the message would be hidden for more than {limit} s since it was received"),
        ));
    }
    connection.prepare_cached("UPDATE messages SET visible_ms = ?2 WHERE id = ?1")?.execute((row, until_ms))?;
    Ok(())
}

/// A message as it lies in a queue, for people who look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekedMessage {
    /// Its id.
    pub id: String,
    /// Its text.
    pub body: String,
    /// When it was sent, in milliseconds since the epoch.
    pub sent_ms: i64,
    /// How often it was received.
    pub receive_count: u32,
    /// The full name of the queue that it was a dead letter of.
    pub source: Option<String>,
}

/// The oldest messages of a queue; looking changes nothing.
pub(super) fn peek(connection: &Connection, queue_id: i64, limit: usize) -> Result<Vec<PeekedMessage>> {
    let mut statement = connection.prepare_cached(
        "SELECT message_id, body, sent_ms, receives, queues.name FROM messages
         LEFT JOIN queues ON queues.id = source_id WHERE queue_id = ?1 ORDER BY messages.id LIMIT ?2",
    )?;
    let rows = statement.query_map((queue_id, limit), |row| {
        Ok(PeekedMessage {
            id: row.get(0)?,
            body: row.get(1)?,
            sent_ms: row.get(2)?,
            receive_count: row.get(3)?,
            source: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether a queue holds messages that are past its retention.
pub(super) fn has_expired(connection: &Connection, def: &QueueDef, now_ms: i64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM messages WHERE queue_id = ?1 AND sent_ms <= ?2)";
    Ok(connection.prepare_cached(sql)?.query_row((def.id, now_ms - millis(def.spec.retention)), |row| row.get(0))?)
}

/// Drops some messages that are past their queue's retention; returns how many.
pub(super) fn drop_expired(connection: &Connection, def: &QueueDef, now_ms: i64, limit: usize) -> Result<usize> {
    let sql = "DELETE FROM messages WHERE id IN (
                   SELECT id FROM messages WHERE queue_id = ?1 AND sent_ms <= ?2 LIMIT ?3
               )";
    Ok(connection.prepare_cached(sql)?.execute((def.id, now_ms - millis(def.spec.retention), limit))?)
}
