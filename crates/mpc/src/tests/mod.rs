//! Tests of the engine from the inside: the oracle needs the masks, which only the dealer knows.
#![expect(clippy::float_cmp, reason = "results of exact gates are compared exactly")]

mod blocks;
mod clear;
mod gates;
mod no_dealer;
mod operators;
mod tls;
mod wire;
