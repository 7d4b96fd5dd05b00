//! State survives, and one process owns it.

use super::*;
use crate::cloud::{
    AttributeValue, ErrorKind, Item,
    queue::Outgoing,
    resources::{IndexSpec, KeyType},
    table::{Condition, Consistency, Key, Outcome, Query, Write},
};

fn write(sort: &str) -> Write {
    Write::update(Key::new("p", sort), Condition::absent("status")).set("status", "new")
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cloud = open(dir.path(), LocalOptions::default());
    let (table, queue) = (cloud.table("items").await.unwrap(), cloud.queue("work").await.unwrap());
    let writes: Vec<_> = (0..50).map(|no| write(&no.to_string())).collect();
    for outcome in futures::future::join_all(writes.iter().map(|write| table.write(write))).await {
        assert!(matches!(outcome.unwrap(), Outcome::Applied(_)));
    }
    queue.send(&[Outgoing::new("hello")]).await.unwrap();
    // The files as a kill at this instant would leave them: nothing is closed, nothing is flushed at the end.
    for name in ["penstock.db", "penstock.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let again = open(copy.path(), LocalOptions::default());
    let page = again.table("items").await.unwrap().query(&Query::partition("p").strong()).await.unwrap();
    assert_eq!(page.items.len(), 50);
    let messages = again.queue("work").await.unwrap().receive(10, Duration::ZERO).await.unwrap();
    assert_eq!(messages[0].body, "hello");
}

#[tokio::test]
async fn a_message_is_no_dead_letter_because_its_owners_were_killed() {
    let dir = tempfile::tempdir().unwrap();
    let open = || open(dir.path(), LocalOptions::default());
    open().queue("work").await.unwrap().send(&[Outgoing::new("hello")]).await.unwrap();
    for _ in 0..5 {
        let messages = open().queue("work").await.unwrap().receive(10, Duration::ZERO).await.unwrap();
        assert_eq!(messages.len(), 1);
    }
    // One that is given back counts, as ever.
    let cloud = open();
    let queue = cloud.queue("work").await.unwrap();
    for _ in 0..2 {
        let messages = queue.receive(10, Duration::ZERO).await.unwrap();
        queue.set_visibility(&messages[0].receipt, Duration::ZERO).await.unwrap();
    }
    assert!(queue.receive(10, Duration::ZERO).await.unwrap().is_empty());
    assert_eq!(cloud.queue("work-dead").await.unwrap().depth().await.unwrap().visible, 1);
}

#[tokio::test]
async fn a_folder_has_one_owner_and_tells_who() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let error =
        LocalCloud::open(dir.path(), naming(), &conformance::resources(), LocalOptions::default()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains(&format!("process {}", std::process::id())), "{error}");
    // A handle alone keeps the folder.
    let table = cloud.table("items").await.unwrap();
    drop(cloud);
    assert!(LocalCloud::open(dir.path(), naming(), &conformance::resources(), LocalOptions::default()).is_err());
    drop(table);
    open(dir.path(), LocalOptions::default());
}

#[tokio::test]
async fn others_may_look_beside_the_owner_and_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let resources = conformance::resources();
    let missing = LocalCloud::open_read_only(dir.path(), naming(), &resources).await.err().unwrap();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    let cloud = open(dir.path(), LocalOptions::default());
    cloud.table("items").await.unwrap().write(&write("s")).await.unwrap();
    let looking = LocalCloud::open_read_only(dir.path(), naming(), &resources).await.unwrap();
    let table = looking.table("items").await.unwrap();
    assert!(table.get(&Key::new("p", "s"), Consistency::Strong).await.unwrap().is_some());
    assert_eq!(table.write(&write("t")).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(looking.queue("work").await.unwrap().depth().await.unwrap().total(), 0);
    drop((cloud, looking));
    let looking = LocalCloud::open_read_only(dir.path(), naming(), &resources).await.unwrap();
    assert!(
        looking.table("items").await.unwrap().get(&Key::new("p", "s"), Consistency::Strong).await.unwrap().is_some()
    );
}

#[tokio::test]
async fn definitions_may_change_but_for_a_tables_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut resources = conformance::resources();
    let cloud = open(dir.path(), LocalOptions::default());
    let table = cloud.table("items").await.unwrap();
    let item = |size: &str| -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        std::collections::HashMap::from([("size".to_owned(), text(size)), ("shape".to_owned(), text("round"))]).into()
    };
    table.write(&Write::put(Key::new("p", "s"), item("large"), Condition::absent("pk"))).await.unwrap();
    let misfit = Write::update(Key::new("p", "misfit"), Condition::absent("seen")).set_number("size", 1);
    table.write(&misfit).await.unwrap();
    drop((cloud, table));

    let items = resources.tables.get_mut("items").unwrap();
    items.indexes = [("size-index".to_owned(), IndexSpec { hash: "size".into(), range: "shape".into() })].into();
    resources.queues.get_mut("work").unwrap().visibility = Duration::from_secs(7);
    let cloud = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).unwrap();
    let table = cloud.table("items").await.unwrap();
    assert_eq!(table.query(&Query::index("size-index", "large")).await.unwrap().items.len(), 1);
    assert!(table.query(&Query::index("color-index", "red")).await.is_err());
    let now_fits = Write::update(Key::new("p", "misfit"), Condition::absent("seen")).set("size", "small");
    assert!(matches!(table.write(&now_fits).await.unwrap(), Outcome::Applied(_)));
    assert_eq!(cloud.queue("work").await.unwrap().visibility_timeout(), Duration::from_secs(7));
    drop((cloud, table));

    resources.tables.get_mut("items").unwrap().sort_type = KeyType::Number;
    let error = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.to_string().contains("test-items-dev"), "{error}");
}

#[tokio::test]
async fn a_stream_may_be_declared_away_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut resources = conformance::resources();
    let mut arns = Vec::new();
    for (value, stream) in [("a", true), ("b", false), ("c", true)] {
        resources.tables.get_mut("items").unwrap().stream = stream;
        let cloud = LocalCloud::open(dir.path(), naming(), &resources, LocalOptions::default()).unwrap();
        cloud.table("items").await.unwrap().write(&write(value)).await.unwrap();
        arns = cloud.change_stream("items").await.unwrap().streams().await.unwrap();
        assert_eq!(cloud.enable_stream("items").await.is_err(), !stream);
    }
    assert_eq!(arns.len(), 3, "the first, the one that it was renewed with, and the last: {arns:?}");
    let error = open(dir.path(), LocalOptions::default()).enable_stream("numbers").await.unwrap_err();
    assert!(error.message.contains("declared without one"), "{error}");
}

#[tokio::test]
async fn an_undeclared_name_is_answered_with_the_nearest_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path(), LocalOptions::default()).queue("wrok").await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("did you mean work?"), "{error}");
    assert!(error.message.contains("events, work, work-dead"), "{error}");
}
