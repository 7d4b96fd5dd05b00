//! Who may do more than look at a process over HTTP: whoever has the token that it was started with.
//!
//! The token comes in a header that no form and no other page can set, so being logged in somewhere is never enough.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// The variable that holds it.
pub const VARIABLE: &str = "PENSTOCK_ACTION_TOKEN";

/// The shortest token.
const SHORTEST: usize = 16;

/// The digest of the token; the token itself isn't kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// Why a text is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It could be guessed.
    #[error("the token of actions has {0} characters: write at least 16, e.g. what `openssl rand -hex 16` prints")]
    Short(usize),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It brings none.
    #[error("this needs the token that the process was started with")]
    Missing,
    /// It brings another one.
    #[error("the token is wrong")]
    Wrong,
}

impl Token {
    /// A token.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        match text.trim() {
            text if text.len() < SHORTEST => Err(TokenError::Short(text.len())),
            text => Ok(Self(Sha256::digest(text).into())),
        }
    }

    /// Lets a request through that brings the token.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match given.and_then(|value| value.strip_prefix("Bearer ")) {
            None => Err(Refused::Missing),
            Some(given) if self.is(given) => Ok(()),
            Some(_) => Err(Refused::Wrong),
        }
    }

    /// Digests are compared, so how long that takes tells nothing of the token.
    fn is(&self, text: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(text.trim()).into();
        self.0 == other
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_itself_only() {
        let token = Token::new("0123456789abcdef\n").unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(Token::new("short").err(), Some(TokenError::Short(5)));
    }

    #[test]
    fn a_request_brings_it_as_a_bearer() {
        let token = Token::new("0123456789abcdef").unwrap();
        let admit = |header: &'static str| {
            let headers = [(header::AUTHORIZATION, HeaderValue::from_static(header))];
            token.admit(&HeaderMap::from_iter(headers))
        };
        assert_eq!(admit("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(admit("Bearer 0123456789abcdee"), Err(Refused::Wrong));
        assert_eq!(admit("Basic 0123456789abcdef"), Err(Refused::Missing));
        assert_eq!(token.admit(&HeaderMap::new()), Err(Refused::Missing));
    }
}
