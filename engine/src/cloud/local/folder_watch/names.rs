//! Which names a watch passes over, and which folders can matter to it.

/// Ends of the names of files that some program is still writing or keeps as a copy.
const UNFINISHED: [&str; 3] = [".tmp", ".part", "~"];

/// Whether a file of this key never lands: it or a folder above it is hidden (a leading dot), or its name says that it
/// is unfinished. It lands when it is renamed.
pub(in crate::cloud::local) fn is_ignored(key: &str) -> bool {
    key.split('/').any(|name| name.starts_with('.')) || UNFINISHED.iter().any(|end| key.ends_with(end))
}

/// Whether keys that begin with `prefix` can lie below the folder with this key (empty for the root).
pub(super) fn can_hold(folder: &str, prefix: &str) -> bool {
    if folder.is_empty() {
        return true;
    }
    if folder.split('/').any(|name| name.starts_with('.')) {
        return false;
    }
    folder.starts_with(prefix)
        || prefix.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        || format!("{folder}/").starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_unfinished_names_are_ignored() {
        for key in [".a", "a/.b/c", "a.tmp", "b/a.ndjson.part", "notes~"] {
            assert!(is_ignored(key), "{key}");
        }
        for key in ["a", "a/b.ndjson", "a.tmp/b", "part", "a.b"] {
            assert!(!is_ignored(key), "{key}");
        }
    }

    #[test]
    fn only_folders_on_the_way_to_the_prefix_or_below_it_matter() {
        for (folder, prefix, expected) in [
            ("", "landing/", true),
            ("landing", "landing/ndjson/", true),
            ("landing/ndjson", "landing/ndjson/", true),
            ("landing/ndjson/2026-02-01", "landing/ndjson/", true),
            ("landing/other", "landing/ndjson/", false),
            ("land", "landing/", false),
            ("landing-2", "landing", true),
            (".penstock", "", false),
            ("a/.hidden", "", false),
        ] {
            assert_eq!(can_hold(folder, prefix), expected, "{folder} {prefix}");
        }
    }
}
