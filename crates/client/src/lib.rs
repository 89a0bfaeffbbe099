//! Makes keys, encrypts, uploads, calls, decrypts.
