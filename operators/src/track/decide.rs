//! What a notification does to an item: one pure function.

use std::cmp::Ordering;

use crate::model::{FileItem, FileState, ObjectEvent};

/// What is to be done about a notification, given the item that stands where its file belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is no such item: make it.
    New,
    /// It says nothing new.
    Ignore(Ignored),
    /// It tells of a version that another has followed already.
    Superseded,
    /// The same object came again after its file had failed: make it pending again.
    Redrive,
    /// A newer version of a file that was never claimed: put it in its place.
    Replace,
    /// A newer version of a file that is on its way or done, or was once: it gets an item of its own, `{file_key}@{etag}`.
    NewVersion,
    /// The item belongs to another object with the same short key: look under the full key.
    OtherObject,
    /// It can't be told which is newer: ask the bucket what stands there now.
    AskBucket,
}

/// Why a notification says nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It was delivered before.
    Redelivered,
    /// The same content was put again.
    SameContent,
}

impl Ignored {
    /// Its word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redelivered => "redelivered",
            Self::SameContent => "same_content",
        }
    }
}

/// What the bucket said stands there now, where it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// It wasn't asked.
    NotAsked,
    /// The object that the notification tells of.
    This,
    /// Another object, or none.
    Other,
}

/// Decides about `object`, given the item under its file key and what the bucket said.
pub fn decide(item: Option<&FileItem>, object: &ObjectEvent, current: Current) -> Decision {
    let Some(item) = item else { return Decision::New };
    if item.file_path != object.uri() {
        return Decision::OtherObject;
    }
    let same_etag = item.etag.is_some() && item.etag == object.etag;
    let newer = match compare(item.sequencer.as_deref(), object.sequencer.as_deref()) {
        Some(Ordering::Less) => true,
        Some(_) if same_etag || item.etag.is_none() => return Decision::Ignore(Ignored::Redelivered),
        Some(_) => return Decision::Superseded,
        None => match current {
            Current::NotAsked => return Decision::AskBucket,
            Current::Other => return Decision::Superseded,
            Current::This => false,
        },
    };
    match (item.state(), same_etag) {
        // A listing never redrives: only a newer event of S3's own does.
        (Some(FileState::Failed), true) if newer => Decision::Redrive,
        (_, true) => Decision::Ignore(Ignored::SameContent),
        // Once it was claimed, somebody may have made an item of its own for this version, on seeing that it had left
        // `pending`: in its place it would be there twice.
        (Some(FileState::Pending), false) if item.claimed_at.is_none() => Decision::Replace,
        (_, false) => Decision::NewVersion,
    }
}

/// Compares two sequencers of one key: text, the shorter padded with zeros on its right. Without both there is no
/// telling.
pub fn compare(seen: Option<&str>, new: Option<&str>) -> Option<Ordering> {
    let (seen, new) = (seen?, new?);
    let width = seen.len().max(new.len());
    let padded = |text: &str| format!("{text:0<width$}").to_ascii_uppercase();
    Some(padded(seen).cmp(&padded(new)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(state: FileState, etag: &str, sequencer: Option<&str>) -> FileItem {
        FileItem {
            date_prefix: "2026-02-01".to_owned(),
            file_key: "a".to_owned(),
            status: state.status(3),
            file_path: "s3://b/k".to_owned(),
            size_bytes: 1,
            etag: Some(etag.to_owned()),
            sequencer: sequencer.map(str::to_owned),
            version_id: None,
            shard_id: 3,
            created_at: String::new(),
            pending_since: None,
            claimed_at: None,
            updated_at: None,
            manifest_path: None,
            rows: None,
            rejected_rows: None,
            error_message: None,
        }
    }

    fn object(etag: &str, sequencer: Option<&str>) -> ObjectEvent {
        ObjectEvent {
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            size_bytes: 1,
            etag: Some(etag.to_owned()),
            sequencer: sequencer.map(str::to_owned),
            version_id: None,
            event_ms: 0,
            reason: None,
        }
    }

    #[test]
    fn the_table_of_notifications() {
        use FileState::{Completed, Failed, Manifested, Pending, Quarantined};
        let decide = |item: &FileItem, object: &ObjectEvent| decide(Some(item), object, Current::NotAsked);
        assert_eq!(super::decide(None, &object("e", None), Current::NotAsked), Decision::New);
        for state in FileState::ALL {
            let seen = item(state, "e", Some("05"));
            assert_eq!(decide(&seen, &object("e", Some("05"))), Decision::Ignore(Ignored::Redelivered));
            assert_eq!(decide(&seen, &object("e", Some("04"))), Decision::Ignore(Ignored::Redelivered));
            assert_eq!(decide(&seen, &object("f", Some("04"))), Decision::Superseded);
        }
        assert_eq!(decide(&item(Failed, "e", Some("05")), &object("e", Some("06"))), Decision::Redrive);
        for state in [Pending, Manifested, Completed, Quarantined] {
            let again = decide(&item(state, "e", Some("05")), &object("e", Some("06")));
            assert_eq!(again, Decision::Ignore(Ignored::SameContent));
        }
        assert_eq!(decide(&item(Pending, "e", Some("05")), &object("f", Some("06"))), Decision::Replace);
        for state in [Manifested, Completed, Failed, Quarantined] {
            assert_eq!(decide(&item(state, "e", Some("05")), &object("f", Some("06"))), Decision::NewVersion);
        }
    }

    #[test]
    fn what_cannot_be_compared_is_asked_of_the_bucket() {
        let ask =
            |state, etag: &str, current| decide(Some(&item(state, "e", Some("05"))), &object(etag, None), current);
        assert_eq!(ask(FileState::Pending, "f", Current::NotAsked), Decision::AskBucket);
        assert_eq!(ask(FileState::Pending, "f", Current::Other), Decision::Superseded);
        assert_eq!(ask(FileState::Pending, "f", Current::This), Decision::Replace);
        assert_eq!(ask(FileState::Completed, "f", Current::This), Decision::NewVersion);
        assert_eq!(ask(FileState::Failed, "e", Current::This), Decision::Ignore(Ignored::SameContent));
    }

    #[test]
    fn an_item_of_another_object_is_left_alone() {
        let other = FileItem { file_path: "s3://b/other".to_owned(), ..item(FileState::Pending, "e", Some("05")) };
        assert_eq!(decide(Some(&other), &object("e", Some("09")), Current::NotAsked), Decision::OtherObject);
    }

    #[test]
    fn f39_sequencers_compare_padded() {
        assert_eq!(compare(Some("0055"), Some("005500")), Some(Ordering::Equal));
        assert_eq!(compare(Some("0055"), Some("005501")), Some(Ordering::Less));
        assert_eq!(compare(Some("0A"), Some("0b")), Some(Ordering::Less));
        assert_eq!(compare(None, Some("1")), None);
    }

    proptest! {
        /// Delivering any notifications any number of times, in any order, the newest content always has an item and
        /// no content has two.
        #[test]
        fn i1_order_and_repetition_do_not_matter(
            deliveries in prop::collection::vec(0_usize..5, 1..30),
            progress in prop::collection::vec(0_usize..5, 30),
        ) {
            // Versions of one key, in the order in which they were put: etags and sequencers both rise.
            let mut items: std::collections::BTreeMap<String, FileItem> = Default::default();
            let mut delivered = std::collections::BTreeSet::new();
            for (delivery, progress) in deliveries.iter().zip(&progress) {
                delivered.insert(*delivery);
                let event = object(&format!("etag{delivery}"), Some(&format!("{delivery:04}")));
                let mut key = "a".to_owned();
                for _ in 0..2 {
                    match decide(items.get(&key), &event, Current::NotAsked) {
                        Decision::New | Decision::Replace => {
                            let new = item(FileState::Pending, &format!("etag{delivery}"), event.sequencer.as_deref());
                            items.insert(key.clone(), new);
                            break;
                        }
                        Decision::NewVersion => key = format!("a@etag{delivery}"),
                        _ => break,
                    }
                }
                // Meanwhile the pipeline works on whatever is there.
                if let Some(item) = items.values_mut().nth(*progress) {
                    item.status = FileState::Completed.status(3);
                }
            }
            let newest = delivered.last().unwrap();
            let etags: Vec<_> = items.values().map(|item| item.etag.clone().unwrap()).collect();
            prop_assert!(etags.contains(&format!("etag{newest}")), "the newest version has no item");
            let distinct: std::collections::BTreeSet<_> = etags.iter().collect();
            prop_assert_eq!(distinct.len(), etags.len(), "a version has two items");
        }
    }
}
