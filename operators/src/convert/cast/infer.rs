//! From records to their types.
//!
//! Most records show nothing new, so a record is first held against what is known, which costs no allocation; only if it
//! doesn't fit is it read again for its own type. So a record that turns out to be malformed leaves nothing behind.

use super::tokens::{Fault, Token, Tokens};
use super::types::{Fields, Inferred, Type};
use crate::convert::columns::column_name;
use crate::convert::options::ColumnCase;

type Result<T> = std::result::Result<T, Fault>;

/// What a record is to its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A value of some kind; a row or not.
    Record,
    /// Nothing but white space.
    Blank,
}

/// Takes the record that `tokens` begins with into `inferred`, if it shows nothing new; none if it has to be inferred anew.
pub(super) fn infer(inferred: &mut Inferred, tokens: &mut Tokens<'_>, case: ColumnCase) -> Result<Option<Seen>> {
    match tokens.advance() {
        Ok(None) => return Ok(Some(Seen::Blank)),
        // A scalar or array at the root takes the long way.
        Ok(Some(Token::ObjectStart)) => {}
        Ok(Some(_)) => return Ok(None),
        Err(fault) => return malformed(inferred, fault),
    }
    match fields_fit(&inferred.fields, tokens, case) {
        Ok(true) => Ok(Some(Seen::Record)),
        Ok(false) => Ok(None),
        Err(fault) => malformed(inferred, fault),
    }
}

/// Takes a record in whose type is not known yet.
pub(super) fn infer_anew(inferred: &mut Inferred, tokens: &mut Tokens<'_>, case: ColumnCase) -> Result<()> {
    let kind = tokens.advance().and_then(|token| match token {
        Some(Token::ObjectStart) => Ok(Type::Struct(struct_of(tokens, case)?)),
        _ => type_of(tokens),
    });
    match kind {
        Ok(kind) => inferred.add(kind),
        Err(fault) => {
            malformed(inferred, fault)?;
        }
    }
    Ok(())
}

fn malformed(inferred: &mut Inferred, fault: Fault) -> Result<Option<Seen>> {
    match fault {
        Fault::Malformed => {
            inferred.corrupt = true;
            Ok(Some(Seen::Record))
        }
        fault => Err(fault),
    }
}

/// Whether the rest of an object shows nothing that these fields don't.
fn fields_fit(fields: &Fields, tokens: &mut Tokens<'_>, case: ColumnCase) -> Result<bool> {
    let mut hint = 0;
    while !matches!(tokens.advance()?, None | Some(Token::ObjectEnd)) {
        let key = tokens.key().unwrap_or_default();
        let index = match case {
            ColumnCase::Preserve => fields.find(key, &mut hint),
            ColumnCase::Lower => fields.find(in_case(key, case).as_bytes(), &mut hint),
        };
        let Some(index) = index else { return Ok(false) };
        tokens.advance()?;
        if !fits(fields.field(index), tokens)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the current value is of a type.
fn fits(kind: &Type, tokens: &mut Tokens<'_>) -> Result<bool> {
    match tokens.token() {
        None | Some(Token::Null) => Ok(true),
        Some(Token::Text) => {
            tokens.finish_text()?;
            Ok(tokens.text_is_empty() || *kind == Type::Text)
        }
        Some(Token::True | Token::False) => Ok(matches!(kind, Type::Boolean | Type::Text)),
        Some(Token::Integer) => {
            let (digits, is_long) = integer(tokens.number());
            Ok(kind.holds_integer(digits, is_long))
        }
        Some(Token::Float) => Ok(matches!(kind, Type::Double | Type::Text)),
        Some(Token::ObjectStart) => match kind {
            Type::Struct(fields) => fields_fit(fields, tokens, ColumnCase::Preserve),
            Type::Text => walk(tokens),
            _ => Ok(false),
        },
        Some(Token::ArrayStart) => match kind {
            Type::Array(element) => {
                while !matches!(tokens.advance()?, None | Some(Token::ArrayEnd)) {
                    if !fits(element, tokens)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Type::Text => walk(tokens),
            _ => Ok(false),
        },
        Some(Token::Key | Token::ObjectEnd | Token::ArrayEnd) => Err(Fault::Malformed),
    }
}

/// Goes over an object or array whose type says nothing.
fn walk(tokens: &mut Tokens<'_>) -> Result<bool> {
    tokens.skip_children()?;
    Ok(true)
}

fn struct_of(tokens: &mut Tokens<'_>, case: ColumnCase) -> Result<Fields> {
    let mut fields = Fields::default();
    while !matches!(tokens.advance()?, None | Some(Token::ObjectEnd)) {
        let name = in_case(tokens.key().unwrap_or_default(), case);
        tokens.advance()?;
        let kind = type_of(tokens)?;
        fields.merge(&name, kind);
    }
    Ok(fields)
}

fn type_of(tokens: &mut Tokens<'_>) -> Result<Type> {
    Ok(match tokens.token() {
        None | Some(Token::Null) => Type::Null,
        Some(Token::Text) => {
            tokens.finish_text()?;
            // Some writers say "" for null; so a column of nothing else can still become any type.
            if tokens.text_is_empty() { Type::Null } else { Type::Text }
        }
        Some(Token::True | Token::False) => Type::Boolean,
        Some(Token::Integer) => match integer(tokens.number()) {
            (_, true) => Type::Long,
            (digits, false) => Type::of_digits(digits),
        },
        Some(Token::Float) => Type::Double,
        Some(Token::ObjectStart) => Type::Struct(struct_of(tokens, ColumnCase::Preserve)?),
        Some(Token::ArrayStart) => {
            let mut element = Type::Null;
            while !matches!(tokens.advance()?, None | Some(Token::ArrayEnd)) {
                element = element.merge(type_of(tokens)?);
            }
            Type::Array(Box::new(element))
        }
        Some(Token::Key | Token::ObjectEnd | Token::ArrayEnd) => return Err(Fault::Malformed),
    })
}

/// How many digits an integer has, and whether it is a long.
pub(super) fn integer(number: &[u8]) -> (usize, bool) {
    let digits = number.strip_prefix(b"-").unwrap_or(number).len();
    let is_long =
        digits < 19 || digits == 19 && std::str::from_utf8(number).is_ok_and(|text| text.parse::<i64>().is_ok());
    (digits, is_long)
}

/// The name of a top-level key.
pub(super) fn in_case(key: &[u8], case: ColumnCase) -> String {
    column_name(&String::from_utf8_lossy(key), case)
}
