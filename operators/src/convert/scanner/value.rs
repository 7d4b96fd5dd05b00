//! Numbers, literals, objects and arrays: checked to their end by RFC 8259, never taken apart. Positions are bytes from
//! the line's start.

use super::fault::Fault;
use super::text;

/// The first byte from `at` that is no white space. A line holds no line feed, so there are three kinds.
#[inline]
pub(super) fn space(line: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r') = line.get(at) {
        at += 1;
    }
    at
}

/// The end of the number that begins at `at`.
#[inline]
pub(super) fn number_end(line: &[u8], start: usize) -> Result<usize, Fault> {
    let mut at = start;
    if line.get(at) == Some(&b'-') {
        at += 1;
    }
    match line.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at = digits_end(line, at),
        _ => return Fault::invalid(at, "number without digits"),
    }
    if line.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = digits_end(line, fraction);
        if at == fraction {
            return Fault::invalid(at, "number without digits after its point");
        }
    }
    if let Some(b'e' | b'E') = line.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = line.get(at) {
            at += 1;
        }
        let exponent = at;
        at = digits_end(line, exponent);
        if at == exponent {
            return Fault::invalid(at, "number without digits in its exponent");
        }
    }
    Ok(at)
}

#[inline]
fn digits_end(line: &[u8], mut at: usize) -> usize {
    // Eight bytes at a time: a digit's high half is 3, and is still 3 when 6 is added.
    while let Some(chunk) = line.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let others = (word & 0xf0f0_f0f0_f0f0_f0f0 ^ 0x3030_3030_3030_3030)
            | ((word.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 ^ 0x3030_3030_3030_3030);
        if others != 0 {
            return at + (others.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(b'0'..=b'9') = line.get(at) {
        at += 1;
    }
    at
}

/// The end of `literal`, which must stand at `at`.
#[inline]
pub(super) fn literal_end(line: &[u8], at: usize, literal: &'static [u8]) -> Result<usize, Fault> {
    let end = at + literal.len();
    if line.get(at..end) == Some(literal) { Ok(end) } else { Fault::invalid(at, "unknown word") }
}

/// The end of the object or array that begins at `start`, where `levels` more may be nested (itself included). `open` is
/// room to work in: whether each open level is an object.
pub(super) fn container_end(line: &[u8], start: usize, levels: usize, open: &mut Vec<bool>) -> Result<usize, Fault> {
    open.clear();
    let mut at = start;
    loop {
        at = space(line, at);
        match line.get(at) {
            Some(b'"') => at = text::skip(line, at + 1)?,
            Some(b'-' | b'0'..=b'9') => at = number_end(line, at)?,
            Some(b't') => at = literal_end(line, at, b"true")?,
            Some(b'f') => at = literal_end(line, at, b"false")?,
            Some(b'n') => at = literal_end(line, at, b"null")?,
            Some(&opening @ (b'{' | b'[')) => {
                if open.len() >= levels {
                    return Err(Fault::TooDeep { at });
                }
                let object = opening == b'{';
                at = space(line, at + 1);
                match line.get(at) {
                    Some(b'}') if object => at += 1,
                    Some(b']') if !object => at += 1,
                    _ => {
                        open.push(object);
                        if object {
                            at = key_end(line, at)?;
                        }
                        continue;
                    }
                }
            }
            _ => return Fault::invalid(at, "a value was expected"),
        }
        // After a value: close what ends here, up to the next value.
        loop {
            let Some(&object) = open.last() else { return Ok(at) };
            at = space(line, at);
            match line.get(at) {
                Some(b',') => {
                    at = if object { key_end(line, space(line, at + 1))? } else { at + 1 };
                    break;
                }
                Some(b'}') if object => at += 1,
                Some(b']') if !object => at += 1,
                _ => return Fault::invalid(at, "a comma or the end of an object or array was expected"),
            }
            open.pop();
        }
    }
}

/// The end of the key that begins at `at`, its colon included.
fn key_end(line: &[u8], at: usize) -> Result<usize, Fault> {
    if line.get(at) != Some(&b'"') {
        return Fault::invalid(at, "a key was expected");
    }
    colon_end(line, text::skip(line, at + 1)?)
}

/// The end of the colon that must follow a key.
#[inline]
pub(super) fn colon_end(line: &[u8], at: usize) -> Result<usize, Fault> {
    let at = space(line, at);
    if line.get(at) == Some(&b':') { Ok(at + 1) } else { Fault::invalid(at, "a colon was expected") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_the_grammar() {
        for right in ["0", "-0", "10", "1.0", "1e5", "-1.25E+10", "1E-0", "123456789012345678901234567890"] {
            assert_eq!(number_end(right.as_bytes(), 0), Ok(right.len()), "{right}");
        }
        for wrong in ["", "-", ".5", "1.", "1e", "1e+", "-a", "+1", "1.e5"] {
            assert!(number_end(wrong.as_bytes(), 0).is_err(), "{wrong}");
        }
        // What follows a number is the business of whoever reads on.
        assert_eq!(number_end(b"01", 0), Ok(1));
        assert_eq!(number_end(b"1-2", 0), Ok(1));
    }

    #[test]
    fn containers_to_their_end() {
        let end = |source: &str, levels| container_end(source.as_bytes(), 0, levels, &mut Vec::new());
        for right in ["{}", "[]", "[1,2]", r#"{"a":{"b":[{},[],null,"x\n"]}}"#, "[ [ 1 , 2 ] , 3 ]", r#"{ "a" : 1 }"#] {
            assert_eq!(end(right, 9), Ok(right.len()), "{right}");
        }
        for wrong in
            ["[", "{", "[1,]", "{,}", r#"{"a"}"#, r#"{"a":}"#, "[1 2]", "[}", "{]", r#"{"a":1,}"#, "[01]", "[1}"]
        {
            assert!(end(wrong, 9).is_err(), "{wrong}");
        }
        assert_eq!(end("[[]]", 2), Ok(4));
        assert_eq!(end("[[]]", 1), Err(Fault::TooDeep { at: 1 }));
    }
}
