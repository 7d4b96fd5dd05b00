//! Near names: what somebody may have meant who wrote a name that isn't known.

use std::fmt;

/// A hint at the end of a message about an unknown name: the nearest known one, else all of them, else nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    nearest: Option<String>,
    known: Vec<String>,
}

/// At most so many known names are listed.
const LISTED: usize = 12;

impl Hint {
    /// The hint for `name` among the `known` ones.
    pub fn new<S: AsRef<str>>(name: &str, known: impl IntoIterator<Item = S>) -> Self {
        let known: Vec<String> = known.into_iter().map(|known| known.as_ref().to_owned()).collect();
        Self { nearest: nearest(name, &known).map(str::to_owned), known }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nearest) = &self.nearest {
            return write!(f, ", did you mean `{nearest}`?");
        }
        for (index, known) in self.known.iter().take(LISTED).enumerate() {
            let before = if index == 0 { "; known are " } else { ", " };
            write!(f, "{before}`{known}`")?;
        }
        if self.known.len() > LISTED { write!(f, " and {} more", self.known.len() - LISTED) } else { Ok(()) }
    }
}

/// The known name that is nearest to `name`, if one is near: a third of its letters wrong, or in another case.
pub fn nearest<'a, S: AsRef<str>>(name: &str, known: &'a [S]) -> Option<&'a str> {
    // Distance grows with both lengths; nobody mistypes a name of this length.
    if name.len() > 128 {
        return None;
    }
    let folded = name.to_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::osa_distance(&folded, &known.to_lowercase().replace('-', "_"));
    let near = |(distance, known): &(usize, &str)| {
        let letters = name.chars().count().max(known.chars().count());
        *known != name && *distance <= (letters / 3).max(1) && *distance < letters
    };
    let measured = known.iter().map(|known| (distance(known.as_ref()), known.as_ref()));
    measured.filter(near).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["max_files", "max_bytes", "max_age"];
        assert_eq!(nearest("max_flies", &known), Some("max_files"));
        assert_eq!(nearest("MAX-AGE", &known), Some("max_age"));
        assert_eq!(nearest("queue", &known), None);
        assert_eq!(nearest("x", &["t"]), None);
        assert_eq!(nearest("max_age", &known), None);
    }

    #[test]
    fn a_hint_names_the_nearest_or_all() {
        assert_eq!(Hint::new("trak", ["track", "admit"]).to_string(), ", did you mean `track`?");
        assert_eq!(Hint::new("fold", ["track", "admit"]).to_string(), "; known are `track`, `admit`");
        assert_eq!(Hint::new("fold", [""; 0]).to_string(), "");
    }
}
