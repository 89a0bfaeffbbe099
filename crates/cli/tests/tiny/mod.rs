//! A network between two parties that runs in moments.

pub(crate) const TINY: [&str; 12] = [
    "--blocks",
    "1",
    "--tokens",
    "8",
    "--width",
    "32",
    "--hidden",
    "32",
    "--classes",
    "4",
    "--heads",
    "relu,scale",
];
