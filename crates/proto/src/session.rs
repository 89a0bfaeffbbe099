//! Session tokens and ids: who owns what.

use crate::{Fault, Result};
use std::fmt;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A client's bearer token: 32 random bytes that it makes for itself. Whoever holds it owns the session's keys, uploads
/// and jobs on the server, but cannot decrypt anything with it.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SessionToken([u8; 32]);

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

impl SessionToken {
    /// A fresh token from the operating system's entropy.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the system has no entropy to give.
    pub fn random() -> Result<Self> {
        // Filled in place: no copy that nobody wipes.
        let mut token = Self([0; 32]);
        getrandom::fill(&mut token.0).map_err(|_| Fault::Internal)?;
        Ok(token)
    }

    /// A token kept from an earlier session.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The token's bytes, to be kept as secret as a password.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The value of the `authorization` header.
    ///
    /// # Errors
    /// Never in practice: hex digits are always a legal header.
    pub fn to_header(&self) -> Result<MetadataValue<Ascii>> {
        let mut text = format!("Bearer {}", hex(&self.0));
        let value = MetadataValue::try_from(text.as_str());
        text.zeroize();
        let mut value = value.map_err(|_| Fault::Unauthenticated)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What the server knows a client by: a hash of its token, so that neither a look-up's timing nor a memory dump of the
/// server gives the token away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner([u8; 32]);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({})", hex(self.0.get(..4).unwrap_or_default()))
    }
}

impl Owner {
    /// The owner that a token stands for.
    #[must_use]
    pub fn of(token: &SessionToken) -> Self {
        Self(blake3::derive_key("cipherform session owner", &token.0))
    }

    /// The owner of a request.
    ///
    /// # Errors
    /// [`Fault::Unauthenticated`] when the header is absent or is no token.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self> {
        let value = metadata.get("authorization").and_then(|v| v.to_str().ok());
        let digits = value.and_then(|v| v.strip_prefix("Bearer ")).ok_or(Fault::Unauthenticated)?;
        let bytes = unhex(digits).ok_or(Fault::Unauthenticated)?;
        Ok(Self::of(&SessionToken(bytes)))
    }
}

/// The id of an upload, a key set or a job: 16 random bytes, meaningless without the owner's token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 16]);

impl Id {
    /// A fresh id.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the system has no entropy to give.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| Fault::Internal)?;
        Ok(Self(bytes))
    }

    /// The id in `bytes`.
    ///
    /// # Errors
    /// [`Fault::Malformed`] unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| Fault::malformed("id", "16 bytes expected"))?;
        Ok(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// Lower-case hex digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |d: u8| char::from(if d < 10 { b'0' + d } else { b'a' + d - 10 });
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// The bytes of exactly 64 lower-case hex digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let digits: [u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_becomes_the_same_owner_on_the_other_side() {
        let token = SessionToken::random().unwrap();
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", token.to_header().unwrap());
        assert_eq!(Owner::from_metadata(&metadata).unwrap(), Owner::of(&token));
        assert_ne!(Owner::of(&SessionToken::random().unwrap()), Owner::of(&token));
        assert_eq!(format!("{token:?}"), "SessionToken(..)");
    }

    #[test]
    fn anything_else_is_nobody() {
        let long = format!("Bearer {}", "a".repeat(65));
        let upper = format!("Bearer {}", "A".repeat(64));
        let basic = format!("Basic {}", "a".repeat(64));
        for text in ["", "Bearer", "Bearer ", "Bearer abc", &long, &upper, &basic] {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", text.parse().unwrap());
            assert_eq!(Owner::from_metadata(&metadata), Err(Fault::Unauthenticated), "{text}");
        }
        assert_eq!(Owner::from_metadata(&MetadataMap::new()), Err(Fault::Unauthenticated));
    }
}
