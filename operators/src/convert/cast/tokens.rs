//! JSON as Jackson 2.13 reads it for Spark 3.3: token by token, lenient where it is, and in the same state after an
//! error, because Spark goes on reading there.
//!
//! What differs from RFC 8259: strings in single quotes, `\'`, `NaN` and signed or plain infinities; nothing is looked at
//! after the first value of a record; a string is looked at only when its text is asked for or the next token is. So a
//! record may be half read when its fault shows. The positions and tokens kept across a fault are those of
//! `UTF8StreamJsonParser`.

use std::ops::Range;

/// A token. A key comes before its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Key,
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Text,
    Integer,
    Float,
    True,
    False,
    Null,
}

/// Why no token came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Jackson or Spark would throw.
    Malformed,
    /// Nested deeper than allowed; Spark has no such limit but its stack.
    TooDeep,
    /// It would print as more text than allowed.
    TooLong,
}

type Result<T> = std::result::Result<T, Fault>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Root,
    Object,
    Array,
}

/// The key that a level is at.
#[derive(Debug, Clone, Copy)]
enum Name {
    None,
    /// It stands in the record as it is.
    Raw(usize, usize),
    /// It was unescaped into the room for names.
    Unescaped(usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct Level {
    kind: Kind,
    /// How many tokens were asked for on this level, less one.
    index: isize,
    name: Name,
    /// How much of the room for names belongs to the levels below.
    names_before: usize,
}

/// What unescaped text is told to.
pub(super) trait Sink {
    /// Text that is as it stood.
    fn plain(&mut self, bytes: &[u8]);
    /// A UTF-16 unit that an escape stood for.
    fn unit(&mut self, unit: u16);
}

/// Reads the tokens of one record after the other.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    record: &'a [u8],
    at: usize,
    token: Option<Token>,
    next: Option<Token>,
    /// Whether the current token is a string whose text has not been looked at.
    unread: bool,
    text: Range<usize>,
    escaped: bool,
    number: Range<usize>,
    special: Option<f64>,
    levels: Vec<Level>,
    names: Vec<u8>,
    max_depth: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(max_depth: usize) -> Self {
        Self {
            record: &[],
            at: 0,
            token: None,
            next: None,
            unread: false,
            text: 0..0,
            escaped: false,
            number: 0..0,
            special: None,
            levels: Vec::new(),
            names: Vec::new(),
            max_depth,
        }
    }

    /// Begins a record, in the room of the one before.
    pub(super) fn begin<'b>(mut self, record: &'b [u8]) -> Tokens<'b> {
        self.levels.clear();
        self.levels.push(Level { kind: Kind::Root, index: -1, name: Name::None, names_before: 0 });
        self.names.clear();
        Tokens {
            record,
            at: if record.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 },
            levels: self.levels,
            names: self.names,
            ..Tokens::new(self.max_depth)
        }
    }

    /// The token that was read last.
    #[inline]
    pub(super) fn token(&self) -> Option<Token> {
        self.token
    }

    /// Reads the next token; none at the record's end.
    pub(super) fn advance(&mut self) -> Result<Option<Token>> {
        if self.token == Some(Token::Key) {
            // The value was looked at along with its key. After a fault in it there is none.
            let next = self.next.take();
            self.token = next;
            match next {
                Some(Token::ObjectStart) => self.push(Kind::Object)?,
                Some(Token::ArrayStart) => self.push(Kind::Array)?,
                _ => {}
            }
            return Ok(next);
        }
        if std::mem::take(&mut self.unread) {
            self.read_text(b'"')?;
        }
        let Some(byte) = self.space_or_end()? else {
            self.token = None;
            return Ok(None);
        };
        match byte {
            b']' => {
                self.pop(Kind::Array)?;
                return Ok(self.set(Token::ArrayEnd));
            }
            b'}' => {
                self.pop(Kind::Object)?;
                return Ok(self.set(Token::ObjectEnd));
            }
            _ => {}
        }
        let Some(level) = self.levels.last_mut() else { return Err(Fault::Malformed) };
        level.index += 1;
        let (kind, mut byte) = (level.kind, byte);
        if kind != Kind::Root && level.index > 0 {
            if byte != b',' {
                return Err(Fault::Malformed);
            }
            byte = self.space()?;
        }
        if kind != Kind::Object {
            let token = self.value(byte)?;
            match token {
                Token::ObjectStart => self.push(Kind::Object)?,
                Token::ArrayStart => self.push(Kind::Array)?,
                Token::Text => self.unread = byte == b'"',
                _ => {}
            }
            return Ok(self.set(token));
        }
        self.read_key(byte)?;
        self.token = Some(Token::Key);
        if self.space()? != b':' {
            return Err(Fault::Malformed);
        }
        let byte = self.space()?;
        let token = self.value(byte)?;
        if token == Token::Text {
            self.unread = byte == b'"';
        }
        self.next = Some(token);
        Ok(self.token)
    }

    fn set(&mut self, token: Token) -> Option<Token> {
        self.token = Some(token);
        self.token
    }

    fn push(&mut self, kind: Kind) -> Result<()> {
        // The root is a level of its own here, and none of the record's.
        if self.levels.len() > self.max_depth {
            return Err(Fault::TooDeep);
        }
        self.levels.push(Level { kind, index: -1, name: Name::None, names_before: self.names.len() });
        Ok(())
    }

    fn pop(&mut self, kind: Kind) -> Result<()> {
        match self.levels.last() {
            Some(level) if level.kind == kind => {
                self.names.truncate(level.names_before);
                self.levels.pop();
                Ok(())
            }
            _ => Err(Fault::Malformed),
        }
    }

    /// Skips an object or array that has just begun; any other token is left as it is.
    pub(super) fn skip_children(&mut self) -> Result<()> {
        if !matches!(self.token, Some(Token::ObjectStart | Token::ArrayStart)) {
            return Ok(());
        }
        let mut open = 1;
        loop {
            match self.advance()? {
                Some(Token::ObjectStart | Token::ArrayStart) => open += 1,
                Some(Token::ObjectEnd | Token::ArrayEnd) => {
                    open -= 1;
                    if open == 0 {
                        return Ok(());
                    }
                }
                // A stale key: Jackson takes this for the end of the input, which only the root may have.
                None if self.levels.len() > 1 => return Err(Fault::Malformed),
                None => return Ok(()),
                Some(_) => {}
            }
        }
    }

    /// The key that the current token belongs to; none in an array and at the root.
    pub(super) fn key(&self) -> Option<&[u8]> {
        let level = match self.token {
            Some(Token::ObjectStart | Token::ArrayStart) => self.levels.iter().rev().nth(1),
            _ => self.levels.last(),
        };
        match level?.name {
            Name::None => None,
            Name::Raw(begin, end) => Some(&self.record[begin..end]),
            Name::Unescaped(begin, end) => Some(&self.names[begin..end]),
        }
    }

    /// Looks at the text of the current string.
    pub(super) fn finish_text(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unread) {
            self.read_text(b'"')?;
        }
        Ok(())
    }

    /// Whether the current string is empty. Its text has been looked at.
    pub(super) fn text_is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Tells the text of the current string, which has been looked at.
    pub(super) fn tell_text(&self, sink: &mut impl Sink) {
        let text = &self.record[self.text.clone()];
        if self.escaped { tell_unescaped(text, sink) } else { sink.plain(text) }
    }

    /// The current number as it stands; a special one has no digits.
    pub(super) fn number(&self) -> &'a [u8] {
        &self.record[self.number.clone()]
    }

    /// The current number, if it is not a number or infinite by its name.
    pub(super) fn special(&self) -> Option<f64> {
        self.special
    }

    // Bytes

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.record.get(self.at).copied()
    }

    #[inline]
    fn take(&mut self) -> Result<u8> {
        let byte = self.peek().ok_or(Fault::Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    /// The next byte that is no white space. The end is a fault.
    #[inline]
    fn space(&mut self) -> Result<u8> {
        loop {
            match self.take()? {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                byte if byte > b' ' && byte != b'/' => return Ok(byte),
                _ => return Err(Fault::Malformed),
            }
        }
    }

    /// The next byte that is no white space; none at the end, if nothing is open.
    #[inline]
    fn space_or_end(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek() {
                None if self.levels.len() > 1 => return Err(Fault::Malformed),
                None => return Ok(None),
                Some(_) => {}
            }
            match self.take()? {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                byte if byte > b' ' && byte != b'/' => return Ok(Some(byte)),
                _ => return Err(Fault::Malformed),
            }
        }
    }

    /// The value that begins with `byte`, which has been taken. A string in double quotes is left where its text begins.
    fn value(&mut self, byte: u8) -> Result<Token> {
        match byte {
            b'"' => Ok(Token::Text),
            b'{' => Ok(Token::ObjectStart),
            b'[' => Ok(Token::ArrayStart),
            b't' => self.word(b"true").map(|()| Token::True),
            b'f' => self.word(b"false").map(|()| Token::False),
            b'n' => self.word(b"null").map(|()| Token::Null),
            b'-' | b'0'..=b'9' => self.read_number(byte),
            b'\'' => {
                self.read_text(b'\'')?;
                Ok(Token::Text)
            }
            b'N' => self.word(b"NaN").map(|()| self.set_special(f64::NAN)),
            b'I' => self.word(b"Infinity").map(|()| self.set_special(f64::INFINITY)),
            b'+' => {
                let next = self.take()?;
                self.read_infinity(next, f64::INFINITY)
            }
            // Jackson takes the rest of a word that it doesn't know, too.
            byte if is_word_start(byte) => {
                self.at -= 1;
                self.unknown_word()
            }
            _ => Err(Fault::Malformed),
        }
    }

    /// Takes the rest of `word`, whose first letter has been taken.
    fn word(&mut self, word: &[u8]) -> Result<()> {
        self.rest_of_word(&word[1..])
    }

    fn rest_of_word(&mut self, rest: &[u8]) -> Result<()> {
        for &letter in rest {
            if self.peek() != Some(letter) {
                return self.unknown_word();
            }
            self.at += 1;
        }
        match self.peek() {
            Some(byte) if byte >= b'0' && byte != b']' && byte != b'}' && is_word_part(self.record, self.at).0 => {
                self.unknown_word()
            }
            _ => Ok(()),
        }
    }

    /// Takes what is left of a word, and the character after it.
    fn unknown_word<T>(&mut self) -> Result<T> {
        for _ in 0..256 {
            if self.at >= self.record.len() {
                break;
            }
            let (part, length) = is_word_part(self.record, self.at);
            self.at += length;
            if !part {
                break;
            }
        }
        Err(Fault::Malformed)
    }

    fn set_special(&mut self, value: f64) -> Token {
        self.special = Some(value);
        Token::Float
    }

    /// `INF` or `Infinity` after its sign; `next` has been taken.
    fn read_infinity(&mut self, next: u8, value: f64) -> Result<Token> {
        if next != b'I' {
            return Err(Fault::Malformed);
        }
        let rest: &[u8] = match self.take()? {
            b'N' => b"F",
            b'n' => b"finity",
            _ => return Err(Fault::Malformed),
        };
        self.rest_of_word(rest)?;
        Ok(self.set_special(value))
    }

    fn read_number(&mut self, first: u8) -> Result<Token> {
        let begin = self.at - 1;
        let mut byte = first;
        if byte == b'-' {
            byte = self.take()?;
            if !byte.is_ascii_digit() {
                return self.read_infinity(byte, f64::NEG_INFINITY);
            }
        }
        if byte == b'0' {
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(Fault::Malformed);
            }
        } else {
            self.digits();
        }
        self.special = None;
        let mut token = Token::Integer;
        if self.peek() == Some(b'.') {
            token = Token::Float;
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            token = Token::Float;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        self.number = begin..self.at;
        if self.levels.len() == 1
            && let Some(byte) = self.peek()
        {
            // A number at the root must be followed by white space.
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Err(Fault::Malformed);
            }
        }
        Ok(token)
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// At least one digit; else what stands there is taken, too.
    fn some_digits(&mut self) -> Result<()> {
        let begin = self.at;
        self.digits();
        if self.at == begin {
            self.take()?;
            return Err(Fault::Malformed);
        }
        Ok(())
    }

    fn read_key(&mut self, quote: u8) -> Result<()> {
        if quote != b'"' && quote != b'\'' {
            return Err(Fault::Malformed);
        }
        // What the key's value leaves behind must not be taken for it, nor the other way round.
        let (text, escaped) = (self.text.clone(), self.escaped);
        self.read_text(quote)?;
        let key = std::mem::replace(&mut self.text, text);
        let key_escaped = std::mem::replace(&mut self.escaped, escaped);
        let Some(level) = self.levels.last_mut() else { return Err(Fault::Malformed) };
        self.names.truncate(level.names_before);
        level.name = if key_escaped {
            let mut name = PlainText::new(&mut self.names);
            tell_unescaped(&self.record[key], &mut name);
            name.finish();
            Name::Unescaped(level.names_before, self.names.len())
        } else {
            Name::Raw(key.start, key.end)
        };
        Ok(())
    }

    /// Looks at the string whose text begins here, up to its quote.
    #[inline]
    fn read_text(&mut self, quote: u8) -> Result<()> {
        let begin = self.at;
        self.escaped = false;
        loop {
            let byte = self.take()?;
            if byte == quote {
                self.text = begin..self.at - 1;
                return Ok(());
            }
            if byte == b'\\' {
                self.escaped = true;
                self.read_escape()?;
            } else if byte < b' ' {
                return Err(Fault::Malformed);
            }
        }
    }

    fn read_escape(&mut self) -> Result<()> {
        match self.take()? {
            b'b' | b't' | b'n' | b'f' | b'r' | b'"' | b'/' | b'\\' | b'\'' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    if !self.take()?.is_ascii_hexdigit() {
                        return Err(Fault::Malformed);
                    }
                }
                Ok(())
            }
            byte => {
                // The whole character is taken.
                while byte >= 0xc0 && self.peek().is_some_and(|byte| byte & 0xc0 == 0x80) {
                    self.at += 1;
                }
                Err(Fault::Malformed)
            }
        }
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'$'
}

/// Whether the character at `at` may be part of a Java identifier, and its length.
fn is_word_part(record: &[u8], at: usize) -> (bool, usize) {
    let byte = record[at];
    if byte < 0x80 {
        let ignorable = matches!(byte, 0..=8 | 0x0e..=0x1b | 0x7f);
        return (is_word_start(byte) || byte.is_ascii_digit() || ignorable, 1);
    }
    let length = match byte {
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    };
    let text = record.get(at..at + length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    (text.and_then(|text| text.chars().next()).is_some_and(char::is_alphanumeric), length.min(record.len() - at))
}

/// Tells text that holds escapes, all of them right.
fn tell_unescaped(text: &[u8], sink: &mut impl Sink) {
    let mut rest = text;
    while let Some(length) = memchr::memchr(b'\\', rest) {
        sink.plain(&rest[..length]);
        let (unit, taken) = match rest.get(length + 1) {
            Some(b'b') => (0x08, 2),
            Some(b't') => (0x09, 2),
            Some(b'n') => (0x0a, 2),
            Some(b'f') => (0x0c, 2),
            Some(b'r') => (0x0d, 2),
            Some(b'u') => {
                let digits = rest.get(length + 2..length + 6).unwrap_or_default();
                let unit = digits.iter().fold(0, |unit, digit| unit << 4 | (*digit as char).to_digit(16).unwrap_or(0));
                (unit as u16, 6)
            }
            other => (other.copied().map_or(0, u16::from), 2),
        };
        sink.unit(unit);
        rest = rest.get(length + taken..).unwrap_or_default();
    }
    sink.plain(rest);
}

/// Text as Java writes its strings in UTF-8: a surrogate without its other half becomes `?`.
pub(super) struct PlainText<'a> {
    out: &'a mut Vec<u8>,
    high: Option<u16>,
}

impl<'a> PlainText<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, high: None }
    }

    /// The text has ended.
    pub(super) fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if self.high.take().is_some() {
            self.out.push(b'?');
        }
    }
}

impl Sink for PlainText<'_> {
    fn plain(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.flush();
            self.out.extend_from_slice(bytes);
        }
    }

    fn unit(&mut self, unit: u16) {
        if let (Some(high), 0xdc00..=0xdfff) = (self.high, unit) {
            self.high = None;
            let code = 0x10000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(unit) - 0xdc00);
            if let Some(character) = char::from_u32(code) {
                self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            return;
        }
        self.flush();
        match unit {
            0xd800..=0xdbff => self.high = Some(unit),
            0xdc00..=0xdfff => self.out.push(b'?'),
            unit => {
                if let Some(character) = char::from_u32(u32::from(unit)) {
                    self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

/// Text as Jackson's generator writes it between quotes.
pub(super) struct JsonText<'a>(pub(super) &'a mut Vec<u8>);

const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl JsonText<'_> {
    fn escape(&mut self, unit: u16) {
        let digit = |shift: u16| HEX[usize::from(unit >> shift & 0xf)];
        self.0.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
    }
}

impl Sink for JsonText<'_> {
    fn plain(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        // Only single quotes let a double one, and only names that were unescaped let a backslash or control, in here.
        while let Some(at) =
            rest.iter().position(|byte| *byte >= 0xf0 || *byte == b'"' || *byte == b'\\' || *byte < b' ')
        {
            self.0.extend_from_slice(&rest[..at]);
            let length = if rest[at] >= 0xf0 { 4.min(rest.len() - at) } else { 1 };
            let special = &rest[at..at + length];
            if length == 1 {
                self.unit(u16::from(special[0]));
            } else if let Some(character) = std::str::from_utf8(special).ok().and_then(|text| text.chars().next()) {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| self.escape(*unit));
            }
            rest = &rest[at + length..];
        }
        self.0.extend_from_slice(rest);
    }

    fn unit(&mut self, unit: u16) {
        match unit {
            0x08 => self.0.extend_from_slice(b"\\b"),
            0x09 => self.0.extend_from_slice(b"\\t"),
            0x0a => self.0.extend_from_slice(b"\\n"),
            0x0c => self.0.extend_from_slice(b"\\f"),
            0x0d => self.0.extend_from_slice(b"\\r"),
            0x22 => self.0.extend_from_slice(b"\\\""),
            0x5c => self.0.extend_from_slice(b"\\\\"),
            0..0x20 | 0xd800..=0xdfff => self.escape(unit),
            unit => {
                if let Some(character) = char::from_u32(u32::from(unit)) {
                    self.0.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}
