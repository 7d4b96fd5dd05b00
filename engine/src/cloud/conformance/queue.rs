//! What a [`Queue`] owes. The suite takes its queues for itself: what others put there it deletes.
//!
//! A queue may deliver twice. That is rare where it isn't done on purpose, and only then can "must be hidden" fail
//! though the queue is right.

use std::{collections::BTreeSet, time::Duration};

use super::{eventually, fresh};
use crate::cloud::{
    ErrorKind, Queue, limits,
    queue::{Message, Outgoing, Receipt},
};

/// Runs the suite on queues like `work` and `work-dead` of [`resources`](super::resources).
pub async fn run_all(work: &dyn Queue, dead: &dyn Queue) {
    what_is_sent_is_received(work).await;
    a_received_message_is_hidden_until_given_back(work).await;
    a_deleted_message_is_gone_and_deleting_again_is_no_error(work).await;
    an_outdated_receipt_deletes_nothing_and_hides_nothing(work).await;
    a_delayed_message_waits(work).await;
    a_waiting_receive_gets_a_message_that_is_sent_later(work).await;
    an_empty_receive_ends(work).await;
    batches_have_limits(work).await;
    a_message_given_back_unhandled_is_not_charged(work).await;
    a_message_received_too_often_becomes_a_dead_letter(work, dead).await;
}

const NOW: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(3600);

async fn send(queue: &dyn Queue, messages: &[Outgoing]) {
    for sent in queue.send(messages).await.unwrap() {
        sent.unwrap();
    }
}

async fn delete(queue: &dyn Queue, message: &Message) {
    for deleted in queue.delete(std::slice::from_ref(&message.receipt)).await.unwrap() {
        deleted.unwrap();
    }
}

/// Receives the message with that body; drops all others.
async fn receive(queue: &dyn Queue, body: &str) -> Message {
    eventually("the message is received", || async {
        let mut wanted = None;
        for message in queue.receive(limits::QUEUE_BATCH, Duration::from_secs(1)).await.unwrap() {
            if message.body == body && wanted.is_none() {
                wanted = Some(message);
            } else {
                delete(queue, &message).await;
            }
        }
        wanted
    })
    .await
}

async fn is_visible(queue: &dyn Queue, body: &str) -> bool {
    let messages = queue.receive(limits::QUEUE_BATCH, NOW).await.unwrap();
    messages.iter().any(|message| message.body == body)
}

/// Messages arrive whole, with an id, a count of one and the time they were sent.
pub async fn what_is_sent_is_received(queue: &dyn Queue) {
    let bodies: BTreeSet<String> = (0..10).map(|no| format!("{}-{no} é\n\"", fresh("m"))).collect();
    send(queue, &bodies.iter().map(Outgoing::new).collect::<Vec<_>>()).await;
    let mut missing = bodies.clone();
    while !missing.is_empty() {
        for message in queue.receive(limits::QUEUE_BATCH, Duration::from_secs(5)).await.unwrap() {
            if missing.remove(&message.body) {
                assert!(message.receive_count >= 1);
                assert!(!message.id.is_empty());
                assert!(message.sent_ms > 1_500_000_000_000, "{} is no time in milliseconds", message.sent_ms);
            }
            delete(queue, &message).await;
        }
    }
    assert!(queue.send(&[]).await.unwrap().is_empty(), "an empty send is no error");
    assert!(queue.delete(&[]).await.unwrap().is_empty(), "an empty delete is no error");
}

/// A received message is hidden; given back it comes again, with the same id and a count that grows.
pub async fn a_received_message_is_hidden_until_given_back(queue: &dyn Queue) {
    let body = fresh("m");
    send(queue, &[Outgoing::new(&body)]).await;
    let first = receive(queue, &body).await;
    assert!(!is_visible(queue, &body).await, "a received message must be hidden");
    queue.set_visibility(&first.receipt, HOUR).await.unwrap();
    assert!(!is_visible(queue, &body).await, "a message that is hidden for longer must be hidden");
    queue.set_visibility(&first.receipt, NOW).await.unwrap();
    let second = receive(queue, &body).await;
    assert_eq!(second.id, first.id);
    assert!(second.receive_count > first.receive_count);
    assert_ne!(second.receipt, first.receipt, "each delivery has a receipt of its own");
    delete(queue, &second).await;
}

/// However often it is received and given back unhandled, a message stays in its queue: restarts cost no messages.
pub async fn a_message_given_back_unhandled_is_not_charged(queue: &dyn Queue) {
    let body = fresh("m");
    send(queue, &[Outgoing::new(&body)]).await;
    for _ in 0..5 {
        let message = receive(queue, &body).await;
        queue.give_back(&message).await.unwrap();
    }
    let message = receive(queue, &body).await;
    delete(queue, &message).await;
    queue.set_visibility(&message.receipt, NOW).await.expect_err("the message is gone");
}

/// A deleted message never comes again; its receipt deletes again without an error.
pub async fn a_deleted_message_is_gone_and_deleting_again_is_no_error(queue: &dyn Queue) {
    let body = fresh("m");
    send(queue, &[Outgoing::new(&body)]).await;
    let message = receive(queue, &body).await;
    delete(queue, &message).await;
    delete(queue, &message).await;
    let error = queue.set_visibility(&message.receipt, NOW).await.expect_err("the message is gone");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

/// A receipt of an earlier delivery has no effect on a later one.
pub async fn an_outdated_receipt_deletes_nothing_and_hides_nothing(queue: &dyn Queue) {
    let body = fresh("m");
    send(queue, &[Outgoing::new(&body)]).await;
    let first = receive(queue, &body).await;
    queue.set_visibility(&first.receipt, NOW).await.unwrap();
    let second = receive(queue, &body).await;
    delete(queue, &first).await;
    let error = queue.set_visibility(&first.receipt, NOW).await.expect_err("the receipt is outdated");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    queue.set_visibility(&second.receipt, HOUR).await.expect("the message is still there");
    delete(queue, &second).await;
}

/// A message with a delay isn't visible before it is over.
pub async fn a_delayed_message_waits(queue: &dyn Queue) {
    let body = fresh("m");
    send(queue, &[Outgoing { body: body.clone(), delay: Duration::from_secs(2) }]).await;
    assert!(!is_visible(queue, &body).await, "a delayed message must be hidden");
    delete(queue, &receive(queue, &body).await).await;
}

/// A receive that waits gets what is sent meanwhile, and does not sit out its time.
pub async fn a_waiting_receive_gets_a_message_that_is_sent_later(queue: &dyn Queue) {
    let body = fresh("m");
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(queue, &[Outgoing::new(&body)]).await;
    };
    let wait = Duration::from_secs(20);
    let (received, ()) = tokio::join!(tokio::time::timeout(wait, queue.receive(1, wait)), later);
    let messages = received.expect("a receive must not sit out its time").unwrap();
    assert_eq!(messages.first().map(|message| &message.body), Some(&body));
    delete(queue, &messages[0]).await;
}

/// A receive that waits for nothing ends with nothing.
pub async fn an_empty_receive_ends(queue: &dyn Queue) {
    assert_eq!(queue.receive(10, Duration::from_millis(1)).await.unwrap(), []);
}

/// Batches and messages past their limits are refused as invalid.
pub async fn batches_have_limits(queue: &dyn Queue) {
    let many = vec![Outgoing::new("x"); limits::QUEUE_BATCH + 1];
    assert_eq!(queue.send(&many).await.expect_err("too many messages").kind, ErrorKind::Invalid);
    let large = [Outgoing::new("x".repeat(limits::MESSAGE_BYTES + 1))];
    assert_eq!(queue.send(&large).await.expect_err("too large a message").kind, ErrorKind::Invalid);
    let receipts = vec![Receipt("x".into()); limits::QUEUE_BATCH + 1];
    assert_eq!(queue.delete(&receipts).await.expect_err("too many receipts").kind, ErrorKind::Invalid);
    assert_eq!(queue.receive(limits::QUEUE_BATCH + 1, NOW).await.expect_err("too many").kind, ErrorKind::Invalid);
}

/// A message that was received as often as its queue allows goes to the dead letters at the next receive.
pub async fn a_message_received_too_often_becomes_a_dead_letter(work: &dyn Queue, dead: &dyn Queue) {
    let body = fresh("m");
    send(work, &[Outgoing::new(&body)]).await;
    let letter = eventually("the dead letter", || async {
        for message in work.receive(limits::QUEUE_BATCH, NOW).await.unwrap() {
            assert!(message.receive_count <= 2, "a message must not be received a third time");
            work.set_visibility(&message.receipt, NOW).await.unwrap();
        }
        let messages = dead.receive(limits::QUEUE_BATCH, NOW).await.unwrap();
        messages.into_iter().find(|message| message.body == body)
    })
    .await;
    delete(dead, &letter).await;
}
