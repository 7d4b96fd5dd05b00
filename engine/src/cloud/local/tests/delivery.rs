//! Rules to their targets, dead letters and back.

use serde_json::{Value, json};

use super::*;
use crate::cloud::{
    ErrorKind,
    event_bus::Event,
    queue::Outgoing,
    resources::{Resources, RuleSpec, TargetSpec},
};

fn event(detail: Value) -> Event {
    Event { source: "etl".into(), detail_type: "Ready".into(), detail, time: Utc::now() }
}

fn with_rule(pattern: Value, targets: Vec<TargetSpec>) -> Resources {
    let mut resources = conformance::resources();
    resources.buses.get_mut("bus").unwrap().rules = [("r".to_owned(), RuleSpec { pattern, targets })].into();
    resources
}

#[tokio::test]
async fn a_rule_feeds_queues_topics_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let targets = vec![
        TargetSpec::Queue("work".into()),
        TargetSpec::Queue("events".into()),
        TargetSpec::Topic("alerts".into()),
        TargetSpec::File("out/events.ndjson".into()),
        TargetSpec::Log {},
    ];
    let resources = with_rule(json!({ "detail": { "n": [{ "numeric": [">", 1] }] } }), targets);
    let cloud = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).unwrap();
    let bus = cloud.event_bus("bus").await.unwrap();
    assert_eq!(bus.name(), "test-bus-dev");
    for put in bus.put(&[event(json!({"n": 1})), event(json!({"n": 2})), event(json!({"n": 3}))]).await.unwrap() {
        put.unwrap();
    }
    for queue in ["work", "events"] {
        let messages = cloud.queue(queue).await.unwrap().receive(10, Duration::ZERO).await.unwrap();
        assert_eq!(messages.len(), 2, "{queue}");
    }
    for path in ["topics/alerts.ndjson", "out/events.ndjson"] {
        let text = std::fs::read_to_string(dir.path().join(path)).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| &line["detail"]["n"]).collect::<Vec<_>>(), [2, 3]);
    }
}

#[tokio::test]
async fn all_queues_of_a_put_get_it_or_none_does() {
    let dir = tempfile::tempdir().unwrap();
    let targets = vec![TargetSpec::Queue("work".into()), TargetSpec::Queue("events".into())];
    let resources = with_rule(json!({ "source": ["etl"] }), targets);
    let cloud = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).unwrap();
    let bus = cloud.event_bus("bus").await.unwrap();
    let fail = "CREATE TRIGGER fail BEFORE INSERT ON messages
                WHEN NEW.queue_id = (SELECT id FROM queues WHERE name = 'test-events-dev')
                BEGIN SELECT RAISE(ABORT, 'on purpose'); END";
    cloud.store.db.write("test", |connection| Ok(connection.execute_batch(fail)?)).await.unwrap();
    let error = bus.put(&[event(json!({}))]).await.unwrap_err();
    assert!(error.to_string().contains("PutEvents on bus test-bus-dev"), "{error}");
    assert_eq!(cloud.queue("work").await.unwrap().depth().await.unwrap().total(), 0);
    cloud.store.db.write("test", |connection| Ok(connection.execute_batch("DROP TRIGGER fail")?)).await.unwrap();
    bus.put(&[event(json!({}))]).await.unwrap();
    for queue in ["work", "events"] {
        assert_eq!(cloud.queue(queue).await.unwrap().depth().await.unwrap().total(), 1);
    }
}

#[tokio::test]
async fn a_waiting_receiver_is_woken_by_a_put() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let (bus, queue) = (cloud.event_bus("bus").await.unwrap(), cloud.queue("events").await.unwrap());
    let waiting = tokio::spawn(async move { queue.receive(10, Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let event = Event { source: conformance::SOURCE.into(), ..event(json!({ "wanted": true })) };
    bus.put(&[event]).await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("woken long before its time");
    assert_eq!(received.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_bus_can_not_do_is_refused_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let pattern = json!({ "source": ["etl"] });
    for (pattern, target, says) in [
        (pattern.clone(), TargetSpec::Webhook("http://localhost/".into()), "doesn't post to webhooks yet"),
        (pattern.clone(), TargetSpec::Queue("nowhere".into()), "target queue nowhere is not declared"),
        (pattern, TargetSpec::Topic("../x".into()), "no name of a topic"),
        (json!({ "source": "etl" }), TargetSpec::Log {}, "the pattern.source"),
    ] {
        let resources = with_rule(pattern, vec![target]);
        let error = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("rule r of bus test-bus-dev"), "{error}");
    }
}

#[tokio::test]
async fn dead_letters_tell_where_they_came_from_and_looking_changes_nothing() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), hand.options());
    let (work, dead) = (cloud.queue("work").await.unwrap(), cloud.queue("work-dead").await.unwrap());
    work.send(&[Outgoing::new("poison"), Outgoing::new("good")]).await.unwrap();
    for _ in 0..2 {
        for message in work.receive(10, Duration::ZERO).await.unwrap() {
            if message.body == "good" {
                work.delete(&[message.receipt]).await.unwrap();
            }
        }
        hand.forward(Duration::from_secs(31));
    }
    assert_eq!(cloud.peek("work-dead", 10).await.unwrap(), []);
    assert!(work.receive(10, Duration::ZERO).await.unwrap().is_empty());
    let letters = cloud.peek("work-dead", 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].body, letters[0].receive_count), ("poison", 2));
    assert_eq!(letters[0].source.as_deref(), Some("test-work-dev"));
    dead.send(&[Outgoing::new("sent here by hand")]).await.unwrap();
    let letters = cloud.peek("work-dead", 10).await.unwrap();
    assert_eq!(letters[1].source, None, "it came from nowhere");
    let received = dead.receive(10, Duration::ZERO).await.unwrap();
    assert_eq!(received.len(), 2, "looking hides nothing");
}
