//! Generated gRPC types, blob framing and the checked conversions between wire and domain types.
