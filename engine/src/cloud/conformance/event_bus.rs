//! What an [`EventBus`] owes, with a rule that sends the wanted events to a queue.

use std::time::Duration;

use chrono::{SubsecRound, Utc};
use serde_json::{Value, json};

use super::{SOURCE, eventually, fresh};
use crate::cloud::{ErrorKind, EventBus, Queue, event_bus::Event, limits};

/// Runs the suite on a bus like `bus` of [`resources`](super::resources) and the queue that its rule feeds.
pub async fn run_all(bus: &dyn EventBus, queue: &dyn Queue) {
    the_bus_is_there(bus).await;
    a_wanted_event_arrives_in_its_envelope(bus, queue).await;
    an_unwanted_event_does_not_arrive(bus, queue).await;
    a_bad_event_fails_alone(bus, queue).await;
    puts_have_limits(bus).await;
}

fn event(name: &str, wanted: bool) -> Event {
    Event {
        source: SOURCE.into(),
        detail_type: "Conformed".into(),
        detail: json!({ "name": name, "wanted": wanted, "nested": { "numbers": [1, 2.5] } }),
        time: Utc::now(),
    }
}

/// Receives the event of that name; drops what came before it.
async fn receive(queue: &dyn Queue, name: &str) -> Value {
    eventually("the event in the queue", || async {
        let mut found = None;
        for message in queue.receive(limits::QUEUE_BATCH, Duration::from_secs(1)).await.unwrap() {
            let envelope: Value = serde_json::from_str(&message.body).expect("an event arrives as JSON");
            if envelope["detail"]["name"] == name {
                found = Some(envelope);
            }
            for deleted in queue.delete(&[message.receipt]).await.unwrap() {
                deleted.unwrap();
            }
        }
        found
    })
    .await
}

/// A bus that is there passes its check.
pub async fn the_bus_is_there(bus: &dyn EventBus) {
    bus.check().await.unwrap();
}

/// An event that matches the rule arrives whole, in EventBridge's envelope, under the id that the put returned.
pub async fn a_wanted_event_arrives_in_its_envelope(bus: &dyn EventBus, queue: &dyn Queue) {
    let name = fresh("event");
    let event = event(&name, true);
    let id = bus.put(std::slice::from_ref(&event)).await.unwrap().remove(0).unwrap();
    let envelope = receive(queue, &name).await;
    assert_eq!(envelope["id"], Value::from(id));
    assert_eq!(envelope["version"], "0");
    assert_eq!(envelope["source"], SOURCE);
    assert_eq!(envelope["detail-type"], "Conformed");
    assert_eq!(envelope["detail"], event.detail);
    assert_eq!(envelope["resources"], json!([]));
    assert!(envelope["account"].is_string() && envelope["region"].is_string());
    let time = envelope["time"].as_str().and_then(|time| time.parse::<chrono::DateTime<Utc>>().ok());
    assert_eq!(time, Some(event.time.trunc_subsecs(0)), "the time is in whole seconds");
}

/// An event that no rule takes is taken by the bus and goes nowhere.
pub async fn an_unwanted_event_does_not_arrive(bus: &dyn EventBus, queue: &dyn Queue) {
    let (unwanted, other_source, wanted) = (fresh("event"), fresh("event"), fresh("event"));
    let events = [
        event(&unwanted, false),
        Event { source: "someone.else".into(), ..event(&other_source, true) },
        event(&wanted, true),
    ];
    for put in bus.put(&events).await.unwrap() {
        put.unwrap();
    }
    // Both went before the wanted one; where order isn't kept this can only pass too easily.
    let envelope = receive(queue, &wanted).await;
    assert_eq!(envelope["detail"]["name"], Value::from(wanted));
    for message in queue.receive(limits::QUEUE_BATCH, Duration::ZERO).await.unwrap() {
        assert!(!message.body.contains(&unwanted) && !message.body.contains(&other_source), "{}", message.body);
    }
}

/// An event that can't be right fails alone; the others of its put arrive.
pub async fn a_bad_event_fails_alone(bus: &dyn EventBus, queue: &dyn Queue) {
    let name = fresh("event");
    let events = [
        Event { detail_type: "x".repeat(limits::DETAIL_TYPE_CHARS + 1), ..event(&name, false) },
        event(&name, true),
        Event { detail: json!([]), ..event(&name, true) },
    ];
    let results = bus.put(&events).await.unwrap();
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    assert!(results.into_iter().filter_map(Result::err).all(|error| error.kind == ErrorKind::Invalid));
    receive(queue, &name).await;
}

/// Too many events, or too large ones, are refused whole as invalid.
pub async fn puts_have_limits(bus: &dyn EventBus) {
    let many = vec![event("x", false); limits::EVENTS_PER_PUT + 1];
    assert_eq!(bus.put(&many).await.expect_err("too many events").kind, ErrorKind::Invalid);
    let large = Event { detail: json!({ "x": "x".repeat(limits::EVENT_BYTES) }), ..event("x", false) };
    assert_eq!(bus.put(&[large]).await.expect_err("too large an event").kind, ErrorKind::Invalid);
    assert!(bus.put(&[]).await.unwrap().is_empty(), "an empty put is no error");
}
