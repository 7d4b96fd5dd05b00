//! JSON strings: finding their end, checking them, unescaping them. Positions are bytes from the line's start.

use super::fault::Fault;
pub(super) use super::plain::plain_end;

/// Checks the string whose text begins at `at`, and gives the position after its closing quote. Any four hex digits make
/// an escape here: what stays JSON text may hold a lone surrogate.
#[inline]
pub(super) fn skip(line: &[u8], mut at: usize) -> Result<usize, Fault> {
    loop {
        at = plain_end(line, at);
        match line.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match line.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    hex4(line, at)?;
                    at += 6;
                }
                _ => return Fault::invalid(at, "unknown escape"),
            },
            Some(_) => return Fault::invalid(at, "control character in a string"),
            None => return Fault::invalid(at, "string without an end"),
        }
    }
}

/// Appends the text of the string that begins at `at` to `out`, unescaped, and gives the position after its closing
/// quote. On an error `out` holds a piece of it.
pub(super) fn unescape(line: &[u8], mut at: usize, out: &mut Vec<u8>) -> Result<usize, Fault> {
    loop {
        let end = plain_end(line, at);
        out.extend_from_slice(&line[at..end]);
        at = end;
        match line.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => {
                let plain = match line.get(at + 1) {
                    Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
                    Some(b'b') => 0x08,
                    Some(b'f') => 0x0c,
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b't') => b'\t',
                    Some(b'u') => {
                        let (character, next) = character(line, at)?;
                        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                        at = next;
                        continue;
                    }
                    _ => return Fault::invalid(at, "unknown escape"),
                };
                out.push(plain);
                at += 2;
            }
            Some(_) => return Fault::invalid(at, "control character in a string"),
            None => return Fault::invalid(at, "string without an end"),
        }
    }
}

/// The character of the `\u` escape at `at`, a pair of surrogates taken together, and the position after it.
fn character(line: &[u8], at: usize) -> Result<(char, usize), Fault> {
    let lone = Fault::LoneSurrogate { at };
    let first = hex4(line, at)?;
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).map(|character| (character, at + 6)).ok_or(lone);
    }
    if first >= 0xdc00 || line.get(at + 6) != Some(&b'\\') || line.get(at + 7) != Some(&b'u') {
        return Err(lone);
    }
    let second = hex4(line, at + 6)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(lone);
    }
    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(code).map(|character| (character, at + 12)).ok_or(lone)
}

/// The four hex digits of the `\u` escape at `at`.
fn hex4(line: &[u8], at: usize) -> Result<u32, Fault> {
    let mut code = 0;
    for offset in 2..6 {
        let digit = match line.get(at + offset) {
            Some(&byte @ b'0'..=b'9') => byte - b'0',
            Some(&byte @ b'a'..=b'f') => byte - b'a' + 10,
            Some(&byte @ b'A'..=b'F') => byte - b'A' + 10,
            _ => return Fault::invalid(at, "escape without four hex digits"),
        };
        code = code << 4 | u32::from(digit);
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        let end = unescape(source.as_bytes(), 1, &mut out)?;
        assert_eq!(end, source.len());
        assert_eq!(skip(source.as_bytes(), 1), Ok(end));
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn escapes_become_text() {
        assert_eq!(text(r#""a\"\\\/\b\f\n\r\tz""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\tz");
        assert_eq!(text(r#""\u00e9\u20AC\ud83d\ude00\u0000""#).unwrap(), "é€😀\0");
    }

    #[test]
    fn lone_surrogates_are_faults_only_where_text_is_wanted() {
        for source in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\ud800x""#, r#""\udc00\ud800""#] {
            assert!(matches!(unescape(source.as_bytes(), 1, &mut Vec::new()), Err(Fault::LoneSurrogate { .. })));
            assert_eq!(skip(source.as_bytes(), 1), Ok(source.len()));
        }
    }
}
