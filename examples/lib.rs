//! Holds only examples.
