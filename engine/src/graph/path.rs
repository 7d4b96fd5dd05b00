//! Where in a pipeline's YAML something stands: `transforms.fold.running.retry`, `rules.ready.targets[0]`.

use std::fmt;

use serde_json::Value;

/// One step down into a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into a map, by key.
    Key(String),
    /// Into a list, by index from 0.
    Index(usize),
}

/// The steps from a document's root to one of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Step>);

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// One step further, by key.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// One step further, by index.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// One step further.
    pub fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// This path and then `tail`.
    pub fn join(&self, tail: &Self) -> Self {
        Self(self.0.iter().chain(&tail.0).cloned().collect())
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// What is left of this path below `head`, if it leads there.
    pub fn below(&self, head: &Self) -> Option<Self> {
        self.0.strip_prefix(head.0.as_slice()).map(|tail| Self(tail.to_vec()))
    }

    /// This path up to, and without, its first step into a list; the whole path if there is none.
    pub(crate) fn before_lists(&self) -> Self {
        Self(self.0.iter().take_while(|step| matches!(step, Step::Key(_))).cloned().collect())
    }

    /// The value that it leads to.
    pub(crate) fn find<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(root, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// The value that it leads to, to change it.
    pub(crate) fn find_mut<'a>(&self, root: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(root, |value, step| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        })
    }

    /// Takes the entry of a map that it leads to out of there. Says whether there was one.
    pub(crate) fn remove(&self, root: &mut Value) -> bool {
        let Some((Step::Key(key), parents)) = self.0.split_last() else { return false };
        let parent = Self(parents.to_vec()).find_mut(root);
        parent.and_then(Value::as_object_mut).is_some_and(|map| map.shift_remove(key).is_some())
    }
}

impl From<&serde_path_to_error::Path> for Path {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        // What lies below a key that isn't text can't be named; the path ends above it.
        let steps = path.iter().map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { variant } => Some(Step::Key(variant.clone())),
            Segment::Unknown => None,
        });
        Self(steps.collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if index > 0 { "." } else { "" };
                    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
                    if !key.is_empty() && key.chars().all(plain) {
                        write!(f, "{dot}{key}")?;
                    } else {
                        write!(f, "{dot}{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_prints_as_people_write_it() {
        let path = Path::root().key("rules").key("ready").key("targets").index(0).key("a.b");
        assert_eq!(path.to_string(), "rules.ready.targets[0].\"a.b\"");
        assert_eq!(path.before_lists().to_string(), "rules.ready.targets");
        assert_eq!(
            path.below(&Path::root().key("rules")).map(|p| p.to_string()),
            Some("ready.targets[0].\"a.b\"".into())
        );
        assert_eq!(path.below(&Path::root().key("queues")), None);
    }

    #[test]
    fn a_path_finds_and_removes() {
        let mut value = json!({"a": [{"b": 1}], "c": {"d": 2}});
        assert_eq!(Path::root().key("a").index(0).key("b").find(&value), Some(&json!(1)));
        assert!(Path::root().key("c").key("d").remove(&mut value));
        assert!(!Path::root().key("c").key("d").remove(&mut value));
        assert!(!Path::root().remove(&mut value));
        assert_eq!(value, json!({"a": [{"b": 1}], "c": {}}));
    }
}
