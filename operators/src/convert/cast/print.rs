//! From a record to what Spark's `cast("string")` prints of each of its top-level values.
//!
//! A value that isn't of its column's type makes the record corrupt, but the other columns keep theirs. Spark then goes
//! on with the next token, wherever that is: inside of a struct it may take nested keys for top-level ones. So do we.

use std::ops::Range;

use super::infer::{in_case, integer};
use super::java_double;
use super::tokens::{Fault, JsonText, PlainText, Sink, Token, Tokens};
use super::types::{CORRUPT_RECORD, Fields, SparkSchema, Type};
use crate::convert::options::ColumnCase;

type Result<T> = std::result::Result<T, Fault>;

/// The rows of one record: their cells, row after row.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) text: Vec<u8>,
    /// Where each cell's text is; a null has none.
    pub(super) cells: Vec<Option<Range<usize>>>,
    pub(super) rows: usize,
    /// Whether the record is corrupt: it has one row then.
    pub(super) corrupt: bool,
}

/// Prints records. Holds room to work in.
#[derive(Debug)]
pub(super) struct Printer {
    fields: Fields,
    case: ColumnCase,
    /// The field that holds corrupt records, and is no value's.
    pub(super) corrupt_field: Option<usize>,
    /// More text than this is a fault: a short record can print as a very long one.
    max_text: usize,
    /// So are more rows: an array of many empty objects.
    max_rows: usize,
    slots: Vec<Option<Range<usize>>>,
    composed: Vec<u8>,
}

impl Printer {
    /// A printer of records that print as up to `max_text` bytes, with `row_bytes` for each row besides its cells.
    pub(super) fn new(schema: &SparkSchema, case: ColumnCase, max_text: usize, row_bytes: usize) -> Self {
        let fields = schema.0.clone();
        let corrupt_field = fields.find(CORRUPT_RECORD.as_bytes(), &mut 0);
        let row_bytes = row_bytes + fields.len() * size_of::<Option<Range<usize>>>();
        let max_rows = (max_text / row_bytes.max(1)).max(1);
        Self { fields, case, corrupt_field, max_text, max_rows, slots: Vec::new(), composed: Vec::new() }
    }

    pub(super) fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Prints the record that `tokens` begins with.
    pub(super) fn record(&mut self, tokens: &mut Tokens<'_>, rows: &mut Rows) -> Result<()> {
        rows.text.clear();
        rows.cells.clear();
        (rows.rows, rows.corrupt) = (0, false);
        self.slots.clear();
        let fields = std::mem::take(&mut self.fields);
        let result = self.root(&fields, tokens, rows);
        self.fields = fields;
        match result {
            Err(Fault::Malformed) => {
                rows.cells.clear();
                rows.cells.resize(self.fields.len(), None);
                (rows.rows, rows.corrupt) = (1, true);
                Ok(())
            }
            result => result,
        }
    }

    fn root(&mut self, fields: &Fields, tokens: &mut Tokens<'_>, rows: &mut Rows) -> Result<()> {
        match tokens.advance()? {
            None => Ok(()),
            Some(Token::ObjectStart) => {
                rows.corrupt = !self.row(fields, tokens, rows, true)?;
                Ok(())
            }
            // Each element is a row.
            Some(Token::ArrayStart) => {
                while !matches!(tokens.advance()?, None | Some(Token::ArrayEnd)) {
                    if tokens.token() != Some(Token::ObjectStart) {
                        return Err(Fault::Malformed);
                    }
                    self.row(fields, tokens, rows, false)?;
                }
                Ok(())
            }
            Some(_) => Err(Fault::Malformed),
        }
    }

    /// The cells of the object that has begun. Of one at the `root` tells whether all its values were of their types.
    fn row(&mut self, fields: &Fields, tokens: &mut Tokens<'_>, rows: &mut Rows, root: bool) -> Result<bool> {
        let first = rows.cells.len();
        if rows.rows >= self.max_rows {
            return Err(Fault::TooLong);
        }
        rows.cells.resize(first + fields.len(), None);
        rows.rows += 1;
        let (mut hint, mut right) = (0, true);
        while !matches!(tokens.advance()?, None | Some(Token::ObjectEnd)) {
            let field = tokens.key().and_then(|key| match self.case {
                ColumnCase::Preserve => fields.find(key, &mut hint),
                ColumnCase::Lower => fields.find(in_case(key, self.case).as_bytes(), &mut hint),
            });
            let Some(field) = field.filter(|field| Some(*field) != self.corrupt_field) else {
                tokens.skip_children()?;
                continue;
            };
            let begin = rows.text.len();
            match self.value(fields.field(field), tokens, &mut rows.text) {
                Ok(some) => rows.cells[first + field] = some.then_some(begin..rows.text.len()),
                Err(Fault::Malformed) if root => {
                    rows.text.truncate(begin);
                    self.slots.clear();
                    right = false;
                    tokens.skip_children()?;
                }
                Err(fault) => return Err(fault),
            }
            // Values that a later one of the same key replaced are text, too.
            if rows.text.len() > self.max_text {
                return Err(Fault::TooLong);
            }
        }
        Ok(right)
    }

    /// Appends the current value, or that of the current key, to `out`; false for a null.
    fn value(&mut self, kind: &Type, tokens: &mut Tokens<'_>, out: &mut Vec<u8>) -> Result<bool> {
        if tokens.token() == Some(Token::Key) {
            tokens.advance()?;
        }
        let Some(token) = tokens.token() else { return Ok(false) };
        if out.len() > self.max_text {
            return Err(Fault::TooLong);
        }
        match (kind, token) {
            (_, Token::Null) => return Ok(false),
            (Type::Text | Type::Null, Token::Text) => {
                tokens.finish_text()?;
                let mut text = PlainText::new(out);
                tokens.tell_text(&mut text);
                text.finish();
            }
            (Type::Text | Type::Null, _) => copy(tokens, out)?,
            (Type::Boolean, Token::True) => out.extend_from_slice(b"true"),
            (Type::Boolean, Token::False) => out.extend_from_slice(b"false"),
            (Type::Long, Token::Integer) if integer(tokens.number()).1 => print_integer(tokens.number(), out),
            (Type::Double, Token::Integer | Token::Float) => java_double::print(double(tokens)?, out),
            (Type::Double, Token::Text) => java_double::print(named_double(tokens)?, out),
            (Type::Decimal(digits), Token::Integer) if integer(tokens.number()).0 <= usize::from(*digits) => {
                print_integer(tokens.number(), out);
            }
            (Type::Struct(fields), Token::ObjectStart) => self.print_struct(fields, tokens, out)?,
            (Type::Array(element), Token::ArrayStart) => self.print_array(element, tokens, out)?,
            (_, Token::Text) => {
                tokens.finish_text()?;
                return Err(Fault::Malformed);
            }
            _ => return Err(Fault::Malformed),
        }
        Ok(true)
    }

    fn print_struct(&mut self, fields: &Fields, tokens: &mut Tokens<'_>, out: &mut Vec<u8>) -> Result<()> {
        // The values are gathered where the text will be, in the record's order, and then put into the type's.
        let (begin, first) = (out.len(), self.slots.len());
        self.slots.resize(first + fields.len(), None);
        let mut hint = 0;
        while !matches!(tokens.advance()?, None | Some(Token::ObjectEnd)) {
            let Some(field) = tokens.key().and_then(|key| fields.find(key, &mut hint)) else {
                tokens.skip_children()?;
                continue;
            };
            let value = out.len();
            let some = self.value(fields.field(field), tokens, out)?;
            self.slots[first + field] = some.then_some(value..out.len());
        }
        self.composed.clear();
        self.composed.push(b'{');
        for (index, slot) in self.slots[first..].iter().enumerate() {
            if index > 0 {
                self.composed.extend_from_slice(b", ");
            }
            match slot {
                Some(value) => self.composed.extend_from_slice(&out[value.clone()]),
                None => self.composed.extend_from_slice(b"null"),
            }
        }
        self.composed.push(b'}');
        self.slots.truncate(first);
        out.truncate(begin);
        out.extend_from_slice(&self.composed);
        Ok(())
    }

    fn print_array(&mut self, element: &Type, tokens: &mut Tokens<'_>, out: &mut Vec<u8>) -> Result<()> {
        out.push(b'[');
        let mut first = true;
        while !matches!(tokens.advance()?, None | Some(Token::ArrayEnd)) {
            if !std::mem::take(&mut first) {
                out.extend_from_slice(b", ");
            }
            if !self.value(element, tokens, out)? {
                out.extend_from_slice(b"null");
            }
        }
        out.push(b']');
        Ok(())
    }
}

/// Appends the current value as Jackson writes it as JSON: what a column of strings holds that had other values too.
fn copy(tokens: &mut Tokens<'_>, out: &mut Vec<u8>) -> Result<()> {
    let mut open = 0;
    loop {
        let token = tokens.token();
        let begins = matches!(out.last(), None | Some(b'{' | b'[' | b':'));
        if open > 0 && !begins && !matches!(token, None | Some(Token::ObjectEnd | Token::ArrayEnd)) {
            out.push(b',');
        }
        match token {
            None => return Ok(()),
            Some(Token::Key) => {
                out.push(b'"');
                JsonText(out).plain(tokens.key().unwrap_or_default());
                out.extend_from_slice(b"\":");
            }
            Some(Token::ObjectStart) => {
                out.push(b'{');
                open += 1;
            }
            Some(Token::ArrayStart) => {
                out.push(b'[');
                open += 1;
            }
            Some(Token::ObjectEnd | Token::ArrayEnd) if open == 0 => return Err(Fault::Malformed),
            Some(Token::ObjectEnd) => {
                out.push(b'}');
                open -= 1;
            }
            Some(Token::ArrayEnd) => {
                out.push(b']');
                open -= 1;
            }
            Some(Token::Text) => {
                tokens.finish_text()?;
                out.push(b'"');
                tokens.tell_text(&mut JsonText(out));
                out.push(b'"');
            }
            Some(Token::Integer) => print_integer(tokens.number(), out),
            Some(Token::Float) => {
                let value = double(tokens)?;
                let quote: &[u8] = if value.is_finite() { b"" } else { b"\"" };
                out.extend_from_slice(quote);
                java_double::print(value, out);
                out.extend_from_slice(quote);
            }
            Some(Token::True) => out.extend_from_slice(b"true"),
            Some(Token::False) => out.extend_from_slice(b"false"),
            Some(Token::Null) => out.extend_from_slice(b"null"),
        }
        if open == 0 {
            return Ok(());
        }
        tokens.advance()?;
    }
}

/// An integer has its digits, but no negative zero.
fn print_integer(number: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(if number == b"-0" { b"0" } else { number });
}

/// Jackson doesn't let Java read this one, which once made it hang, and takes the least double for it.
const NASTY: &[u8] = b"2.2250738585072012e-308";

fn double(tokens: &Tokens<'_>) -> Result<f64> {
    if let (Some(Token::Float), Some(special)) = (tokens.token(), tokens.special()) {
        return Ok(special);
    }
    match tokens.number() {
        // An integer's zero has no sign.
        b"-0" => Ok(0.0),
        NASTY => Ok(f64::from_bits(1)),
        number => std::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).ok_or(Fault::Malformed),
    }
}

/// The double that a string names.
fn named_double(tokens: &mut Tokens<'_>) -> Result<f64> {
    tokens.finish_text()?;
    let mut text = Vec::new();
    let mut plain = PlainText::new(&mut text);
    tokens.tell_text(&mut plain);
    plain.finish();
    match text.as_slice() {
        b"NaN" => Ok(f64::NAN),
        b"+INF" | b"+Infinity" | b"Infinity" => Ok(f64::INFINITY),
        b"-INF" | b"-Infinity" => Ok(f64::NEG_INFINITY),
        _ => Err(Fault::Malformed),
    }
}
