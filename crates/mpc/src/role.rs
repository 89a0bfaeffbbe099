//! Who is who.

use std::fmt;

/// One of the two parties. The dealer, who prepares correlations, is never part of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Holds the weights.
    Server,
    /// Holds the input and learns the result.
    Client,
}

impl Role {
    /// Both parties, the server first.
    pub const BOTH: [Role; 2] = [Role::Server, Role::Client];

    /// The other party.
    #[must_use]
    pub fn peer(self) -> Role {
        match self {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }

    /// 0 for the server, 1 for the client: the party index `b` of the protocols.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// All ones for the server, zero for the client: adds public terms at one party only.
    pub(crate) fn public(self) -> u64 {
        match self {
            Role::Server => 1,
            Role::Client => 0,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Server => "server",
            Role::Client => "client",
        })
    }
}
