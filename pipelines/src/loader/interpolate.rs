//! `${VAR}` in a pipeline's text values.
//!
//! Only after parsing, and only in values that are text: a variable can change a value, never the shape of the file.
//!
//! | written | becomes |
//! |---|---|
//! | `${VAR}` | the variable; it must be set |
//! | `${VAR:-default}` | the variable, or the default if it is not set or empty |
//! | `${VAR:?message}` | the variable, or an error with the message if it is not set or empty |
//! | `$${` | `${` |
//!
//! A value that is wholly one `${…}` may also be read as the number or boolean that it spells, where the type asks for
//! one.

use serde_json::Value;

use super::tree::{Shape, Tree};

/// The variables of the environment, by name.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Text with its variables put in.
#[derive(Debug, PartialEq)]
struct Interpolated {
    text: String,
    /// It was one `${…}` and nothing else.
    whole: bool,
}

/// Puts variables into one leaf. The error says what is wrong with it.
pub fn interpolate_leaf(leaf: &mut Tree, env: Env<'_>) -> Result<(), String> {
    let Shape::Text(text) = &mut leaf.shape else { return Ok(()) };
    let done = interpolate(text, env)?;
    if done.whole {
        leaf.spelling = spelled(&done.text);
    }
    *text = done.text;
    Ok(())
}

fn interpolate(text: &str, env: Env<'_>) -> Result<Interpolated, String> {
    let (mut done, mut rest, mut whole) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            done.push_str(&rest[..at]);
            done.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        done.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let end = inside.find('}').ok_or("`${` has no end: write `}` after the name, or `$${` for a plain `${`")?;
        let value = variable(&inside[..end], env)?;
        rest = &inside[end + 1..];
        whole = done.is_empty() && rest.is_empty() && text.starts_with("${");
        done.push_str(&value);
    }
    done.push_str(rest);
    Ok(Interpolated { text: done, whole })
}

/// The value of what stands between `${` and `}`.
fn variable(inside: &str, env: Env<'_>) -> Result<String, String> {
    let name_end = inside.find(':').unwrap_or(inside.len());
    let (name, operator) = inside.split_at(name_end);
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(letter) || !name.chars().all(|c| letter(c) || c.is_ascii_digit()) {
        return Err(format!(
            "`${{{inside}}}` names no variable: write `${{NAME}}`, `${{NAME:-default}}` or `${{NAME:?message}}`"
        ));
    }
    let value = env(name);
    if value.as_ref().is_some_and(|value| value.contains(['\n', '\r'])) {
        return Err(format!("the environment variable `{name}` holds a line break: values are one line"));
    }
    let full = value.clone().filter(|value| !value.is_empty());
    if operator.is_empty() {
        return value.ok_or_else(|| {
            format!("the environment variable `{name}` is not set: set it, or write `${{{name}:-default}}`")
        });
    }
    if let Some(default) = operator.strip_prefix(":-") {
        return Ok(full.unwrap_or_else(|| default.to_owned()));
    }
    if let Some(message) = operator.strip_prefix(":?") {
        return full.ok_or_else(|| format!("the environment variable `{name}` is not set: {message}"));
    }
    Err(format!("`${{{inside}}}` is not understood: after the name comes `}}`, `:-default` or `:?message`"))
}

/// The number or boolean that a text spells.
fn spelled(text: &str) -> Option<Value> {
    match text {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        _ => {
            let whole = || text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok();
            let number = || text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::from);
            whole().or_else(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "NAME" => Some("${A}".to_owned()),
            "EMPTY" => Some(String::new()),
            "LINES" => Some("a\nb: c".to_owned()),
            _ => None,
        }
    }

    fn text(text: &str) -> Result<String, String> {
        interpolate(text, &env).map(|done| done.text)
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (written, becomes) in [
            ("${A}", "a"),
            ("x-${A}-${A}y", "x-a-ay"),
            ("${B:-b}", "b"),
            ("${A:-b}", "a"),
            ("${EMPTY}", ""),
            ("${EMPTY:-b}", "b"),
            ("${B:-}", ""),
            ("${A:?must be set}", "a"),
            ("$${A}", "${A}"),
            ("$${A}${A}", "${A}a"),
            ("$A $ {A} $", "$A $ {A} $"),
            // What a variable holds is never looked at again.
            ("${NAME}", "${A}"),
            ("", ""),
        ] {
            assert_eq!(text(written), Ok(becomes.to_owned()), "{written}");
        }
    }

    #[test]
    fn what_can_not_be_put_in_is_told() {
        for (written, message) in [
            ("${B}", "the environment variable `B` is not set: set it, or write `${B:-default}`"),
            ("${B:?say where}", "the environment variable `B` is not set: say where"),
            ("${EMPTY:?say where}", "the environment variable `EMPTY` is not set: say where"),
            ("${LINES}", "the environment variable `LINES` holds a line break: values are one line"),
            ("a ${A", "`${` has no end: write `}` after the name, or `$${` for a plain `${`"),
            ("${}", "`${}` names no variable: write `${NAME}`, `${NAME:-default}` or `${NAME:?message}`"),
            ("${1A}", "`${1A}` names no variable: write `${NAME}`, `${NAME:-default}` or `${NAME:?message}`"),
            ("${A:b}", "`${A:b}` is not understood: after the name comes `}`, `:-default` or `:?message`"),
        ] {
            assert_eq!(text(written), Err(message.to_owned()), "{written}");
        }
    }

    #[test]
    fn only_a_whole_variable_may_be_read_as_a_number() {
        for (written, whole) in [
            ("${A}", true),
            ("${B:-5}", true),
            ("5", false),
            ("${A}s", false),
            ("s${A}", false),
            ("${A}${A}", false),
            ("$${A}", false),
        ] {
            assert_eq!(interpolate(written, &env).unwrap().whole, whole, "{written}");
        }
        assert_eq!(spelled("5"), Some(5.into()));
        assert_eq!(spelled("-5"), Some((-5).into()));
        assert_eq!(spelled("0.5"), Some(0.5.into()));
        assert_eq!(spelled("true"), Some(true.into()));
        assert_eq!(spelled("yes"), None);
        assert_eq!(spelled("inf"), None);
    }

    proptest! {
        #[test]
        fn text_without_variables_is_left_alone(written in "[^$]*") {
            prop_assert_eq!(text(&written), Ok(written));
        }

        #[test]
        fn escaped_text_comes_back(written in "(\\$\\{|[a-z}: ])*") {
            prop_assert_eq!(text(&written.replace("${", "$${")), Ok(written));
        }

        #[test]
        fn any_value_of_one_line_is_put_in_as_it_is(value in "[^\r\n]*", before in "[a-z]*", after in "[a-z]*") {
            let done = interpolate(&format!("{before}${{V}}{after}"), &|_| Some(value.clone())).unwrap();
            prop_assert_eq!(done.text, format!("{before}{value}{after}"));
            prop_assert_eq!(done.whole, before.is_empty() && after.is_empty());
        }

        #[test]
        fn no_text_makes_it_panic(written in ".*") {
            if let Ok(done) = text(&written) {
                let variables = written.matches("${").count();
                prop_assert!(done.len() <= written.len() + 16 * variables);
            }
        }
    }
}
