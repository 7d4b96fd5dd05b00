//! What a [`Table`] owes.

use std::collections::{BTreeSet, HashMap};

use super::{INDEX, eventually, fresh};
use crate::cloud::{
    AttributeValue, ErrorKind, Item, Table, limits,
    table::{Condition, Consistency, Key, Outcome, Page, Query, Range, Write},
};

/// Runs the suite on a table like `items` of [`resources`](super::resources).
pub async fn run_all(table: &dyn Table) {
    a_put_is_read_back_whole(table).await;
    an_absent_item_is_none(table).await;
    a_refused_write_returns_the_old_item_and_changes_nothing(table).await;
    an_update_sets_and_removes_and_returns_the_new_item(table).await;
    an_update_makes_an_absent_item_if_its_condition_lets_it(table).await;
    a_delete_needs_its_condition(table).await;
    conditions_combine(table).await;
    of_racing_writers_one_wins(table).await;
    numbers_compare_as_numbers(table).await;
    what_can_not_be_right_is_invalid(table).await;
    a_partition_is_listed_in_order(table).await;
    ranges_select_sort_keys(table).await;
    pages_follow_each_other_without_gap_or_repeat(table).await;
    a_page_holds_one_megabyte(table).await;
    an_index_follows_its_attributes(table).await;
    an_index_is_listed_in_order_of_its_range_and_pages(table).await;
}

/// Runs the suite of numeric sort keys on a table like `numbers` of [`resources`](super::resources).
pub async fn run_all_numeric(table: &dyn Table) {
    numeric_sort_keys_order_as_numbers(table).await;
    numeric_sort_keys_have_many_texts_and_one_item(table).await;
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    HashMap::from(attributes.map(|(name, value)| (name.to_owned(), value))).into()
}

fn absent(table: &dyn Table) -> Condition {
    Condition::absent(&table.keys().partition)
}

fn key_item(table: &dyn Table, key: &Key, mut rest: Item) -> Item {
    rest.inner_mut().insert(table.keys().partition.clone(), s(&key.partition));
    rest.inner_mut().insert(table.keys().sort.clone(), s(&key.sort));
    rest
}

async fn put(table: &dyn Table, key: &Key, rest: Item) {
    match table.write(&Write::put(key.clone(), rest, absent(table))).await {
        Ok(Outcome::Applied(_)) => {}
        other => panic!("a first put of {key:?} must be applied: {other:?}"),
    }
}

async fn get(table: &dyn Table, key: &Key) -> Option<Item> {
    table.get(key, Consistency::Strong).await.unwrap()
}

async fn all(table: &dyn Table, mut query: Query) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        let Page { items: page, next } = table.query(&query).await.unwrap();
        items.extend(page);
        query.start = Some(match next {
            Some(next) => next,
            None => return items,
        });
    }
}

fn sorts(table: &dyn Table, items: &[Item]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item.get(&table.keys().sort) {
            Some(AttributeValue::S(text) | AttributeValue::N(text)) => text.clone(),
            other => panic!("an item's sort key is {other:?}"),
        })
        .collect()
}

/// What was put is read back by a strong read, with its key attributes and every type of value.
pub async fn a_put_is_read_back_whole(table: &dyn Table) {
    let key = Key::new(fresh("p"), "é \u{10ffff} s");
    let rest = item([
        ("text", s("")),
        ("number", n("-12.5")),
        ("bytes", AttributeValue::B(vec![0, 255])),
        ("flag", AttributeValue::Bool(true)),
        ("nothing", AttributeValue::Null(true)),
        ("list", AttributeValue::L(vec![n(1), s("a")])),
        ("map", AttributeValue::M(HashMap::from([("k".to_owned(), n(1))]))),
        ("set", AttributeValue::Ss(vec!["a".into()])),
    ]);
    let whole = key_item(table, &key, rest.clone());
    match table.write(&Write::put(key.clone(), rest, absent(table))).await.unwrap() {
        Outcome::Applied(Some(now)) => assert_eq!(now, whole, "a put returns the item as it is now"),
        other => panic!("a put of a new item must be applied and return it: {other:?}"),
    }
    assert_eq!(get(table, &key).await, Some(whole));
}

/// An item that isn't there is `None`, no error.
pub async fn an_absent_item_is_none(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    assert_eq!(get(table, &key).await, None);
    assert_eq!(table.get(&key, Consistency::Eventual).await.unwrap(), None);
}

/// A condition that doesn't hold refuses the write, returns the item as it was, and changes nothing.
pub async fn a_refused_write_returns_the_old_item_and_changes_nothing(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    let old = key_item(table, &key, item([("status", s("pending"))]));
    put(table, &key, old.clone()).await;
    let wrong = Condition::equals("status", "done");
    for write in [
        Write::put(key.clone(), item([("status", s("new"))]), absent(table)),
        Write::update(key.clone(), wrong.clone()).set("status", "new"),
        Write::delete(key.clone(), wrong.clone()),
    ] {
        match table.write(&write).await.unwrap() {
            Outcome::Refused(Some(seen)) => assert_eq!(seen, old, "a refusal carries the old item"),
            other => panic!("{write:?} must be refused: {other:?}"),
        }
        assert_eq!(get(table, &key).await.as_ref(), Some(&old), "a refused write changes nothing");
    }
    let nowhere = Key::new(fresh("p"), "s");
    match table.write(&Write::update(nowhere.clone(), wrong).set("status", "new")).await.unwrap() {
        Outcome::Refused(None) => assert_eq!(get(table, &nowhere).await, None),
        other => panic!("an update that asks for a value of an absent item must be refused: {other:?}"),
    }
}

/// An update sets and removes attributes, leaves the others, and returns the item as it is now.
pub async fn an_update_sets_and_removes_and_returns_the_new_item(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    put(table, &key, item([("a", s("1")), ("b", s("2")), ("c", s("3"))])).await;
    let write = Write::update(key.clone(), Condition::equals("a", "1"))
        .set("a", "x")
        .set_number("d", 4)
        .remove("b")
        .remove("z");
    let expected = key_item(table, &key, item([("a", s("x")), ("c", s("3")), ("d", n(4))]));
    match table.write(&write).await.unwrap() {
        Outcome::Applied(Some(now)) => assert_eq!(now, expected),
        other => panic!("the update must be applied and return the item: {other:?}"),
    }
    assert_eq!(get(table, &key).await, Some(expected));
}

/// An update of an absent item makes it, with its key attributes.
pub async fn an_update_makes_an_absent_item_if_its_condition_lets_it(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    let write = Write::update(key.clone(), Condition::absent("status")).set("status", "new");
    assert!(matches!(table.write(&write).await.unwrap(), Outcome::Applied(Some(_))));
    assert_eq!(get(table, &key).await, Some(key_item(table, &key, item([("status", s("new"))]))));
}

/// A delete happens on its condition, and returns no item.
pub async fn a_delete_needs_its_condition(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    put(table, &key, item([("status", s("done"))])).await;
    let delete = Write::delete(key.clone(), Condition::equals("status", "done"));
    assert!(matches!(table.write(&delete).await.unwrap(), Outcome::Applied(None)));
    assert_eq!(get(table, &key).await, None);
    assert!(matches!(table.write(&delete).await.unwrap(), Outcome::Refused(None)));
}

/// `Absent`, `Equals`, `In`, `All` and `Any` mean what they say.
pub async fn conditions_combine(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    put(table, &key, item([("status", s("pending")), ("attempt", n(2))])).await;
    let pending = || Condition::equals("status", "pending");
    let never = || Condition::equals("status", "never");
    for (condition, holds) in [
        (Condition::absent("nothing"), true),
        (Condition::absent("status"), false),
        (Condition::equals("attempt", "2"), false),
        (Condition::equals_number("attempt", 2), true),
        (Condition::one_of("status", ["a", "pending"]), true),
        (Condition::one_of("status", ["a", "b"]), false),
        (Condition::one_of("nothing", ["a"]), false),
        (pending().and(Condition::equals_number("attempt", 2)), true),
        (pending().and(never()), false),
        (Condition::Any(vec![never(), pending()]), true),
        (Condition::Any(vec![never(), Condition::absent("status")]), false),
        (Condition::Any(vec![never(), pending().and(Condition::absent("nothing"))]), true),
        (Condition::as_read("attempt", Some(&n(2))), true),
        (Condition::as_read("attempt", None), false),
    ] {
        let write = Write::update(key.clone(), condition.clone()).set("seen", fresh("v"));
        match (table.write(&write).await.unwrap(), holds) {
            (Outcome::Applied(_), true) | (Outcome::Refused(_), false) => {}
            (other, _) => panic!("{condition:?} should hold: {holds}; but: {other:?}"),
        }
    }
}

/// Of many writers on the same condition exactly one is applied.
pub async fn of_racing_writers_one_wins(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    let writes = (0..8).map(|writer| {
        let key = key.clone();
        async move {
            let write = Write::put(key, item([("writer", n(writer))]), absent(table));
            matches!(table.write(&write).await.unwrap(), Outcome::Applied(_))
        }
    });
    let applied = futures::future::join_all(writes).await.into_iter().filter(|applied| *applied).count();
    assert_eq!(applied, 1);
}

/// Equal numbers are equal whatever their text.
pub async fn numbers_compare_as_numbers(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    put(table, &key, item([("x", n("1.50"))])).await;
    assert_eq!(get(table, &key).await.unwrap().get("x"), Some(&n("1.5")));
    let write = Write::update(key, Condition::equals_number("x", "15e-1")).set("y", "z");
    assert!(matches!(table.write(&write).await.unwrap(), Outcome::Applied(_)));
}

/// Items and keys past their limits, and writes that no table can take, are refused as invalid and leave nothing.
pub async fn what_can_not_be_right_is_invalid(table: &dyn Table) {
    let key = Key::new(fresh("p"), "s");
    let update = |key: &Key| Write::update(key.clone(), Condition::absent("x"));
    let long = "x".repeat(limits::SORT_KEY_BYTES + 1);
    for write in [
        Write::put(key.clone(), item([("a", s(&"x".repeat(limits::ITEM_BYTES)))]), absent(table)),
        update(&Key::new(&key.partition, &long)).set("a", "b"),
        update(&Key::new(&key.partition, "")).set("a", "b"),
        update(&Key::new("x".repeat(limits::PARTITION_KEY_BYTES + 1), "s")).set("a", "b"),
        update(&key).set(&table.keys().sort, "other"),
        update(&key).set("a", "b").remove("a"),
        update(&key).set_number("a", "many"),
        update(&key).set_number("color", 1).set("shape", "round"),
        update(&key).set_number("shape", 1),
        update(&key).set("color", "").set("shape", "round"),
    ] {
        let error = table.write(&write).await.expect_err("an invalid write must fail");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    assert_eq!(get(table, &key).await, None);
    let of = || Query::partition(&key.partition);
    let between = |first: &str, last: &str| of().range(Range::Between(first.to_owned(), last.to_owned()));
    for query in [
        Query::index("no-such-index", "x"),
        Query::partition(""),
        of().range(Range::Equals(String::new())),
        between("", "b"),
        between("a", ""),
        between("b", "a"),
    ] {
        let error = table.query(&query).await.expect_err("an invalid query must fail");
        assert_eq!(error.kind, ErrorKind::Invalid, "{query:?}: {error}");
    }
}

/// A partition's items come in the order of the bytes of their sort keys; other partitions stay out.
pub async fn a_partition_is_listed_in_order(table: &dyn Table) {
    let partition = fresh("p");
    let wanted = ["MANIFEST#1", "Z", "a", "a!", "aa", "b", "é", "\u{ffff}", "\u{10000}"];
    for sort in wanted.iter().rev() {
        put(table, &Key::new(&partition, *sort), item([])).await;
    }
    put(table, &Key::new(format!("{partition}x"), "a"), item([])).await;
    let items = all(table, Query::partition(&partition).strong()).await;
    assert_eq!(sorts(table, &items), wanted);
}

/// Ranges select by equality, prefix and between, ends included.
pub async fn ranges_select_sort_keys(table: &dyn Table) {
    let partition = fresh("p");
    for sort in ["a", "ab", "abc", "b", "b1", "c"] {
        put(table, &Key::new(&partition, sort), item([])).await;
    }
    for (range, wanted) in [
        (Range::All, vec!["a", "ab", "abc", "b", "b1", "c"]),
        (Range::Equals("ab".into()), vec!["ab"]),
        (Range::Equals("x".into()), vec![]),
        (Range::Prefix("ab".into()), vec!["ab", "abc"]),
        (Range::Prefix(String::new()), vec!["a", "ab", "abc", "b", "b1", "c"]),
        (Range::Between("ab".into(), "b".into()), vec!["ab", "abc", "b"]),
    ] {
        let items = all(table, Query::partition(&partition).range(range.clone()).strong()).await;
        assert_eq!(sorts(table, &items), wanted, "{range:?}");
    }
}

/// Pages are no longer than asked for, and together they are the whole.
pub async fn pages_follow_each_other_without_gap_or_repeat(table: &dyn Table) {
    let partition = fresh("p");
    let wanted: Vec<String> = (0..10).map(|no| format!("s{no}")).collect();
    for sort in &wanted {
        put(table, &Key::new(&partition, sort), item([])).await;
    }
    for limit in [1, 3, 10, 100] {
        let query = Query::partition(&partition).range(Range::Prefix("s".into())).limit(limit).strong();
        assert!(table.query(&query).await.unwrap().items.len() <= limit);
        assert_eq!(sorts(table, &all(table, query).await), wanted, "by {limit}");
    }
}

/// A page ends at 1 MB though no limit was asked for.
pub async fn a_page_holds_one_megabyte(table: &dyn Table) {
    let partition = fresh("p");
    for no in 0..4 {
        let rest = item([("payload", s(&"x".repeat(390 * 1024)))]);
        put(table, &Key::new(&partition, no.to_string()), rest).await;
    }
    let query = Query::partition(&partition).strong();
    let page = table.query(&query).await.unwrap();
    assert!(page.items.len() < 4, "a page of {} items is past 1 MB", page.items.len());
    assert!(page.next.is_some(), "a page that is full tells where to go on");
    assert_eq!(sorts(table, &all(table, query).await), ["0", "1", "2", "3"]);
}

/// An item is in the index while it has both attributes, under their present values.
pub async fn an_index_follows_its_attributes(table: &dyn Table) {
    let (key, red, blue) = (Key::new(fresh("p"), "s"), fresh("red"), fresh("blue"));
    put(table, &key, item([("color", s(&red)), ("shape", s("round")), ("other", s("x"))])).await;
    let whole = key_item(table, &key, item([("color", s(&red)), ("shape", s("round")), ("other", s("x"))]));
    let listed = |color: String, count: usize| async move {
        let items = all(table, Query::index(INDEX, color)).await;
        (items.len() == count).then_some(items)
    };
    let items = eventually("the item in the index", || listed(red.clone(), 1)).await;
    assert_eq!(items, [whole], "an index holds all attributes");
    let there = || Condition::equals("other", "x");
    assert!(matches!(
        table.write(&Write::update(key.clone(), there()).set("color", &blue)).await.unwrap(),
        Outcome::Applied(_)
    ));
    eventually("the item under its new value", || listed(blue.clone(), 1)).await;
    eventually("nothing under the old value", || listed(red.clone(), 0)).await;
    assert!(matches!(table.write(&Write::update(key, there()).remove("shape")).await.unwrap(), Outcome::Applied(_)));
    eventually("an item without range attribute out of the index", || listed(blue.clone(), 0)).await;
}

/// An index is in order of its range attribute; items of equal range all come, over any pages.
pub async fn an_index_is_listed_in_order_of_its_range_and_pages(table: &dyn Table) {
    let (partition, color) = (fresh("p"), fresh("color"));
    for no in 0..9 {
        let rest = item([("color", s(&color)), ("shape", s(&format!("shape-{}", no % 3)))]);
        put(table, &Key::new(&partition, no.to_string()), rest).await;
    }
    let listed = |limit: usize, range: Range, count: usize| {
        let query = Query::index(INDEX, &color).range(range).limit(limit);
        async move {
            let items = all(table, query).await;
            (items.len() == count).then_some(items)
        }
    };
    for limit in [1, 2, 100] {
        let items = eventually("all items in the index", || listed(limit, Range::All, 9)).await;
        let shapes: Vec<_> = items.iter().map(|item| item.get("shape").cloned()).collect();
        assert!(shapes.is_sorted_by_key(|shape| match shape {
            Some(AttributeValue::S(shape)) => shape.clone(),
            other => panic!("an index entry has the range {other:?}"),
        }));
        assert_eq!(sorts(table, &items).into_iter().collect::<BTreeSet<_>>().len(), 9, "no item comes twice");
        eventually("one range of the index", || listed(limit, Range::Equals("shape-1".into()), 3)).await;
    }
}

/// Numeric sort keys are in order of their numbers, and ranges compare numbers.
pub async fn numeric_sort_keys_order_as_numbers(table: &dyn Table) {
    let partition = fresh("p");
    let wanted = ["-20", "-3", "-2.5", "0", "0.001", "2", "10", "1795000000"];
    for sort in wanted.iter().rev() {
        put(table, &Key::new(&partition, *sort), item([])).await;
    }
    let query = Query::partition(&partition).strong();
    assert_eq!(sorts(table, &all(table, query.clone().limit(3)).await), wanted);
    let between = query.range(Range::Between("-2.5".into(), "2.0".into()));
    assert_eq!(sorts(table, &all(table, between).await), wanted[2..6]);
}

/// One number is one key, however it is written; a sort key that is no number is invalid.
pub async fn numeric_sort_keys_have_many_texts_and_one_item(table: &dyn Table) {
    let partition = fresh("p");
    put(table, &Key::new(&partition, "10.0"), item([("a", s("b"))])).await;
    let item = get(table, &Key::new(&partition, "1e1")).await.expect("10.0 and 1e1 are one key");
    assert_eq!(item.get(&table.keys().sort), Some(&n(10)));
    let update = Write::update(Key::new(&partition, "11"), absent(table)).set("a", "b");
    assert!(matches!(table.write(&update).await.unwrap(), Outcome::Applied(_)));
    assert_eq!(get(table, &Key::new(&partition, "11")).await.unwrap().get(&table.keys().sort), Some(&n(11)));
    let error = table.get(&Key::new(&partition, "ten"), Consistency::Strong).await.expect_err("no number");
    assert_eq!(error.kind, ErrorKind::Invalid);
}
